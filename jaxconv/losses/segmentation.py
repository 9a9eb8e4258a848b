"""Losses of segmentation: a value for each image, or each of its classes, in float32 for half precision."""

import jax
import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.losses.base import check_same_shape, wide
from jaxconv.ops.arrays import Array, ArrayLike, as_floats


def tversky_loss(
    probabilities: ArrayLike, targets: ArrayLike, *, alpha: float = 0.5, beta: float = 0.5, smooth: float = 1.0
) -> Array:
    """Returns 1 less the Tversky index of each class: overlap with false positives and negatives weighted apart.

    Args:
      probabilities: floating-point array ``(N, *spatial, classes)``, such as the softmax or the sigmoid of logits.
      targets: floating-point array of the same shape: 1 where a pixel is of the class, 0 elsewhere.
      alpha: the weight of false positives.
      beta: the weight of false negatives.
      smooth: added to the numerator and the denominator; of a class that is neither there nor predicted the loss is 0.

    Returns:
      Array ``(N, classes)``.

    Raises:
      ShapeError: shapes differ, or there are no spatial axes.

    Salehi et al., 2017. With weights of 1 it is the Jaccard loss.

    >>> tversky_loss(jnp.array([[[0.5], [0.5]]]), jnp.array([[[1.0], [0.0]]]), smooth=0.0)
    Array([[0.5]], dtype=float32)
    """
    p, t = map(wide, as_floats(probabilities=probabilities, targets=targets))
    check_same_shape("targets", t, "probabilities", p)
    if p.ndim < 3:
        raise ShapeError(f"probabilities must have shape (N, *spatial, classes), got {p.shape}")
    spatial = tuple(range(1, p.ndim - 1))
    both = jnp.sum(p * t, spatial)
    wrong = alpha * jnp.sum(p * (1 - t), spatial) + beta * jnp.sum((1 - p) * t, spatial)
    whole = both + wrong + smooth
    # Without smoothing, 1 for a class that is neither there nor predicted.
    index = jnp.where(whole == 0, 1, (both + smooth) / jnp.where(whole == 0, 1, whole))
    return 1 - index


def dice_loss(probabilities: ArrayLike, targets: ArrayLike, *, smooth: float = 1.0) -> Array:
    """Returns 1 less the Dice coefficient of each class, ``(2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)``.

    Args:
      probabilities, targets: as in `tversky_loss`.
      smooth: added to the numerator and the denominator; of a class that is neither there nor predicted the loss is 0.

    Returns:
      Array ``(N, classes)``.

    Raises:
      ShapeError: shapes differ, or there are no spatial axes.

    Milletari et al., 2016, whose denominator has the sums of squares. It is `tversky_loss` with weights of 0.5.

    >>> dice_loss(jnp.array([[[1.0], [1.0], [0.0]]]), jnp.array([[[1.0], [0.0], [0.0]]]), smooth=0.0).round(3)
    Array([[0.333]], dtype=float32)
    """
    return tversky_loss(probabilities, targets, smooth=smooth / 2)


def lovasz_loss(probabilities: ArrayLike, targets: ArrayLike) -> Array:
    """Returns the Lovász extension of the Jaccard loss of each class (Berman et al., 2018).

    Args:
      probabilities, targets: as in `tversky_loss`; targets are 0 or 1.

    Returns:
      Array ``(N, classes)``: the Jaccard loss where probabilities are 0 or 1, and its convex closure between.

    Raises:
      ShapeError: shapes differ, or there are no spatial axes.

    The mean over classes of one image is the Lovász-Softmax loss, where classes that an image lacks count too.

    >>> lovasz_loss(jnp.array([[[1.0], [1.0], [0.0]]]), jnp.array([[[1.0], [0.0], [0.0]]]))
    Array([[0.5]], dtype=float32)
    """
    p, t = map(wide, as_floats(probabilities=probabilities, targets=targets))
    check_same_shape("targets", t, "probabilities", p)
    if p.ndim < 3:
        raise ShapeError(f"probabilities must have shape (N, *spatial, classes), got {p.shape}")
    p, t = (a.reshape(a.shape[0], -1, a.shape[-1]) for a in (p, t))
    error = jnp.abs(t - p)
    order = jnp.argsort(-jax.lax.stop_gradient(error), 1)
    error, t = jnp.take_along_axis(error, order, 1), jnp.take_along_axis(t, order, 1)
    # The Jaccard loss of the first k pixels taken for wrong, for each k; its differences are the weights.
    both = jnp.sum(t, 1, keepdims=True) - jnp.cumsum(t, 1)
    either = jnp.sum(t, 1, keepdims=True) + jnp.cumsum(1 - t, 1)
    loss = 1 - both / jnp.maximum(either, 1)
    return jnp.sum(error * jnp.diff(loss, axis=1, prepend=jnp.zeros_like(loss[:, :1])), 1)


def stardist_loss(
    logits: ArrayLike,
    distances: ArrayLike,
    probabilities: ArrayLike,
    target_distances: ArrayLike,
    *,
    weight: float = 0.2,
    background: float = 1e-4,
) -> Array:
    """Returns StarDist's loss of each image: cross-entropy of probabilities, and the error of distances in objects.

    Args:
      logits: floating-point array ``(N, *spatial, 1)``: what `jaxconv.models.stardist` returns as prob.
      distances: floating-point array ``(N, *spatial, rays)``: what it returns as dist.
      probabilities: floating-point array ``(N, *spatial, 1)``: `jaxconv.instances.star_probabilities`. The
        cross-entropy leaves out pixels where it is negative.
      target_distances: floating-point array ``(N, *spatial, rays)``: `jaxconv.star_distances`.
      weight: the weight of the distances.
      background: the weight of the magnitude of distances on the background, against that of their error.

    Returns:
      Array ``(N,)``, whose mean is the loss of the batch: the mean binary cross-entropy, and ``weight`` times the mean
      absolute error of distances, in which pixels have their target probability as weight.

    Raises:
      ShapeError: shapes differ.

    Schmidt et al., 2018, as in stardist's ``StarDist2D``: the weights of pixels are divided by their mean.

    >>> logits, distances = jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 8), 3.0)
    >>> [loss] = stardist_loss(logits, distances, jnp.ones((1, 2, 2, 1)), distances + 1)
    >>> f"{loss:.4f}"
    '0.8931'
    """
    x, d = map(wide, as_floats(logits=logits, distances=distances))
    p, t = map(wide, as_floats(probabilities=probabilities, target_distances=target_distances))
    if x.ndim < 2 or d.ndim != x.ndim or d.shape[:-1] != x.shape[:-1] or x.shape[-1] != 1:
        raise ShapeError(
            f"logits must have shape (N, *spatial, 1) and distances (N, *spatial, rays), got {x.shape} and {d.shape}"
        )
    check_same_shape("probabilities", p, "logits", x)
    check_same_shape("target_distances", t, "distances", d)
    each = tuple(range(1, x.ndim))
    known = p >= 0
    entropy = -(p * jax.nn.log_sigmoid(x) + (1 - p) * jax.nn.log_sigmoid(-x))
    classification = jnp.sum(jnp.where(known, entropy, 0), each) * (len(x) / jnp.maximum(known.sum(), 1))
    inside = jnp.maximum(p, 0)
    error = jnp.mean(inside * jnp.abs(t - d), each) / (jnp.mean(inside) + 1e-7)
    outside = jnp.mean((1 - inside) * jnp.abs(d), each)
    return classification + weight * (error + background * outside)


__all__ = ["dice_loss", "lovasz_loss", "stardist_loss", "tversky_loss"]
