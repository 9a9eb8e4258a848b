"""A network as a tree of layers: visit them with their paths, or replace them."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from jaxconv.errors import ShapeError
from jaxconv.layer import Children, Layer


class Located(NamedTuple):
    """A layer and its path."""

    path: str
    layer: Layer


def walk(net: Layer, path: tuple[str, ...] = (), _around: tuple[Layer, ...] = ()) -> Iterator[Located]:
    """Yields each named layer inside ``net``, with its path, parents first.

    Raises:
      ShapeError: a layer contains itself.

    >>> [path for path, _ in walk(jc.serial(jc.Conv(8), body=jc.serial(jc.Conv(8))))]
    ['0', 'body', 'body.0']
    """
    if any(net is layer for layer in _around):
        raise ShapeError(f"children must not contain the layer itself, got a cycle at {'.'.join(path) or 'the top'}")
    for name, layer in getattr(net, "children", ()):
        inner = (*path, name) if name else path
        if name:
            yield Located(".".join(inner), layer)
        yield from walk(layer, inner, (*_around, net))


def check_acyclic(net: Layer) -> None:
    """Raises ShapeError where a layer contains itself."""
    for _ in walk(net):
        pass


def level_names(children: Children) -> Iterator[str]:
    """Yields the names at the level of a composite with these children."""
    for name, layer in children:
        if name:
            yield name
        else:
            yield from level_names(getattr(layer, "children", ()))


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
    children: Children = getattr(net, "children", ())
    return function(rebuilt(net, [map_layers(layer, function) for _, layer in children]))


def rebuilt(net: Layer, layers: Sequence[Layer]) -> Layer:
    """Returns ``net`` with ``layers`` in place of its children, or ``net`` itself where none changed."""
    children: Children = getattr(net, "children", ())
    if all(new is old for new, (_, old) in zip(layers, children, strict=True)):
        return net
    if hasattr(net, "with_children"):
        return net.with_children(layers)
    if dataclasses.is_dataclass(net) and any(f.name == "children" for f in dataclasses.fields(net)):
        named = tuple((name, layer) for (name, _), layer in zip(children, layers, strict=True))
        return dataclasses.replace(net, children=named)  # type: ignore[return-value]
    raise TypeError(f"{type(net).__name__} must be a dataclass with a field children for its children to be replaced")


__all__ = ["map_layers"]
