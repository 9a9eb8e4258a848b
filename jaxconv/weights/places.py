"""The layers and the arrays of a network, and what they are called in another library."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxconv.compose.wrappers import Repeat, iterations
from jaxconv.layer import Layer
from jaxconv.layers.base import Stored
from jaxconv.tree import visits
from jaxconv.weights.arrays import Path

Axes = Callable[[int], tuple[int, ...]]


class Node(NamedTuple):
    """A layer: its path here, in the other library (several where it repeats), and how often it repeats."""

    layer: Layer
    path: Path
    theirs: tuple[Path, ...]
    copies: tuple[int, ...]


def same_name(above: Path, name: str, layer: Layer) -> Path:
    """Returns what a child adds to its parent's path in a library that has the same names."""
    return (name,) if name else ()


def nodes(net: Layer, part: Callable[[Path, str, Layer], Path] = same_name) -> Iterator[Node]:
    """Yields a network's layers, parents first.

    ``part`` returns what a child adds to its parent's path in the other library, given this path, the child's name
    here, and the child.
    """
    around: list[Node] = []
    for visit in visits(net):
        del around[len(visit.parents) :]
        theirs: tuple[Path, ...] = ((),)
        if around:
            more = part(around[-1].theirs[0], visit.name, visit.layer)
            theirs = tuple((*path, *more) for path in around[-1].theirs)
        if isinstance(visit.layer, Repeat):
            theirs = tuple((*path, str(i)) for path in theirs for i in range(visit.layer.n))
        node = Node(visit.layer, visit.path, theirs, iterations(visit))
        around.append(node)
        yield node


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
