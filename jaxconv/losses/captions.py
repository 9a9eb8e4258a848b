"""Losses of captions: a value for each caption, in float32 for half precision."""

import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.losses.base import wide
from jaxconv.ops.arrays import Array, ArrayLike, as_floats


def doubly_stochastic_loss(attention: ArrayLike, mask: ArrayLike) -> Array:
    """Returns the mean over positions of ``(1 - sum of the weights over all words)^2`` (Xu et al., 2015).

    The weights of a word add up to 1. The loss also draws the sum of a position's weights to 1, so that attention
    covers all parts of the image.

    Args:
      attention: floating-point array ``(N, T, *spatial)``, the weights of each word.
      mask: bool or numbers ``(N, T)``: whether there is a word.

    Returns:
      Array ``(N,)``.

    Raises:
      ShapeError: a wrong shape.

    The paper has the sum over positions in place of the mean.

    >>> doubly_stochastic_loss(jnp.array([[[1.0, 0.0], [1.0, 0.0]]]), jnp.array([[True, False]]))
    Array([0.5], dtype=float32)
    """
    [a] = map(wide, as_floats(attention=attention))
    there = jnp.asarray(mask)
    if a.ndim < 3 or there.shape != a.shape[:2]:
        raise ShapeError(
            f"mask must have shape (N, T) for attention (N, T, *spatial), got {there.shape} and attention {a.shape}"
        )
    total = jnp.sum(jnp.where((there != 0)[..., None], a.reshape(*a.shape[:2], -1), 0), 1)
    return jnp.mean((1 - total) ** 2, -1)


__all__ = ["doubly_stochastic_loss"]
