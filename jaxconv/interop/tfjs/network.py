"""A graph as a layer, whose children are the nodes of the graph."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.composite import Run
from jaxconv.errors import ShapeError, located
from jaxconv.interop.constants import Fixed
from jaxconv.interop.graphs import GraphNetwork, GraphOperator
from jaxconv.interop.tfjs.operators import TABLE
from jaxconv.interop.tfjs.read import Node, Port
from jaxconv.layer import Layer, Params, Tree
from jaxconv.layers.base import Geometry, Stored


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Call:
    """The input of an operator: its arrays are leaves; ``slots`` has a constant, a parameter's name, or None for each.

    An argument whose slot is None is the next of the arrays.
    """

    arrays: tuple[Any, ...]
    slots: tuple[Fixed | str | None, ...]

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return self.arrays, self.slots

    @classmethod
    def tree_unflatten(cls, slots: tuple[Any, ...], arrays: Any) -> "Call":
        return cls(tuple(arrays), slots)

    def arguments(self, params: Params) -> list[Any]:
        """Returns the arguments of the operator."""
        arrays = iter(self.arrays)
        return [
            next(arrays) if slot is None else slot.array if isinstance(slot, Fixed) else params[slot]
            for slot in self.slots
        ]


@dataclass(frozen=True, repr=False)
class Operator(GraphOperator):
    """A node of a graph that is none of jaxconv's layers. ``vectors`` has name and length of each of its parameters."""

    vectors: tuple[tuple[str, int], ...] = ()
    takes: ClassVar[type] = Call

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return tuple(Stored(name, (n,), float(name == "scale")) for name, n in self.vectors)

    def forward(self, params: Params, x: Tree) -> Tree:
        return TABLE[self.op].function(dict(self.attributes), *x.arguments(self.entries(params)))

    def geometry(self, x: Any) -> Geometry:
        # A vector of weights is the same at each position, as a constant is.
        vectors = {name: np.empty(n, np.float32) for name, n in self.vectors}
        geometry = TABLE[self.op].geometry
        return None if geometry is None else geometry(dict(self.attributes), *x.arguments(vectors))


@dataclass(frozen=True)
class Step:
    """A node and how it runs: ``child`` is its layer.

    Attributes:
      node: the node.
      child: the name of its layer; "" where it follows from shapes alone.
      of: the input of one of jaxconv's layers; None for an `Operator`.
      held: for each input of an operator the name of the parameter that it is, or "".
    """

    node: Node
    child: str = ""
    of: int | None = None
    held: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Network(GraphNetwork):
    """A graph read from a graph model of TensorFlow.js; made by `from_tfjs`."""

    call: ClassVar[str] = "tfjs"

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        values: dict[str, Any] = {name: fixed.array for name, fixed in self.constants}
        given = self.given(x)
        for port in self.inputs:
            self._check(port, given[port.name].shape)
        values |= given
        for step in self.steps:
            results = _run(run, step, layers, values)
            for i, result in enumerate(results if isinstance(results, tuple | list) else (results,)):
                values[f"{step.node.output}:{i}" if i else step.node.output] = result
        return self.delivered(_delivered(values[name]) for name, _ in self.outputs)

    def _check(self, port: Port, shape: tuple[int, ...]) -> None:
        """Raises where an array of this shape cannot be the input."""
        if port.shape is None:
            return
        free = [n is None for n in port.shape]
        if all(TABLE[step.node.op].geometry for step in self.steps if step.of is None):
            # No node mixes examples or depends on sizes in the file, so all axes but the channels may differ.
            free[:-1] = [True] * (len(free) - 1)
        rows = zip(port.shape, free, shape, strict=False)
        if len(shape) != len(port.shape) or any(n != m and not open_ for n, open_, m in rows):
            wanted = ", ".join("?" if open_ else str(n) for n, open_ in zip(port.shape, free, strict=True))
            hint = ": use jax.vmap for batches" if port.shape[:1] == (1,) != shape[:1] and not free[0] else ""
            raise ShapeError(f"{port.name} must have shape ({wanted}), got {shape}{hint}")

    def cut(self, maps: Sequence[tuple[str, str]]) -> Self:
        part = super().cut(maps)
        read = {name for step in part.steps for name in step.node.inputs}
        return dataclasses.replace(part, inputs=tuple(port for port in self.inputs if port.name in read))


def _run(run: Run, step: Step, layers: dict[str, Layer], values: dict[str, Any]) -> Any:
    """Returns the output of one node, or a tuple of its outputs."""
    node = step.node
    if step.of is not None:
        return run(step.child, layers[step.child], values[node.inputs[step.of]])
    inputs = [values.get(name) for name in node.inputs]
    if not step.child:
        with located(node.name, Operator(node.op)), jax.ensure_compile_time_eval():
            return jax.tree.map(np.asarray, TABLE[node.op].function(dict(node.attributes), *inputs))
    slots = [
        name or (Fixed(value) if isinstance(value, np.ndarray) else None)
        for name, value in zip(step.held, inputs, strict=True)
    ]
    arrays = [value for value, slot in zip(inputs, slots, strict=True) if slot is None]
    return run(step.child, layers[step.child], Call(tuple(arrays), tuple(slots)))


def _delivered(value: Any) -> Any:
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value
