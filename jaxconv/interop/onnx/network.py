"""A graph as a layer, whose children are the nodes of the graph."""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxconv.composite import Composite, Run
from jaxconv.errors import ArgumentError, PathError, ShapeError, located
from jaxconv.interop.constants import Fixed
from jaxconv.interop.onnx.operators import TABLE
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Call, Held, Order, Value, arranged, last, natural
from jaxconv.layer import Children, Layer, Params, Tree
from jaxconv.layers.base import Geometry, Leaf, Stored


@dataclass(frozen=True, repr=False)
class Operator(Leaf):
    """A node of a graph that is none of jaxconv's layers. Its input is what the graph makes of the shapes at hand."""

    op: str
    attributes: tuple[tuple[str, Any], ...] = ()
    joins: ClassVar[bool] = True

    @property
    def type_name(self) -> str:
        """The name of the operator, which tables and errors show."""
        return self.op

    def arguments(self) -> list[str]:
        return [repr(self.op), *(f"{name}={value!r}" for name, value in self.attributes)]

    def accept(self, x: Tree) -> None:
        if not isinstance(x, Call):
            raise ArgumentError(f"x must be given by the graph around this layer, got a {type(x).__name__}")

    def forward(self, params: Params, x: Tree) -> Tree:
        return x.run(params)

    def geometry(self, x: Any) -> Geometry:
        return x.geometry

    def macs(self, x: Any) -> int:
        return x.macs


@dataclass(frozen=True, repr=False)
class WeightedOperator(Operator):
    """A node with arrays among its constants, in ONNX's order of axes. Fresh ones are 1 for scales, 0 for others.

    ``arrays`` has name, shape and type of each.
    """

    arrays: tuple[tuple[str, tuple[int, ...], str], ...] = ()

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return tuple(Stored(name, shape, float(name.startswith("scale"))) for name, shape, _ in self.arrays)


@dataclass(frozen=True)
class Input:
    """An input of the graph: its shape as the file declares it, None for what is open, and how x has its axes."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: str
    channels_last: bool

    def order(self, rank: int) -> Order:
        """Returns the order of x's axes."""
        return last(rank) if self.channels_last else natural(rank)

    def check(self, x: Any) -> None:
        """Raises where x cannot be this input."""
        if self.shape is None:
            return
        wanted = tuple(self.shape[axis] for axis in self.order(len(self.shape)))
        shown = ", ".join("?" if n is None else str(n) for n in wanted)
        unfit = len(x.shape) != len(wanted)
        if not unfit and self.channels_last and wanted[-1] is not None:
            unfit = x.shape[-1] != wanted[-1]
        if unfit:
            order = " with the channels last" if self.channels_last else ""
            raise ShapeError(f"{self.name} must have shape ({shown}){order}, got {tuple(x.shape)}")


@dataclass(frozen=True)
class Step:
    """A node and how it runs.

    Attributes:
      node: the node.
      child: the layer that runs it; "" where it follows from constants and shapes alone.
      axes: how a layer of jaxconv's has its axes, see `Placed`; "" for an `Operator`.
      held: for each input what the child holds in its params, or None.
    """

    node: Node
    child: str = ""
    axes: str = ""
    held: tuple[Held | None, ...] = ()


def _order_for(axes: str, x: Value) -> Order:
    if axes == "last":
        return last(x.rank)
    tail = x.rank - 1
    return x.order if axes == "any" or x.order[-1:] == (tail,) else natural(x.rank)


