"""From a graph to a layer: constants folded, nodes with weights as jaxconv's layers, the rest as operators."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.interop.constants import Fixed
from jaxconv.interop.onnx.errors import OnnxError
from jaxconv.interop.onnx.network import Input, Network, Operator, Step, WeightedOperator
from jaxconv.interop.onnx.operators import TABLE
from jaxconv.interop.onnx.read import Graph, Node, read
from jaxconv.interop.onnx.values import MOST_BYTES, Held, Value, natural
from jaxconv.layer import Layer, Params, State

# Their outputs follow from the shape of their input.
_SHAPES = {"Shape", "Size", "EyeLike"}
# What convolves or pools takes maps; what works element by element passes that on to its input.
_MAPS = set(
    "AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool "
    "GridSample GroupNormalization InstanceNormalization LRN LpPool MaxPool MaxUnpool SpaceToDepth Upsample".split()
)
_PASSING = set(
    "Abs Add Cast Ceil Clip Concat Div Dropout Elu Erf Exp Floor HardSigmoid HardSwish Identity LeakyRelu Log Max Min "
    "Mul Neg Pad Pow PRelu QuantizeLinear Reciprocal Relu Resize RoundTrip Round Sigmoid Slice Softplus Split Sqrt Sub "
    "Sum Tanh Where DequantizeLinear".split()
)
_NAMES = {"Mul": "scale", "Div": "scale", "Add": "bias", "Sub": "bias", "MatMul": "kernel", "Gemm": "kernel"}


def from_onnx(source: Any) -> tuple[Network, Params, State]:
    """Reads an ONNX file as a network that can be run, differentiated, trained and inspected.

    Feature maps are channels last: inputs that the graph convolves or pools, and outputs that are feature maps, have
    the shape ``(batch, *spatial, channels)``. Other arrays have ONNX's axes. Each node with weights becomes one of
    jaxconv's layers with the name of the node, or of its first output, where "." and "/" become "_"; the other nodes
    become operators. So `summary`, `inspect.activations`, Grad-CAM, `backbone`, `frozen` and `weights.save` work. The
    batch size is free; height and width are free as far as the graph allows. Constants of more than one floating-point
    number are parameters; constants of one number are part of the layer. Pairs of QuantizeLinear and DequantizeLinear
    round in floating point, and the gradient ignores the rounding.

    Args:
      source: a path, or the bytes of a file. Opsets 7 to 28; external data must be in the folder of the file.

    Returns:
      layer: its ``x`` is an array, or for several inputs a tuple or a dict by their names; several outputs are a dict.
      params, state: the file's weights, and its batch statistics.

    Raises:
      OSError: the file cannot be opened.
      OnnxError: the file is not a complete and valid ONNX file, or has operators that cannot be imported; the message
        lists all of these with their nodes.

    >>> import onnx
    >>> conv = onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="stem/conv", pads=[1, 1, 1, 1])
    >>> tensor = onnx.helper.make_tensor_value_info
    >>> w = onnx.numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w")
    >>> graph = onnx.helper.make_graph(
    ...     [conv], "net", [tensor("x", 1, ["n", 3, "h", "w"])], [tensor("y", 1, None)], [w])
    >>> net, params, state = from_onnx(onnx.helper.make_model(graph).SerializeToString())
    >>> [(name, type(layer).__name__) for name, layer in net.children], params["stem_conv"]["kernel"].shape
    ([('stem_conv', 'Conv')], (3, 3, 3, 8))
    >>> net.apply(params, state, jnp.ones((2, 5, 5, 3)))[0].shape
    (2, 5, 5, 8)
    """
    graph = read(source, TABLE.keys() - {"RoundTrip"})
    nodes, constants = _folded(graph)
    nodes = _needed(_paired(nodes, constants), graph.outputs)
    return _built(graph, nodes, constants)


def _folded(graph: Graph) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Returns the nodes that are left when all that follows from constants is computed, and the constants."""
    constants = dict(graph.constants)
    left, spent = [], 0
    for node in graph.nodes:
        if not all(name in constants for name in node.inputs if name):
            left.append(node)
            continue
        values = [Value(a, natural(a.ndim)) if (a := constants.get(name)) is not None else None for name in node.inputs]
        try:
            with jax.ensure_compile_time_eval():
                arrays = TABLE[node.op].plan(node, *values).evaluated()
        except Exception as error:
            raise OnnxError(f"node {node.name!r} ({node.op}) cannot be computed from its constants: {error}") from error
        spent += sum(array.nbytes for array in arrays)
        if spent > MOST_BYTES:
            raise OnnxError(f"constants that nodes compute must be less than 2 GB, got more at node {node.name!r}")
        constants |= {name: array for name, array in zip(node.outputs, arrays, strict=False) if name}
    return left, constants


