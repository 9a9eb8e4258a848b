"""A graph model of TensorFlow.js as plain data: TensorFlow's GraphDef in JSON, its arrays, and its signature."""

import base64
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.weights.errors import StrPath, WeightsError, refusing
from jaxconv.weights.tfjs import read_model

# By name and by number, as JSON has either. TensorFlow.js computes with int32 in place of int64.
_TYPES = {
    **dict.fromkeys(("DT_FLOAT", 1, "DT_HALF", 19), "float32"),
    **dict.fromkeys(("DT_INT32", 3, "DT_INT64", 9, "DT_UINT8", 4, "DT_INT8", 6, "DT_INT16", 5), "int32"),
    **dict.fromkeys(("DT_BOOL", 10), "bool"),
}
# The converter fuses a bias and an activation into the node before them.
_FUSED = {"_FusedConv2D": "Conv2D", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative", "_FusedMatMul": "MatMul"}


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
      op: the operator.
      name: unique, without "." and "/": the layer's name.
      output: the name of its output; further outputs are ``output:1``, ``output:2``.
      inputs: the names of arrays.
      attributes: by name.
    """

    op: str
    name: str
    output: str
    inputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...]

    def makes(self, names: Collection[str]) -> bool:
        """Returns whether one of these arrays is an output of the node."""
        return any(node_of(name) == self.output for name in names)


@dataclass(frozen=True)
class Port:
    """An input of the graph as the file declares it; None for an axis, or a shape, that is not fixed."""

    name: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """What the outputs need: nodes in an order in which they can run, constants by name, and outputs by public name."""

    nodes: tuple[Node, ...]
    constants: dict[str, np.ndarray]
    inputs: tuple[Port, ...]
    outputs: tuple[tuple[str, str], ...]


def read(source: StrPath, operators: Collection[str]) -> Graph:
    """Returns the graph of a ``model.json``; ``operators`` are those that can be imported.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: the file is no complete graph model, has an invalid graph, or unknown operators.
    """
    with refusing(source):
        document, arrays = read_model(Path(source))
        topology = document.get("modelTopology") if isinstance(document, dict) else None
        if not isinstance(topology, dict) or not isinstance(topology.get("node"), list):
            form = document.get("format", "none") if isinstance(document, dict) else "a list of arrays alone"
            raise WeightsError(
                f"it must be a graph model, with nodes under modelTopology, got {form}: "
                "jaxconv.weights.read returns its arrays"
            )
        metadata = document.get("userDefinedMetadata") or {}
        return _graph(topology["node"], arrays, document.get("signature") or metadata.get("signature") or {}, operators)


def _graph(listed: list[Any], arrays: dict[str, np.ndarray], signature: Any, operators: Collection[str]) -> Graph:
    nodes: dict[str, Any] = {}
    for proto in listed:
        if proto["name"] in nodes:
            raise WeightsError(f"two nodes have the name {proto['name']!r}")
        nodes[proto["name"]] = proto
    sources = {
        name: [_source(i) for i in proto.get("input", []) if not i.startswith("^")] for name, proto in nodes.items()
    }
    read_names = {node_of(name) for names in sources.values() for name in names}
    outputs = tuple((_source(about["name"]), public) for public, about in signature.get("outputs", {}).items())
    if not outputs:
        ends = [name for name, proto in nodes.items() if name not in read_names and proto["op"] != "NoOp"]
        outputs = tuple((name, name) for name in ends)
    order = _ordered(sources, [name for name, _ in outputs])
    _check_operators([nodes[name] for name in order], operators)
    constants, ports, kept = {}, [], []
    for name in order:
        proto = nodes[name]
        if proto["op"] == "Const":
            if name not in arrays:
                raise WeightsError(f"node {name!r} (Const) has no array of its name in the list")
            constants[name] = arrays[name]
        elif proto["op"] == "Placeholder":
            shape = _plain(proto["attr"]["shape"]) if "shape" in proto.get("attr", {}) else None
            ports.append(Port(name, shape))
        else:
            kept += _parts(proto, sources[name])
    if not ports or not outputs:
        raise WeightsError(f"it must have an input and an output, got {len(ports)} and {len(outputs)}")
    wanted = [node_of(about["name"]) for about in signature.get("inputs", {}).values()]
    ports.sort(key=lambda port: wanted.index(port.name) if port.name in wanted else len(wanted))
    return Graph(tuple(_named(kept)), constants, tuple(ports), outputs)


def _source(name: str) -> str:
    """Returns the name of an array, where output 0 of a node has the node's name."""
    return name.removesuffix(":0")


def node_of(name: str) -> str:
    """Returns the name of the node whose output this is.

    >>> node_of("unstack:1")
    'unstack'
    """
    return re.sub(r":\d+$", "", name)


def _ordered(sources: dict[str, list[str]], outputs: Iterable[str]) -> list[str]:
    """Returns the nodes that the outputs need, each after its inputs."""
    order: list[str] = []
    opened: set[str] = set()
    done: set[str] = set()
    stack = [(node_of(name), "the signature", False) for name in reversed(list(outputs))]
    while stack:
        name, reader, left = stack.pop()
        if left:
            done.add(name)
            order.append(name)
        elif name in opened and name not in done:
            raise WeightsError(f"nodes must not wait for each other, got a cycle through {name!r}")
        elif name not in done:
            if name not in sources:
                raise WeightsError(f"{reader} reads {name!r}, which is no node")
            opened.add(name)
            stack.append((name, reader, True))
            stack += [(node_of(each), f"node {name!r}", False) for each in reversed(sources[name])]
    return order


def _check_operators(nodes: Iterable[Any], operators: Collection[str]) -> None:
    """Raises one error that lists every operator that is not known, with its nodes."""
    unknown = defaultdict(list)
    for proto in nodes:
        if _FUSED.get(proto["op"], proto["op"]) not in {*operators, "Const", "Placeholder"}:
            unknown[proto["op"]].append(repr(proto["name"]))
    if unknown:
        listed = [
            f"{op} in {len(names)} node{'s' * (len(names) > 1)}: {', '.join(names[:3])}{', ...' * (len(names) > 3)}"
            for op, names in sorted(unknown.items())
        ]
        raise WeightsError("its operators that cannot be imported are:\n  " + "\n  ".join(listed))


def _parts(proto: Any, sources: list[str]) -> list[Node]:
    """Returns a node as data; a fused node is a node for the product with its bias, and one for the activation."""
    name, op = proto["name"], proto["op"]
    attributes = {key: _plain(value) for key, value in sorted(proto.get("attr", {}).items())}
    if op not in _FUSED:
        return [Node(op, name, name, tuple(sources), tuple(attributes.items()))]
    fused = list(attributes.pop("fused_ops", ()))
    count = 2
    if fused[:1] == ["BiasAdd"]:
        fused, count = fused[1:], 3
    inner = f"{name}:product" if fused else name
    parts = [Node(_FUSED[op], name, inner, tuple(sources[:count]), tuple(attributes.items()))]
    if fused:
        alpha = {"alpha": attributes.get("leakyrelu_alpha", 0.2)} if fused == ["LeakyRelu"] else {}
        parts.append(Node(fused[0], f"{name}/{fused[0]}", name, (inner, *sources[count:]), tuple(alpha.items())))
    if len(fused) > 1 or fused == ["FusedBatchNorm"]:
        raise WeightsError(f"node {name!r} ({op}) must have a bias and an activation at most, got {fused}")
    return parts


def _named(nodes: list[Node]) -> list[Node]:
    """Returns the nodes under names of layers: without "." and "/", with a number if taken."""
    taken: Counter[str] = Counter()
    result = []
    for node in nodes:
        wanted = name = re.sub(r"[./\s]", "_", node.name)
        while taken[name]:
            taken[wanted] += 1
            name = f"{wanted}_{taken[wanted]}"
        taken[name] += 1
        result.append(Node(node.op, name, node.output, node.inputs, node.attributes))
    return result


def _plain(value: Any) -> Any:
    """Returns an attribute as hashable data; None for a type of attribute that no operator reads."""
    kind: str
    content: Any
    [(kind, content)] = value.items() if value else [("none", None)]
    if kind == "list":
        [(kind, content)] = content.items() if content else [("none", ())]
        return tuple(_plain({kind: each}) for each in content)
    if kind == "shape":
        if content.get("unknownRank"):
            return None
        sizes = (int(each["size"]) for each in content.get("dim", []))
        return tuple(n if n >= 0 else None for n in sizes)
    if kind == "s":
        data = bytes(content) if isinstance(content, list) else base64.b64decode(content)
        return data.decode("utf-8")
    if kind == "type":
        return _TYPES.get(content, str(content))
    return {"i": int, "f": float, "b": bool}.get(kind, lambda _: None)(content)
