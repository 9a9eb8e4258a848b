"""Features of regions: RoIAlign on one feature map or a pyramid, and RoI max pooling."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple, as_int, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, wider
from jaxconv.ops.boxes import area, as_boxes


def _check_regions(features: Array, boxes: ArrayLike, batch_indices: ArrayLike) -> tuple[Array, Array]:
    [b] = as_boxes(boxes=boxes)
    if b.ndim != 2:
        raise ShapeError(f"boxes must have shape (K, 4), got {b.shape}")
    if features.ndim != 4:
        raise ShapeError(f"features must have shape (N, height, width, channels), got {features.shape}")
    if 0 in features.shape[:3]:
        raise ShapeError(f"features must have images and positions, got shape {features.shape}")
    index = jnp.asarray(batch_indices)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise DTypeError(f"batch_indices must be integers, got {index.dtype}")
    if index.shape != b.shape[:1]:
        raise ShapeError(f"batch_indices must have shape {b.shape[:1]}, one for each of the boxes, got {index.shape}")
    return b, index


def roi_align(
    features: ArrayLike,
    boxes: ArrayLike,
    batch_indices: ArrayLike,
    output_size: IntOrTuple,
    *,
    spatial_scale: float = 1.0,
    sampling_ratio: int,
    aligned: bool = False,
) -> Array:
    """Returns the features of regions on a regular grid, by bilinear interpolation (He et al., 2017).

    Args:
      features: floating-point array ``(N, height, width, channels)``.
      boxes: floating-point array ``(K, 4)``.
      batch_indices: integers ``(K,)``: the image of each box, from 0 to N - 1; others count as the nearest of these.
      output_size: height and width of the output, an int or a pair.
      spatial_scale: what the coordinates of boxes are multiplied by: 1 over the stride of ``features``.
      sampling_ratio: each output is the mean of this number of points along each axis. 0 or less, torchvision's
        default, takes one point for each pixel of the region in an output, at most one for each pixel of the feature
        map: time then grows with the feature map.
      aligned: pixel centers are at half integers, as in Detectron2; otherwise at integers, and regions are at least one
        pixel large.

    Returns:
      Array ``(K, *output_size, channels)`` of the type of ``features``. Points more than one pixel outside count as 0.

    Raises:
      ShapeError: a wrong shape.
      ArgumentError: ``output_size`` is not positive integers, or ``spatial_scale`` is not positive.
      DTypeError: ``batch_indices`` are not integers.

    There are gradients in features and, for a positive ``sampling_ratio``, in boxes; torchvision has the former only.

    Equals ``torchvision.ops.roi_align``.

    >>> features = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> roi_align(features, jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([0]), 2, sampling_ratio=1)[0, ..., 0]
    Array([[2.5, 3.5],
           [6.5, 7.5]], dtype=float32)
    """
    [x] = as_floats(features=features)
    b, index = _check_regions(x, boxes, batch_indices)
    return _align([x], b, index, None, output_size, [spatial_scale], sampling_ratio, aligned)


def box_levels(
    boxes: ArrayLike,
    *,
    lowest: int = 2,
    highest: int = 5,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Array:
    """Returns the level of a feature pyramid for each box, by its size (Lin et al., 2017, equation 1).

    Args:
      boxes: floating-point array ``(..., 4)``.
      lowest, highest: the levels that there are; level l has stride ``2^l``.
      canonical_size, canonical_level: a square of this side has this level.

    Returns:
      int32 ``(...)``, counted from 0 for the lowest level.

    Raises:
      ShapeError: the last axis is not 4.
      ArgumentError: ``lowest`` is greater than ``highest``.

    Equals ``torchvision.ops.poolers.LevelMapper``.

    >>> box_levels(jnp.array([[0.0, 0.0, 224.0, 224.0], [0.0, 0.0, 20.0, 20.0]]))
    Array([2, 0], dtype=int32)
    """
    [b] = as_boxes(boxes=boxes)
    if lowest > highest:
        raise ArgumentError(f"lowest must not be greater than highest, got {lowest} and {highest}")
    wide = accumulator(b.dtype)
    side = jnp.sqrt(jnp.maximum(area(b.astype(wide)), jnp.finfo(wide).tiny))
    level = jnp.floor(canonical_level + jnp.log2(side / canonical_size) + 1e-6)
    return jnp.where(jnp.isnan(level), 0, jnp.clip(level, lowest, highest) - lowest).astype(jnp.int32)


def multiscale_roi_align(
    features: Sequence[ArrayLike],
    boxes: ArrayLike,
    batch_indices: ArrayLike,
    output_size: IntOrTuple,
    *,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool = False,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Array:
    """Returns `roi_align` of each box on the level of a feature pyramid that fits its size.

    Args:
      features: arrays ``(N, height, width, channels)``, largest first, each half the size of the one before.
      boxes, batch_indices, output_size, sampling_ratio, aligned: as in `roi_align`.
      spatial_scales: for each feature map 1 over its stride; strides are powers of 2.
      canonical_size, canonical_level: as in `box_levels`.

    Returns:
      Array ``(K, *output_size, channels)`` of the common type of ``features``.

    Raises:
      ShapeError: a wrong shape.
      ArgumentError: ``output_size`` is not positive integers, there is not one scale for each feature map, or scales
        are not powers of 2, each half of the one before.
      DTypeError: ``batch_indices`` are not integers.

    With a positive ``sampling_ratio`` each box is computed once, on its level; otherwise on all levels.

    Equals ``torchvision.ops.MultiScaleRoIAlign``.

    >>> pyramid = [jnp.zeros((1, 8, 8, 3)), jnp.ones((1, 4, 4, 3))]
    >>> boxes = jnp.array([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 30.0, 30.0]])
    >>> options = {"spatial_scales": (0.25, 0.125), "sampling_ratio": 2, "canonical_size": 60.0}
    >>> multiscale_roi_align(pyramid, boxes, jnp.array([0, 0]), 2, **options)[:, 0, 0, 0]
    Array([0., 1.], dtype=float32)
    """
    if len(features) == 0 or len(spatial_scales) != len(features):
        raise ArgumentError(
            f"spatial_scales must be one number for each of the {len(features)} feature maps, got {spatial_scales!r}"
        )
    maps = as_floats(**{f"features[{i}]": a for i, a in enumerate(features)})
    for i, a in enumerate(maps):
        b, index = _check_regions(a, boxes, batch_indices)
        if (a.shape[0], a.shape[3]) != (maps[0].shape[0], maps[0].shape[3]):
            raise ShapeError(
                f"features must have the same images and channels, got shapes {maps[0].shape} and, at {i}, {a.shape}"
            )
    levels = [-np.log2(float(s)) for s in spatial_scales]
    lowest, highest = round(levels[0]), round(levels[-1])
    if not np.allclose(levels, range(lowest, lowest + len(maps))):
        raise ArgumentError(
            f"spatial_scales must be powers of 2, each half of the one before, got {tuple(spatial_scales)}"
        )
    level = box_levels(
        jax.lax.stop_gradient(b),
        lowest=lowest,
        highest=highest,
        canonical_size=canonical_size,
        canonical_level=canonical_level,
    )
    return _align(maps, b, index, level, output_size, spatial_scales, sampling_ratio, aligned)


def _align(
    maps: Sequence[Array],
    boxes: Array,
    index: Array,
    level: Array | None,
    output_size: IntOrTuple,
    scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
) -> Array:
    """Returns the features of each box on the map of its level; None is the first map."""
    size = as_tuple(output_size, 2, "output_size")
    if not all(scale > 0 for scale in scales):
        raise ArgumentError(f"spatial_scale must be positive, got {[float(s) for s in scales]}")
    samples = max(as_int(sampling_ratio, "sampling_ratio"), 0)
    dtype = maps[0].dtype
    wide = accumulator(wider(dtype, boxes.dtype))
    index = jnp.clip(index, 0, maps[0].shape[0] - 1).astype(jnp.int32)
    corners = boxes.astype(wide)
    if samples == 0:
        corners = jax.lax.stop_gradient(corners)
        results = [
            _adaptive(a.astype(wide), *_grid(corners * scale, aligned), index, size)
            for a, scale in zip(maps, scales, strict=True)
        ]
        return (results[0] if level is None else _chosen(results, level)).astype(dtype)
    rows = jnp.zeros_like(index) if level is None else level
    table = np.array([float(s) for s in scales], wide)
    low, extent = _grid(corners * jnp.asarray(table)[rows][:, None], aligned)
    heights, widths = (np.array([a.shape[axis] for a in maps], np.int32) for axis in (1, 2))
    starts = np.cumsum([0, *(a.shape[0] * a.shape[1] * a.shape[2] for a in maps[:-1])]).astype(np.int32)
    height, width, start = (jnp.asarray(a)[rows] for a in (heights, widths, starts))
    y, weight_y = _taps(low[:, 1], extent[:, 1], size[0], samples, height)
    x, weight_x = _taps(low[:, 0], extent[:, 0], size[1], samples, width)
    y = (start + index * height * width)[:, None, None] + y * width[:, None, None]
    channels = maps[0].shape[-1]
    flat = [a.reshape(-1, channels) for a in maps]
    return _gathered(flat[0] if level is None else jnp.concatenate(flat), y, weight_y, x, weight_x).astype(dtype)


def _chosen(results: Sequence[Array], level: Array) -> Array:
    """Returns of each box the result of its level."""
    out = results[0]
    for i, result in enumerate(results[1:], 1):
        out = jnp.where((level == i)[:, None, None, None], result, out)
    return out


def _grid(corners: Array, aligned: bool) -> tuple[Array, Array]:
    """Returns the upper left corner ``(K, 2)`` and the sides of regions in pixels of the feature map."""
    low, high = corners[:, :2], corners[:, 2:]
    extent = high - low
    return (low - 0.5, extent) if aligned else (low, jnp.maximum(extent, 1))


def _quotient(a: Array, divisor: int) -> Array:
    """Returns a / divisor, rounded once: XLA multiplies by the reciprocal of what is broadcast, which is inexact."""
    return a / lax.optimization_barrier(jnp.full_like(a, divisor))


def _points(low: Array, extent: Array, bins: int, sample: Array, count: Array) -> Array:
    """Returns along one axis the points of each bin with the numbers ``sample``, of ``count`` that are in the bin."""
    each = _quotient(extent, bins)[:, None, None]
    bin_ = lax.broadcasted_iota(low.dtype, (1, bins, 1), 1)
    return low[:, None, None] + bin_ * each + (sample + 0.5) * each / count


def _interpolated(point: Array, last: Array) -> tuple[Array, Array, Array]:
    """Returns the pixel before each point, the share of the next one, and whether the point counts."""
    used = (point >= -1) & (point <= last + 1)
    point = jnp.clip(point, 0, last)
    below = jnp.floor(jax.lax.stop_gradient(point))
    return below.astype(jnp.int32), point - below, used


def _taps(low: Array, extent: Array, bins: int, samples: int, size: Array) -> tuple[Array, Array]:
    """Returns along one axis the pixels that each bin reads ``(K, bins, 2 * samples)``, and their weights.

    A point between two pixels reads both; the weights of an output are the products of those of the two axes.
    """
    last = (size - 1)[:, None, None]
    sample = lax.broadcasted_iota(low.dtype, (1, 1, samples), 2)
    point = _points(low, extent, bins, sample, jnp.full((1, 1, 1), samples, low.dtype))
    below, share, used = _interpolated(point, last.astype(low.dtype))
    pixels = jnp.concatenate([below, jnp.minimum(below + 1, last)], -1)
    weights = jnp.where(jnp.concatenate([used, used], -1), jnp.concatenate([1 - share, share], -1) / samples, 0)
    return pixels, weights


def _gathered(flat: Array, y: Array, weight_y: Array, x: Array, weight_x: Array) -> Array:
    """Sums rows of ``flat`` at all pairs of taps, each with the product of its weights, in the weights' type."""
    total: Array | None = None
    for i in range(y.shape[-1]):
        for j in range(x.shape[-1]):
            part = flat.at[y[:, :, None, i] + x[:, None, :, j]].get(mode="promise_in_bounds").astype(weight_y.dtype)
            part = part * (weight_y[:, :, None, i] * weight_x[:, None, :, j])[..., None]
            total = part if total is None else total + part
    assert total is not None
    return total