def _paired(nodes: list[Node], constants: dict[str, np.ndarray]) -> list[Node]:
    """Returns the nodes with each DequantizeLinear of a QuantizeLinear in one, where the two have the same scale."""

    def same(a: str, b: str) -> bool:
        return a == b or (a in constants and b in constants and Fixed(constants[a]) == Fixed(constants[b]))

    quantized = {node.outputs[0]: node for node in nodes if node.op == "QuantizeLinear"}
    result = []
    for node in nodes:
        first = quantized.get(node.inputs[0]) if node.op == "DequantizeLinear" else None
        if first and len(first.inputs) == len(node.inputs) and all(map(same, first.inputs[1:], node.inputs[1:])):
            node = replace(first, op="RoundTrip", name=node.name, outputs=node.outputs)
        result.append(node)
    return result


def _needed(nodes: list[Node], outputs: Iterable[str]) -> list[Node]:
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted |= set(node.inputs)
    return kept[::-1]


def _built(graph: Graph, nodes: list[Node], constants: dict[str, np.ndarray]) -> tuple[Network, Params, State]:
    static = set(constants)
    layers: dict[str, Layer] = {}
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    shared: dict[Any, str] = {}
    steps = []
    for node in nodes:
        known = all(name in static for name in node.inputs if name)
        if node.op in _SHAPES or (known and TABLE[node.op].static):
            steps.append(Step(node))
            static |= set(node.outputs)
            continue
        step, layer, own, running = _child(node, graph.ranks, constants, static)
        if own:
            # Nodes with the same weights are one layer that runs several times.
            weights = tuple(name for name in node.inputs[1:] if name in constants)
            step = replace(step, child=shared.setdefault((layer, step.axes, step.held, weights), step.child))
        steps.append(step)
        if step.child == node.name:
            layers[node.name] = layer
            params |= {node.name: _arrays(own)} if own else {}
            state |= {node.name: _arrays(running)} if running else {}
    held = {node_input for step in steps for node_input in _held_names(step)}
    read_names = {name for step in steps for name in step.node.inputs} | set(graph.outputs)
    fixed = {name: Fixed(constants[name]) for name in constants if name in read_names - held}
    inputs = tuple(Input(port.name, port.shape, port.dtype.name, _is_map(port.name, nodes)) for port in graph.inputs)
    digest = hashlib.sha256(repr([(s.node, s.child, s.axes) for s in steps]).encode()).hexdigest()[:16]
    outputs = tuple((name, name) for name in graph.outputs)
    net = Network(tuple(layers.items()), inputs, outputs, tuple(steps), tuple(fixed.items()), digest)
    return net, params, state


def _held_names(step: Step) -> set[str]:
    """Returns the constants that the step's layer holds itself."""
    if step.axes:
        return set(step.node.inputs[1:])
    return {name for name, held in zip(step.node.inputs, step.held, strict=False) if held}


def _child(
    node: Node, ranks: dict[str, int], constants: dict[str, np.ndarray], static: set[str]
) -> tuple[Step, Layer, dict[str, Any], dict[str, Any]]:
    """Returns the step and the layer of a node, its params and its state."""
    row = TABLE[node.op]
    arrays = [constants.get(name) for name in node.inputs]
    if row.layer and node.inputs[0] not in static:
        try:
            placed = row.layer(node, ranks.get(node.inputs[0]), *arrays)
        except Exception as error:
            raise OnnxError(f"node {node.name!r} ({node.op}): {error}") from error
        if placed:
            return Step(node, node.name, placed.axes), placed.layer, placed.params, placed.state
    found = {
        i: array
        for i, array in enumerate(arrays)
        if array is not None and row.trained and jnp.issubdtype(array.dtype, jnp.floating) and array.size > 1
    }
    base = _NAMES.get(node.op, "value")
    names = {i: base if len(found) == 1 else f"{base}_{i}" for i in found}
    held = tuple(
        Held(names[i], found[i].shape, found[i].dtype.name) if i in found else None for i in range(len(arrays))
    )
    step = Step(node, node.name, "", held if found else ())
    if not found:
        return step, Operator(node.op, node.attributes), {}, {}
    shapes = tuple((names[i], array.shape, array.dtype.name) for i, array in found.items())
    layer = WeightedOperator(node.op, node.attributes, shapes)
    return step, layer, {names[i]: array for i, array in found.items()}, {}


def _arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _is_map(name: str, nodes: list[Node]) -> bool:
    """Returns whether an input is a map, with channels as its axis 1: whether it is convolved or pooled."""
    reached = {name}
    for node in nodes:
        if node.op in _MAPS and node.inputs[0] in reached:
            return True
        if node.op in _PASSING and reached & set(node.inputs):
            reached |= set(node.outputs)
    return False
