"""Pooling: windowed, global and adaptive; maxima with their places, and the way back."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import (
    IntOrTuple,
    Padding,
    Pairs,
    adaptive_bins,
    as_tuple,
    output_sizes,
    resolve_padding,
    window_extent,
)
from jaxconv.ops.arrays import (
    Array,
    ArrayLike,
    accumulator,
    as_floats,
    pad_axes,
    slice_axis,
    spatial_sizes,
    to_rank,
    wider,
    window_tuple,
)
from jaxconv.ops.lowering.maxima import Best
from jaxconv.ops.lowering.modes import lowering_mode
from jaxconv.ops.lowering.pool import maxima, window_sums
from jaxconv.ops.lowering.problem import Windows
from jaxconv.ops.lowering.resample import Sampling, resample
from jaxconv.ops.lowering.windows import reduce_windows


class _Windows(NamedTuple):
    """The resolved hyperparameters of a pool."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def crop(self) -> Pairs:
        """What negative padding cuts off, as negative numbers. No window sees it, not even one that hangs over."""
        least = jax.core.min_dim
        return tuple((least(low, 0), least(high, 0)) for low, high in self.padding)

    @property
    def overhang(self) -> Pairs:
        """The padding of the cropped map: at the high side what the last window reaches, less if it stops short."""
        pairs = []
        least = jax.core.min_dim
        for f, s, (low, high), d, n, o in zip(*self, strict=True):
            kept, before = n + least(low, 0) + least(high, 0), jax.core.max_dim(low, 0)
            pairs.append((before, (o - 1) * s + window_extent(f, d) - before - kept))
        return tuple(pairs)

    @property
    def axes(self) -> tuple[Windows, ...]:
        """The windows along each axis, the first axis first."""
        rows = zip(self.window, self.stride, self.dilation, self.out, strict=True)
        return tuple(Windows(i - 1 - len(self.window), *row) for i, row in enumerate(rows))

    def lay_out(self, x: Array, value: Any) -> Array:
        """Crops and pads ``x`` so that its windows just cover it."""
        return pad_axes(pad_axes(x, self.crop), self.overhang, value)


def _resolve(
    x: Array,
    window: IntOrTuple,
    stride: IntOrTuple | None,
    padding: Padding,
    dilation: IntOrTuple,
    ceil_mode: bool,
) -> _Windows:
    taps = window_tuple(window)
    rank = len(taps)
    size = spatial_sizes(x, rank)
    strides = taps if stride is None else as_tuple(stride, rank, "stride")
    dilations = as_tuple(dilation, rank, "dilation")
    pairs = resolve_padding(padding, size, taps, strides, dilations)
    out = output_sizes(size, taps, strides, pairs, dilations, ceil_mode=ceil_mode)
    return _Windows(taps, strides, pairs, dilations, size, out)


def _lowest(dtype: Any) -> Any:
    if jnp.issubdtype(dtype, jnp.floating):
        return -jnp.inf
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).min
    raise DTypeError(f"x must be a floating-point or an integer array, got {dtype}")


@functools.partial(jax.jit, static_argnames=("windows", "indices"))
def pool_maxima(x: Array, windows: _Windows, indices: bool = False) -> Best:
    """Returns the largest element of each window, and with ``indices`` where it is, -1 in the padding."""
    # Padded in here: the infinities of the padding are no result that `jax_debug_infs` could find.
    best: Best = (windows.lay_out(x, _lowest(x.dtype)),)
    if indices:
        best = (*best, windows.lay_out(_positions(x, windows.size), -1))
    # Last axis first: then the first maximum in row-major order is the one that stays.
    axes = windows.axes[::-1]
    if lowering_mode() == "xla" and not indices and max(windows.dilation) == 1:
        return (reduce_windows(best[0], axes, _lowest(x.dtype), lax.max),)  # with JAX's own gradient
    return maxima(best, axes)


def _positions(x: Array, size: tuple[int, ...]) -> Array:
    """Returns the row-major index of each position, int32 and in x's shape, computed in the program."""
    # Added to zeros made of x, so that they are split over devices as x is.
    index = jnp.zeros_like(x, dtype=jnp.int32)
    for axis, n in enumerate(size):
        along = lax.expand_dims(lax.iota(jnp.int32, n), range(1, len(size) - axis + 1))
        index = index * n + to_rank(along, x.ndim)
    return index


