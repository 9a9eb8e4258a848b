"""Which layers and units an explorer shows, and the network as a tree of layers with shapes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconv.compose.structure import Concat, Gate, Parallel, Residual, Serial, Split
from jaxconv.compose.wrappers import AROUND
from jaxconv.errors import ArgumentError
from jaxconv.inspect.arguments import as_paths, check_unstacked, stacked_axes
from jaxconv.inspect.backward import WEIGHTED
from jaxconv.inspect.table import type_of
from jaxconv.inspect.trace import Row
from jaxconv.layer import Layer, children_of
from jaxconv.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, LayerScale
from jaxconv.tree import visits

_AFTER = (BatchNorm, GroupNorm, InstanceNorm, LayerNorm, LayerScale)
# A sequence of more layers with a kernel is not one block of a network.
_BLOCK = 6
_ARRANGEMENTS = {Serial: "serial", Residual: "residual", Concat: "branches", Parallel: "branches", Split: "branches"}


class Explored(NamedTuple):
    """A layer with pages of its units.

    Attributes:
      path: its path.
      row: its row in the trace.
      units: the channels that have a page.
    """

    path: str
    row: Row
    units: tuple[int, ...]


def _parts(layer: Layer, path: tuple[str, ...], top: bool = True) -> Iterator[tuple[str, Layer]]:
    """Yields the layers and blocks that a network is a sequence of, with their paths."""
    inside = children_of(layer)
    composed = any(children_of(child) for _, child in inside)
    kernels = sum(isinstance(visit.layer, WEIGHTED) for visit in visits(layer))
    if inside and (top or isinstance(layer, AROUND) or (isinstance(layer, Serial) and (composed or kernels > _BLOCK))):
        for name, child in inside:
            yield from _parts(child, (*path, name) if name else path, isinstance(layer, AROUND) and top)
    else:
        yield ".".join(path), layer


def default_paths(net: Layer) -> list[str]:
    """Returns the blocks of a network, and its other layers with a kernel, each with the norm behind it.

    The output before an activation is shown, since a unit behind a rectifier that does not fire has no gradient.

    >>> import jaxconv as jc
    >>> default_paths(jc.serial(jc.Conv(8), jc.BatchNorm(), jax.nn.relu, block=jc.residual(jc.Conv(8)), fc=jc.Dense(2)))
    ['1', 'block', 'fc']
    """
    found: list[str] = []
    extend = False
    for path, layer in _parts(net, ()):
        if isinstance(layer, WEIGHTED) or hasattr(layer, "children"):
            found.append(path)
            extend = isinstance(layer, WEIGHTED)
        elif extend and isinstance(layer, _AFTER):
            found[-1] = path
        else:
            extend = False
    return [path for path in dict.fromkeys(found) if path]


def _has_units(row: Row | None) -> bool:
    return row is not None and len(getattr(row.output, "shape", ())) >= 2


def chosen(net: Layer, rows: dict[str, Row], paths: Sequence[str] | None, units: int | None) -> list[Explored]:
    """Returns the layers to explore, in the network's order, with at most ``units`` evenly spaced channels each.

    Raises:
      PathError: a path names no layer, or a layer inside a `repeat`.
      ArgumentError: a layer does not return one array with channels, or there is no layer.
    """
    if paths is None:
        wanted = [path for path in default_paths(net) if not stacked_axes(net, path) and _has_units(rows.get(path))]
    else:
        wanted = list(dict.fromkeys(as_paths(paths)))
        for path in wanted:
            check_unstacked(net, path)
            if not path or not _has_units(rows.get(path)):
                raise ArgumentError(f"paths must name layers inside net that return one array, got {path!r}")
    if not wanted:
        raise ArgumentError("paths must name layers to explore, got none")
    order = {path: i for i, path in enumerate(rows)}
    explored = []
    for path in sorted(wanted, key=order.__getitem__):
        channels = int(rows[path].output.shape[-1])
        n = channels if units is None else min(units, channels)
        explored.append(Explored(path, rows[path], tuple(channels * i // n for i in range(n))))
    return explored


def described(rows: dict[str, Row], layer: Layer, name: str, path: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns a layer as a node for the page, or, for a layer without a name, the nodes inside it.

    A node has its name, path, type, shape, counts, and for a composite the arrangement of the nodes inside.
    """
    children = children_of(layer)
    inside = [described(rows, inner, child, (*path, child) if child else path) for child, inner in children]
    if not name and path:
        return [node for nodes in inside for node in nodes] if children else [_node(rows, layer, "", path)]
    node = _node(rows, layer, name, path)
    if children:
        node["arrangement"] = _ARRANGEMENTS.get(type(layer), "gate" if isinstance(layer, Gate) else "serial")
        node["inside"] = [node for nodes in inside for node in nodes]
    return [node]


def _node(rows: dict[str, Row], layer: Layer, name: str, path: tuple[str, ...]) -> dict[str, Any]:
    row = rows.get(".".join(path)) if name or not path else None
    shapes = [] if row is None else [list(leaf.shape[1:]) for leaf in jax.tree.leaves(row.output)]
    return {
        "name": name,
        "path": ".".join(path),
        "type": type_of(layer),
        "shape": shapes[0] if len(shapes) == 1 else shapes,
        "parameters": 0 if row is None else row.parameters,
        "macs": None if row is None else row.macs,
    }


def field_of(row: Row) -> list[dict[str, Any]] | None:
    """Returns a receptive field for the page."""
    if row.receptive_field is None:
        return None
    return [
        {"size": float(f.size), "stride": float(f.stride), "offset": float(f.offset), "exact": f.exact}
        for f in row.receptive_field
    ]


def side_for(row: Row, largest: int, small: int) -> int:
    """Returns the side of a preferred input: a unit that sees little has a small image."""
    sizes = [float(np.ceil(float(f.size))) for f in row.receptive_field or ()]
    return min(small, largest) if sizes and max(sizes) <= 0.8 * small else largest
