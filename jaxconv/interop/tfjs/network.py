"""A graph as a layer, whose children are the nodes of the graph."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.composite import Composite, Run
from jaxconv.errors import ArgumentError, PathError, ShapeError, located
from jaxconv.interop.constants import Fixed
from jaxconv.interop.tfjs.operators import TABLE
from jaxconv.interop.tfjs.read import Node, Port, node_of
from jaxconv.layer import Children, Layer, Params, Tree
from jaxconv.layers.base import Geometry, Leaf, Stored


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
class Operator(Leaf):
    """A node of a graph that is none of jaxconv's layers. ``vectors`` has name and length of each of its parameters."""

    op: str
    attributes: tuple[tuple[str, Any], ...] = ()
    vectors: tuple[tuple[str, int], ...] = ()
    joins: ClassVar[bool] = True

    @property
    def type_name(self) -> str:
        """The name of the operator, which tables and errors show."""
        return self.op

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return tuple(Stored(name, (n,), float(name == "scale")) for name, n in self.vectors)

    def accept(self, x: Tree) -> None:
        if not isinstance(x, Call):
            raise ArgumentError(f"x must be given by the graph around this layer, got a {type(x).__name__}")

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
class Network(Composite):
    """A graph read from a graph model of TensorFlow.js; made by `from_tfjs`.

    Attributes:
      children: the nodes that depend on the input, by name.
      inputs: the inputs; ``x`` is an array where there is one, else a tuple or a dict by name.
      outputs: the names of the outputs in the graph, and in the dict that is returned where there are several.
      digest: a hash of the connections; with the children, it identifies the network.
    """

    call: ClassVar[str] = "tfjs"
    children: Children
    inputs: tuple[Port, ...] = field(repr=False)
    outputs: tuple[tuple[str, str], ...] = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)
    constants: tuple[tuple[str, Fixed], ...] = field(repr=False)
    digest: str
    named: bool = field(default=False, repr=False)

    def arguments(self) -> list[str]:
        return [f"{name}={layer!r}" for name, layer in self.children]

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        values: dict[str, Any] = {name: fixed.array for name, fixed in self.constants}
        values |= dict(self._given(x))
        for step in self.steps:
            results = _run(run, step, layers, values)
            for i, result in enumerate(results if isinstance(results, tuple | list) else (results,)):
                values[f"{step.node.output}:{i}" if i else step.node.output] = result
        # An OrderedDict, whose order jit preserves.
        found = OrderedDict((public, _delivered(values, name)) for name, public in self.outputs)
        return found if self.named or len(found) > 1 else next(iter(found.values()))

    def _given(self, x: Tree) -> Iterator[tuple[str, Any]]:
        names = [port.name for port in self.inputs]
        x = (x,) if hasattr(x, "shape") else x
        given = dict(x) if isinstance(x, dict) else dict(zip(names, x, strict=False)) if _is_row(x) else {}
        if set(given) != set(names) or len(x) != len(names):
            got = list(given) if isinstance(x, dict) else f"a {type(x).__name__}"
            raise ArgumentError(f"x must have the inputs {names}, in this order or by name, got {got}")
        for port in self.inputs:
            self._check(port, given[port.name].shape)
            yield port.name, given[port.name]

    def _check(self, port: Port, shape: tuple[int, ...]) -> None:
        """Raises where an array of this shape cannot be the input."""
        if port.shape is None:
            return
        free = [n is None for n in port.shape]
        if all(TABLE[step.node.op].geometry for step in self.steps if step.of is None):
            # No node mixes examples or has sizes of its own, so all but the channels may differ.
            free[:-1] = [True] * (len(free) - 1)
        rows = zip(port.shape, free, shape, strict=False)
        if len(shape) != len(port.shape) or any(n != m and not open_ for n, open_, m in rows):
            wanted = ", ".join("?" if open_ else str(n) for n, open_ in zip(port.shape, free, strict=True))
            hint = ": use jax.vmap for batches" if port.shape[:1] == (1,) != shape[:1] and not free[0] else ""
            raise ShapeError(f"{port.name} must have shape ({wanted}), got {shape}{hint}")

    def cut(self, maps: Sequence[tuple[str, str]]) -> "Network":
        """Returns the part of the graph that the layers at some paths need; its output is a dict of their outputs.

        `jaxconv.backbone` calls this. ``maps`` has pairs of a path and its name in the output.
        """
        made = {step.child: step.node.output for step in self.steps if step.child}
        for path, _ in maps:
            if path not in made:
                names = ", ".join(map(repr, list(made)[-8:]))
                raise PathError(f"paths must name a layer of the graph, got {path!r}: the last are {names}")
        outputs = tuple((made[path], public) for path, public in maps)
        wanted = {name for name, _ in outputs}
        steps: list[Step] = []
        for step in reversed(self.steps):
            if step.node.output in {node_of(name) for name in wanted}:
                steps.insert(0, step)
                wanted |= set(step.node.inputs)
        used = {step.child for step in steps}
        children = tuple((name, layer) for name, layer in self.children if name in used)
        constants = tuple((name, fixed) for name, fixed in self.constants if name in wanted)
        inputs = tuple(port for port in self.inputs if port.name in wanted)
        digest = f"{self.digest}:{','.join(name for name, _ in outputs)}"
        return Network(children, inputs, outputs, tuple(steps), constants, digest, True)


def _is_row(x: Any) -> bool:
    return isinstance(x, list | tuple)


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


def _delivered(values: dict[str, Any], name: str) -> Any:
    value = values[name]
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value