def max_pool(
    x: ArrayLike,
    window: IntOrTuple,
    *,
    stride: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
) -> Array:
    """Returns the largest element of each window.

    Padding never wins: a window that sees nothing else gives the lowest value of the type. Of equal elements the first
    in row-major order takes the whole gradient, as in torch. NaN wins over numbers.

    Args:
      x: floating-point or integer array of shape ``(*batch, *spatial, channels)``.
      window: size of the window; an int is square, 2-D. Its length says how many axes are pooled.
      stride: step of the window; by default the window, so that windows do not overlap.
      padding: every form that `jaxconv.conv` takes.
      dilation: distance between the taps of the window.
      ceil_mode: keep a last window that hangs over the high side, if it starts inside the input or the low padding.

    Returns:
      Array of x's type, shape ``(*batch, *output, channels)``.

    Raises:
      ShapeError: the window is larger than the padded input, or ranks do not match.
      DTypeError: x is neither floating-point nor integer.

    Equals ``torch.nn.functional.max_pool2d``, which is bounded to paddings of at most half the window.

    >>> max_pool(jnp.arange(16.0).reshape(4, 4, 1), 2)[..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    x = jnp.asarray(x)
    _lowest(x.dtype)
    return pool_maxima(x, _resolve(x, window, stride, padding, dilation, ceil_mode))[0]


def max_pool_with_indices(
    x: ArrayLike,
    window: IntOrTuple,
    *,
    stride: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Returns `max_pool` and where in ``x`` each maximum stands.

    Args:
      x, window, stride, padding, dilation, ceil_mode: as in `max_pool`.

    Returns:
      y: as `max_pool`.
      indices: int32 array of y's shape, row-major over the spatial axes of ``x``, for each channel; -1 where a window
        sees padding only.

    Raises:
      ShapeError: as `max_pool`, or the spatial axes of x have more than 2,147,483,647 positions, which int32 cannot
        count.
      DTypeError: as `max_pool`.

    Equals ``torch.nn.functional.max_pool2d(return_indices=True)``.

    >>> y, indices = max_pool_with_indices(jnp.arange(16.0).reshape(4, 4, 1), 2)
    >>> indices[..., 0]
    Array([[ 5,  7],
           [13, 15]], dtype=int32)
    """
    x = jnp.asarray(x)
    _lowest(x.dtype)
    windows = _resolve(x, window, stride, padding, dilation, ceil_mode)
    _check_positions(windows.size, jnp.int32, "x")
    y, indices = pool_maxima(x, windows, indices=True)
    return y, indices


def _check_positions(size: tuple[int, ...], dtype: Any, name: str) -> None:
    """Raises ShapeError if indices of this type cannot count the positions."""
    most = jnp.iinfo(dtype).max
    if all(isinstance(n, int) for n in size) and math.prod(size) > most:  # a symbol, in an export, has no size yet
        raise ShapeError(
            f"{name} must have at most {most} spatial positions for {jnp.dtype(dtype)} indices, got {math.prod(size)}: "
            f"spatial sizes {size}"
        )


def max_unpool(y: ArrayLike, indices: ArrayLike, size: IntOrTuple) -> Array:
    """Puts each element of ``y`` back where `max_pool_with_indices` found it, among zeros.

    Args:
      y: array of shape ``(*batch, *pooled, channels)``.
      indices: integer array of the same shape, row-major over ``size``, for each channel. One outside is dropped.
      size: the spatial sizes of the result; an int is square, 2-D.

    Returns:
      Array of y's type and shape ``(*batch, *size, channels)``.

    Raises:
      ShapeError: the shapes of y and indices differ, size is smaller than y, or it has more positions than the type of
        the indices (int32, or a wider one that they have) can count.
      DTypeError: indices are not integers.

    Equals ``torch.nn.functional.max_unpool2d(output_size=size)``.

    >>> y, indices = max_pool_with_indices(jnp.arange(16.0).reshape(4, 4, 1), 2)
    >>> max_unpool(y, indices, 4)[..., 0]
    Array([[ 0.,  0.,  0.,  0.],
           [ 0.,  5.,  0.,  7.],
           [ 0.,  0.,  0.,  0.],
           [ 0., 13.,  0., 15.]], dtype=float32)
    """
    y, indices = jnp.asarray(y), jnp.asarray(indices)
    sizes = window_tuple(size, "size")
    rank = len(sizes)
    spatial_sizes(y, rank, "y")
    if y.shape != indices.shape:
        raise ShapeError(f"indices must have the shape of y, {y.shape}, got {indices.shape}")
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise DTypeError(f"indices must be integers, got {indices.dtype}")
    if any(n < m for n, m in zip(sizes, y.shape[-1 - rank : -1], strict=True)):
        raise ShapeError(
            f"size must be that of the map before pooling, at least y's {y.shape[-1 - rank : -1]}, got {sizes}"
        )
    places = math.prod(sizes)
    indices = indices.astype(wider(indices.dtype, jnp.int32))
    _check_positions(sizes, indices.dtype, "size")
    inside = (indices >= 0) & (indices < places)
    at = jnp.where(inside, indices, places)

    def put(y: Array, at: Array) -> Array:
        return jnp.zeros(places, y.dtype).at[at.reshape(-1)].set(y.reshape(-1), mode="drop").reshape(sizes)

    # Batch and channels are batching dimensions of the scatter, so they may be split over devices.
    put = jax.vmap(put, -1, -1)
    for _ in range(y.ndim - 1 - rank):
        put = jax.vmap(put)
    return put(y, at)


