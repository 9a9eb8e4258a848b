"""Overlaps of boxes: intersection over union and what extends it to boxes that do not overlap."""

import math

import jax
import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, to_rank
from jaxconv.ops.boxes import area, as_boxes, sides


def ratio(a: Array, b: Array) -> Array:
    """Returns a / b, and 0 where b is 0, whose gradient is 0 too."""
    empty = b == 0
    return jnp.where(empty, 0, a / jnp.where(empty, 1, b))


def positive(x: Array) -> Array:
    """Returns max(x, 0) with gradient 0 at 0, and NaN for NaN."""
    return jnp.where(x <= 0, 0, x)


def intersection(a: Array, b: Array) -> Array:
    """Returns the area that boxes share, elementwise over broadcast ``(..., 4)``."""
    width = jnp.minimum(a[..., 2], b[..., 2]) - jnp.maximum(a[..., 0], b[..., 0])
    height = jnp.minimum(a[..., 3], b[..., 3]) - jnp.maximum(a[..., 1], b[..., 1])
    return positive(width) * positive(height)


def enclosing(a: Array, b: Array) -> Array:
    """Returns the smallest box that contains both, elementwise."""
    return jnp.concatenate([jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1)


def center_penalty(a: Array, b: Array, eps: float) -> Array:
    """Returns the squared distance of the centers over the squared diagonal of the box that contains both."""
    apart = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]) / 2
    around = enclosing(a, b)
    diagonal = around[..., 2:] - around[..., :2]
    return jnp.sum(apart**2, -1) / (jnp.sum(diagonal**2, -1) + eps)


def aspect_penalty(a: Array, b: Array, iou: Array, eps: float) -> Array:
    """Returns the weighted difference of aspect ratios of complete IoU; the weight is a constant in the gradient."""
    v = 4 / math.pi**2 * (_aspect_angle(a) - _aspect_angle(b)) ** 2
    alpha = jax.lax.stop_gradient(v / (1 - iou + v + eps))
    return alpha * v


def _aspect_angle(boxes: Array) -> Array:
    """Returns atan(width / height), and 0 for a box without sides, with finite gradients."""
    width, height = sides(boxes)
    sign = jnp.where(height < 0, -1, 1).astype(boxes.dtype)
    none = (width == 0) & (height == 0)
    return jnp.arctan2(jnp.where(none, 0, width * sign), jnp.where(none, 1, height * sign))


def _pairs(boxes1: ArrayLike, boxes2: ArrayLike) -> tuple[Array, Array, Array]:
    """Returns ``(..., N, 1, 4)``, ``(..., 1, M, 4)``, and their IoU ``(..., N, M)``, at least in float32."""
    one, other = as_boxes(boxes1=boxes1, boxes2=boxes2)
    for name, a in (("boxes1", one), ("boxes2", other)):
        if a.ndim < 2:
            raise ShapeError(f"{name} must have shape (..., N, 4), got {a.shape}")
    rank = max(one.ndim, other.ndim)
    wide = accumulator(one.dtype)
    a = to_rank(one.astype(wide), rank)[..., :, None, :]
    b = to_rank(other.astype(wide), rank)[..., None, :, :]
    shared = intersection(a, b)
    return a, b, ratio(shared, area(a) + area(b) - shared)


def box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> Array:
    """Returns the intersection over union of each box of one set with each of another.

    Args:
      boxes1: floating-point array ``(..., N, 4)``.
      boxes2: floating-point array ``(..., M, 4)``, whose batch axes broadcast with those of ``boxes1``.

    Returns:
      Array ``(..., N, M)`` of the common type.

    Raises:
      ShapeError: the last axis is not 4, or there is no axis before it.

    Equals ``torchvision.ops.box_iou``, but that two boxes without area have IoU 0 rather than NaN: such boxes pad a
    batch.

    >>> box_iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[1.0, 0.0, 3.0, 2.0], [0.0, 0.0, 2.0, 2.0]])).round(3)
    Array([[0.333, 1.   ]], dtype=float32)
    """
    iou = _pairs(boxes1, boxes2)[2]
    return iou.astype(jnp.result_type(boxes1, boxes2))


def generalized_box_iou(boxes1: ArrayLike, boxes2: ArrayLike) -> Array:
    """Returns the generalized IoU of each pair: IoU less the empty share of the box around both (Rezatofighi et al.).

    Args:
      boxes1, boxes2: as in `box_iou`.

    Returns:
      Array ``(..., N, M)`` of the common type, from -1 to 1.

    Raises:
      ShapeError: as in `box_iou`.

    Equals ``torchvision.ops.generalized_box_iou``; without area it has 0 for 0 / 0, as `box_iou`.

    >>> generalized_box_iou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[3.0, 0.0, 4.0, 1.0]]))
    Array([[-0.5]], dtype=float32)
    """
    a, b, iou = _pairs(boxes1, boxes2)
    around = area(enclosing(a, b))
    union = area(a) + area(b) - intersection(a, b)
    return (iou - ratio(around - union, around)).astype(jnp.result_type(boxes1, boxes2))


def distance_box_iou(boxes1: ArrayLike, boxes2: ArrayLike, *, eps: float = 1e-7) -> Array:
    """Returns the distance IoU of each pair: IoU less the normalized distance of the centers (Zheng et al., 2020).

    Args:
      boxes1, boxes2: as in `box_iou`.
      eps: added to the squared diagonal of the box around both.

    Returns:
      Array ``(..., N, M)`` of the common type.

    Raises:
      ShapeError: as in `box_iou`.

    Equals ``torchvision.ops.distance_box_iou``; without area it has 0 for 0 / 0, as `box_iou`.

    >>> distance_box_iou(jnp.array([[0.0, 0.0, 2.0, 2.0]]), jnp.array([[2.0, 0.0, 4.0, 2.0]]))
    Array([[-0.2]], dtype=float32)
    """
    a, b, iou = _pairs(boxes1, boxes2)
    return (iou - center_penalty(a, b, eps)).astype(jnp.result_type(boxes1, boxes2))


def complete_box_iou(boxes1: ArrayLike, boxes2: ArrayLike, *, eps: float = 1e-7) -> Array:
    """Returns the complete IoU of each pair: distance IoU less the difference of aspect ratios (Zheng et al., 2020).

    Args:
      boxes1, boxes2: as in `box_iou`.
      eps: avoids a division by zero.

    Returns:
      Array ``(..., N, M)`` of the common type. The weight of the aspect ratios is a constant in the gradient.

    Raises:
      ShapeError: as in `box_iou`.

    Equals ``torchvision.ops.complete_box_iou``; without area it has 0 for 0 / 0, as `box_iou`.

    >>> complete_box_iou(jnp.array([[0.0, 0.0, 1.0, 1.0]]), jnp.array([[0.0, 0.0, 1.0, 1.0]]))
    Array([[1.]], dtype=float32)
    """
    a, b, iou = _pairs(boxes1, boxes2)
    complete = iou - center_penalty(a, b, eps) - aspect_penalty(a, b, iou, eps)
    return complete.astype(jnp.result_type(boxes1, boxes2))


__all__ = ["box_iou", "complete_box_iou", "distance_box_iou", "generalized_box_iou"]
