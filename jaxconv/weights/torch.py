"""Weights between torch's names and layouts and jaxconv's: one rule a kind of layer, none a network.

The path of a layer is its path in torch, so a tensor's name says which layer it belongs to, and the layer's kind says
what becomes of it: ``layer1.0.conv1.weight``, out x in x height x width, is
``params["layer1"]["0"]["conv1"]["kernel"]``, height x width x in x out.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv.layers as nn
from jaxconv.compose import Repeat
from jaxconv.layer import Layer, Params, State, Tree, as_struct
from jaxconv.layers.base import Leaf
from jaxconv.weights.errors import WeightsError

Axes = Callable[[int], tuple[int, ...]]
Arrays = dict[str, np.ndarray]
Rename = Mapping[str, str | None] | Callable[[str], str | None]
Shape = tuple[int | None, ...] | None


def _same(ndim: int) -> tuple[int, ...]:
    return tuple(range(ndim))


def _reversed_channels(ndim: int) -> tuple[int, ...]:
    """Takes (first, second, *window) to (*window, second, first)."""
    return (*range(2, ndim), 1, 0)


class Entry(NamedTuple):
    """One array of a layer: where it is here, what torch calls it, how its axes go from there to here.

    ``ones`` counts the last axes that it has in torch only, of length 1.
    """

    collection: str
    name: str
    theirs: str
    axes: Axes = _same
    ones: int = 0


KERNEL = Entry("params", "kernel", "weight", _reversed_channels)
SCALE = Entry("params", "scale", "weight")
BIAS = Entry("params", "bias", "bias")
STATISTICS = (Entry("state", "mean", "running_mean"), Entry("state", "var", "running_var"))

# What a layer of each kind may hold; an entry of the name of one of its fields is there if that field is true. A scale
# of layers is itself a parameter in torch, channels first: its name is the layer's, its shape (channels, 1, 1).
RULES: dict[type, tuple[Entry, ...]] = {
    nn.Conv: (KERNEL, BIAS),
    nn.ConvTranspose: (KERNEL, BIAS),
    nn.Dense: (KERNEL, BIAS),
    nn.BatchNorm: (SCALE, BIAS, *STATISTICS),
    nn.LayerNorm: (SCALE, BIAS),
    nn.GroupNorm: (SCALE, BIAS),
    nn.InstanceNorm: (SCALE, BIAS),
    nn.PReLU: (SCALE,),
    nn.LayerScale: (Entry("params", "scale", "", ones=2),),
}
IGNORED = ("num_batches_tracked",)


class Place(NamedTuple):
    """An array of a network: its path here, its names in torch (several where layers are repeated)."""

    entry: Entry
    path: tuple[str, ...]
    theirs: tuple[str, ...]
    copies: tuple[int, ...]
    layer: Layer


def _leaves(
    net: Layer, path: tuple[str, ...] = (), theirs: tuple[tuple[str, ...], ...] = ((),), copies: tuple[int, ...] = ()
) -> Iterator[tuple[Layer, tuple[str, ...], tuple[tuple[str, ...], ...], tuple[int, ...]]]:
    """Yields the layers without children, with their path here, their paths in torch, and how often they repeat."""
    if isinstance(net, Repeat):
        theirs = tuple((*p, str(i)) for p in theirs for i in range(net.n))
        copies = (*copies, net.n)
    children = getattr(net, "children", None)
    if children is None:
        yield net, path, theirs, copies
        return
    for name, layer in children:
        below = tuple((*p, name) for p in theirs) if name else theirs
        yield from _leaves(layer, (*path, name) if name else path, below, copies)


def _without_parameters(layer: Layer) -> bool:
    return isinstance(layer, Leaf) and type(layer).init is Leaf.init and type(layer).fresh is Leaf.fresh


def _at(tree: Tree, path: Iterable[str]) -> Tree:
    for name in path:
        tree = tree.get(name, {})
    return tree


def _other_entries(layer: Layer, path: tuple[str, ...], trees: dict[str, Tree] | None) -> Iterator[Entry]:
    """Yields what a layer without a rule holds, by the network's shapes: under the same names in torch."""
    if trees is None:
        raise WeightsError(
            f"x must be given: {'.'.join(path)} is a {type(layer).__name__}, a kind of layer that has no rule"
        )
    for collection, tree in trees.items():
        for keys, _ in jax.tree_util.tree_leaves_with_path(_at(tree, path)):
            name = ".".join(key.key for key in keys)
            yield Entry(collection, name, name)


def places(net: Layer, trees: dict[str, Tree] | None) -> Iterator[Place]:
    """Yields where each array of a network is; ``trees`` holds those of layers that have no rule."""
    for layer, path, theirs, copies in _leaves(net):
        if _without_parameters(layer):
            continue
        rule = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)
        if rule is None:
            entries: Iterable[Entry] = _other_entries(layer, path, trees)
        else:
            entries = (entry for entry in rule if getattr(layer, entry.name, True))
        for entry in entries:
            names = tuple(".".join((*p, entry.theirs) if entry.theirs else p) for p in theirs)
            yield Place(entry, (*path, *entry.name.split(".")), names, copies, layer)


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