@functools.partial(jax.jit, static_argnames="windows")
def pool_sums(x: Array, windows: _Windows) -> Array:
    """Sums each window; half types stay in the float32 in which they are summed."""
    x = windows.lay_out(x.astype(accumulator(x.dtype)), 0)
    return window_sums(x, windows.axes)


def sum_pool(
    x: Array, window: Sequence[int], *, stride: Sequence[int], padding: Pairs, dilation: Sequence[int]
) -> Array:
    """Returns the sum of each window, in x's type: `avg_pool` before its division."""
    return pool_sums(x, _resolve(x, window, stride, padding, dilation, False)).astype(x.dtype)


def _counts(windows: _Windows, count_include_pad: bool, dtype: Any) -> Iterator[Array]:
    """Yields for each axis how many elements a window divides by there: never the ceil mode's overhang, at least 1.

    Their shapes broadcast to ``(*output, 1)``; an axis along which all windows count the same has one value.
    """
    rank = len(windows.window)
    for axis, (f, s, (low, high), d, n, out) in enumerate(zip(*windows, strict=True)):
        first, stop = (-low, n + high) if count_include_pad else (0, n + jax.core.min_dim(high, 0))
        inside: Any
        if all(isinstance(size, int) for size in (n, low, high, out)):
            taps = np.arange(out)[:, None] * s - low + np.arange(f) * d
            inside = np.maximum(((taps >= first) & (taps < stop)).sum(axis=1), 1)
            inside = inside[:1] if (inside == inside[0]).all() else inside
        else:  # sizes that are symbols, in an export
            positions, taps = (lax.broadcasted_iota(jnp.int32, (out, f), i) for i in (0, 1))
            at = positions * s + taps * d - jnp.asarray(low, jnp.int32)
            within = (at >= jnp.asarray(first, jnp.int32)) & (at < jnp.asarray(stop, jnp.int32))
            inside = jnp.maximum(jnp.sum(within, 1, dtype=jnp.int32), 1)
        yield jnp.asarray(inside, dtype).reshape(*(1,) * axis, inside.shape[0], *(1,) * (rank - axis))


