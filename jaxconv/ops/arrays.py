"""What every op needs of its arrays: floats, half precision accumulated in float32, batch axes folded into one."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int, as_tuple

Array = jax.Array
ArrayLike = jax.typing.ArrayLike
DType = Any


def as_floats(**arrays: ArrayLike | None) -> list[Any]:
    """Returns the arrays promoted to their common floating type, or raises DTypeError.

    Args:
      arrays: the op's arguments by name, so that the error can name the wrong one. Scale and bias may be None and
        remain None.
    """
    for name, a in arrays.items():
        if a is None and name not in ("scale", "bias"):
            raise DTypeError(f"{name} must be an array, got None")
    given = {name: jnp.asarray(a) for name, a in arrays.items() if a is not None}
    for name, a in given.items():
        if not jnp.issubdtype(a.dtype, jnp.floating):
            raise DTypeError(f"{name} must be a floating-point array, got {a.dtype}: convert it first")
    dtype = jnp.result_type(*given.values())
    return [given[name].astype(dtype) if name in given else None for name in arrays]


def accumulator(dtype: DType) -> DType:
    """Returns the type in which ``dtype`` is summed: float32 for half precision, otherwise itself."""
    wide = jnp.issubdtype(dtype, jnp.inexact) and jnp.finfo(dtype).bits >= 32
    return dtype if wide or not jnp.issubdtype(dtype, jnp.inexact) else jnp.float32


def wider(first: DType, second: DType) -> DType:
    """Returns the type that represents both, whatever ``jax_numpy_dtype_promotion`` is: for types that the ops choose.

    For arrays of different types that a user combines there is `as_floats`, which obeys that flag.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.promote_types(first, second)


def to_rank(a: Array, rank: int) -> Array:
    """Returns ``a`` with axes of size 1 in front, which ``jax_numpy_rank_promotion`` may forbid to add implicitly."""
    return jax.lax.expand_dims(a, range(rank - a.ndim))


def add_bias(y: Array, bias: Array | None, dtype: DType) -> Array:
    """Adds the bias to a sum still in its accumulating type, then rounds once."""
    return (y if bias is None else y + to_rank(bias.astype(y.dtype), y.ndim)).astype(dtype)


def spatial_sizes(x: Array, rank: int, name: str = "x") -> tuple[int, ...]:
    """Returns the sizes of the ``rank`` spatial axes of ``x``, shape ``(*batch, *spatial, channels)``."""
    rank = as_int(rank, "rank", least=1)
    if x.ndim < rank + 1:
        raise ShapeError(
            f"{name} must have {rank} spatial axes and channels, so at least {rank + 1} axes, got shape {x.shape}"
        )
    sizes = x.shape[-rank - 1 : -1]
    if 0 in sizes:
        raise ShapeError(f"{name} must have no empty spatial axis, got shape {x.shape}")
    return sizes


def window_tuple(window: int | Sequence[int], name: str = "window") -> tuple[int, ...]:
    """Returns a pool's window as a tuple; an int is square, 2-D."""
    rank = len(window) if isinstance(window, Sequence) else 2
    if rank == 0:
        raise ArgumentError(f"{name} must have at least one axis, got ()")
    return as_tuple(window, rank, name)


def over_one_batch(function: Callable[..., Array], rank: int, x: Array) -> Array:
    """Runs ``function`` on ``x`` with all its batch axes folded into exactly one."""
    batch = x.shape[: x.ndim - rank - 1]
    if len(batch) == 1:
        return function(x)
    y = function(x.reshape(int(np.prod(batch)), *x.shape[x.ndim - rank - 1 :]))
    return y.reshape(*batch, *y.shape[1:])


def slice_axis(x: Array, axis: int, start: int, stop: int, stride: int = 1) -> Array:
    """Returns ``x[start:stop:stride]`` along one axis, as one `lax.slice`."""
    return jax.lax.slice_in_dim(x, start, stop, stride, axis)


def pad_axes(x: Array, pairs: Sequence[tuple[int, int]], value: Any = 0) -> Array:
    """Pads, or where negative crops, the spatial axes before the last of ``x`` by a constant."""
    if all(low == 0 and high == 0 for low, high in pairs):
        return x
    first = x.ndim - 1 - len(pairs)
    config = [(0, 0, 0)] * first + [(low, high, 0) for low, high in pairs] + [(0, 0, 0)]
    return jax.lax.pad(x, jnp.asarray(value, x.dtype), config)


def largest(x: Array, axis: int | tuple[int, ...] | None = None) -> Array:
    """Returns `jnp.max`, or NaN if an element is NaN: XLA:CPU of jaxlib 0.10 may lose a NaN among many elements.

    >>> largest(jnp.ones(4096).at[5].set(jnp.nan))
    Array(nan, dtype=float32)
    """
    highest = jnp.max(x, axis)
    return jnp.where(jnp.isnan(x).any(axis), jnp.nan, highest).astype(x.dtype)


def apply_along(x: Array, matrix: np.ndarray, axis: int) -> Array:
    """Multiplies one axis of ``x`` by a constant matrix ``(in, out)``, in x's type and to its full precision."""
    constant = jnp.asarray(matrix, x.dtype)
    y = jax.lax.dot_general(x, constant, (((axis,), (0,)), ((), ())), precision=jax.lax.Precision.HIGHEST)
    return jnp.moveaxis(y, -1, axis)
