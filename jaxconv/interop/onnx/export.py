"""From layers to an ONNX file: the network runs on names of arrays, and each layer writes its nodes."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from jaxconv.compose.structure import Split, add, concatenate, multiply
from jaxconv.compose.wrappers import AROUND, Repeat
from jaxconv.composite import Composite
from jaxconv.interop.onnx.errors import OnnxError, Unsupported
from jaxconv.interop.onnx.export_layers import LAYERS
from jaxconv.interop.onnx.export_pointwise import pointwise
from jaxconv.interop.onnx.network import Network, Step
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.layers import Dropout, DropPath, Fn, Identity
from jaxconv.structs import as_struct

OPSET = 21
_JOINS = {add: "Add", multiply: "Mul", concatenate: "Concat"}


@dataclasses.dataclass(frozen=True)
class Symbol:
    """An array of the graph: its name, jaxconv's shape, and whether it is stored channels first."""

    name: str
    struct: jax.ShapeDtypeStruct
    first: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape with the channels last."""
        return self.struct.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """The element type."""
        return self.struct.dtype


class Writer:
    """Runs a network as `jaxconv.Run` and collects nodes and weights."""

    train = False

    def __init__(self, params: Params, state: State):
        self.params, self.state = params, state
        self.path: tuple[str, ...] = ()
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self.names: set[str] = set()
        self.missing: list[str] = []
        self.count = 0

    # --- What layers write ------------------------------------------------------------------------------------------

    def add(self, op: str, inputs: list[str], outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or a list of names."""
        base = ".".join(self.path) or op
        self.count += 1
        names = [f"{base}:{self.count}" if outputs == 1 else f"{base}:{self.count}.{i}" for i in range(outputs)]
        name = base if base not in self.names else f"{base}:{op}{self.count}"
        self.names.add(name)
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return names[0] if outputs == 1 else names

    def constant(self, array: Any, name: str = "") -> str:
        """Adds an array and returns its name; ``name`` is that of a weight of the current layer."""
        array = np.asarray(array)
        key = ".".join((*self.path, name)) if name else f"{'.'.join(self.path)}:constant{len(self.tensors)}"
        while key in self.tensors and not np.array_equal(numpy_helper.to_array(self.tensors[key]), array):
            key += "'"
        self.tensors[key] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), key)
        return key

    def first(self, x: Symbol) -> str:
        """Returns the name of the array stored channels first."""
        if x.first or x.ndim < 3:
            return x.name
        return self.add("Transpose", [x.name], perm=[0, x.ndim - 1, *range(1, x.ndim - 1)])

    def last(self, x: Symbol) -> str:
        """Returns the name of the array stored channels last."""
        return self.add("Transpose", [x.name], perm=[0, *range(2, x.ndim), 1]) if x.first and x.ndim > 2 else x.name

    # --- What composites call ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inside(self, name: str, params: Params | None = None, state: State | None = None) -> Iterator[None]:
        outer = self.path, self.params, self.state
        if name:
            self.path = (*self.path, name)
            self.params, self.state = self.params.get(name, {}), self.state.get(name, {})
        if params is not None:
            self.params, self.state = params, state or {}
        try:
            yield
        finally:
            self.path, self.params, self.state = outer

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        with self.inside(name):
            return self.layer(layer, x)

    def layer(self, layer: Layer, x: Tree) -> Tree:
        """Writes one layer at the present path."""
        if isinstance(layer, AROUND):
            return self.layer(layer.layer, x)
        if isinstance(layer, Network):
            return graph_nodes(self, layer, x)
        if isinstance(layer, Repeat):
            for i in range(layer.n):
                params, state = jax.tree.map(lambda a, i=i: a[i], (self.params, self.state))
                with self.inside("", params, state):
                    x = self.layer(layer.layer, x)
            return x
        if isinstance(layer, Split):
            share = x.shape[-1] // len(layer.children)
            sizes = self.constant(np.array([share] * len(layer.children)))
            names = self.add("Split", [self.first(x), sizes], len(layer.children), axis=1)
            struct = jax.ShapeDtypeStruct((*x.shape[:-1], share), x.dtype)
            parts = [Symbol(name, struct, x.ndim > 2) for name in names]
            ys = [self(name, child, part) for (name, child), part in zip(layer.children, parts, strict=True)]
            return self.join(concatenate, *ys)
        if isinstance(layer, Composite):
            return layer.route(self, x)
        return self.leaf(layer, x)

    def leaf(self, layer: Layer, x: Tree) -> Tree:
        """Writes a layer without children, or records that the layer cannot be written."""
        if isinstance(layer, Identity | Dropout | DropPath):
            return x
        if isinstance(layer, Fn) and not isinstance(x, Symbol):
            leaves, tree = jax.tree.flatten(x)
            return self.join(lambda *arrays: layer.function(jax.tree.unflatten(tree, arrays)), *leaves)
        structs = jax.tree.map(lambda symbol: symbol.struct, x)
        out = jax.eval_shape(lambda p, s, a: layer.apply(p, s, a)[0], self.params, self.state, structs)
        try:
            write = LAYERS.get(type(layer))
            if write is None or not isinstance(x, Symbol) or not isinstance(out, jax.ShapeDtypeStruct):
                raise Unsupported("")
            name, first = write(self, layer, x)
        except Unsupported as error:
            function = f" of {getattr(layer.function, '__name__', layer.function)}" if isinstance(layer, Fn) else ""
            reason = f": {error}" if str(error) else ""
            self.missing.append(f"{'.'.join(self.path) or 'net'} ({type(layer).__name__}{function}){reason}")
            name, first = "?", True
        return jax.tree.map(lambda struct: Symbol(name, struct, first and len(struct.shape) > 2), out)

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        """Writes a function of several arrays."""
        structs = [x.struct for x in jax.tree.leaves(xs)]
        out = jax.eval_shape(function, *jax.tree.map(lambda x: x.struct, xs))
        symbols = jax.tree.leaves(xs)
        rank = max(symbol.ndim for symbol in symbols)
        op = _JOINS.get(function)
        try:
            if op or _concatenates(function, structs):
                op = op or "Concat"
                names = [self._broadcast(symbol, rank) for symbol in symbols]
                name = self.add(op, names, **({"axis": 1} if op == "Concat" else {}))
            else:
                name = pointwise(self, function, structs, [self.first(symbol) for symbol in symbols])
        except Unsupported as error:
            self.missing.append(f"{'.'.join(self.path) or 'net'}, which joins arrays by {function}: {error}")
            name = "?"
        return jax.tree.map(lambda struct: Symbol(name, struct, rank > 2), out)

    def _broadcast(self, x: Symbol, rank: int) -> str:
        """Returns the array channels first; one weight for each channel gets the axes that a map has."""
        if x.ndim == rank:
            return self.first(x)
        return self.add("Unsqueeze", [x.name, self.constant(np.arange(2, rank))])

    def aside(self, y: Tree, extra: Tree) -> Tree:
        return y