def avg_pool(
    x: ArrayLike,
    window: IntOrTuple,
    *,
    stride: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Array:
    """Returns the mean of each window.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half types accumulate in float32.
      window, stride, padding, dilation, ceil_mode: as in `max_pool`.
      count_include_pad: whether the mean counts the zeros of the padding. What a last window hangs over by
        ``ceil_mode`` is never counted. A window that sees nothing to count gives 0.

    Returns:
      Array of x's type, shape ``(*batch, *output, channels)``.

    Raises:
      ShapeError: the window is larger than the padded input, or ranks do not match.
      DTypeError: x is not floating-point.

    Equals ``torch.nn.functional.avg_pool2d``.

    >>> avg_pool(jnp.arange(16.0).reshape(4, 4, 1), 2)[..., 0]
    Array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    (x,) = as_floats(x=x)
    windows = _resolve(x, window, stride, padding, dilation, ceil_mode)
    total = pool_sums(x, windows)
    # A vector for each axis: their outer product, which is exact, would be a constant of the map's size.
    counts = functools.reduce(jnp.multiply, _counts(windows, count_include_pad, total.dtype))
    return (total / to_rank(counts, x.ndim)).astype(x.dtype)


def check_power(p: float) -> None:
    """Raises ShapeError unless ``p`` is a power that a norm can have; the infinite one is max_pool's."""
    if not 1 <= p < np.inf:
        raise ShapeError(f"p must be at least 1 and finite, got {p}")


def _power(x: Array, p: float) -> Array:
    check_power(p)
    return x * x if p == 2 else jnp.abs(x) ** p


def _root(total: Array, p: float) -> Array:
    """Returns the p-th root, with gradient 0 where the sum is 0."""
    some = total != 0  # NaN too, whose gradient is NaN
    safe = jnp.where(some, total, 1)
    return jnp.where(some, jnp.sqrt(safe) if p == 2 else safe ** (1 / p), lax.stop_gradient(total))


def lp_pool(
    x: ArrayLike,
    window: IntOrTuple,
    *,
    p: float = 2,
    stride: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
) -> Array:
    """Returns the p-norm of each window: ``(sum |x|^p)^(1/p)``. The gradient of a window of zeros is 0.

    Args:
      x, window, stride, padding, dilation, ceil_mode: as in `avg_pool`.
      p: the power, at least 1.

    Returns:
      Array of x's type, shape ``(*batch, *output, channels)``.

    Raises:
      ShapeError: the window is larger than the padded input, ranks do not match, or p is below 1.
      DTypeError: x is not floating-point.

    Equals ONNX's LpPool; torch's ``lp_pool2d`` sums ``x^p`` without the absolute value.

    >>> float(lp_pool(jnp.array([[3.0], [4.0]]), (2,))[0, 0])
    5.0
    """
    (x,) = as_floats(x=x)
    windows = _resolve(x, window, stride, padding, dilation, ceil_mode)
    return _root(pool_sums(_power(x.astype(accumulator(x.dtype)), p), windows), p).astype(x.dtype)


def global_avg_pool(x: ArrayLike, *, rank: int = 2) -> Array:
    """Returns the mean over the ``rank`` spatial axes: shape ``(*batch, channels)``.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half types accumulate in float32.
      rank: the number of spatial axes.

    Raises:
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
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is neither floating-point nor integer.

    >>> global_max_pool(jnp.arange(16.0).reshape(4, 4, 1))
    Array([15.], dtype=float32)
    """
    x = jnp.asarray(x)
    _lowest(x.dtype)
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
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half types accumulate in float32.
      p: the power, at least 1.
      rank: the number of spatial axes.

    Raises:
      ShapeError: x has too few axes, or an empty spatial axis; p is below 1.
      DTypeError: x is not floating-point.

    >>> global_lp_pool(jnp.ones((4, 4, 1)))
    Array([4.], dtype=float32)
    """
    (x,) = as_floats(x=x)
    spatial_sizes(x, rank)
    total = jnp.sum(_power(x.astype(accumulator(x.dtype)), p), axis=_spatial_axes(rank))
    return _root(total, p).astype(x.dtype)


def _spatial_axes(rank: int) -> tuple[int, ...]:
    return tuple(range(-rank - 1, -1))


def adaptive_avg_pool(x: ArrayLike, size: IntOrTuple, *, rank: int = 2) -> Array:
    """Returns the means of ``size`` bins along each axis, bin i from ``floor(i N / M)`` to ``ceil((i + 1) N / M)``.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half types accumulate in float32.
      size: M, an int or one for each axis; more bins than elements repeat them.
      rank: the number of spatial axes.

    Returns:
      Array of x's type, shape ``(*batch, *size, channels)``.

    Raises:
      ShapeError: x has too few axes, an empty spatial axis, or ``size`` is not one int for each axis.
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
      ShapeError: x has too few axes, an empty spatial axis, or ``size`` is not one int for each axis.
      DTypeError: x is neither floating-point nor integer.

    Equals ``torch.nn.functional.adaptive_max_pool2d``.

    >>> adaptive_max_pool(jnp.arange(7.0)[:, None], 3, rank=1)[:, 0]
    Array([2., 4., 6.], dtype=float32)
    """
    x = jnp.asarray(x)
    _lowest(x.dtype)
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
    "avg_pool",
    "global_avg_pool",
    "global_lp_pool",
    "global_max_pool",
    "lp_pool",
    "max_pool",
    "max_pool_with_indices",
    "max_unpool",
]
