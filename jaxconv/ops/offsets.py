"""Boxes as offsets to anchors, and as distances from points: what networks predict."""

import math
from collections.abc import Sequence

import jax.numpy as jnp

from jaxconv.errors import ArgumentError
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, to_rank
from jaxconv.ops.boxes import as_boxes

MAX_LOG_SCALE = math.log(1000 / 16)
# What a side of zero counts as beside the anchor's, so that targets of boxes that pad a batch are finite.
LEAST_RATIO = 1e-6


def _broadcast(**arrays: ArrayLike) -> list[Array]:
    """Returns arrays ``(..., 4)`` at one rank, at least float32."""
    given = as_boxes(**arrays)
    rank = max(a.ndim for a in given)
    return [to_rank(a.astype(accumulator(a.dtype)), rank) for a in given]


def _four(values: Sequence[float], name: str) -> list[float]:
    if len(values) != 4 or not all(v > 0 for v in values):
        raise ArgumentError(f"{name} must be four positive numbers, got {tuple(values)}")
    return [float(v) for v in values]


def encode_boxes(boxes: ArrayLike, anchors: ArrayLike, *, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Array:
    """Returns the offsets of boxes to anchors, the targets of box regression in R-CNN, RetinaNet and SSD.

    Args:
      boxes: floating-point array ``(..., 4)``.
      anchors: floating-point array ``(..., 4)`` that broadcasts with ``boxes``.
      weights: what the offsets of x, y, width and height are multiplied by.

    Returns:
      Array ``(..., 4)``: the offset of the center in sides of the anchor, and the logarithm of the ratio of sides. A
      side below 1e-6 of the anchor's counts as that, so the offsets of boxes that pad a batch are finite.

    Raises:
      ShapeError: the last axis is not 4.
      ArgumentError: ``weights`` are not four positive numbers.

    Equals ``torchvision.models.detection._utils.BoxCoder.encode``.

    >>> encode_boxes(jnp.array([1.0, 0.0, 3.0, 2.0]), jnp.array([0.0, 0.0, 2.0, 2.0]))
    Array([0.5, 0. , 0. , 0. ], dtype=float32)
    """
    scales = _four(weights, "weights")
    b, a = _broadcast(boxes=boxes, anchors=anchors)
    theirs, own = a[..., 2:] - a[..., :2], b[..., 2:] - b[..., :2]
    moved = (b[..., :2] + own / 2 - a[..., :2] - theirs / 2) / theirs
    scaled = jnp.log(jnp.maximum(own / theirs, LEAST_RATIO))
    offsets = jnp.concatenate([moved, scaled], -1)
    return (offsets * to_rank(jnp.array(scales, b.dtype), b.ndim)).astype(jnp.result_type(boxes, anchors))


def decode_boxes(
    offsets: ArrayLike,
    anchors: ArrayLike,
    *,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: float = MAX_LOG_SCALE,
) -> Array:
    """Returns the boxes at these offsets from anchors: the inverse of `encode_boxes`.

    Args:
      offsets: floating-point array ``(..., 4)``.
      anchors: floating-point array ``(..., 4)`` that broadcasts with ``offsets``.
      weights: those of `encode_boxes`.
      max_log_scale: the largest logarithm of the ratio of sides; greater offsets count as this one.

    Returns:
      Array ``(..., 4)`` of boxes.

    Raises:
      ShapeError: the last axis is not 4.
      ArgumentError: ``weights`` are not four positive numbers.

    Equals ``torchvision.models.detection._utils.BoxCoder.decode``.

    >>> decode_boxes(jnp.array([0.5, 0.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 2.0, 2.0]))
    Array([1., 0., 3., 2.], dtype=float32)
    """
    scales = _four(weights, "weights")
    d, a = _broadcast(offsets=offsets, anchors=anchors)
    theirs = a[..., 2:] - a[..., :2]
    d = d / to_rank(jnp.array(scales, d.dtype), d.ndim)
    center = d[..., :2] * theirs + (a[..., :2] + theirs / 2)
    half = jnp.exp(jnp.minimum(d[..., 2:], max_log_scale)) * theirs / 2
    return jnp.concatenate([center - half, center + half], -1).astype(jnp.result_type(offsets, anchors))


def encode_distances(boxes: ArrayLike, anchors: ArrayLike, *, normalize_by_size: bool = True) -> Array:
    """Returns the distances from the centers of anchors to the left, upper, right and lower sides of boxes (FCOS).

    Args:
      boxes: floating-point array ``(..., 4)``.
      anchors: floating-point array ``(..., 4)`` that broadcasts with ``boxes``; only centers and sides count.
      normalize_by_size: divide by the sides of the anchor.

    Returns:
      Array ``(..., 4)``; negative where the center is outside the box.

    Raises:
      ShapeError: the last axis is not 4.

    Equals ``torchvision.models.detection._utils.BoxLinearCoder.encode``.

    >>> encode_distances(jnp.array([0.0, 0.0, 6.0, 4.0]), jnp.array([1.0, 1.0, 3.0, 3.0]))
    Array([1., 1., 2., 1.], dtype=float32)
    """
    b, a = _broadcast(boxes=boxes, anchors=anchors)
    center, theirs = (a[..., :2] + a[..., 2:]) / 2, a[..., 2:] - a[..., :2]
    distances = jnp.concatenate([center - b[..., :2], b[..., 2:] - center], -1)
    if normalize_by_size:
        distances = distances / jnp.concatenate([theirs, theirs], -1)
    return distances.astype(jnp.result_type(boxes, anchors))


def decode_distances(distances: ArrayLike, anchors: ArrayLike, *, normalize_by_size: bool = True) -> Array:
    """Returns the boxes whose sides are at these distances from the centers of anchors: see `encode_distances`.

    Args:
      distances: floating-point array ``(..., 4)``: left, upper, right, lower.
      anchors: floating-point array ``(..., 4)`` that broadcasts with ``distances``.
      normalize_by_size: distances are in sides of the anchor.

    Returns:
      Array ``(..., 4)`` of boxes.

    Raises:
      ShapeError: the last axis is not 4.

    Equals ``torchvision.models.detection._utils.BoxLinearCoder.decode``.

    >>> decode_distances(jnp.array([1.0, 1.0, 2.0, 1.0]), jnp.array([1.0, 1.0, 3.0, 3.0]))
    Array([0., 0., 6., 4.], dtype=float32)
    """
    d, a = _broadcast(distances=distances, anchors=anchors)
    center, theirs = (a[..., :2] + a[..., 2:]) / 2, a[..., 2:] - a[..., :2]
    if normalize_by_size:
        d = d * jnp.concatenate([theirs, theirs], -1)
    boxes = jnp.concatenate([center - d[..., :2], center + d[..., 2:]], -1)
    return boxes.astype(jnp.result_type(distances, anchors))


__all__ = ["decode_boxes", "decode_distances", "encode_boxes", "encode_distances"]
