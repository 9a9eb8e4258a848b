"""What a network computes in evaluation, as calls of its layers: which layer reads the output of which.

`follow` runs the ``route`` of each composite on values that represent arrays. A route that needs their shapes is not
followed unless the shape of the network's input is given: its children are then followed one by one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconv.compose.wrappers import Frozen, MixedPrecision, Remat, Repeat
from jaxconv.composite import Composite
from jaxconv.errors import located
from jaxconv.layer import Layer, Tree, children_of
from jaxconv.layers import Dropout, DropPath, Identity
from jaxconv.structs import as_struct, shape_of
from jaxconv.tree import visits

Path = tuple[str, ...]
Key = tuple[Path, int]  # a layer's path and identity; a layer without a name has its composite's path

# Composites whose ``apply`` is another are not described by their ``route``.
_APPLY = frozenset(layer.apply for layer in (Composite, Frozen, MixedPrecision, Remat, Repeat))
INPUT = "the network's input"
_JOINED = "a function of other layers' outputs"


@dataclass(frozen=True)
class At:
    """A position in a network; ``repeats`` counts the enclosing `repeat`, each of which adds an axis to the arrays."""

    path: Path = ()
    frozen: bool = False
    repeats: int = 0

    def inside(self, name: str) -> "At":
        """Returns the position of a child."""
        return dataclasses.replace(self, path=(*self.path, name)) if name else self


class Value:
    """An array on its way through the network; ``maker`` is the call that returns it, or says what does."""

    def __init__(self, maker: "Call | str"):
        self.maker = maker


class Seen(Value):
    """An array of known shape."""

    def __init__(self, maker: "Call | str", struct: jax.ShapeDtypeStruct):
        super().__init__(maker)
        self.struct, self.shape, self.ndim, self.dtype = struct, struct.shape, len(struct.shape), struct.dtype


class UnseenError(Exception):
    """A route reads more of a value than is known."""


@jax.tree_util.register_pytree_node_class
class Unseen(Value):
    """A value of unknown form, an array or a tree: a route that reads its form raises UnseenError."""

    def __getattr__(self, name: str) -> Any:
        raise UnseenError(name)

    @property
    def __class__(self) -> Any:  # isinstance reads it
        raise UnseenError("type")

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise UnseenError("type")

    def tree_flatten(self) -> Any:
        """Raises: whether the value is one array is unknown."""
        raise UnseenError("leaves")

    @classmethod
    def tree_unflatten(cls, *_: Any) -> Any:
        """Is never reached."""
        raise UnseenError("leaves")


@dataclass(eq=False)
class Call:
    """One run of a layer that is not followed further: a layer without children, mostly."""

    layer: Layer
    at: At
    inputs: Sequence[Value]

    @property
    def key(self) -> Key:
        """What all runs of the layer share."""
        return self.at.path, id(self.layer)


def _is_value(x: Any) -> bool:
    return issubclass(type(x), Value)


def _values(x: Tree) -> list[Value]:
    """Returns the values in a tree, or raises UnseenError where something could hide one."""
    leaves = jax.tree.leaves(x, is_leaf=_is_value)
    known = (jax.Array, np.ndarray, np.generic, int, float, str)
    if not all(_is_value(leaf) or isinstance(leaf, known) for leaf in leaves):
        raise UnseenError("leaves")
    return [leaf for leaf in leaves if _is_value(leaf)]


def _structs(x: Tree) -> Tree:
    return jax.tree.map(lambda value: value.struct if _is_value(value) else value, x, is_leaf=_is_value)


def _like(x: Tree, maker: str) -> Tree:
    """Returns values of the same form, which something else returns."""
    if any(type(value) is Unseen for value in _values(x)):
        return Unseen(maker)
    return jax.tree.map(lambda seen: Seen(maker, seen.struct), x)


class Leaf(NamedTuple):
    """A layer without children, and its path."""

    path: Path
    layer: Layer


def leaves(net: Layer, path: Path = ()) -> Iterator[Leaf]:
    """Yields each layer without children, those without a name included, which have their composite's path."""
    for visit in visits(net):
        if not children_of(visit.layer):
            yield Leaf((*path, *visit.path), visit.layer)


def _can_change(layer: Composite) -> bool:
    try:
        again = layer.with_children([child for _, child in layer.children])
    except TypeError:
        return False
    pairs = zip(again.children, layer.children, strict=True)
    return all(name == old and child is before for (name, child), (old, before) in pairs)