def renamed(arrays: Mapping[str, Any], rename: Rename | None) -> Arrays:
    """Returns the arrays as NumPy's under their new names, without those that no network wants."""

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
        if new is None or new.split(".")[-1] in IGNORED:
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
            wanted = _at(trees[place.entry.collection], place.path).shape[len(place.copies) :]
        parts = []
        for name in place.theirs:
            if name not in tensors:
                missing[name] = shown(_in_torch(wanted, place.entry))
                continue
            tensor = tensors[name]
            theirs = _in_torch(wanted, place.entry)
            if (place.entry.axes is not _same and tensor.ndim < 2) or not fits(tensor.shape, theirs):
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


def from_torch(
    net: Layer,
    source: str | os.PathLike[str] | Mapping[str, Any],
    x: Tree | None = None,
    *,
    rename: Rename | None = None,
) -> tuple[Params, State]:
    """Returns ``(params, state)`` of ``net`` out of torch's tensors: all of them, or an error.

    A tensor's name is its layer's path and torch's name of the array; its axes are put in jaxconv's order by the kind
    of the layer. Types are kept. ``num_batches_tracked`` is left out.

    Args:
      net: a layer whose paths are the names of torch's modules, any of `jaxconv.models` for instance.
      source: a path of a ``.safetensors``, ``.pth``, ``.pt`` or ``.bin`` file, see `jaxconv.weights.read`; or a mapping
        of names to arrays or torch tensors, a ``state_dict()``.
      x: what ``net.init`` takes: array, ShapeDtypeStruct or shape tuple. With it all shapes are checked, and layers of
        kinds that jaxconv does not know are filled by the names and shapes of their own arrays.
      rename: says what a tensor's name is to be: a mapping of beginnings of names to what stands there instead, the
        longest that fits, or a function of the name; None drops the tensor. ``{"module.": ""}`` for instance.

    Raises:
      WeightsError: a tensor has no place or a place no tensor (both are listed with their shapes and the names most
        like them), a shape does not fit, a number is not finite, two tensors get one name, or the file cannot be read.

    >>> tensors = {"0.weight": jnp.ones((8, 3, 5, 5)), "0.bias": jnp.zeros(8)}
    >>> params, state = from_torch(jc.serial(jc.Conv(8, 5), jax.nn.relu), tensors)
    >>> params["0"]["kernel"].shape
    (5, 5, 3, 8)
    """
    tensors = renamed(arrays_of(source), rename)
    trees = shapes_of(net, x)
    return fill(list(places(net, trees)), tensors, trees)


def _on_device(array: np.ndarray) -> jax.Array:
    return jnp.asarray(np.asarray(array, order="C"), jax.dtypes.canonicalize_dtype(array.dtype))


def to_torch(
    net: Layer, params: Params, state: State, path: str | os.PathLike[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns torch's tensors as NumPy arrays, by torch's names and in its layouts: the inverse of `from_torch`.

    Args:
      net: a layer.
      params, state: its arrays.
      path: also writes them there, as safetensors.

    Raises:
      WeightsError: an array that the net's layers want is missing, or there is one that none of them wants.

    >>> net = jc.serial(jc.Conv(8, 5), jax.nn.relu)
    >>> {name: tensor.shape for name, tensor in to_torch(net, *net.init(jax.random.key(0), (1, 32, 32, 3))).items()}
    {'0.weight': (8, 3, 5, 5), '0.bias': (8,)}
    """
    trees = {"params": params, "state": state}
    tensors: Arrays = {}
    placed: set[tuple[str, ...]] = set()
    for place in places(net, trees):
        array = _at(trees[place.entry.collection], place.path)
        where = (place.entry.collection, *place.path)
        if isinstance(array, dict):
            raise WeightsError(f"{place.entry.collection} has no {'.'.join(place.path)}")
        placed.add(where)
        array = np.asarray(array)
        array = array.reshape(len(place.theirs), *array.shape[len(place.copies) :])
        back = np.argsort(place.entry.axes(array.ndim - 1))
        for name, part in zip(place.theirs, array, strict=True):
            part = part.transpose(back)
            tensors[name] = np.asarray(part.reshape((*part.shape, *(1,) * place.entry.ones)), order="C")
    for collection, tree in trees.items():
        for keys, _ in jax.tree_util.tree_leaves_with_path(tree):
            names = tuple(key.key for key in keys)
            if (collection, *names) not in placed:
                raise WeightsError(f"{collection} has {'.'.join(names)}, which no layer of the net wants")
    if path is not None:
        from jaxconv.weights.files import write

        write(path, tensors, {})
    return tensors


__all__ = ["from_torch", "to_torch"]
