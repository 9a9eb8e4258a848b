"""The layer protocol: a layer is data with two pure functions.

Any object with these two methods is a layer:

- ``init(key, x) -> (params, state)`` for inputs shaped like ``x``; ``key`` is a random key, or an int, its seed. The
  optimizer updates ``params``; a forward pass in training updates ``state``. Both are nested dicts of arrays.
- ``apply(params, state, x, *, train=False, key=None) -> (y, state)``.

A composite has ``children``, a tuple of ``(name, layer)``. The child's name is its key in ``params`` and ``state``; the
entries of a child named "" are stored at the parent's level. `jaxconv.Composite` is the base class of composites.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax

from jaxconv.errors import ParameterError

Array = jax.Array
Tree = Any
Params = dict[str, Any]
State = dict[str, Any]
Children = tuple[tuple[str, "Layer"], ...]
# A random key or an int, its seed. A custom layer may take keys only: inside of a network it gets nothing else.
Key = Any


@runtime_checkable
class Layer(Protocol):
    """The protocol of layers."""

    def init(self, key: Key, x: Tree) -> tuple[Params, State]:
        """Returns fresh parameters and state for inputs shaped like ``x``."""

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Key = None
    ) -> tuple[Tree, State]:
        """Returns the output and the new state."""


# What composites take: a callable becomes `jaxconv.Fn`.
LayerLike = Layer | Callable[[Tree], Tree]


def children_of(layer: Layer) -> Children:
    """Returns the children of a composite; () for any other layer.

    >>> [name for name, _ in children_of(jc.serial(jc.Conv(8), head=jc.Dense(10)))], children_of(jc.Conv(8))
    (['0', 'head'], ())
    """
    return getattr(layer, "children", ())


def take(entries: Params | State, name: str, argument: str = "params") -> Array:
    """Returns one entry of a layer's params or state, or raises ParameterError, which names the ``argument``."""
    try:
        return entries[name]
    except (KeyError, TypeError):
        has = ", ".join(map(repr, entries)) if isinstance(entries, dict) and entries else "none"
        raise ParameterError(f"{argument} must have an entry {name!r}, got {has}") from None


__all__ = ["Layer"]
