"""Weights from Keras's ``.weights.h5``. Layers declare their Keras class, so networks need no tables.

Keras 3 names an array by its layer's position in the model and by its number in the layer. A layer that is an attribute
of the model has the attribute's name. A layer of a ``keras.Sequential`` has the name of its type and a number that
counts layers of this type: ``block1/layers/conv2d_1/vars/0`` is the kernel of the second convolution of the Sequential
``block1``, here ``params["block1"]["2"]["kernel"]`` if a ReLU is between the two. Kernels have the same axes in both,
except for depthwise kernels: ``(*window, in, multiplier)`` is the kernel of a `jaxconv.Conv` with ``groups=in``.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import jaxconv.layers as nn
from jaxconv.compose.wrappers import Repeat
from jaxconv.layer import Layer, Params, State, Tree
from jaxconv.weights.arrays import Arrays, Path
from jaxconv.weights.defaults import check_epsilons, keras_config, warn_of_functions
from jaxconv.weights.errors import WeightsError, naming
from jaxconv.weights.filling import fill
from jaxconv.weights.hints import warn_of_flatten
from jaxconv.weights.places import Place, nodes
from jaxconv.weights.sources import Rename, arrays_of, renamed
from jaxconv.weights.stored import check_net, closed, shapes_of, stored

IGNORED = {"optimizer", "seed_generator"}


def _kind(layer: Layer) -> str:
    """Returns the name that Keras gives a layer of this type, from its class's name: "conv2d" from "Conv2D"."""
    if hasattr(layer, "children"):
        return "sequential"
    name = getattr(layer, "keras", "").format(rank=getattr(layer, "rank", ""))
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _depthwise(layer: Layer | None, arrays: Arrays, name: str) -> bool:
    """Returns whether the array ``name`` is a depthwise kernel for this grouped convolution."""
    if not isinstance(layer, nn.Conv) or name not in arrays:
        return False
    return arrays[name].shape == (*layer.axes()[0], layer.groups, layer.features // layer.groups)


class _Names:
    """Gives each child its name in Keras: attributes have names, layers by position a type and a number."""

    def __init__(self, arrays: Arrays):
        self.arrays = arrays
        self.counts: dict[Path, Counter[str]] = defaultdict(Counter)

    def __call__(self, above: Path, name: str, layer: Layer) -> Path:
        """Returns what a child adds to the Keras path ``above`` of its parent."""
        if not name.isdigit():
            return (name,) if name else ()
        counts, kind = self.counts[above], _kind(layer)

        def numbered(kind: str) -> str:
            return f"{kind}_{counts[kind]}" if counts[kind] else kind

        depthwise = "/".join((*above, "layers", numbered(f"depthwise_{kind}"), "vars", "0"))
        if _depthwise(layer, self.arrays, depthwise):
            kind = f"depthwise_{kind}"
        part = numbered(kind)
        counts[kind] += 1
        return "layers", part


def places(net: Layer, arrays: Arrays) -> Iterator[Place]:
    """Yields the place of each array of a network; ``arrays`` shows which convolutions are depthwise in Keras."""
    for layer, path, theirs, _ in nodes(net, _Names(arrays)):
        if isinstance(layer, Repeat):
            raise WeightsError(
                f"{'.'.join(path) or 'net'} must be made by serial, since Keras has no repeat, got repeat"
            )
        if hasattr(layer, "children") or (closed(layer) and not stored(layer)):
            continue
        if not closed(layer) or not _kind(layer):
            raise WeightsError(
                f"{'.'.join(path) or 'net'} must be a layer that Keras has too, got {type(layer).__name__}"
            )
        for i, array in enumerate(stored(layer)):
            names = tuple("/".join((*p, "vars", str(i))) for p in theirs)
            yield Place((array.collection, *path, array.name), names, (), layer, array)


def _laid_out(place: Place, arrays: Arrays) -> Arrays:
    """Returns the arrays of a place in jaxconv's shape: depthwise kernels, and slopes that are shared along axes."""
    found = {}
    for name in place.theirs:
        if _depthwise(place.layer, arrays, name):
            *window, groups, multiplier = arrays[name].shape
            found[name] = arrays[name].reshape(*window, 1, groups * multiplier)
        elif isinstance(place.layer, nn.PReLU) and name in arrays and set(arrays[name].shape[:-1]) == {1}:
            found[name] = arrays[name].reshape(arrays[name].shape[-1:])
    return found


def from_keras(
    net: Layer,
    source: str | os.PathLike[str] | Mapping[str, Any],
    x: Tree | None = None,
    *,
    rename: Rename | None = None,
) -> tuple[Params, State]:
    """Returns ``(params, state)`` of ``net`` from a file by ``keras.Model.save_weights``: complete, or an error.

    Children of ``net`` with names are attributes of the model. Children by position are layers of a ``Sequential``,
    nested ones included. A grouped convolution may be a ``DepthwiseConv2D``. A ``PReLU`` shares its slopes along all
    axes, or all but the channels, by ``shared_axes``. Types do not change, except that float64 becomes float32 unless
    ``jax_enable_x64`` is set. The arrays are copies. Keras flattens feature maps channels last: there is a warning for
    a Dense layer after a ``Flatten`` with ``channels_first``. The optimizer's arrays and the seeds of random layers are
    ignored.

    The default epsilon of Keras's norms is 1e-3, jaxconv's is 1e-5. A ``.keras`` file contains the epsilons: a norm of
    ``net`` with another eps is an error. Arrays alone do not contain them: there is a warning for norms with jaxconv's
    default, and for ``jax.nn.leaky_relu`` and ``jax.nn.gelu``, whose defaults differ from Keras's. The momentum, one
    minus Keras's, affects further training only.

    Args:
      net: a layer with the structure of the model.
      source: the path of a ``.weights.h5`` or ``.keras`` file, see `jaxconv.weights.read`, or a mapping from its names
        to arrays.
      x: the input of ``net.init``: array, ShapeDtypeStruct or shape tuple. With it all shapes are checked.
      rename: as in `jaxconv.weights.from_torch`. For a custom ``keras.Model``, Keras 3.15 writes attributes that come
        after "layers" in the alphabet under the names of their types; ``{"layers/conv2d": "stem"}`` restores a name.

    Raises:
      WeightsError: arrays and network do not match (the message lists arrays without a layer and missing arrays, with
        shapes and the nearest names), a shape or a type does not fit, a value is not finite, two arrays have one name,
        Keras lacks a type of layer, a norm has another eps than in the file, or the file cannot be read.

    >>> arrays = {"layers/dense/vars/0": jnp.ones((4, 3)), "layers/dense/vars/1": jnp.zeros(3)}
    >>> params, state = from_keras(jc.serial(jc.Flatten(), jc.Dense(3)), arrays)
    >>> params["1"]["kernel"].shape
    (4, 3)
    """
    check_net(net)
    arrays = renamed(arrays_of(source), rename, lambda name: not IGNORED.isdisjoint(name.split("/")))
    wanted, shapes = list(places(net, arrays)), shapes_of(net, x)
    for place in wanted:
        arrays |= _laid_out(place, arrays)
    with naming(source):
        params, state = fill(wanted, arrays, shapes)
        check_epsilons(net, keras_config(source))
    warn_of_flatten(net, params, channels_first=False)
    warn_of_functions(net, "keras")
    return params, state


__all__ = ["from_keras"]
