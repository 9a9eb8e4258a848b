"""An ONNX file as plain data; the whole file is checked before any part of it runs."""

import heapq
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError
from onnx import AttributeProto

from jaxconv.interop.constants import Fixed
from jaxconv.interop.onnx.errors import OnnxError
from jaxconv.interop.onnx.tensors import array_of, dtype_of

# The opsets whose operators are known: from 7, of 2018, to the newest that the tests run.
OPSETS = (7, 28)

_OURS = ("", "ai.onnx")


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
      op: the operator.
      name: different from all others' and without "." and "/": the layer's name.
      inputs, outputs: the names of arrays, "" for an optional one that is left out.
      attributes: by name, with the operator's defaults filled in.
      opset: the version of the operators.
      batch: the batch size that the file fixes and that of x, where they differ.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]
    opset: int
    batch: tuple[int, int] | None = None

    @property
    def output(self) -> str:
        """The name of its first output."""
        return self.outputs[0]

    def makes(self, names: Collection[str]) -> bool:
        """Returns whether one of these arrays is an output of the node."""
        return not set(names).isdisjoint(self.outputs)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an attribute, or the default."""
        return dict(self.attributes).get(name, default)

    def __getitem__(self, name: str) -> Any:
        return dict(self.attributes)[name]


@dataclass(frozen=True)
class Port:
    """An input or output of the graph as the file declares it; None for an axis, or a shape, that is not fixed."""

    name: str
    dtype: np.dtype
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """The whole file: nodes in an order in which they can run, and constants by name."""

    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    ranks: dict[str, int]


def read(source: Any, operators: Collection[str]) -> Graph:
    """Returns the graph of a file.

    Args:
      source: a path, or the bytes of a file.
      operators: those that can be run.

    Raises:
      OSError: the file cannot be opened.
      OnnxError: the file is not a complete ONNX file, has unknown operators (the message lists all), or has an invalid
        graph.
    """
    if isinstance(source, str | os.PathLike):
        folder: Path | None = Path(source).parent
        try:
            return _graph(Path(source).read_bytes(), folder, operators)
        except OnnxError as error:
            raise OnnxError(f"{os.fspath(source)}: {error}") from error.__cause__
    if not isinstance(source, bytes | bytearray | memoryview):
        raise OnnxError(f"source must be a path or the bytes of an ONNX file, got a {type(source).__name__}")
    return _graph(bytes(source), None, operators)


def _graph(data: bytes, folder: Path | None, operators: Collection[str]) -> Graph:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise OnnxError(f"it is not a complete ONNX file: {error}") from error
    if not model.graph.node or not model.opset_import:
        raise OnnxError("it is not a complete ONNX file: it has no nodes or no opset")
    _check_text(model.graph)
    opset = _opset(model)
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except Exception as error:
            raise OnnxError(f"its functions cannot be expanded into nodes: {error}") from error
    _check_operators(model.graph.node, operators, opset)
    if model.graph.sparse_initializer:
        raise OnnxError("its tensors must be dense, got sparse initializers")
    nodes = [_node(proto, name, opset, folder) for proto, name in zip(model.graph.node, _names(model), strict=True)]
    constants = {}
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            raise OnnxError(f"two initializers have the name {tensor.name!r}")
        constants[tensor.name] = array_of(tensor, folder, f"initializer {tensor.name!r}")
    inputs = tuple(_port(proto, "input") for proto in model.graph.input if proto.name not in constants)
    if not inputs:
        raise OnnxError("it must have at least one input, got none")
    outputs = tuple(proto.name for proto in model.graph.output)
    if not outputs:
        raise OnnxError("it must have at least one output, got none")
    nodes = _sorted(nodes, [*constants, *(port.name for port in inputs)], outputs)
    return Graph(tuple(nodes), constants, inputs, outputs, _ranks(model))


def _check_text(graph: Any) -> None:
    """Raises where a name is not UTF-8: then protobuf gives bytes."""
    names = [port.name for port in (*graph.input, *graph.output, *graph.initializer)]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
    for name in names:
        if not isinstance(name, str):
            raise OnnxError(f"its names must be text, got {bytes(name)!r}: the file is damaged")


def _opset(model: Any) -> int:
    versions = [entry.version for entry in model.opset_import if entry.domain in _OURS]
    low, high = OPSETS
    if len(versions) != 1 or not low <= versions[0] <= high:
        raise OnnxError(f"its opset must be between {low} and {high}, got {', '.join(map(str, versions)) or 'none'}")
    return versions[0]


def _names(model: Any) -> list[str]:
    """Returns a name for each node: its own or its first output's, without "." and "/", with a number if taken."""
    taken: Counter[str] = Counter()
    names = []
    for node in model.graph.node:
        wanted = node.name or next((name for name in node.output if name), node.op_type)
        wanted = name = re.sub(r"[./\s]", "_", wanted)
        while taken[name]:
            taken[wanted] += 1
            name = f"{wanted}_{taken[wanted]}"
        taken[name] += 1
        names.append(name)
    return names


def _shown(node: Any) -> str:
    return repr(node.name or next((name for name in node.output if name), node.op_type))


def _check_operators(nodes: Iterable[Any], operators: Collection[str], opset: int) -> None:
    """Raises one error that lists every operator that is not known, with its nodes."""
    unknown = defaultdict(list)
    for node in nodes:
        if node.domain not in _OURS:
            unknown[f"{node.domain}.{node.op_type}"].append(_shown(node))
        elif node.op_type not in operators or not onnx.defs.has(node.op_type) or _schema(node, opset) is None:
            unknown[node.op_type].append(_shown(node))
    if unknown:
        listed = [
            f"{op} in {len(names)} node{'s' * (len(names) > 1)}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
            for op, names in sorted(unknown.items())
        ]
        raise OnnxError(f"operators of opset {opset} that cannot be imported:\n  " + "\n  ".join(listed))