class Flow:
    """The calls of a network's layers in one pass.

    Attributes:
      calls: in order.
      reads: values with the calls that read them, or None: a function of a composite, or the end of a region.
      hidden: why the calls of some layers are unknown, by the layers' keys.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.reads: list[tuple[Value, Call | None]] = []
        self.hidden: dict[Key, str] = {}

    def region(self, layer: Layer, x: Tree, at: At) -> None:
        """Follows a layer whose input comes from a place, and whose output goes to a place, that are not followed."""
        y = self.run(layer, x, at)
        self.reads += [(value, None) for value in _values(y)]

    def run(self, layer: Layer, x: Tree, at: At) -> Tree:
        """Follows one layer, and returns its output."""
        if isinstance(layer, Identity | Dropout | DropPath):
            return x
        if not isinstance(layer, Composite):
            return self._call(layer, x, at, "is not a Composite")
        if type(layer).apply not in _APPLY:
            return self._call(layer, x, at, "has its own apply")
        if not _can_change(layer):
            return self._call(layer, x, at, "has children that with_children cannot replace")
        if isinstance(layer, Repeat):
            self.reads += [(value, None) for value in _values(x)]
            inside = dataclasses.replace(at, repeats=at.repeats + 1)
            self.region(layer.layer, _like(x, "the input of an iteration of repeat"), inside)
            return _like(x, "the output of repeat")
        if isinstance(layer, Frozen):
            at = dataclasses.replace(at, frozen=True)
        calls, reads = len(self.calls), len(self.reads)
        try:
            return layer.route(_Route(self, at), x)
        except Exception:
            # Any error: a route may do whatever it can with an array to what has no shape.
            if all(type(value) is Seen for value in _values(x)):
                raise
            del self.calls[calls:], self.reads[reads:]
        self.reads += [(value, None) for value in _values(x)]
        name = layer.call or type(layer).__name__
        for child, inner in layer.children:
            self.region(inner, Unseen(f"chosen by {name}, which reads shapes: give x"), at.inside(child))
        return Unseen(f"the output of {name}, which reads shapes: give x")

    def _call(self, layer: Layer, x: Tree, at: At, why: str) -> Tree:
        if hasattr(layer, "children"):
            path = ".".join(at.path)
            hidden = f"{path + ' ' if path else ''}({type(layer).__name__}) {why}"
            self.hidden |= {(inner, id(leaf)): hidden for inner, leaf in leaves(layer, at.path)}
        inputs = _values(x)
        call = Call(layer, at, inputs)
        self.calls.append(call)
        self.reads += [(value, call) for value in inputs]
        if any(type(value) is Unseen for value in inputs):
            return Unseen(call)
        structs = _structs(x)
        params, state = jax.eval_shape(lambda key: layer.init(key, structs), jax.random.key(0))
        out = shape_of(lambda p, s, x: layer.apply(p, s, x)[0], params, state, structs)
        return jax.tree.map(lambda struct: Seen(call, struct), out)


class _Route:
    """One pass through a composite's ``route`` in evaluation, as `jaxconv.Run`."""

    train = False

    def __init__(self, flow: Flow, at: At):
        self.flow, self.at = flow, at

    def __call__(self, name: str, layer: Layer, x: Tree) -> Tree:
        with located(name, layer):
            return self.flow.run(layer, x, self.at.inside(name))

    def join(self, function: Callable[..., Tree], *xs: Tree) -> Tree:
        values = _values(xs)
        self.flow.reads += [(value, None) for value in values]
        if any(type(value) is Unseen for value in values):
            return Unseen(_JOINED)
        return jax.tree.map(lambda struct: Seen(_JOINED, struct), shape_of(function, *_structs(xs)))

    def aside(self, y: Tree, extra: Tree) -> Tree:
        return y


def follow(net: Layer, x: Tree = None) -> Flow:
    """Returns the calls of a network's layers in evaluation.

    Args:
      net: a layer.
      x: an array, a ShapeDtypeStruct or a shape tuple, or a pytree of them; None where shapes are unknown.

    >>> flow = follow(jc.serial(jc.Conv(8), jax.nn.relu))
    >>> [call.at.path for call in flow.calls]
    [('0',), ('1',)]
    """
    flow = Flow()
    begun = Unseen(INPUT) if x is None else jax.tree.map(lambda struct: Seen(INPUT, struct), as_struct(x))
    flow.region(net, begun, At())
    return flow
