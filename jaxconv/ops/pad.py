"""Padding by zeros, by a value, or by the array's own elements."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import Pairs, explicit_padding, surely_less
from jaxconv.ops.arrays import Array, ArrayLike, pad_axes, slice_axis, spatial_sizes

# The most that each mode can pad of n elements on one side.
_MODES = {"reflect": lambda n: n - 1, "edge": lambda n: float("inf"), "circular": lambda n: n}


def pad(
    x: ArrayLike,
    padding: int | Sequence[int | tuple[int, int]],
    *,
    mode: str = "zeros",
    value: Any = 0,
    rank: int = 2,
) -> Array:
    """Pads the spatial axes of ``x``; negative integers crop.

    On ``1234`` padded by 2: "zeros" ``00 1234 00``, "reflect" ``32 1234 32``, "edge" ``11 1234 44``, "circular"
    ``34 1234 12``.

    Args:
      x: array of shape ``(*batch, *spatial, channels)``, of any numeric type.
      padding: an int for every side, or a sequence with an int or a (low, high) pair for each axis.
      mode: "zeros", "reflect" (the border element is not repeated), "edge" or "circular".
      value: what "zeros" pads with.
      rank: the number of spatial axes; a sequence ``padding`` must have the same length.

    Returns:
      Array of the same type, each axis longer by low + high.

    Raises:
      ArgumentError: an unknown mode, or the wrong number of pairs.
      ShapeError: more padding than the mode has elements for, or padding that crops all elements.
      DTypeError: x's type cannot represent value.

    Equals ``torch.nn.functional.pad`` with modes constant, reflect, replicate and circular.

    >>> pad(jnp.arange(1, 5)[:, None], 2, mode="reflect", rank=1)[:, 0]
    Array([3, 2, 1, 2, 3, 4, 3, 2], dtype=int32)
    """
    x = jnp.asarray(x)
    if mode == "zeros" and jnp.issubdtype(x.dtype, jnp.integer):
        least, most = jnp.iinfo(x.dtype).min, jnp.iinfo(x.dtype).max
        if not float(value).is_integer() or not least <= value <= most:
            raise DTypeError(f"value must fit into x's type {x.dtype}, got {value}")
    spatial_sizes(x, rank)
    return pad_pairs(x, explicit_padding(padding, rank), mode, value)


def check_mode(mode: str, argument: str) -> None:
    """Raises ArgumentError if there is no such mode."""
    if mode != "zeros" and mode not in _MODES:
        raise ArgumentError(f"{argument} must be one of zeros, {', '.join(_MODES)}, got {mode!r}")


def pad_pairs(x: Array, pairs: Pairs, mode: str, value: Any = 0, *, argument: str = "mode") -> Array:
    """Pads the spatial axes of ``x`` by resolved pairs; ``argument`` is what the caller calls the mode."""
    rank = len(pairs)
    sizes = spatial_sizes(x, rank)
    for axis, (n, (low, high)) in enumerate(zip(sizes, pairs, strict=True)):
        inside = n + jax.core.min_dim(low, 0) + jax.core.min_dim(high, 0)
        if surely_less(inside, 1) or surely_less(low + n + high, 1):
            raise ShapeError(f"padding must leave an element of spatial axis {axis}, of size {n}, got ({low}, {high})")
    if mode == "zeros":
        return pad_axes(x, pairs, value)
    check_mode(mode, argument)
    most = _MODES[mode]
    x = pad_axes(x, [(jax.core.min_dim(low, 0), jax.core.min_dim(high, 0)) for low, high in pairs])
    grown = [(jax.core.max_dim(low, 0), jax.core.max_dim(high, 0)) for low, high in pairs]
    for axis, (n, pair) in enumerate(zip(spatial_sizes(x, rank), grown, strict=True)):
        limit = most(n)
        if limit != math.inf and any(surely_less(limit, p) for p in pair):
            raise ShapeError(
                f"padding must be at most {limit} for {argument} {mode!r} on spatial axis {axis} of size {n}, "
                f"got {pair}"
            )
    for i, (low, high) in enumerate(grown):
        if low or high:
            x = _lay_around(x, x.ndim - 1 - rank + i, low, high, mode)
    return x


def _lay_around(x: Array, axis: int, low: int, high: int, mode: str) -> Array:
    """Adds elements of ``x`` at both ends of one axis; the other axes keep their sharding."""
    n = x.shape[axis]
    if mode == "circular":
        before, after = slice_axis(x, axis, n - low, n), slice_axis(x, axis, 0, high)
    elif mode == "reflect":
        before = lax.rev(slice_axis(x, axis, 1, low + 1), (axis,))
        after = lax.rev(slice_axis(x, axis, n - 1 - high, n - 1), (axis,))
    else:

        def repeated(at: int, times: int) -> Array:
            return jnp.broadcast_to(slice_axis(x, axis, at, at + 1), (*x.shape[:axis], times, *x.shape[axis + 1 :]))

        before, after = repeated(0, low), repeated(n - 1, high)
    return lax.concatenate([before, x, after], axis)


__all__ = ["pad"]
