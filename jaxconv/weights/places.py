"""Arrays into their places in a network, all of them or none."""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv.layers as nn
from jaxconv.layer import Layer, Params, State, Tree, as_struct
from jaxconv.layers.base import Leaf
from jaxconv.weights.errors import WeightsError

Axes = Callable[[int], tuple[int, ...]]
Arrays = dict[str, np.ndarray]
Rename = Mapping[str, str | None] | Callable[[str], str | None]
Shape = tuple[int | None, ...] | None


def same_axes(ndim: int) -> tuple[int, ...]:
    """Leaves the axes as they are."""
    return tuple(range(ndim))


class Entry(NamedTuple):
    """One array of a layer: where it is here, what torch calls it, how its axes go from there to here.

    ``ones`` counts the last axes that it has in torch only, of length 1.
    """

    collection: str
    name: str
    theirs: str
    axes: Axes = same_axes
    ones: int = 0


class Place(NamedTuple):
    """An array of a network: its path here, its names in torch (several where layers are repeated)."""

    entry: Entry
    path: tuple[str, ...]
    theirs: tuple[str, ...]
    copies: tuple[int, ...]
    layer: Layer


def without_parameters(layer: Layer) -> bool:
    """Returns whether a layer is known to hold no arrays."""
    return isinstance(layer, Leaf) and type(layer).init is Leaf.init and type(layer).fresh is Leaf.fresh


def at(tree: Tree, path: Iterable[str]) -> Tree:
    """Returns what a tree holds at a path; an empty dict for what it has not."""
    for name in path:
        tree = tree.get(name, {})
    return tree


def known_shape(place: Place) -> Shape:
    """Returns what the layer alone says of the array's shape here; None for what depends on the input."""
    layer = place.layer
    if isinstance(layer, nn.Conv | nn.ConvTranspose) and place.entry.name == "kernel":
        window = (layer.window,) * 2 if isinstance(layer.window, int) else layer.window
        if isinstance(layer, nn.Conv):
            return (*window, None, layer.features)
        return (*window, layer.features // layer.groups, None)
    if isinstance(layer, nn.Dense) and place.entry.name == "kernel":
        return (None, layer.features)
    if isinstance(layer, nn.Conv | nn.ConvTranspose | nn.Dense):
        return (layer.features,)
    return (None,) if isinstance(layer, nn.LayerScale) else None


def fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    """Returns whether a shape is the wanted one as far as that is known."""
    return wanted is None or (
        len(shape) == len(wanted) and all(w is None or n == w for n, w in zip(shape, wanted, strict=True))
    )


def to_numpy(tensor: Any) -> np.ndarray:
    """Returns a torch tensor, a jax array or anything array-like as a NumPy array of the same type."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            import torch

            return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.numpy()
    return np.asarray(tensor)


def renamed(arrays: Mapping[str, Any], rename: Rename | None, unwanted: Callable[[str], bool]) -> Arrays:
    """Returns the arrays as NumPy's under their new names, without those whose new names are unwanted."""

    def new_name(name: str) -> str | None:
        if rename is None:
            return name
        if callable(rename):
            return rename(name)
        prefix = max((p for p in rename if name.startswith(p)), key=len, default=None)
        if prefix is None:
            return name
        start = rename[prefix]
        return None if start is None else start + name[len(prefix) :]

    renamed: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    for name, value in arrays.items():
        new = new_name(name)
        if new is None or unwanted(new):
            continue
        if new in renamed:
            raise WeightsError(f"rename must keep names apart, it gives {new!r} for {origin[new]!r} and {name!r}")
        renamed[new], origin[new] = to_numpy(value), name
    return renamed


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=2, cutoff=0.6)
    return f" (nearest: {', '.join(close)})" if close else ""


def _listed(title: str, shapes: Mapping[str, Any], others: Iterable[str], most: int = 20) -> list[str]:
    others = list(others)
    lines = [f"  {name} {shape}{_nearest(name, others)}" for name, shape in list(shapes.items())[:most]]
    more = [f"  and {len(shapes) - most} more"] if len(shapes) > most else []
    return [f"{title}:", *lines, *more] if shapes else []


def shown(shape: Shape) -> str:
    """Prints a shape, "?" for a length that is not known, nothing for a shape that is not."""
    if shape is None:
        return ""
    numbers = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({numbers},)" if len(shape) == 1 else f"({numbers})"


def _in_torch(shape: Shape, entry: Entry) -> Shape:
    if shape is None:
        return None
    theirs: list[int | None] = [None] * len(shape)
    for ours, axis in enumerate(entry.axes(len(shape))):
        theirs[axis] = shape[ours]
    return (*theirs, *(1,) * entry.ones)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    *above, last = path
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = value


def arrays_of(source: str | os.PathLike[str] | Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the arrays by name: the mapping itself, or what the file of that path holds."""
    if isinstance(source, Mapping):
        return source
    from jaxconv.weights.files import read

    return read(source)


def shapes_of(net: Layer, x: Tree | None) -> dict[str, Tree] | None:
    """Returns the shapes of what ``net.init`` gives for ``x``, by collection; None without x."""
    if x is None:
        return None
    struct = as_struct(x)
    params, state = jax.eval_shape(lambda key: net.init(key, struct), jax.random.key(0))
    return {"params": params, "state": state}


def fill(found: Sequence[Place], tensors: Arrays, trees: dict[str, Tree] | None) -> tuple[Params, State]:
    """Returns ``(params, state)`` with each tensor in its place, or raises WeightsError, which lists what is wrong."""
    missing: dict[str, str] = {}
    wrong: list[str] = []
    result: dict[str, dict[str, Any]] = {"params": {}, "state": {}}
    for place in found:
        wanted = known_shape(place)
        if trees is not None:
            wanted = at(trees[place.entry.collection], place.path).shape[len(place.copies) :]
        parts = []
        for name in place.theirs:
            if name not in tensors:
                missing[name] = shown(_in_torch(wanted, place.entry))
                continue
            tensor = tensors[name]
            theirs = _in_torch(wanted, place.entry)
            if (place.entry.axes is not same_axes and tensor.ndim < 2) or not fits(tensor.shape, theirs):
                wrong.append(f"  {name} must have shape {shown(theirs)}, got {tensor.shape}")
                continue
            if not np.all(np.isfinite(tensor.astype(np.float32) if tensor.dtype == jnp.bfloat16 else tensor)):
                raise WeightsError(f"{name} has numbers that are not finite")
            tensor = tensor.reshape(tensor.shape[: tensor.ndim - place.entry.ones])
            parts.append(tensor.transpose(place.entry.axes(tensor.ndim)))
        if len(parts) == len(place.theirs):
            stacked = np.stack(parts).reshape(*place.copies, *parts[0].shape) if place.copies else parts[0]
            _put(result[place.entry.collection], place.path, stacked)
    used = {name for place in found for name in place.theirs}
    extra = {name: str(tensor.shape) for name, tensor in tensors.items() if name not in used}
    problems = [
        *_listed("tensors that have no place in the net", extra, missing),
        *_listed("places that no tensor fills", missing, extra),
        *(["tensors of the wrong shape:", *wrong[:20]] if wrong else []),
    ]
    if problems:
        raise WeightsError("source does not fit the net\n" + "\n".join(problems))
    params, state = (jax.tree.map(_on_device, result[name]) for name in ("params", "state"))
    return params, state


def _on_device(array: np.ndarray) -> jax.Array:
    return jnp.asarray(np.asarray(array, order="C"), jax.dtypes.canonicalize_dtype(array.dtype))
