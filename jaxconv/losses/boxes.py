"""Losses of boxes, 1 less an IoU: a value for each pair of boxes, in float32 for half precision."""

from jaxconv.losses.base import check_same_shape, wide
from jaxconv.ops.arrays import Array, ArrayLike
from jaxconv.ops.boxes import area, as_boxes
from jaxconv.ops.overlaps import aspect_penalty, center_penalty, enclosing, intersection


def _two(boxes1: ArrayLike, boxes2: ArrayLike, eps: float) -> tuple[Array, Array, Array, Array]:
    """Returns boxes, and the union and IoU of each with the box of the same index."""
    a, b = map(wide, as_boxes(boxes1=boxes1, boxes2=boxes2))
    check_same_shape("boxes2", b, "boxes1", a)
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


__all__ = ["complete_box_iou_loss", "distance_box_iou_loss", "generalized_box_iou_loss"]