def _adaptive(features: Array, low: Array, extent: Array, index: Array, size: tuple[int, ...]) -> Array:
    """Returns means over one point for each pixel of a bin, by two matrix products for each region."""
    weights = [
        _matrix(low[:, axis], extent[:, axis], bins, pixels)
        for axis, bins, pixels in zip((1, 0), size, features.shape[1:3], strict=True)
    ]

    def one(region: tuple[Array, Array, Array]) -> Array:
        image, weight_y, weight_x = region
        columns = jnp.einsum("ih,hwc->iwc", weight_y, features[image], precision="highest")
        return jnp.einsum("jw,iwc->ijc", weight_x, columns, precision="highest")

    return lax.map(one, (index, *weights))


def _matrix(low: Array, extent: Array, bins: int, pixels: int) -> Array:
    """Returns along one axis the weight of each pixel in each bin, ``(K, bins, pixels)``."""
    samples = jnp.ceil(_quotient(extent, bins))[:, None, None]  # none in a region without extent
    count = jnp.maximum(samples, 1)
    # A bin may be larger than the feature map: only the points near the map are computed, from the one before it on.
    # Points are at most one pixel apart, so that a large bin has fewer than pixels + 4 on the map.
    start = _points(low, extent, bins, jnp.full((1, 1, 1), -0.5, low.dtype), count)
    first = jnp.floor((-1 - start) * count / jnp.maximum(_quotient(extent, bins)[:, None, None], 1)) - 1
    sample = jnp.maximum(first, 0) + lax.broadcasted_iota(low.dtype, (1, 1, pixels + 6), 2)
    point = _points(low, extent, bins, sample, count)
    below, share, used = _interpolated(point, jnp.asarray(pixels - 1, low.dtype))
    used = used & (sample < samples)

    def one(below: Array, low_weight: Array, high_weight: Array) -> Array:
        line = jnp.zeros(pixels, low.dtype).at[below].add(low_weight)
        return line.at[jnp.minimum(below + 1, pixels - 1)].add(high_weight)

    parts = (jnp.where(used, w / count, 0) for w in (1 - share, share))
    return jax.vmap(jax.vmap(one))(below, *parts)


