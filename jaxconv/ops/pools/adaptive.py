"""Pools to a given size: global, to one position, and adaptive."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import IntOrTuple, adaptive_bins, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, slice_axis, spatial_sizes, to_rank
from jaxconv.ops.lowering.pool import maxima, window_sums
from jaxconv.ops.lowering.problem import Windows
from jaxconv.ops.lowering.resample import Sampling, resample
from jaxconv.ops.pools.average import power, root
from jaxconv.ops.pools.maximum import lowest, max_pool


def global_avg_pool(x: ArrayLike, *, rank: int = 2) -> Array:
    """Returns the mean over the ``rank`` spatial axes: shape ``(*batch, channels)``.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half precision accumulates in float32.
      rank: the number of spatial axes.

    Raises:
      ArgumentError: rank is below 1.
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is not floating-point.

    >>> global_avg_pool(jnp.ones((8, 7, 7, 64))).shape
    (8, 64)
    """
    (x,) = as_floats(x=x)
    spatial_sizes(x, rank)
    return jnp.mean(x, axis=_spatial_axes(rank), dtype=accumulator(x.dtype)).astype(x.dtype)


def global_max_pool(x: ArrayLike, *, rank: int = 2) -> Array:
    """Returns the largest element over the ``rank`` spatial axes: shape ``(*batch, channels)``.

    Ties and NaN as in `max_pool`.

    Args:
      x: floating-point or integer array of shape ``(*batch, *spatial, channels)``.
      rank: the number of spatial axes.

    Raises:
      ArgumentError: rank is below 1.
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is neither floating-point nor integer.

    >>> global_max_pool(jnp.arange(16.0).reshape(4, 4, 1))
    Array([15.], dtype=float32)
    """
    x = jnp.asarray(x)
    lowest(x.dtype)
    sizes = spatial_sizes(x, rank)
    if all(isinstance(n, int) for n in sizes):
        return max_pool(x, sizes).squeeze(_spatial_axes(rank))
    flat = x.reshape(*x.shape[: x.ndim - 1 - rank], math.prod(sizes), x.shape[-1])
    return _first_maximum(flat, -2).squeeze(-2)


def _first_maximum(x: Array, axis: int) -> Array:
    """The largest element along an axis whose size may be symbolic: the first of equal ones, or the first NaN."""
    return jnp.take_along_axis(x, jnp.argmax(x, axis=axis, keepdims=True), axis, mode="clip")


def global_lp_pool(x: ArrayLike, *, p: float = 2, rank: int = 2) -> Array:
    """Returns the p-norm over the ``rank`` spatial axes: shape ``(*batch, channels)``.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half precision accumulates in float32.
      p: the power, at least 1.
      rank: the number of spatial axes.

    Raises:
      ArgumentError: rank or p is below 1.
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is not floating-point.

    >>> global_lp_pool(jnp.ones((4, 4, 1)))
    Array([4.], dtype=float32)
    """
    (x,) = as_floats(x=x)
    spatial_sizes(x, rank)
    total = jnp.sum(power(x.astype(accumulator(x.dtype)), p), axis=_spatial_axes(rank))
    return root(total, p).astype(x.dtype)


def global_gem_pool(x: ArrayLike, p: ArrayLike = 3.0, *, eps: float = 1e-6, rank: int = 2) -> Array:
    """Returns the generalized mean over the ``rank`` spatial axes: shape ``(*batch, channels)``.

    ``mean(max(x, eps)^p)^(1/p)``: the mean for p = 1, near the maximum for large p. Its gradients in x and in p are
    finite, so that p can be trained.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half precision is computed in float32.
      p: a positive number, or an array of one or of one for each channel.
      eps: the smallest element that counts.
      rank: the number of spatial axes.

    Returns:
      Array of x's type.

    Raises:
      ArgumentError: rank is below 1, or ``eps`` is not positive.
      ShapeError: x has too few axes, or an empty spatial axis; p has another shape.
      DTypeError: x or p is not floating-point.

    Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018. The largest element is
    divided out first, so that no power overflows.

    >>> global_gem_pool(jnp.array([[1.0], [2.0]]), 2.0, rank=1)
    Array([1.5811388], dtype=float32)
    """
    x, power = as_floats(x=x, p=p)
    spatial_sizes(x, rank)
    if power.shape not in ((), (1,), x.shape[-1:]):
        raise ShapeError(f"p must have shape (), (1,) or {x.shape[-1:]}, got {power.shape}")
    if not eps > 0:
        raise ArgumentError(f"eps must be positive, got {eps!r}")
    axes = _spatial_axes(rank)
    wide = jnp.maximum(x.astype(accumulator(x.dtype)), eps)
    largest = lax.stop_gradient(jnp.max(wide, axes, keepdims=True))
    power = to_rank(power.astype(wide.dtype), x.ndim)
    mean = jnp.mean((wide / largest) ** power, axes, keepdims=True)
    return (largest * mean ** (1 / power)).squeeze(axes).astype(x.dtype)


def _spatial_axes(rank: int) -> tuple[int, ...]:
    return tuple(range(-rank - 1, -1))


def adaptive_avg_pool(x: ArrayLike, size: IntOrTuple, *, rank: int = 2) -> Array:
    """Returns the means of ``size`` bins along each axis, bin i from ``floor(i N / M)`` to ``ceil((i + 1) N / M)``.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half precision accumulates in float32.
      size: M, an int or one for each axis; more bins than elements repeat them.
      rank: the number of spatial axes.

    Returns:
      Array of x's type, shape ``(*batch, *size, channels)``.

    Raises:
      ArgumentError: rank is below 1, or ``size`` is not one positive int for each axis.
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is not floating-point.

    Time and memory are linear in the size; a NaN or an infinity reaches the bins that contain it and no other.

    Equals ``torch.nn.functional.adaptive_avg_pool2d``.

    >>> adaptive_avg_pool(jnp.arange(7.0)[:, None], 3, rank=1)[:, 0]
    Array([1., 3., 5.], dtype=float32)
    """
    (x,) = as_floats(x=x)
    sizes = spatial_sizes(x, rank)
    bins = as_tuple(size, rank, "size")
    y = x.astype(accumulator(x.dtype))
    # Bins that tile an axis are windows; the rest overlap, and are as long as one more than that at most.
    tiles = tuple(n // m if _tiled(n, m) else 1 for n, m in zip(sizes, bins, strict=True))
    for axis, (n, m, tile) in enumerate(zip(sizes, bins, tiles, strict=True)):
        if m == 1:
            y = jnp.mean(y, axis - rank - 1, keepdims=True)
        elif n != m and tile == 1:
            y = resample(y, axis - rank - 1, m, Sampling("mean"))
    if any(tile > 1 for tile in tiles):
        axes = [Windows(i - 1 - rank, n, n, 1, y.shape[i - 1 - rank] // n) for i, n in enumerate(tiles)]
        y = window_sums(y, axes) / math.prod(tiles)
    return y.astype(x.dtype)


def _tiled(n: int, m: int) -> bool:
    """Whether bins tile an axis, as far as is known of symbolic sizes; a single bin is a mean."""
    return m > 1 and isinstance(n, int) and isinstance(m, int) and n % m == 0


def adaptive_max_pool(x: ArrayLike, size: IntOrTuple, *, rank: int = 2) -> Array:
    """Returns the largest elements of ``size`` bins along each axis; bins as in `adaptive_avg_pool`.

    Ties and NaN as in `max_pool`.

    Args:
      x: floating-point or integer array of shape ``(*batch, *spatial, channels)``.
      size: M, an int or one for each axis.
      rank: the number of spatial axes.

    Returns:
      Array of x's type, shape ``(*batch, *size, channels)``.

    Raises:
      ArgumentError: rank is below 1, or ``size`` is not one positive int for each axis.
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is neither floating-point nor integer.

    Equals ``torch.nn.functional.adaptive_max_pool2d``.

    >>> adaptive_max_pool(jnp.arange(7.0)[:, None], 3, rank=1)[:, 0]
    Array([2., 4., 6.], dtype=float32)
    """
    x = jnp.asarray(x)
    lowest(x.dtype)
    sizes = spatial_sizes(x, rank)
    bins = [adaptive_bins(n, m) for n, m in zip(sizes, as_tuple(size, rank, "size"), strict=True)]
    for i in reversed(range(rank)):
        x = _bin_maxima(x, i - rank - 1, bins[i])
    return x


def _bin_maxima(x: Array, axis: int, bins: Sequence[tuple[int, int]]) -> Array:
    """Takes the maxima of all windows of each length that occurs (three at most), then each bin from its own."""
    n = x.shape[axis]
    if not isinstance(n, int):
        return jnp.concatenate([_first_maximum(slice_axis(x, axis, *cut), axis) for cut in bins], axis)
    lengths = sorted({stop - start for start, stop in bins})
    runs: list[Array] = []
    first = {}
    for length in lengths:
        first[length] = sum(run.shape[axis] for run in runs)
        windows = Windows(axis, length, 1, 1, n - length + 1)
        runs.append(maxima((x,), [windows])[0])
    picks = np.array([first[stop - start] + start for start, stop in bins])
    return jnp.take(jnp.concatenate(runs, axis), picks, axis, mode="clip")


__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "global_avg_pool",
    "global_gem_pool",
    "global_lp_pool",
    "global_max_pool",
]
