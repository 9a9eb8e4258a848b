"""The inverse of a max pool with indices."""

import math

import jax
import jax.numpy as jnp

from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple
from jaxconv.ops.arrays import Array, ArrayLike, spatial_sizes, wider, window_tuple
from jaxconv.ops.pools.maximum import check_positions


def max_unpool(y: ArrayLike, indices: ArrayLike, size: IntOrTuple) -> Array:
    """Puts each element of ``y`` back at its position before `max_pool_with_indices`, among zeros.

    Args:
      y: array of shape ``(*batch, *pooled, channels)``.
      indices: integer array of the same shape, row-major over ``size``, for each channel. An element whose index is out
        of range is dropped.
      size: the spatial sizes of the result; an int is square, 2-D.

    Returns:
      Array of y's type and shape ``(*batch, *size, channels)``.

    Raises:
      ArgumentError: size is not one positive int for each axis.
      ShapeError: the shapes of y and indices differ, size is smaller than y, or it has more positions than the type of
        the indices (int32, or a wider one that they have) can count.
      DTypeError: indices are not integers.

    Equals ``torch.nn.functional.max_unpool2d(output_size=size)``.

    >>> y, indices = jc.max_pool_with_indices(jnp.arange(16.0).reshape(4, 4, 1), 2)
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
            f"size must be the spatial sizes before pooling, at least y's {y.shape[-1 - rank : -1]}, got {sizes}"
        )
    positions = math.prod(sizes)
    indices = indices.astype(wider(indices.dtype, jnp.int32))
    check_positions(sizes, indices.dtype, "size")
    inside = (indices >= 0) & (indices < positions)
    at = jnp.where(inside, indices, positions)

    def put(y: Array, at: Array) -> Array:
        return jnp.zeros(positions, y.dtype).at[at.reshape(-1)].set(y.reshape(-1), mode="drop").reshape(sizes)

    # Batch and channels are batching dimensions of the scatter, so they may be divided over devices.
    put = jax.vmap(put, -1, -1)
    for _ in range(y.ndim - 1 - rank):
        put = jax.vmap(put)
    return put(y, at)


__all__ = ["max_unpool"]
