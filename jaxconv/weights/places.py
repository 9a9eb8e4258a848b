"""The layers and the arrays of a network, and what they are called in another library."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxconv.compose.wrappers import Repeat
from jaxconv.layer import Layer
from jaxconv.layers.base import Stored
from jaxconv.weights.arrays import Path

Axes = Callable[[int], tuple[int, ...]]


class Node(NamedTuple):
    """A layer: its path here, in the other library (several where it repeats), and how often it repeats."""

    layer: Layer
    path: Path
    theirs: tuple[Path, ...]
    copies: tuple[int, ...]


Level = Callable[[Layer, Path, Path], Iterator[tuple[str, Path, Layer]]]


def same_names(net: Layer, path: Path, theirs: Path) -> Iterator[tuple[str, Path, Layer]]:
    """Yields the children of a layer, which have the same names in the other library."""
    for name, layer in getattr(net, "children", ()):
        yield name, (name,) if name else (), layer


def nodes(
    net: Layer,
    level: Level = same_names,
    path: Path = (),
    theirs: tuple[Path, ...] = ((),),
    copies: tuple[int, ...] = (),
) -> Iterator[Node]:
    """Yields a network's layers, parents first.

    ``level`` takes a layer, its path here and in the other library, and yields of each child the name, the path there,
    and the layer.
    """
    if isinstance(net, Repeat):
        theirs = tuple((*p, str(i)) for p in theirs for i in range(net.n))
        copies = (*copies, net.n)
    yield Node(net, path, theirs, copies)
    for name, part, layer in level(net, path, theirs[0]):
        below = tuple((*p, *part) for p in theirs)
        yield from nodes(layer, level, (*path, name) if name else path, below, copies)


def owner(found: Sequence[Node], key: Path) -> Node:
    """Returns the innermost of the layers that an array's path lies in."""
    around = (node for node in reversed(found) if key[1:][: len(node.path)] == node.path)
    return max(around, key=lambda node: len(node.path))


def same_axes(ndim: int) -> tuple[int, ...]:
    """Leaves the axes as they are."""
    return tuple(range(ndim))


class Place(NamedTuple):
    """An array of a network, and what it is in the other library.

    Attributes:
      key: its collection and path here.
      theirs: its names there, several where layers are repeated.
      copies: how often.
      layer: the layer that declares it; None for an array that is known by ``net.init`` alone.
      declared: the layer's declaration.
      axes: how the axes go from there to here.
      ones: how many last axes, of length 1, it has only there.
    """

    key: Path
    theirs: tuple[str, ...]
    copies: tuple[int, ...]
    layer: Layer | None = None
    declared: Stored | None = None
    axes: Axes = same_axes
    ones: int = 0
