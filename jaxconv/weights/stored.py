"""Which arrays the layers of a network store, and of which shapes."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxconv.composite import Composite
from jaxconv.layer import Layer, Tree
from jaxconv.layers.base import Leaf, Shape, Stored
from jaxconv.structs import as_struct
from jaxconv.weights.arrays import Path, arrays_in
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.places import nodes, owner


def stored(layer: Layer) -> tuple[Stored, ...]:
    """Returns what a layer declares to store; nothing for layers that declare nothing."""
    return layer.stored() if isinstance(layer, Leaf) else ()


def closed(layer: Layer) -> bool:
    """Returns whether a layer is known to store nothing but what it declares."""
    return isinstance(layer, Composite) or (isinstance(layer, Leaf) and type(layer).init is Leaf.init)


def fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Returns whether a shape agrees with the wanted shape where that is known."""
    return wanted is None or (
        len(shape) == len(wanted) and all(w is None or n == w for n, w in zip(shape, wanted, strict=True))
    )


def shown(shape: Shape) -> str:
    """Prints a shape: "?" for an unknown length, "" for an unknown shape."""
    if shape is None:
        return ""
    numbers = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({numbers},)" if len(shape) == 1 else f"({numbers})"


def check_net(net: Any) -> None:
    """Raises WeightsError for an object that is not a layer, such as a model function that was not called."""
    if not (hasattr(net, "init") and hasattr(net, "apply")):
        kind = f"the function {net.__qualname__}" if hasattr(net, "__qualname__") else f"a {type(net).__name__}"
        raise WeightsError(f"net must be a layer, with init and apply, got {kind}")


def check_arrays(net: Layer, arrays: Mapping[Path, Any]) -> None:
    """Raises where an array is missing, has another shape than its layer declares, or is declared by no layer."""
    found = list(nodes(net))
    declared = set()
    for layer, path, _, copies in found:
        # All lengths that only an input tells are the number of its channels.
        channels: int | None = None
        for array in stored(layer):
            key = (array.collection, *path, array.name)
            declared.add(key)
            if key not in arrays:
                raise WeightsError(f"{'/'.join(key)} must be an array of {type(layer).__name__}, got none")
            shape = arrays[key].shape
            if array.shape is None:
                continue
            full = (*copies, *(channels if n is None else n for n in array.shape))
            if not fits(shape, full):
                raise WeightsError(f"{'/'.join(key)} must have shape {shown(full)}, got {shape}")
            if None in array.shape:
                channels = shape[len(copies) + array.shape.index(None)]
    for key in arrays:
        if key not in declared and closed(owner(found, key).layer):
            raise WeightsError(f"{key[0]} must have only arrays that layers of net store, got {'/'.join(key)} too")


def shapes_of(net: Layer, x: Tree | None) -> dict[Path, Any] | None:
    """Returns the shapes of the arrays of ``net.init`` for ``x`` by collection and path; None without x."""
    if x is None:
        return None
    struct = as_struct(x)
    return arrays_in(*jax.eval_shape(lambda key: net.init(key, struct), jax.random.key(0)))
