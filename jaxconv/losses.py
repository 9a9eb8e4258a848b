"""Losses of detection, segmentation, embeddings and captions that optax does not have, without reduction over a batch.

Half precision is computed, and returned, in float32, as sums over many boxes or pixels need.
"""

import math

import jax
import jax.numpy as jnp

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats
from jaxconv.ops.boxes import area, as_boxes
from jaxconv.ops.overlaps import aspect_penalty, center_penalty, enclosing, intersection


def _wide(a: Array) -> Array:
    return a.astype(accumulator(a.dtype))


def _same_shape(name: str, a: Array, other_name: str, b: Array) -> None:
    if a.shape != b.shape:
        raise ShapeError(f"{name} must have the shape of {other_name}, {b.shape}, got {a.shape}")


def sigmoid_focal_loss(
    logits: ArrayLike, targets: ArrayLike, *, alpha: float | None = 0.25, gamma: float = 2.0
) -> Array:
    """Returns the binary cross-entropy times a factor that is small where the prediction is right (Lin et al., 2017).

    Args:
      logits: floating-point array ``(...)``.
      targets: floating-point array of the same shape: 1 for the class, 0 for others, or between.
      alpha: the weight of targets of 1, against ``1 - alpha`` of those of 0; None weights neither.
      gamma: the exponent of the factor ``1 - p``; 0 gives the cross-entropy.

    Returns:
      Array ``(...)``.

    Raises:
      ShapeError: shapes differ.
      ArgumentError: ``alpha`` is not from 0 to 1, or ``gamma`` is negative.

    Equals ``torchvision.ops.sigmoid_focal_loss``.

    >>> sigmoid_focal_loss(jnp.array([0.0, 4.0]), jnp.array([1.0, 1.0])).round(5)
    Array([0.04332, 0.     ], dtype=float32)
    """
    x, t = map(_wide, as_floats(logits=logits, targets=targets))
    _same_shape("targets", t, "logits", x)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ArgumentError(f"alpha must be a number from 0 to 1 or None, got {alpha!r}")
    if not gamma >= 0:
        raise ArgumentError(f"gamma must not be negative, got {gamma!r}")
    yes, no = jax.nn.sigmoid(x), jax.nn.sigmoid(-x)
    entropy = -(t * jax.nn.log_sigmoid(x) + (1 - t) * jax.nn.log_sigmoid(-x))
    loss = entropy * (yes * (1 - t) + no * t) ** gamma
    return loss if alpha is None else loss * (alpha * t + (1 - alpha) * (1 - t))


def _two(boxes1: ArrayLike, boxes2: ArrayLike, eps: float) -> tuple[Array, Array, Array, Array]:
    """Returns boxes, and the union and IoU of each with the box of the same index."""
    a, b = map(_wide, as_boxes(boxes1=boxes1, boxes2=boxes2))
    _same_shape("boxes2", b, "boxes1", a)
    shared = intersection(a, b)
    union = area(a) + area(b) - shared
    return a, b, union, shared / (union + eps)


def generalized_box_iou_loss(boxes1: ArrayLike, boxes2: ArrayLike, *, eps: float = 1e-7) -> Array:
    """Returns 1 less the generalized IoU of each box with the box of the same index.

    Args:
      boxes1, boxes2: floating-point arrays ``(..., 4)`` of one shape.
      eps: added to areas that are divided by, so that boxes without area have finite gradients.

    Returns:
      Array ``(...)``, from 0 to 2.

    Raises:
      ShapeError: shapes differ, or the last axis is not 4.

    Equals ``torchvision.ops.generalized_box_iou_loss``.

    >>> generalized_box_iou_loss(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 4.0, 1.0]))
    Array(1.5, dtype=float32)
    """
    a, b, union, iou = _two(boxes1, boxes2, eps)
    around = area(enclosing(a, b))
    return 1 - iou + (around - union) / (around + eps)


