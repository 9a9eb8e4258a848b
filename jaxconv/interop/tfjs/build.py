"""From a graph to a layer: constants folded, nodes with weights as jaxconv's layers, the rest as operators."""

import hashlib
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.interop.constants import Fixed
from jaxconv.interop.tfjs.layers import LAYERS, Placed
from jaxconv.interop.tfjs.network import Network, Operator, Step
from jaxconv.interop.tfjs.operators import TABLE
from jaxconv.interop.tfjs.read import Node, node_of, read
from jaxconv.layer import Layer, Params, State
from jaxconv.weights.errors import StrPath, WeightsError, naming


def from_tfjs(source: StrPath) -> tuple[Network, Params, State]:
    """Reads a graph model of TensorFlow.js as a network that can be run, differentiated, trained and inspected.

    The file has the graph as well as the weights, so no network needs a table of names: each node with weights becomes
    one of jaxconv's layers (`Conv`, `ConvTranspose`, `Dense`, `BatchNorm`, `PReLU`) with the name of the node, where
    "." and "/" become "_". A depthwise convolution is a `Conv` with ``groups``. Vectors that are added or multiplied
    are parameters of an operator; other constants are part of the graph. The other nodes become operators. So
    `summary`, `inspect.activations`, Grad-CAM, `backbone`, `frozen` and `weights.save` work.

    TensorFlow.js's converter folds a batch norm into the kernel and the bias of the convolution before it. Such a
    network has no batch norms and no state, and its layers have the folded values; ``train=True`` changes nothing. The
    converter also fuses a bias and an activation into the node before; `from_tfjs` separates them again.

    Axes are TensorFlow's, channels last. Batch, height and width are free if no node that the outputs need has fixed
    sizes; otherwise the input has the shape that the file states, and ``jax.vmap`` runs batches of it.

    Args:
      source: the path of a ``model.json``, whose binary files are in the same folder. Their arrays may be quantized:
        parameters are float32.

    Returns:
      layer: its ``x`` is an array, or for several inputs a tuple or a dict by their names; several outputs are a dict.
      params, state: the file's weights, and its batch statistics.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: the file is not a complete and valid graph model, or has operators that cannot be imported, such as
        loops; the message lists all of these with their nodes.

    >>> import json, tempfile, pathlib
    >>> conv = {"op": "Conv2D", "name": "stem/conv", "input": ["x", "w"], "attr": {"padding": {"s": "U0FNRQ=="}}}
    >>> nodes = [{"op": "Placeholder", "name": "x"}, {"op": "Const", "name": "w"}, conv]
    >>> arrays = [{"paths": ["w.bin"], "weights": [{"name": "w", "shape": [3, 3, 3, 8], "dtype": "float32"}]}]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "w.bin").write_bytes(np.ones((3, 3, 3, 8), np.float32).tobytes())
    ...     path = pathlib.Path(folder, "model.json")
    ...     _ = path.write_text(json.dumps({"modelTopology": {"node": nodes}, "weightsManifest": arrays}))
    ...     net, params, state = from_tfjs(path)
    >>> [(name, type(layer).__name__) for name, layer in net.children], params["stem_conv"]["kernel"].shape
    ([('stem_conv', 'Conv')], (3, 3, 3, 8))
    >>> net.apply(params, state, jnp.ones((2, 5, 5, 3)))[0].shape
    (2, 5, 5, 8)
    """
    graph = read(source, {*TABLE, *LAYERS})
    with naming(source):
        nodes, constants = _folded(graph.nodes, graph.constants)
        layers: dict[str, Layer] = {}
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        shared: dict[Any, str] = {}
        steps = []
        static = set(constants)
        for node in nodes:
            if node.op == "Shape" or static.issuperset(map(node_of, node.inputs)):
                # It follows from shapes alone.
                steps.append(Step(node))
                static.add(node.output)
                continue
            step, layer, own, running = _child(node, constants)
            if own:
                # Nodes with the same weights are one layer that runs several times.
                weights = tuple(name for name in node.inputs if name in constants)
                step = replace(step, child=shared.setdefault((layer, step.of, step.held, weights), step.child))
            steps.append(step)
            if step.child == node.name:
                layers[node.name] = layer
                params |= {node.name: _arrays(own)} if own else {}
                state |= {node.name: _arrays(running)} if running else {}
    needed = {name for step in steps for name in _read(step)} | {name for name, _ in graph.outputs}
    fixed = tuple((name, Fixed(array)) for name, array in constants.items() if name in needed)
    digest = hashlib.sha256(repr([(s.node, s.child, s.of) for s in steps]).encode()).hexdigest()[:16]
    net = Network(tuple(layers.items()), graph.inputs, graph.outputs, tuple(steps), fixed, digest)
    return net, params, state


def _folded(nodes: tuple[Node, ...], given: dict[str, np.ndarray]) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Returns the nodes that are left when all that follows from constants is computed, and the constants."""
    constants, left = dict(given), []
    for node in nodes:
        if node.op not in TABLE or not all(name in constants for name in node.inputs):
            left.append(node)
            continue
        try:
            with jax.ensure_compile_time_eval():
                results = TABLE[node.op].function(dict(node.attributes), *(constants[name] for name in node.inputs))
        except Exception as error:
            raise WeightsError(f"node {node.name!r} ({node.op}) cannot be computed from constants: {error}") from error
        for i, result in enumerate(results if isinstance(results, tuple) else (results,)):
            constants[f"{node.output}:{i}" if i else node.output] = np.asarray(result)
    return left, constants


def _read(step: Step) -> list[str]:
    """Returns the arrays that a step reads from the graph: not those that its layer has as parameters."""
    if step.of is not None:
        return [step.node.inputs[step.of]]
    held = step.held or [""] * len(step.node.inputs)
    return [source for source, name in zip(step.node.inputs, held, strict=True) if not name]


def _child(
    node: Node, constants: dict[str, np.ndarray]
) -> tuple[Step, Layer, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the step and the layer of a node, its params and its state."""
    arrays = [constants.get(name) for name in node.inputs]
    try:
        placed: Placed | None = LAYERS[node.op](node, *arrays) if node.op in LAYERS else None
    except Exception as error:
        raise WeightsError(f"node {node.name!r} ({node.op}): {error}") from error
    if placed and arrays[placed.of] is None:
        return Step(node, node.name, placed.of), placed.layer, placed.params, placed.state
    if node.op not in TABLE:
        raise WeightsError(f"node {node.name!r} ({node.op}) must depend on the input")
    vector = TABLE[node.op].vector
    held = tuple(vector if vector and _is_vector(array) else "" for array in arrays)
    own = {name: array for array, name in zip(arrays, held, strict=True) if name and array is not None}
    vectors = tuple((name, len(array)) for name, array in own.items())
    return Step(node, node.name, None, held), Operator(node.op, node.attributes, vectors), own, {}


def _is_vector(array: np.ndarray | None) -> bool:
    return array is not None and array.ndim == 1 and array.dtype == np.float32 and array.size > 1


def _arrays(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: jnp.asarray(np.ascontiguousarray(array)) for name, array in arrays.items()}
