"""Units: their filters, their receptive fields, and the patches of a data set with the highest activations."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.errors import ArgumentError, ParameterError, PathError, ShapeError
from jaxconv.fields import Field
from jaxconv.geometry import as_int
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import (
    check_data,
    check_hashable,
    check_outside,
    check_path,
    check_unstacked,
    naming_preprocess,
    one_array,
    stacked_axes,
)
from jaxconv.inspect.top_k import keep_best, nothing_yet
from jaxconv.inspect.trace import Row, trace
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops.arrays import accumulator, largest
from jaxconv.structs import as_struct, struct_of
from jaxconv.tree import walk

Box = tuple[tuple[int, int], ...]


def filters(net: Layer, params: Params, path: str) -> Array:
    """Returns the kernel of a convolution.

    Args:
      net: a layer.
      params: the network's parameters.
      path: the path of a layer whose kernel has a window.

    Returns:
      Array of shape ``(*window, in // groups, out)``, as in ``params``. A transposed convolution has shape
      ``(*window, out // groups, in)``; inside a `repeat` the axis of iterations comes first.
      `jaxconv.inspect.figures.filters` draws the kernel.

    Raises:
      PathError: the path names no layer, or a layer without such a kernel.
      ParameterError: params are not those of the network.

    >>> net = jc.serial(stem=jc.Conv(8, 5), relu=jax.nn.relu)
    >>> filters(net, net.init(jax.random.key(0), (1, 32, 32, 3))[0], "stem").shape
    (5, 5, 3, 8)
    """
    check_path(net, path)
    kernel = _kernel(net, params, path)
    if kernel is None:
        others = [known for known, _ in walk(net) if _kernel(net, params, known) is not None]
        if not others:
            raise ParameterError(f"params must have a kernel with a window at {path!r}, got none at any path")
        raise PathError(
            f"path must name a layer whose kernel has a window, one of {', '.join(map(repr, others))}, got {path!r}"
        )
    return kernel


def _kernel(net: Layer, params: Params, path: str) -> Array | None:
    entries: Any = params
    for name in (*filter(None, path.split(".")), "kernel"):
        entries = entries.get(name) if isinstance(entries, dict) else None
    return entries if len(getattr(entries, "shape", ())) - stacked_axes(net, path) >= 3 else None


def _row(net: Layer, x: Tree, path: str) -> Row:
    """Returns a layer's row, or raises PathError where its receptive field is unknown."""
    check_path(net, path)
    row = {row.path: row for row in trace(net, x)}.get(path)
    if row is None:
        raise PathError(f"path must name a layer that runs in evaluation, got {path!r}, which runs in training only")
    if not isinstance(row.output, jax.ShapeDtypeStruct):
        raise ShapeError(f"path {path!r} must name a layer that returns one array, got {row.output}")
    if row.receptive_field is None:
        raise PathError(
            f"path must name a layer with a known receptive field, got {path!r}: the layer, or a layer before it, has "
            "no geometry method"
        )
    return row


def _spans(field: Field, count: int, size: int, clip: bool) -> np.ndarray:
    """Returns the (low, high) ends of the fields of ``count`` units on an axis of ``size``: ints ``(count, 2)``."""
    starts = [field.offset + i * field.stride for i in range(count)]
    spans = np.array([(math.floor(start), math.ceil(start + field.size)) for start in starts])
    return np.clip(spans, 0, size) if clip else spans


def all_spans(row: Row, sizes: Sequence[int], clip: bool) -> list[np.ndarray]:
    """Returns `_spans` for each axis of the image. An axis that the feature map lacks has a single position."""
    assert row.receptive_field is not None
    counts = (*row.output.shape[1:-1], *(1,) * len(sizes))[: len(sizes)]
    return [_spans(f, m, n, clip) for f, m, n in zip(row.receptive_field, counts, sizes, strict=True)]


def unit_field(net: Layer, x: Tree, path: str, position: Sequence[int] = (), *, clip: bool = True) -> Box:
    """Returns the part of the image that a unit sees.

    Args:
      net: a layer.
      x: an image batch, a ShapeDtypeStruct or a shape tuple ``(batch, *spatial, channels)``.
      path: the path of the unit's layer.
      position: the unit's index along each spatial axis of the feature map; () for a layer without feature maps.
      clip: whether to clip the field to the image; otherwise the field may reach into the padding.

    Returns:
      ``(low, high)`` for each spatial axis of x, ``image[low:high]``; the ends of an inexact field are rounded outward.

    Raises:
      ValueError: the path names no layer, or one whose receptive field is unknown, or the position is out of range.

    >>> net = jc.serial(jc.Conv(8), jax.nn.relu, jc.MaxPool(2), jc.Conv(8))
    >>> unit_field(net, (1, 32, 32, 3), "3", (0, 5)), unit_field(net, (1, 32, 32, 3), "3", (0, 5), clip=False)
    (((0, 5), (7, 15)), ((-3, 5), (7, 15)))
    """
    row = _row(net, x, path)
    size = row.output.shape[1:-1]
    if not isinstance(position, Sequence | np.ndarray):
        raise ArgumentError(
            f"position must be a sequence of ints, one for each axis of the feature map of {path!r}, got {position!r}"
        )
    position = tuple(as_int(i, "position") for i in position)
    if len(position) != len(size) or not all(0 <= i < n for i, n in zip(position, size, strict=True)):
        raise ArgumentError(f"position must be inside the feature map of {path!r}, of size {size}, got {position}")
    spans = all_spans(row, as_struct(x).shape[1:-1], clip)
    positions = (*position, *(0,) * len(spans))
    return tuple((int(low), int(high)) for low, high in (span[i] for span, i in zip(spans, positions, strict=False)))


class TopPatches(NamedTuple):
    """The patches with the highest activations; the result of `top_patches`. NumPy arrays, highest first along k.

    Attributes:
      channels: the channels of the layer, ``(channels,)``.
      scores: the activations, ``(channels, k)``.
      images: the indices of the images, ``(channels, k)``.
      positions: the positions in the feature map, ``(channels, k, axes of the feature map)``.
      boxes: the units' receptive fields, ``(low, high)`` for each axis: ``(channels, k, spatial axes, 2)``.
      patches: the images cut to the boxes: k arrays for each channel, smaller at the border.
    """

    channels: np.ndarray
    scores: np.ndarray
    images: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    patches: list[list[np.ndarray]]


def top_patches(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    path: str,
    *,
    k: int = 9,
    channels: Sequence[int] | None = None,
    batch_size: int = 64,
    preprocess: Preprocess | None = None,
) -> TopPatches:
    """Returns the patches of a data set with the highest activations in a layer's channels (Zeiler and Fergus, 2014).

    A loop on the host over batches: inside jit use `activations`. Only the highest position of an image counts, so that
    the k patches of a channel come from k images. A patch is the receptive field of the unit, without padding.

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      images: array of shape ``(count, *spatial, channels)``. NumPy arrays, memory maps included, are copied to the
        device in batches.
      path: the layer's path, "" for the network's output. A layer without feature maps has one unit for each channel.
      k: the number of patches for each channel.
      channels: a sequence of channels, such as ``[3]``; None, all channels.
      batch_size: images for each call of the network.
      preprocess: ``preprocess(images)``, run inside the compiled program; it keeps the images' size, and patches are
        cut from the original images. Pass the same function each time: a new function compiles again.

    Returns:
      A `TopPatches`.

    Raises:
      ValueError: the path names no layer, a layer inside a `repeat`, or one whose receptive field is unknown; k is
        greater than the number of images; channels is not a sequence, or a channel is out of range.
      DTypeError: the network does not accept the images' element type, and there is no preprocess.
      FloatingPointError: an activation is not finite.

    >>> net = jc.serial(jc.Conv(1, 1, bias=False))
    >>> images = jnp.zeros((3, 4, 4, 1)).at[1, 2, 3].set(5.0)
    >>> top = top_patches(net, {"0": {"kernel": jnp.ones((1, 1, 1, 1))}}, {}, images, "0", k=1)
    >>> top.images.tolist(), top.positions.tolist(), top.boxes.tolist(), top.scores.tolist()
    ([[1]], [[[2, 3]]], [[[[2, 3], [3, 4]]]], [[5.0]])
    """
    check_outside("top_patches", params, state, images, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    images, batch_size = check_data(images, batch_size)
    check_unstacked(net, path)
    k = as_int(k, "k", least=1)
    if k > len(images):
        raise ArgumentError(f"k must be at most the number of images, {len(images)}, got {k}")
    batch = struct_of((batch_size, *images.shape[1:]), images.dtype)
    x = jax.eval_shape(preprocess, batch) if preprocess else batch
    sizes = images.shape[1:-1]
    if x.shape[1:-1] != sizes:
        raise ShapeError(f"preprocess must keep the images' size {sizes}, got {x.shape[1:-1]}")
    with naming_preprocess(images, preprocess):
        row = _row(net, x, path)
    *size, features = row.output.shape[1:]
    if channels is not None and np.ndim(channels) != 1:
        raise ArgumentError(f"channels must be a sequence of channels, such as [3] or range(3), got {channels!r}")
    chosen = np.arange(features) if channels is None else np.array([as_int(c, "channels") for c in channels], int)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= features:
        raise ArgumentError(f"channels must be from 0 to {features - 1} for {path!r}, got {channels}")

    spans = all_spans(row, sizes, True)
    best = nothing_yet(len(chosen), k, accumulator(row.output.dtype), others=2)
    excite = functools.partial(_excite, net, path, preprocess, params, state, chosen, seeing(spans, len(size)))
    for part in equal_batches(images, batch_size):
        best = excite(part.items, part.start, part.skip, best)
    scores, numbers, flat = map(np.asarray, best)
    if not np.isfinite(scores).all():
        bad = chosen[~np.isfinite(scores).all(axis=1)]
        raise FloatingPointError(
            f"path {path!r} must have finite activations, got inf or NaN in channels {bad.tolist()}"
        )
    positions = np.stack(np.unravel_index(flat, size), -1) if size else np.zeros((*flat.shape, 0), int)
    boxes = np.stack([s[positions[..., i] if i < len(size) else np.zeros_like(flat)] for i, s in enumerate(spans)], -2)
    return TopPatches(chosen, scores, numbers, positions, boxes, _cut(images, numbers, boxes))


def seeing(spans: list[np.ndarray], rank: int) -> np.ndarray:
    """Returns whether each position of a feature map, as one axis, sees a part of the image and not only padding."""
    sees = np.ones((), bool)
    for low, high in (s.T for s in spans[:rank]):
        sees = np.logical_and.outer(sees, high > low)
    return sees.reshape(-1)


def _cut(images: Any, numbers: np.ndarray, boxes: np.ndarray) -> list[list[np.ndarray]]:
    """Returns the images with these indices, cut to their boxes. Each image is fetched once, and no image is kept."""
    patches = [[np.empty(0)] * numbers.shape[1] for _ in numbers]
    for number in np.unique(numbers):
        image = np.asarray(images[int(number)])
        for c, i in np.argwhere(numbers == number):
            patches[c][i] = image[tuple(slice(low, high) for low, high in boxes[c, i])].copy()
    return patches


@functools.partial(jit, static_argnums=(0, 1, 2))
def _excite(
    net: Layer,
    path: str,
    preprocess: Preprocess | None,
    params: Params,
    state: State,
    channels: Array,
    seeing: Array,
    images: Array,
    start: Array,
    skip: Array,
    best: Tree,
) -> Tree:
    """Returns the best of ``best`` and of each image's highest position, without the first ``skip`` images."""
    x = preprocess(images) if preprocess else images
    found = one_array(activations(net, params, state, x, paths=[path])[1][path], path, count=len(images))
    units = found.reshape(len(x), -1, found.shape[-1])[..., channels]
    units = jnp.where(seeing[:, None], units.astype(best[0].dtype), -jnp.inf)
    fresh = jnp.arange(len(x))
    highest = jnp.where((fresh >= skip)[:, None], largest(units, 1), -jnp.inf)
    number = jnp.broadcast_to(start + fresh[:, None], highest.shape)
    return keep_best(best, (highest.T, number.T, jnp.argmax(units, axis=1).T))


__all__ = ["TopPatches", "filters", "top_patches", "unit_field"]