def roi_pool(
    features: ArrayLike,
    boxes: ArrayLike,
    batch_indices: ArrayLike,
    output_size: IntOrTuple,
    *,
    spatial_scale: float = 1.0,
) -> Array:
    """Returns the largest feature of each cell of a grid on each region (Girshick, 2015).

    Args:
      features: floating-point array ``(N, height, width, channels)``.
      boxes: floating-point array ``(K, 4)``; their corners are rounded to pixels of the feature map.
      batch_indices: integers ``(K,)``: the image of each box, from 0 to N - 1; others count as the nearest of these.
      output_size: height and width of the output, an int or a pair.
      spatial_scale: what the coordinates of boxes are multiplied by: 1 over the stride of ``features``.

    Returns:
      Array ``(K, *output_size, channels)`` of the type of ``features``; 0 where a cell contains no pixel.

    Raises:
      ShapeError: a wrong shape.
      ArgumentError: ``output_size`` is not positive integers, or ``spatial_scale`` is not positive.
      DTypeError: ``batch_indices`` are not integers.

    One pixel of each cell takes the whole gradient. Each region reads its whole feature map, so prefer `roi_align` on
    large ones.

    Equals ``torchvision.ops.roi_pool``.

    >>> features = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> roi_pool(features, jnp.array([[0.0, 0.0, 3.0, 3.0]]), jnp.array([0]), 2)[0, ..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    [x] = as_floats(features=features)
    b, index = _check_regions(x, boxes, batch_indices)
    size = as_tuple(output_size, 2, "output_size")
    if not spatial_scale > 0:
        raise ArgumentError(f"spatial_scale must be positive, got {spatial_scale!r}")
    index = jnp.clip(index, 0, x.shape[0] - 1).astype(jnp.int32)
    wide = accumulator(b.dtype)
    corners = jax.lax.stop_gradient(b.astype(wide) * jnp.asarray(spatial_scale, wide))
    # Half away from zero, as in C.
    corners = jnp.where(corners < 0, -jnp.floor(0.5 - corners), jnp.floor(corners + 0.5))
    cells = [
        _cells(corners[:, axis], corners[:, axis + 2], bins, pixels)
        for axis, bins, pixels in zip((1, 0), size, x.shape[1:3], strict=True)
    ]
    values = jax.lax.stop_gradient(x)

    def one(region: tuple[Array, Array, Array]) -> Array:
        """Returns for each cell and channel the position of the maximum, -1 for none."""
        image, rows, columns = region
        inside = jnp.where(rows[:, :, None, None], values[image][None], -jnp.inf)
        row = jnp.argmax(inside, 1)
        best = jnp.where(columns[None, :, :, None], jnp.max(inside, 1)[:, None], -jnp.inf)
        column = jnp.argmax(best, 2)
        position = jnp.take_along_axis(row, column, 1) * x.shape[2] + column
        some = rows.any(1)[:, None, None] & columns.any(1)[None, :, None]
        return jnp.where(some, position, -1).astype(jnp.int32)

    position = lax.map(one, (index, *cells))
    flat = x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])
    channel = lax.broadcasted_iota(jnp.int32, position.shape, 3)
    found = flat[index[:, None, None, None], jnp.maximum(position, 0), channel]
    return jnp.where(position >= 0, found, 0)


def _cells(low: Array, high: Array, bins: int, pixels: int) -> Array:
    """Returns along one axis which pixels are in each cell, ``(K, bins, pixels)``."""
    each = _quotient(jnp.maximum(high - low + 1, 1), bins)[:, None]
    bin_ = lax.broadcasted_iota(low.dtype, (1, bins), 1)
    start, stop = jnp.floor(bin_ * each) + low[:, None], jnp.ceil((bin_ + 1) * each) + low[:, None]
    pixel = lax.broadcasted_iota(low.dtype, (1, 1, pixels), 2)
    return (pixel >= start[..., None]) & (pixel < stop[..., None])


__all__ = ["box_levels", "multiscale_roi_align", "roi_align", "roi_pool"]
