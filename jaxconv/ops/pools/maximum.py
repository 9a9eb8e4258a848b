"""Max pools, and the positions of the maxima."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple, Padding
from jaxconv.ops.arrays import Array, ArrayLike, to_rank
from jaxconv.ops.lowering.maxima import Best
from jaxconv.ops.lowering.pool import maxima
from jaxconv.ops.pools.windows import Resolved, resolve


def lowest(dtype: Any) -> Any:
    """Returns the lowest value of a type, or raises DTypeError if it has no maximum."""
    if jnp.issubdtype(dtype, jnp.floating):
        return -jnp.inf
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).min
    raise DTypeError(f"x must be a floating-point or an integer array, got {dtype}")


@functools.partial(jax.jit, static_argnames=("windows", "indices"))
def pool_maxima(x: Array, windows: Resolved, indices: bool = False) -> Best:
    """Returns the largest element of each window, and with ``indices`` its position, -1 in the padding."""
    # Padded under jit, so that `jax_debug_infs` does not see the infinities of the padding.
    best: Best = (windows.lay_out(x, lowest(x.dtype)),)
    if indices:
        best = (*best, windows.lay_out(_positions(x, windows.size), -1))
    # Last axis first: then the first maximum in row-major order wins.
    return maxima(best, windows.axes[::-1])


def _positions(x: Array, size: tuple[int, ...]) -> Array:
    """Returns the row-major index of each position, int32 and in x's shape, computed in the program."""
    # Added to zeros made of x, so that they are divided over devices as x is.
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

    Padding is never the largest element: a window that contains only padding gives the lowest value of the type. Of
    equal elements the first in row-major order receives the whole gradient, as in torch. A NaN is larger than every
    other value.

    Args:
      x: floating-point or integer array of shape ``(*batch, *spatial, channels)``.
      window: size of the window; an int is square, 2-D. Its length says how many axes are pooled.
      stride: step of the window; by default the window, so that windows do not overlap.
      padding: every form that `jaxconv.conv` accepts.
      dilation: distance between the taps of the window.
      ceil_mode: keep a last window that hangs over the high side, if it starts inside the input or the low padding.

    Returns:
      Array of x's type, shape ``(*batch, *output, channels)``.

    Raises:
      ArgumentError: an option is not valid.
      ShapeError: the window is larger than the padded input, or x has too few axes.
      DTypeError: x is neither floating-point nor integer.

    Equals ``torch.nn.functional.max_pool2d``, which is bounded to paddings of at most half the window.

    >>> max_pool(jnp.arange(16.0).reshape(4, 4, 1), 2)[..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)
    """
    x = jnp.asarray(x)
    lowest(x.dtype)
    return pool_maxima(x, resolve(x, window, stride, padding, dilation, ceil_mode))[0]


def max_pool_with_indices(
    x: ArrayLike,
    window: IntOrTuple,
    *,
    stride: IntOrTuple | None = None,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:
    """Returns `max_pool` and the position in ``x`` of each maximum.

    Args:
      x, window, stride, padding, dilation, ceil_mode: as in `max_pool`.

    Returns:
      y: as `max_pool`.
      indices: int32 array of y's shape, row-major over the spatial axes of ``x``, for each channel; -1 where a window
        sees padding only.

    Raises:
      ArgumentError: an option is not valid.
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
    lowest(x.dtype)
    windows = resolve(x, window, stride, padding, dilation, ceil_mode)
    check_positions(windows.size, jnp.int32, "x")
    y, indices = pool_maxima(x, windows, indices=True)
    return y, indices


def check_positions(size: tuple[int, ...], dtype: Any, name: str) -> None:
    """Raises ShapeError if indices of this type cannot count the positions."""
    most = jnp.iinfo(dtype).max
    if all(isinstance(n, int) for n in size) and math.prod(size) > most:  # a symbol, in an export, has no size yet
        raise ShapeError(
            f"{name} must have at most {most} spatial positions for {jnp.dtype(dtype)} indices, got {math.prod(size)}: "
            f"spatial sizes {size}"
        )


__all__ = ["max_pool", "max_pool_with_indices"]