def distance_box_iou_loss(boxes1: ArrayLike, boxes2: ArrayLike, *, eps: float = 1e-7) -> Array:
    """Returns 1 less the distance IoU of each box with the box of the same index.

    Args:
      boxes1, boxes2, eps: as in `generalized_box_iou_loss`.

    Returns:
      Array ``(...)``, from 0 to 2.

    Raises:
      ShapeError: shapes differ, or the last axis is not 4.

    Equals ``torchvision.ops.distance_box_iou_loss``.

    >>> distance_box_iou_loss(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 4.0, 1.0])).round(3)
    Array(1.529, dtype=float32)
    """
    a, b, _, iou = _two(boxes1, boxes2, eps)
    return 1 - iou + center_penalty(a, b, eps)


def complete_box_iou_loss(boxes1: ArrayLike, boxes2: ArrayLike, *, eps: float = 1e-7) -> Array:
    """Returns 1 less the complete IoU of each box with the box of the same index.

    Args:
      boxes1, boxes2, eps: as in `generalized_box_iou_loss`.

    Returns:
      Array ``(...)``. The weight of the aspect ratios is a constant in the gradient.

    Raises:
      ShapeError: shapes differ, or the last axis is not 4.

    Equals ``torchvision.ops.complete_box_iou_loss``.

    >>> complete_box_iou_loss(jnp.array([0.0, 0.0, 1.0, 1.0]), jnp.array([3.0, 0.0, 4.0, 1.0])).round(3)
    Array(1.529, dtype=float32)
    """
    a, b, _, iou = _two(boxes1, boxes2, eps)
    return 1 - iou + center_penalty(a, b, eps) + aspect_penalty(a, b, iou, eps)


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
    p, t = map(_wide, as_floats(probabilities=probabilities, targets=targets))
    _same_shape("targets", t, "probabilities", p)
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
    p, t = map(_wide, as_floats(probabilities=probabilities, targets=targets))
    _same_shape("targets", t, "probabilities", p)
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


def _embeddings(embeddings: ArrayLike, labels: ArrayLike) -> tuple[Array, Array]:
    [x] = map(_wide, as_floats(embeddings=embeddings))
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
    a, b = map(_wide, as_floats(embeddings1=embeddings1, embeddings2=embeddings2))
    _same_shape("embeddings2", b, "embeddings1", a)
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
    [w] = map(_wide, as_floats(kernel=kernel))
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
    [a] = map(_wide, as_floats(attention=attention))
    there = jnp.asarray(mask)
    if a.ndim < 3 or there.shape != a.shape[:2]:
        raise ShapeError(
            f"mask must have shape (N, T) for attention (N, T, *spatial), got {there.shape} and attention {a.shape}"
        )
    total = jnp.sum(jnp.where((there != 0)[..., None], a.reshape(*a.shape[:2], -1), 0), 1)
    return jnp.mean((1 - total) ** 2, -1)


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
    x, d = map(_wide, as_floats(logits=logits, distances=distances))
    p, t = map(_wide, as_floats(probabilities=probabilities, target_distances=target_distances))
    if x.ndim < 2 or d.ndim != x.ndim or d.shape[:-1] != x.shape[:-1] or x.shape[-1] != 1:
        raise ShapeError(
            f"logits must have shape (N, *spatial, 1) and distances (N, *spatial, rays), got {x.shape} and {d.shape}"
        )
    _same_shape("probabilities", p, "logits", x)
    _same_shape("target_distances", t, "distances", d)
    each = tuple(range(1, x.ndim))
    known = p >= 0
    entropy = -(p * jax.nn.log_sigmoid(x) + (1 - p) * jax.nn.log_sigmoid(-x))
    classification = jnp.sum(jnp.where(known, entropy, 0), each) * (len(x) / jnp.maximum(known.sum(), 1))
    inside = jnp.maximum(p, 0)
    error = jnp.mean(inside * jnp.abs(t - d), each) / (jnp.mean(inside) + 1e-7)
    outside = jnp.mean((1 - inside) * jnp.abs(d), each)
    return classification + weight * (error + background * outside)


__all__ = [
    "arcface_loss",
    "complete_box_iou_loss",
    "contrastive_loss",
    "dice_loss",
    "distance_box_iou_loss",
    "doubly_stochastic_loss",
    "generalized_box_iou_loss",
    "lovasz_loss",
    "sigmoid_focal_loss",
    "stardist_loss",
    "triplet_loss",
    "tversky_loss",
]


def __dir__() -> list[str]:
    return sorted(__all__)
