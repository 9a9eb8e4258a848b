"""A network as a tree of layers: visit them with their paths, or replace them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, children_of


class Visit(NamedTuple):
    """A layer inside a network.

    Attributes:
      path: its path; a layer without a name has the path of its parent.
      name: its name among its parent's children; "" for the network itself.
      layer: the layer.
      parents: the composites around it, outermost first.
    """

    path: tuple[str, ...]
    name: str
    layer: Layer
    parents: tuple[Layer, ...]


def visits(net: Layer, enter: Callable[[Visit], bool] = lambda visit: True) -> Iterator[Visit]:
    """Yields ``net`` and every layer inside it, parents first; those inside a layer only if ``enter`` is true for it.

    Raises:
      ArgumentError: a layer contains itself.
    """
    waiting = [Visit((), "", net, ())]
    while waiting:
        visit = waiting.pop()
        yield visit
        path, _, layer, parents = visit
        children = children_of(layer) if enter(visit) else ()
        if children and any(layer is parent for parent in parents):
            raise ArgumentError(
                f"children must not contain the layer itself, got a cycle at {'.'.join(path) or 'the top'}"
            )
        inside = (*parents, layer)
        waiting += (Visit((*path, name) if name else path, name, child, inside) for name, child in reversed(children))


def walk(net: Layer) -> Iterator[tuple[str, Layer]]:
    """Yields path and layer of each named layer inside ``net``, parents first.

    Raises:
      ArgumentError: a layer contains itself.

    >>> [path for path, _ in walk(jc.serial(jc.Conv(8), body=jc.serial(jc.Conv(8))))]
    ['0', 'body', 'body.0']
    """
    return ((".".join(visit.path), visit.layer) for visit in visits(net) if visit.name)


def check_acyclic(net: Layer) -> None:
    """Raises ArgumentError where a layer contains itself."""
    for _ in visits(net):
        pass


def level_names(net: Layer) -> list[str]:
    """Returns the names at the level of ``net``: those of its children, and of children of children without a name."""
    return [visit.name for visit in visits(net, lambda visit: not visit.name) if visit.name]


def map_layers(net: Layer, function: Callable[[Layer], Layer]) -> Layer:
    """Returns ``net`` with ``function(layer)`` in place of each layer, innermost first, under the same names.

    Args:
      net: a layer.
      function: returns the replacement of a layer, or the layer itself.

    Raises:
      TypeError: a child changed inside a composite that is not a dataclass with a field ``children``.

    >>> net = jc.serial(jc.Conv(8), jc.MaxPool(2))
    >>> map_layers(net, lambda l: jc.AvgPool(l.window) if isinstance(l, jc.MaxPool) else l)
    serial(Conv(features=8), AvgPool(window=2))
    """
    return map_some(net, lambda layer, path: True, lambda layer, path: function(layer))


def map_some(
    net: Layer,
    enter: Callable[[Layer, str], bool],
    function: Callable[[Layer, str], Layer],
    path: tuple[str, ...] = (),
) -> Layer:
    """Returns ``net`` with ``function(layer, path)`` in place of each layer, innermost first.

    The layers inside a layer are replaced only if ``enter(layer, path)`` is true.
    """
    here = ".".join(path)
    if enter(net, here):
        inside = [map_some(inner, enter, function, (*path, name) if name else path) for name, inner in children_of(net)]
        net = rebuilt(net, inside)
    return function(net, here)


def rebuilt(net: Layer, layers: Sequence[Layer]) -> Layer:
    """Returns ``net`` with ``layers`` in place of its children, or ``net`` itself where none changed."""
    children = children_of(net)
    if all(new is old for new, (_, old) in zip(layers, children, strict=True)):
        return net
    if hasattr(net, "with_children"):
        return net.with_children(layers)
    if dataclasses.is_dataclass(net) and any(f.name == "children" for f in dataclasses.fields(net)):
        named = tuple((name, layer) for (name, _), layer in zip(children, layers, strict=True))
        return dataclasses.replace(net, children=named)  # type: ignore[return-value]
    raise TypeError(
        "a composite must be a dataclass with a field children for its children to be replaced, got "
        f"{type(net).__name__}"
    )


__all__ = ["map_layers"]
