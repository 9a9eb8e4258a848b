"""A graph as a layer, whose children are the nodes of the graph."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from jaxconv.composite import Run
from jaxconv.errors import ShapeError, located
from jaxconv.interop.graphs import GraphNetwork, GraphOperator
from jaxconv.interop.onnx.operators import TABLE
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Call, Held, Order, Value, arranged, last, natural
from jaxconv.layer import Layer, Params, Tree
from jaxconv.layers.base import Geometry, Stored


@dataclass(frozen=True, repr=False)
class Operator(GraphOperator):
    """A node of a graph that is none of jaxconv's layers. Its input is the plan for the shapes of x."""

    takes: ClassVar[type] = Call

    def arguments(self) -> list[str]:
        return [repr(self.op), *(f"{name}={value!r}" for name, value in self.attributes)]

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
class Network(GraphNetwork):
    """A graph read from an ONNX file; made by `from_onnx`."""

    call: ClassVar[str] = "onnx"

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        values = {name: Value(fixed.array, natural(fixed.array.ndim)) for name, fixed in self.constants}
        given = self.given(x)
        for port in self.inputs:
            array = given[port.name]
            port.check(array)
            values[port.name] = Value(array, port.order(len(array.shape)))
        batch = self._batch(values)
        unread = {name: i for i, step in enumerate(self.steps) for name in step.node.inputs}
        unread |= dict.fromkeys((name for name, _ in self.outputs), len(self.steps))
        for i, step in enumerate(self.steps):
            node = dataclasses.replace(step.node, batch=batch) if batch else step.node
            results = _run(run, step, node, layers, [values.get(name) for name in node.inputs])
            values |= {name: value for name, value in zip(node.outputs, results, strict=False) if name}
            for name in {*node.inputs, *node.outputs}:
                # Frees the arrays that no later node reads.
                if unread.get(name, -1) <= i:
                    values.pop(name, None)
        return self.delivered(_delivered(run, values[name]) for name, _ in self.outputs)

    def _batch(self, values: dict[str, Value]) -> tuple[int, int] | None:
        port = self.inputs[0]
        fixed = port.shape[0] if port.shape else None
        now = values[port.name].shape[0] if port.shape else None
        return (fixed, now) if fixed and now and fixed != now else None


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
