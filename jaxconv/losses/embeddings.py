"""Losses of embeddings: a value for each example or pair, in float32 for half precision."""

import math

import jax
import jax.numpy as jnp

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.losses.base import check_same_shape, wide
from jaxconv.ops.arrays import Array, ArrayLike, as_floats


def _embeddings(embeddings: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    [x] = map(wide, as_floats(embeddings=embeddings))
    if x.ndim != 2:
        raise ShapeError(f"embeddings must have shape (N, features), got {x.shape}")
    y = jnp.asarray(labels)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise DTypeError(f"labels must be integers, got {y.dtype}")
    if y.shape != x.shape[:1]:
        raise ShapeError(f"labels must have shape {x.shape[:1]}, one for each of the embeddings, got {y.shape}")
    return x, y


def _root(squared: Array) -> Array:
    """Returns the square root, with gradient 0 at 0."""
    zero = squared <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, squared)))


def _unit(x: Array) -> Array:
    """Returns vectors of length 1; a zero vector stays as it is."""
    squared = jnp.sum(x**2, -1, keepdims=True)
    return x / _root(jnp.where(squared == 0, 1, squared))


def triplet_loss(embeddings: ArrayLike, labels: ArrayLike, *, margin: float = 1.0) -> Array:
    """Returns for each example its triplet loss with the hardest positive and negative of the batch.

    Args:
      embeddings: floating-point array ``(N, features)``.
      labels: integers ``(N,)``.
      margin: by how much the nearest example of another label must be farther than the farthest of the same.

    Returns:
      Array ``(N,)``: ``max(0, farthest - nearest + margin)`` in Euclidean distances; 0 for an example without another
      of its label, or without one of another label.

    Raises:
      ShapeError: a wrong shape.
      DTypeError: labels are not integers.

    Hermans et al., 2017. `optax.losses.triplet_margin_loss` has given triplets.

    >>> triplet_loss(jnp.array([[0.0], [1.0], [1.5]]), jnp.array([0, 0, 1]), margin=1.0)
    Array([0.5, 1.5, 0. ], dtype=float32)
    """
    x, y = _embeddings(embeddings, labels)
    # Differences rather than a product of matrices: small distances keep their precision.
    distance = _root(jnp.sum((x[:, None] - x[None]) ** 2, -1))
    same = y[:, None] == y[None]
    positive = same & ~jnp.eye(len(y), dtype=bool)
    counts = positive.any(1) & ~same.all(1)
    farthest = jnp.max(jnp.where(positive, distance, 0), 1, initial=0)
    nearest = jnp.min(jnp.where(same, jnp.finfo(x.dtype).max, distance), 1, initial=jnp.finfo(x.dtype).max)
    gap = farthest - jnp.where(counts, nearest, 0) + margin
    return jnp.where(counts & (gap > 0), gap, 0)


def contrastive_loss(embeddings1: ArrayLike, embeddings2: ArrayLike, same: ArrayLike, *, margin: float = 1.0) -> Array:
    """Returns for each pair half the squared distance, or half the squared lack of a margin (Hadsell et al., 2006).

    Args:
      embeddings1, embeddings2: floating-point arrays ``(N, features)`` of one shape.
      same: bool or integers ``(N,)``: whether the two belong together.
      margin: the least distance of two that do not.

    Returns:
      Array ``(N,)``: ``d^2 / 2`` where ``same``, otherwise ``max(0, margin - d)^2 / 2``.

    Raises:
      ShapeError: shapes differ.

    >>> contrastive_loss(jnp.array([[0.0], [0.0]]), jnp.array([[2.0], [0.5]]), jnp.array([True, False]))
    Array([2.   , 0.125], dtype=float32)
    """
    a, b = map(wide, as_floats(embeddings1=embeddings1, embeddings2=embeddings2))
    check_same_shape("embeddings2", b, "embeddings1", a)
    together = jnp.asarray(same)
    if a.ndim != 2 or together.shape != a.shape[:1]:
        raise ShapeError(
            f"same must have shape (N,) for embeddings (N, features), got {together.shape} and embeddings {a.shape}"
        )
    squared = jnp.sum((a - b) ** 2, -1)
    lack = jnp.maximum(margin - _root(squared), 0)
    return jnp.where(together != 0, squared, lack**2) / 2


def arcface_loss(
    embeddings: ArrayLike, kernel: ArrayLike, labels: ArrayLike, *, margin: float = 0.5, scale: float = 64.0
) -> Array:
    """Returns the cross-entropy of scaled cosines, with a margin on the angle to the right class (Deng et al., 2019).

    Args:
      embeddings: floating-point array ``(N, features)``; only directions count.
      kernel: floating-point array ``(features, classes)``, a parameter: the direction of each class.
      labels: integers ``(N,)``, the classes.
      margin: added to the angle, in radians, from 0 to pi.
      scale: what cosines are multiplied by.

    Returns:
      Array ``(N,)``. Where angle and margin exceed pi the cosine goes on as a straight line, so that the loss grows
      with the angle.

    Raises:
      ShapeError: a wrong shape.
      DTypeError: labels are not integers.
      ArgumentError: ``margin`` is not from 0 to pi, or ``scale`` is not positive.

    >>> arcface_loss(jnp.array([[2.0, 0.0]]), jnp.eye(2), jnp.array([0]), margin=0.5, scale=4.0).round(4)
    Array([0.0295], dtype=float32)
    """
    x, y = _embeddings(embeddings, labels)
    [w] = map(wide, as_floats(kernel=kernel))
    if w.ndim != 2 or w.shape[0] != x.shape[1]:
        raise ShapeError(f"kernel must have shape ({x.shape[1]}, classes), got {w.shape}")
    if not 0 <= margin <= math.pi:
        raise ArgumentError(f"margin must be a number from 0 to pi, got {margin!r}")
    if not scale > 0:
        raise ArgumentError(f"scale must be positive, got {scale!r}")
    cosines = jnp.matmul(_unit(x), _unit(w.T).T, precision="highest")
    own = jnp.take_along_axis(cosines, y[:, None], 1)[:, 0]
    # cos(a + m); the sine is at least a rounding error, whose root would have no gradient.
    sine = jnp.sqrt(jnp.maximum(1 - own**2, jnp.finfo(own.dtype).eps))
    moved = own * math.cos(margin) - sine * math.sin(margin)
    moved = jnp.where(own > -math.cos(margin), moved, own - margin * math.sin(margin))
    right = y[:, None] == jnp.arange(w.shape[1])[None]
    logits = scale * jnp.where(right, moved[:, None], cosines)
    return jax.nn.logsumexp(logits, 1) - scale * moved


__all__ = ["arcface_loss", "contrastive_loss", "triplet_loss"]
