"""The layers and the arrays of a network, and their names in another library."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxconv.compose.wrappers import Repeat, iterations
from jaxconv.layer import Layer
from jaxconv.layers.base import Stored
from jaxconv.tree import visits
from jaxconv.weights.arrays import Path

Axes = Callable[[int], tuple[int, ...]]


class Node(NamedTuple):
    """A layer: its path, its paths in the other library (one for each iteration), and numbers of iterations."""

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
    """Returns the innermost layer whose path is a prefix of an array's path."""
    around = (node for node in reversed(found) if key[1:][: len(node.path)] == node.path)
    return max(around, key=lambda node: len(node.path))


def same_axes(ndim: int) -> tuple[int, ...]:
    """Leaves the axes as they are."""
    return tuple(range(ndim))


class Place(NamedTuple):
    """An array of a network, and its names and layout in the other library.

    Attributes:
      key: its collection and path.
      theirs: its names in the other library, one for each iteration of repeated layers.
      copies: the numbers of iterations of the repeated layers around it.
      layer: the layer that declares it; None for an array that is known from ``net.init`` only.
      declared: the layer's declaration.
      axes: the permutation from the other library's axes to jaxconv's.
      ones: the number of trailing axes of length 1 in the other library.
    """

    key: Path
    theirs: tuple[str, ...]
    copies: tuple[int, ...]
    layer: Layer | None = None
    declared: Stored | None = None
    axes: Axes = same_axes
    ones: int = 0