def _concatenates(function: Callable[..., Any], structs: list[Any]) -> bool:
    """Returns whether a function of arrays joins them on channels, in their order."""
    jaxpr = jax.make_jaxpr(function)(*structs).jaxpr
    if len(jaxpr.eqns) != 1 or jaxpr.eqns[0].primitive.name != "concatenate":
        return False
    (eqn,) = jaxpr.eqns
    return eqn.params["dimension"] == len(structs[0].shape) - 1 and list(eqn.invars) == list(jaxpr.invars)


# --- Graphs that were read --------------------------------------------------------------------------------------------


def graph_nodes(writer: Writer, net: Network, x: Tree) -> Tree:
    """Writes a graph that came from a file: its nodes, with the current weights."""
    given = x if isinstance(x, dict) else dict(zip([port.name for port in net.inputs], _row(x), strict=True))
    structs = jax.tree.map(lambda symbol: symbol.struct, x)
    out = jax.eval_shape(lambda p, s, a: net.apply(p, s, a)[0], writer.params, writer.state, structs)
    names = {"": ""}
    for port in net.inputs:
        names[port.name] = writer.first(given[port.name]) if port.channels_last else writer.last(given[port.name])
    for name, fixed in net.constants:
        names[name] = writer.constant(fixed.array)
    layers = dict(net.children)
    for step in net.steps:
        with writer.inside(step.child or step.node.name):
            results = _node(writer, step, layers.get(step.child), names)
        names |= dict(zip(step.node.outputs, results, strict=False))
    found = {}
    for name, public in net.outputs:
        struct = out[public] if isinstance(out, dict) else out
        found[public] = Symbol(names[name], struct, len(struct.shape) > 2)
    return found if isinstance(out, dict) else next(iter(found.values()))


def _row(x: Any) -> Any:
    return x if isinstance(x, list | tuple) else (x,)


def _node(writer: Writer, step: Step, layer: Layer | None, names: dict[str, str]) -> list[str]:
    while isinstance(layer, AROUND):
        layer = layer.layer
    node = step.node
    if step.axes and writer.params:
        # A layer with weights: written as any other of its kind.
        rank = 4 if step.axes == "last" else 2
        window = getattr(layer, "window", None)
        rank = len(window) + 2 if isinstance(window, tuple) else getattr(layer, "rank", rank - 2) + 2
        x = Symbol(names[node.inputs[0]], jax.ShapeDtypeStruct((1,) * rank, np.float32), step.axes == "last")
        return [LAYERS[type(layer)](writer, layer, x)[0]]
    held = [None if value is None else writer.constant(writer.params[value.name], value.name) for value in step.held]
    inputs = [
        own or names.get(name, "") for own, name in zip(held or [None] * len(node.inputs), node.inputs, strict=True)
    ]
    known = onnx.defs.get_schema("QuantizeLinear" if node.op == "RoundTrip" else node.op, node.opset, "").attributes
    attributes = {
        name: numpy_helper.from_array(value.array) if hasattr(value, "array") else value
        for name, value in node.attributes
        if name in known
    }
    if node.op == "RoundTrip":
        steps = writer.add("QuantizeLinear", inputs, **attributes)
        axis = {name: value for name, value in attributes.items() if name in ("axis", "block_size")}
        return [writer.add("DequantizeLinear", [steps, *inputs[1:]], **axis)]
    results = writer.add(node.op, inputs, len(node.outputs), **attributes)
    return results if isinstance(results, list) else [results]


