"""Weights between torch's names and layouts and jaxconv's. Layers declare both, so networks need no tables.

The path of a layer is its path in torch, so the name of a tensor determines its layer, and the layer's declaration
the array: ``layer1.0.conv1.weight``, out x in x height x width, is ``params["layer1"]["0"]["conv1"]["kernel"]``,
height x width x in x out.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.models.densenet import PUBLISHED_NAMES as DENSENET
from jaxconv.models.detection import PUBLISHED_NAMES as DETECTION
from jaxconv.weights.arrays import Arrays, Path, arrays_in, number_array
from jaxconv.weights.defaults import warn_of_functions
from jaxconv.weights.errors import WeightsError, naming
from jaxconv.weights.filling import fill
from jaxconv.weights.folding import folded
from jaxconv.weights.hints import warn_of_flatten
from jaxconv.weights.places import Axes, Place, nodes, owner, same_axes
from jaxconv.weights.safetensors import write
from jaxconv.weights.sources import Rename, arrays_of, renamed
from jaxconv.weights.stored import check_arrays, check_net, closed, shapes_of, stored


def _reversed_channels(ndim: int) -> tuple[int, ...]:
    """Permutes the axes (first, second, *window) to (*window, second, first)."""
    return (*range(2, ndim), 1, 0)


# By the declared layout: how the axes go from torch's order, and how many last axes of length 1 torch has.
LAYOUTS: dict[str, tuple[Axes, int]] = {
    "same": (same_axes, 0),
    "kernel": (_reversed_channels, 0),
    "scale": (same_axes, 2),
}
IGNORED = {"num_batches_tracked", "_extra_state"}
COUNTER = "n_averaged"


def places(net: Layer, arrays: Mapping[Path, Any] | None) -> Iterator[Place]:
    """Yields the place of each array of a network: as layers declare, and for other layers as in ``arrays``.

    Arrays that no layer declares have the same names in torch.
    """
    found = list(nodes(net))
    placed = set()
    for layer, path, theirs, copies in found:
        if arrays is None and not closed(layer) and not stored(layer) and not hasattr(layer, "children"):
            raise WeightsError(
                f"x must be an input, since {'.'.join(path) or 'net'} ({type(layer).__name__}) does not declare its "
                "arrays, got None"
            )
        for array in stored(layer):
            key = (array.collection, *path, array.name)
            placed.add(key)
            last = array.name if array.torch is None else array.torch
            names = tuple(".".join((*p, last) if last else p) for p in theirs)
            yield Place(key, names, copies, layer, array, *LAYOUTS[array.layout])
    for key in [key for key in arrays or () if key not in placed]:
        node = owner(found, key)
        if not closed(node.layer):
            names = tuple(".".join((*p, *key[1 + len(node.path) :])) for p in node.theirs)
            yield Place(key, names, node.copies)


def _of_average(tensors: Arrays) -> Arrays:
    """Returns the averaged tensors of a ``torch.optim.swa_utils.AveragedModel``; other tensors unchanged."""
    if COUNTER not in tensors:
        return tensors
    rest = {name: tensor for name, tensor in tensors.items() if name != COUNTER}
    averaged = all(name.startswith("module.") for name in rest)
    return {name.removeprefix("module.") if averaged else name: tensor for name, tensor in rest.items()}


def _current(tensors: Arrays, wanted: set[str]) -> Arrays:
    """Returns tensors of torchvision's older files by the names that its networks have now.

    A name changes only if the network lacks it, has the new name, and no tensor has that name.
    """

    def name_of(name: str) -> str:
        if name not in wanted:
            for pattern, replacement in (DENSENET, *DETECTION):
                new = pattern.sub(replacement, name)
                if new in wanted and new not in tensors:
                    return new
        return name

    return {name_of(name): tensor for name, tensor in tensors.items()}


def from_torch(
    net: Layer,
    source: str | os.PathLike[str] | Mapping[str, Any],
    x: Tree | None = None,
    *,
    rename: Rename | None = None,
    key: str | None = None,
) -> tuple[Params, State]:
    """Returns ``(params, state)`` of ``net`` from torch's tensors: complete, or an error.

    A tensor's name is the path of its layer followed by torch's name of the array. The axes are permuted as the layer
    declares. Types do not change, except that float64 becomes float32 unless ``jax_enable_x64`` is set. The arrays are
    copies. ``num_batches_tracked`` and ``_extra_state`` are ignored. Weights under ``weight_norm`` and
    ``spectral_norm`` are computed as in torch; the averages of an ``AveragedModel`` are used.

    torch flattens feature maps channels first: a Dense layer after a Flatten accepts torch's weights only with
    ``Flatten(channels_first=True)``, as in the networks of `jaxconv.models`. Otherwise there is a warning. There is a
    warning for ``jax.nn.gelu`` without ``approximate`` too: torch's GELU is exact by default. The default of eps is
    torch's; a model that was published with another eps, such as 1e-3 or 1e-6, does not store it with its tensors.

    For another number of classes fill the network as published, then replace the head by a fresh one: both are plain
    dicts. See the second example.

    Args:
      net: a layer whose paths are the names of torch's modules, such as the networks of `jaxconv.models`.
      source: the path of a file by ``torch.save`` or safetensors, with any name, see `jaxconv.weights.read`; or a
        mapping from names to arrays or torch tensors: a ``state_dict()``, or a checkpoint that contains one.
      x: the input of ``net.init``: array, ShapeDtypeStruct or shape tuple. With it all shapes are checked, and custom
        layers that do not declare their arrays are filled by the names and shapes of `init`.
      rename: the new names of tensors: a mapping from prefixes, whole parts of names, to replacements, of which the
        longest that fits is used, such as ``{"module.": ""}``; or a function of the name. None omits the tensor. Each
        prefix must begin a name.
      key: the name of the mapping to read, if a checkpoint has several mappings of tensors.

    Raises:
      WeightsError: tensors and network do not match (the message lists tensors without a layer and arrays without a
        tensor, with shapes and the nearest names), a shape does not fit, an array of a declared layer is not
        floating-point, a value is not finite, two tensors have one name, a prefix of ``rename`` begins no name, or the
        file cannot be read.

    >>> tensors = {"0.weight": jnp.ones((8, 3, 5, 5)), "0.bias": jnp.zeros(8)}
    >>> params, state = from_torch(jc.serial(jc.Conv(8, 5), jax.nn.relu), tensors)
    >>> params["0"]["kernel"].shape
    (5, 5, 3, 8)

    >>> def net(classes):
    ...     return jc.serial(jc.Conv(8, 5), jc.GlobalAvgPool(), fc=jc.Dense(classes))
    >>> tensors |= {"fc.weight": jnp.ones((1000, 8)), "fc.bias": jnp.zeros(1000)}
    >>> params, state = from_torch(net(1000), tensors)
    >>> params["fc"] = net(10).init(jax.random.key(0), (1, 32, 32, 3))[0]["fc"]
    >>> net(10).apply(params, state, jnp.ones((1, 32, 32, 3)))[0].shape
    (1, 10)
    """
    check_net(net)
    tensors = renamed(arrays_of(source, key), rename, lambda name: name.split(".")[-1] in IGNORED)
    shapes = shapes_of(net, x)
    wanted = list(places(net, shapes))
    tensors = _current(_of_average(tensors), {name for place in wanted for name in place.theirs})
    with naming(source):
        params, state = fill(wanted, folded(wanted, tensors), shapes)
    warn_of_flatten(net, params, channels_first=True)
    warn_of_functions(net, "torch")
    return params, state


def to_torch(
    net: Layer, params: Params, state: State, path: str | os.PathLike[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays of a network with torch's names and layouts, as NumPy arrays: the inverse of `from_torch`.

    Args:
      net: a layer.
      params, state: its arrays.
      path: a safetensors file to write too.

    Raises:
      WeightsError: an array of a layer is missing or has another shape, no layer stores an array, or a leaf is not an
        array.

    >>> net = jc.serial(jc.Conv(8, 5), jax.nn.relu)
    >>> {name: tensor.shape for name, tensor in to_torch(net, *net.init(jax.random.key(0), (1, 32, 32, 3))).items()}
    {'0.weight': (8, 3, 5, 5), '0.bias': (8,)}
    """
    check_net(net)
    arrays = {key: number_array(key, leaf) for key, leaf in arrays_in(params, state).items()}
    check_arrays(net, arrays)
    warn_of_flatten(net, params, channels_first=True)
    tensors: Arrays = {}
    for place in places(net, arrays):
        array = arrays[place.key]
        if array.shape[: len(place.copies)] != place.copies:
            raise WeightsError(f"{'/'.join(place.key)} must have leading axes {place.copies}, got shape {array.shape}")
        array = array.reshape(len(place.theirs), *array.shape[len(place.copies) :])
        back = np.argsort(place.axes(array.ndim - 1))
        for name, part in zip(place.theirs, array, strict=True):
            part = part.transpose(back)
            tensors[name] = np.array(part.reshape((*part.shape, *(1,) * place.ones)), order="C")
    if path is not None:
        write(path, tensors, {})
    return tensors


__all__ = ["from_torch", "to_torch"]