def _schema(node: Any, opset: int) -> Any:
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _node(proto: Any, name: str, opset: int, folder: Path | None) -> Node:
    schema = _schema(proto, opset)
    where = f"node {_shown(proto)} ({proto.op_type})"
    for what, names, least, most in (
        ("inputs", proto.input, schema.min_input, schema.max_input),
        ("outputs", proto.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            raise OnnxError(f"{where} must have between {least} and {most} {what}, got {len(names)}")
    attributes: dict[str, Any] = {
        key: onnx.helper.get_attribute_value(attribute.default_value)
        for key, attribute in schema.attributes.items()
        if attribute.default_value.type
    }
    seen = set()
    for attribute in proto.attribute:
        key = attribute.name
        if key in seen or key not in schema.attributes:
            reason = "is there twice" if key in seen else f"is none that {proto.op_type} has in opset {opset}"
            raise OnnxError(f"{where}: attribute {key!r} {reason}")
        seen.add(key)
        wanted = int(schema.attributes[key].type.value)
        if attribute.type != wanted:
            kinds = {value: kind for kind, value in AttributeProto.AttributeType.items()}
            raise OnnxError(
                f"{where}: attribute {key!r} must be of type {kinds[wanted]}, got {kinds.get(attribute.type)}"
            )
        attributes[key] = onnx.helper.get_attribute_value(attribute)
    missing = [key for key, attribute in schema.attributes.items() if attribute.required and key not in attributes]
    if missing:
        raise OnnxError(f"{where} must have the attribute {missing[0]!r}")
    values = {key: _plain(value, folder, f"{where}: attribute {key!r}") for key, value in attributes.items()}
    return Node(proto.op_type, name, tuple(proto.input), tuple(proto.output), tuple(sorted(values.items())), opset)


def _plain(value: Any, folder: Path | None, name: str) -> Any:
    """Returns an attribute's value as hashable data."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise OnnxError(f"{name} must be text, got bytes that are none") from None
    if isinstance(value, onnx.TensorProto):
        return Fixed(array_of(value, folder, name))
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, Sequence) or hasattr(value, "__iter__"):
        return tuple(_plain(part, folder, name) for part in value)
    raise OnnxError(f"{name} must be a number, a text or a tensor, got a {type(value).__name__}")


def _port(proto: Any, what: str) -> Port:
    if not proto.type.HasField("tensor_type"):
        raise OnnxError(f"{what} {proto.name!r} must be a tensor, got {proto.type.WhichOneof('value') or 'no type'}")
    tensor = proto.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        # Exporters write -1 for an open axis, against the letter of the standard.
        shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim)
    return Port(proto.name, dtype_of(tensor.elem_type, f"{what} {proto.name!r}"), shape)


def _sorted(nodes: Sequence[Node], given: Iterable[str], outputs: Sequence[str]) -> list[Node]:
    """Returns the nodes in an order in which each one's inputs are there, or raises OnnxError."""
    maker: dict[str, Node] = {}
    there = set(given)
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in there or name in maker:
                other = f"of node {maker[name].name!r}" if name in maker else "an input or initializer"
                raise OnnxError(f"node {node.name!r} ({node.op}) has the output {name!r}, which is also {other}")
            maker[name] = node
    for node in nodes:
        for name in filter(None, node.inputs):
            if name not in there and name not in maker:
                raise OnnxError(
                    f"node {node.name!r} ({node.op}) reads {name!r}, which no node, input or initializer is"
                )
    for name in outputs:
        if name not in there and name not in maker:
            raise OnnxError(f"output {name!r} must be a node's, an input's or an initializer's, got none of that name")
    missing = {node.name: len({maker[name].name for name in node.inputs if name in maker}) for node in nodes}
    readers = defaultdict(list)
    for node in nodes:
        for before in {maker[name].name: None for name in node.inputs if name in maker}:
            readers[before].append(node)
    ready = [node for node in nodes if not missing[node.name]]
    order = []
    # Nodes that can run at the same time stay in the file's order.
    index = {node.name: i for i, node in enumerate(nodes)}
    heap = [index[node.name] for node in ready]
    heapq.heapify(heap)
    while heap:
        node = nodes[heapq.heappop(heap)]
        order.append(node)
        for reader in readers[node.name]:
            missing[reader.name] -= 1
            if not missing[reader.name]:
                heapq.heappush(heap, index[reader.name])
    if len(order) < len(nodes):
        left = [node.name for node in nodes if missing[node.name]]
        raise OnnxError(f"nodes must not wait for each other, got a cycle through {', '.join(map(repr, left[:4]))}")
    return order


def _ranks(model: Any) -> dict[str, int]:
    """Returns the number of axes of each array that ONNX's shape inference finds."""
    shapes = onnx.ModelProto()
    shapes.CopyFrom(model)
    for tensor in shapes.graph.initializer:
        # The elements are of no use here, and a message of 2 GB cannot be passed on.
        if len(tensor.raw_data) > 1024:
            shapes.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    small = [tensor for tensor in shapes.graph.initializer if len(tensor.raw_data) <= 1024]
    del shapes.graph.initializer[:]
    shapes.graph.initializer.extend(small)
    try:
        inferred = onnx.shape_inference.infer_shapes(shapes)
    except Exception:  # an operator that it has no rule for: ranks are a convenience
        return {}
    infos = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {
        info.name: len(info.type.tensor_type.shape.dim) for info in infos if info.type.tensor_type.HasField("shape")
    }
