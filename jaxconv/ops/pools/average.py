"""Pools that sum each window: the mean, and the p-norm."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError
from jaxconv.geometry import IntOrTuple, Padding, Pairs
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, to_rank
from jaxconv.ops.lowering.pool import window_sums
from jaxconv.ops.pools.windows import Resolved, resolve


@functools.partial(jax.jit, static_argnames="windows")
def pool_sums(x: Array, windows: Resolved) -> Array:
    """Sums each window; half precision stays in the float32 of the sums."""
    x = windows.lay_out(x.astype(accumulator(x.dtype)), 0)
    return window_sums(x, windows.axes)


def sum_pool(
    x: Array, window: Sequence[int], *, stride: Sequence[int], padding: Pairs, dilation: Sequence[int]
) -> Array:
    """Returns the sum of each window, in x's type: `avg_pool` before its division."""
    return pool_sums(x, resolve(x, window, stride, padding, dilation, False)).astype(x.dtype)


def _counts(windows: Resolved, count_include_pad: bool, dtype: Any) -> Iterator[Array]:
    """Yields for each axis the number of elements that a window counts: without the ceil mode's overhang, at least 1.

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
      x: floating-point array of shape ``(*batch, *spatial, channels)``; half precision accumulates in float32.
      window, stride, padding, dilation, ceil_mode: as in `max_pool`.
      count_include_pad: whether the mean counts the zeros of the padding. The part of a last window that hangs over the
        padded input, by ``ceil_mode``, is never counted. A window without elements to count gives 0.

    Returns:
      Array of x's type, shape ``(*batch, *output, channels)``.

    Raises:
      ArgumentError: an option is not valid.
      ShapeError: the window is larger than the padded input, or x has too few axes.
      DTypeError: x is not floating-point.

    Equals ``torch.nn.functional.avg_pool2d``.

    >>> avg_pool(jnp.arange(16.0).reshape(4, 4, 1), 2)[..., 0]
    Array([[ 2.5,  4.5],
           [10.5, 12.5]], dtype=float32)
    """
    (x,) = as_floats(x=x)
    windows = resolve(x, window, stride, padding, dilation, ceil_mode)
    total = pool_sums(x, windows)
    # A vector for each axis: their outer product, which is exact, would be a constant of the array's size.
    counts = functools.reduce(jnp.multiply, _counts(windows, count_include_pad, total.dtype))
    return (total / to_rank(counts, x.ndim)).astype(x.dtype)


def check_power(p: float) -> None:
    """Raises ArgumentError unless ``p`` is from 1 up and finite; the infinite norm is `max_pool` of magnitudes."""
    if not 1 <= p < np.inf:
        raise ArgumentError(f"p must be at least 1 and finite, got {p}")


def power(x: Array, p: float) -> Array:
    check_power(p)
    return x * x if p == 2 else jnp.abs(x) ** p


def root(total: Array, p: float) -> Array:
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
      ArgumentError: an option is not valid, such as p below 1.
      ShapeError: the window is larger than the padded input, or x has too few axes.
      DTypeError: x is not floating-point.

    Equals ONNX's LpPool; torch's ``lp_pool2d`` sums ``x^p`` without the absolute value.

    >>> float(lp_pool(jnp.array([[3.0], [4.0]]), (2,))[0, 0])
    5.0
    """
    (x,) = as_floats(x=x)
    windows = resolve(x, window, stride, padding, dilation, ceil_mode)
    return root(pool_sums(power(x.astype(accumulator(x.dtype)), p), windows), p).astype(x.dtype)


__all__ = ["avg_pool", "lp_pool"]