@dataclass(frozen=True, repr=False)
class Network(Composite):
    """A graph read from an ONNX file; made by `from_onnx`.

    Attributes:
      children: the nodes that depend on the input, by name.
      inputs: the inputs; ``x`` is an array where there is one, else a tuple or a dict by name.
      outputs: the names of the outputs in the graph, and in the dict that is returned where there are several.
      digest: of the wiring, which says with the children what network this is.
    """

    call: ClassVar[str] = "onnx"
    children: Children
    inputs: tuple[Input, ...] = field(repr=False)
    outputs: tuple[tuple[str, str], ...] = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)
    constants: tuple[tuple[str, Fixed], ...] = field(repr=False)
    digest: str
    named: bool = field(default=False, repr=False)

    def arguments(self) -> list[str]:
        return [f"{name}={layer!r}" for name, layer in self.children]

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        values = {name: Value(fixed.array, natural(fixed.array.ndim)) for name, fixed in self.constants}
        values |= dict(self._given(x))
        batch = self._batch(values)
        unread = {name: i for i, step in enumerate(self.steps) for name in step.node.inputs}
        unread |= dict.fromkeys((name for name, _ in self.outputs), len(self.steps))
        for i, step in enumerate(self.steps):
            node = dataclasses.replace(step.node, batch=batch) if batch else step.node
            results = _run(run, step, node, layers, [values.get(name) for name in node.inputs])
            values |= {name: value for name, value in zip(node.outputs, results, strict=False) if name}
            for name in {*node.inputs, *node.outputs}:
                # What nobody reads any more is let go.
                if unread.get(name, -1) <= i:
                    values.pop(name, None)
        # An OrderedDict, whose order jit preserves.
        found = OrderedDict((public, _delivered(run, values[name])) for name, public in self.outputs)
        return found if self.named or len(found) > 1 else next(iter(found.values()))

    def _given(self, x: Tree) -> Iterator[tuple[str, Value]]:
        names = [port.name for port in self.inputs]
        if hasattr(x, "shape"):
            x = (x,)
        given = dict(x) if isinstance(x, dict) else dict(zip(names, x, strict=False)) if _is_row(x) else None
        if given is None or set(given) != set(names) or len(x) != len(names):
            got = f"a {type(x).__name__}" if given is None else f"{len(x)} of names {list(given)}"
            raise ArgumentError(f"x must have the inputs {names}, in this order or by name, got {got}")
        for port in self.inputs:
            array = given[port.name]
            port.check(array)
            yield port.name, Value(array, port.order(len(array.shape)))

    def _batch(self, values: dict[str, Value]) -> tuple[int, int] | None:
        port = self.inputs[0]
        fixed = port.shape[0] if port.shape else None
        now = values[port.name].shape[0] if port.shape else None
        return (fixed, now) if fixed and now and fixed != now else None

    def cut(self, maps: Sequence[tuple[str, str]]) -> "Network":
        """Returns the part of the graph that the layers at some paths need; its output is a dict of what they give.

        What `jaxconv.backbone` does with a graph. ``maps`` has pairs of a path and the name that it has in the output.
        """
        made = {step.child: step.node.outputs[0] for step in self.steps if step.child}
        for path, _ in maps:
            if path not in made:
                names = ", ".join(map(repr, list(made)[-8:]))
                raise PathError(f"paths must name a layer of the graph, got {path!r}: the last are {names}")
        return self.ending(tuple((made[path], public) for path, public in maps), named=True)

    def ending(self, outputs: tuple[tuple[str, str], ...], *, named: bool) -> "Network":
        """Returns the network with other outputs, without the nodes that they do not need."""
        wanted = {name for name, _ in outputs}
        steps: list[Step] = []
        for step in reversed(self.steps):
            if wanted & set(step.node.outputs):
                steps.insert(0, step)
                wanted |= set(step.node.inputs)
        used = {step.child for step in steps}
        children = tuple((name, layer) for name, layer in self.children if name in used)
        constants = tuple((name, fixed) for name, fixed in self.constants if name in wanted)
        digest = f"{self.digest}:{','.join(name for name, _ in outputs)}"
        return Network(children, self.inputs, outputs, tuple(steps), constants, digest, named)


def _is_row(x: Any) -> bool:
    return isinstance(x, list | tuple)


def _run(run: Run, step: Step, node: Node, layers: dict[str, Layer], values: list[Value | None]) -> Sequence[Value]:
    """Returns the outputs of one node."""
    if not step.child:
        with located(node.name, Operator(node.op)):
            arrays = TABLE[node.op].plan(node, *values).evaluated()
        return [Value(array, natural(array.ndim)) for array in arrays]
    layer = layers[step.child]
    if step.axes:
        x = values[0]
        assert x is not None
        order = _order_for(step.axes, x)
        arg = x.to(order)
        data = x.data if arg.perm is None else run.join(functools.partial(arranged, shape=None, perm=arg.perm), x.data)
        return [Value(run(step.child, layer, data), order)]
    if step.held:
        pairs = zip(step.held, values, strict=True)
        values = [Value(held, natural(len(held.shape))) if held else value for held, value in pairs]
    with located(step.child, layer):
        plan = TABLE[node.op].plan(node, *values)
    results = run(step.child, layer, plan.call())
    results = results if isinstance(results, tuple | list) else (results,)
    return [Value(array, order) for array, order in zip(results, plan.orders, strict=False)]


def _delivered(run: Run, value: Value) -> Any:
    """Returns an output: a map with the channels last, any other array in ONNX's order of axes."""
    if value.known:
        return jnp.asarray(np.asarray(value.data))
    if value.order in (natural(value.rank), last(value.rank)):
        return value.data
    return run.join(functools.partial(arranged, shape=None, perm=value.to(natural(value.rank)).perm), value.data)