# --- The file ---------------------------------------------------------------------------------------------------------


def to_onnx(net: Layer, params: Params, state: State, x: Tree) -> onnx.ModelProto:
    """Writes a network, as it is in evaluation, as an ONNX model.

    Feature maps are channels first in the model, ``(batch, channels, *spatial)``, inputs and outputs included. The
    batch size is free, the other sizes are those of x. The names of nodes are the paths of layers; the names of weights
    are paths such as ``features.0.kernel``. Functions of arrays are written if they are elementwise.

    An input that is one array is named ``x``, and such an output ``y``. The arrays of a sequence are named ``x0``,
    ``x1`` and ``y0``, ``y1``. The arrays of a dict are named by their keys; nested keys are joined by dots: ``head.0``.

    Args:
      net: a network of jaxconv's layers and composites, graphs from `from_onnx`, and elementwise functions.
      params, state: its arrays.
      x: an array, a ShapeDtypeStruct or a shape tuple, batch axis included; or a pytree of them.

    Returns:
      An ``onnx.ModelProto`` of opset 21, or of the opset of the file that the network came from: ``onnx.save`` writes
      it, ``SerializeToString()`` gives the bytes that onnxruntime takes.

    Raises:
      OnnxError: some layers have no nodes in ONNX; the message lists the paths of all of them.
      OnnxError: two inputs or outputs would have the same name.

    >>> net = jc.serial(jc.Conv(8), jax.nn.relu, jc.GlobalAvgPool(), scores=jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> model = to_onnx(net, params, state, (1, 8, 8, 3))
    >>> [(node.op_type, node.name) for node in model.graph.node][:5]
    [('Conv', '0'), ('Relu', '1'), ('GlobalAveragePool', '2'), ('Flatten', '2:Flatten4'), ('Gemm', 'scores')]
    """
    structs = as_struct(x)
    channels_last = _inputs_as_given(net)
    symbols = {
        name: Symbol(name, struct, len(struct.shape) > 2 and channels_last.get(name, True))
        for name, struct in _named(structs, "x").items()
    }
    writer = Writer(params, state)
    y = writer.layer(net, jax.tree.unflatten(jax.tree.structure(structs), symbols.values()))
    if writer.missing:
        raise OnnxError("layers that cannot be written as ONNX:\n  " + "\n  ".join(writer.missing))
    ports = []
    outputs = _named(y, "y")
    if both := sorted(symbols.keys() & outputs.keys()):
        raise OnnxError(f"inputs and outputs must have different names, got both for {', '.join(both)}")
    for name, symbol in outputs.items():
        writer.nodes.append(helper.make_node("Identity", [symbol.name], [name], name=f"output:{name}"))
        ports.append(_port(name, symbol))
    graph = helper.make_graph(
        writer.nodes, "jaxconv", [_port(n, s) for n, s in symbols.items()], ports, list(writer.tensors.values())
    )
    opset = net.steps[0].node.opset if isinstance(net, Network) and net.steps else OPSET
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="jaxconv")
    model.ir_version = 10
    return model


def _named(tree: Tree, letter: str) -> dict[str, Any]:
    """Returns the leaves by name: their keys, joined by dots; of a leaf or of a sequence the name begins with a letter.

    >>> _named({"head": [1, 2], "aux": 3}, "y")
    {'aux': 3, 'head.0': 1, 'head.1': 2}
    >>> _named((1, {"a": 2}), "y")
    {'y0': 1, 'y1.a': 2}
    """

    found: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = jax.tree_util.keystr(path, simple=True, separator=".")
        name = keys if path and not isinstance(path[0], jax.tree_util.SequenceKey) else letter + keys
        if name in found:
            raise OnnxError(f"arrays of a pytree must have different names, got {name} twice")
        found[name] = leaf
    return found


def _inputs_as_given(net: Layer) -> dict[str, bool]:
    """Returns for each input of a graph that was read whether it is a map."""
    while isinstance(net, AROUND):
        net = net.layer
    if not isinstance(net, Network):
        return {}
    maps = {port.name: port.channels_last for port in net.inputs}
    # Also by the names that to_onnx gives to one array and to the arrays of a tuple.
    names = ["x"] if len(maps) == 1 else [f"x{i}" for i in range(len(maps))]
    return dict(zip(names, maps.values(), strict=True)) | maps


def _port(name: str, symbol: Symbol) -> Any:
    shape: list[Any] = list(symbol.shape)
    if symbol.first:
        shape = [shape[0], shape[-1], *shape[1:-1]]
    if shape:
        shape[0] = "N"
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(symbol.dtype)), shape)
