"""Weights between torch's names and layouts and jaxconv's: one rule a kind of layer, none a network.

The path of a layer is its path in torch, so a tensor's name says which layer it belongs to, and the layer's kind says
what becomes of it: ``layer1.0.conv1.weight``, out x in x height x width, is
``params["layer1"]["0"]["conv1"]["kernel"]``, height x width x in x out.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

import jaxconv.layers as nn
from jaxconv.compose import Repeat
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.places import (
    Arrays,
    Entry,
    Place,
    Rename,
    arrays_of,
    at,
    fill,
    renamed,
    shapes_of,
    without_parameters,
)


def _reversed_channels(ndim: int) -> tuple[int, ...]:
    """Takes (first, second, *window) to (*window, second, first)."""
    return (*range(2, ndim), 1, 0)


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
IGNORED = "num_batches_tracked"


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


def _other_entries(layer: Layer, path: tuple[str, ...], trees: dict[str, Tree] | None) -> Iterator[Entry]:
    """Yields what a layer without a rule holds, by the network's shapes: under the same names in torch."""
    if trees is None:
        raise WeightsError(
            f"x must be given: {'.'.join(path)} is a {type(layer).__name__}, a kind of layer that has no rule"
        )
    for collection, tree in trees.items():
        for keys, _ in jax.tree_util.tree_leaves_with_path(at(tree, path)):
            name = ".".join(key.key for key in keys)
            yield Entry(collection, name, name)


def places(net: Layer, trees: dict[str, Tree] | None) -> Iterator[Place]:
    """Yields where each array of a network is; ``trees`` holds those of layers that have no rule."""
    for layer, path, theirs, copies in _leaves(net):
        if without_parameters(layer):
            continue
        rule = next((RULES[kind] for kind in type(layer).__mro__ if kind in RULES), None)
        if rule is None:
            entries: Iterable[Entry] = _other_entries(layer, path, trees)
        else:
            entries = (entry for entry in rule if getattr(layer, entry.name, True))
        for entry in entries:
            names = tuple(".".join((*p, entry.theirs) if entry.theirs else p) for p in theirs)
            yield Place(entry, (*path, *entry.name.split(".")), names, copies, layer)


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
    tensors = renamed(arrays_of(source), rename, lambda name: name.split(".")[-1] == IGNORED)
    trees = shapes_of(net, x)
    return fill(list(places(net, trees)), tensors, trees)


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
        array = at(trees[place.entry.collection], place.path)
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
