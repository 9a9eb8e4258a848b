"""Which arrays the layers of a network store, and of which shapes."""

from collections.abc import Mapping
from typing import Any

import jax

import jaxconv.layers as nn
from jaxconv.composite import Composite
from jaxconv.layer import Layer, Tree
from jaxconv.layers.base import Leaf
from jaxconv.structs import as_struct
from jaxconv.weights.arrays import Path, arrays_in
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.places import nodes, owner

Shape = tuple[int | None, ...] | None
_WEIGHTED = (("params", "kernel"), ("params", "bias"))
_AFFINE = (("params", "scale"), ("params", "bias"))
# What a layer of each kind holds: collection and name. One of the name of a field is there if that field is true.
HELD: dict[type, tuple[tuple[str, str], ...]] = {
    nn.Conv: _WEIGHTED,
    nn.ConvTranspose: _WEIGHTED,
    nn.Dense: _WEIGHTED,
    nn.BatchNorm: (*_AFFINE, ("state", "mean"), ("state", "var")),
    nn.LayerNorm: _AFFINE,
    nn.GroupNorm: _AFFINE,
    nn.InstanceNorm: _AFFINE,
    nn.PReLU: _AFFINE[:1],
    nn.LayerScale: _AFFINE[:1],
}


def without_parameters(layer: Layer) -> bool:
    """Returns whether a layer is known to hold no arrays."""
    return isinstance(layer, Leaf) and type(layer).init is Leaf.init and type(layer).fresh is Leaf.fresh


def closed(layer: Layer) -> bool:
    """Returns whether a layer is known to hold nothing but what its kind says."""
    return type(layer) in HELD or isinstance(layer, Composite) or without_parameters(layer)


def held(layer: Layer) -> list[tuple[str, str]]:
    """Returns collection and name of the arrays that a layer has by its kind."""
    rule = next((HELD[kind] for kind in type(layer).__mro__ if kind in HELD), ())
    return [(collection, name) for collection, name in rule if getattr(layer, name, True)]


def known_shape(layer: Layer | None, name: str) -> Shape:
    """Returns what the layer alone says of an array's shape: None for a length, or a shape, that it leaves open."""
    if isinstance(layer, nn.Conv | nn.ConvTranspose) and name == "kernel":
        window = (layer.window,) * 2 if isinstance(layer.window, int) else layer.window
        if isinstance(layer, nn.Conv):
            return (*window, None, layer.features)
        return (*window, layer.features // layer.groups, None)
    if isinstance(layer, nn.Dense) and name == "kernel":
        return (None, layer.features)
    if isinstance(layer, nn.Conv | nn.ConvTranspose | nn.Dense):
        return (layer.features,)
    if isinstance(layer, nn.PReLU) and layer.shared:
        return (1,)
    return (None,) if isinstance(layer, tuple(HELD)) else None


def fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Returns whether a shape is the wanted one as far as that is known."""
    return wanted is None or (
        len(shape) == len(wanted) and all(w is None or n == w for n, w in zip(shape, wanted, strict=True))
    )


def shown(shape: Shape) -> str:
    """Prints a shape, "?" for a length that is not known, nothing for a shape that is not."""
    if shape is None:
        return ""
    numbers = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({numbers},)" if len(shape) == 1 else f"({numbers})"


def check_net(net: Any) -> None:
    """Raises WeightsError for what is no layer: a model that was not called, say."""
    if not (hasattr(net, "init") and hasattr(net, "apply")):
        kind = f"the function {net.__qualname__}" if hasattr(net, "__qualname__") else f"a {type(net).__name__}"
        raise WeightsError(f"net must be a layer, with init and apply, got {kind}")


def check_arrays(net: Layer, arrays: Mapping[Path, Any]) -> None:
    """Raises at the first array that layers of jaxconv's own kinds miss, want in another shape, or do not want."""
    found = list(nodes(net))
    for layer, path, _, copies in found:
        # The arrays of a norm are of one length, which it does not know.
        length: Shape = (None,)
        for collection, name in held(layer):
            key = (collection, *path, name)
            if key not in arrays:
                raise WeightsError(f"{'/'.join(key)} is missing, which {type(layer).__name__} wants")
            shape, known = arrays[key].shape, known_shape(layer, name)
            full = (*copies, *((length if known == (None,) else known) or ()))
            if not fits(shape, full):
                raise WeightsError(f"{'/'.join(key)} must have shape {shown(full)}, got {shape}")
            if known == (None,):
                length = shape[-1:]
    wanted = {(collection, *node.path, name) for node in found for collection, name in held(node.layer)}
    for key in arrays:
        if key not in wanted and closed(owner(found, key).layer):
            raise WeightsError(f"{'/'.join(key)} is one too many, no layer of the net wants it")


def shapes_of(net: Layer, x: Tree | None) -> dict[Path, Any] | None:
    """Returns the shapes of what ``net.init`` gives for ``x``, by collection and path; None without x."""
    if x is None:
        return None
    struct = as_struct(x)
    return arrays_in(*jax.eval_shape(lambda key: net.init(key, struct), jax.random.key(0)))
