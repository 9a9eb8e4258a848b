"""Boxes: formats, areas, limits. A box is ``(x1, y1, x2, y2)`` in pixels, as in torchvision."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, to_rank

FORMATS = ("xyxy", "xywh", "cxcywh")


def as_boxes(**arrays: ArrayLike) -> list[Array]:
    """Returns arrays of boxes ``(..., 4)`` in their common floating type, or raises an error that names the wrong one.

    >>> [a.shape for a in as_boxes(boxes=jnp.zeros((3, 4)))]
    [(3, 4)]
    """
    converted = as_floats(**arrays)
    for name, a in zip(arrays, converted, strict=True):
        if a.ndim < 1 or a.shape[-1] != 4:
            raise ShapeError(f"{name} must have shape (..., 4), got {a.shape}")
    return converted


def sides(boxes: Array) -> tuple[Array, Array]:
    """Returns the width and height of boxes ``(..., 4)``."""
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def area(boxes: Array) -> Array:
    """Returns width times height, in the type of ``boxes``."""
    width, height = sides(boxes)
    return width * height


def box_convert(boxes: ArrayLike, in_fmt: str, out_fmt: str) -> Array:
    """Converts boxes from one format to another.

    Args:
      boxes: floating-point array ``(..., 4)``.
      in_fmt, out_fmt: "xyxy", corners; "xywh", the upper left corner and the sides; "cxcywh", the center and the sides.

    Returns:
      Array of the shape and type of ``boxes``.

    Raises:
      ShapeError: the last axis is not 4.
      ArgumentError: an unknown format.

    Equals ``torchvision.ops.box_convert``.

    >>> box_convert(jnp.array([10.0, 20.0, 30.0, 40.0]), "xywh", "xyxy")
    Array([10., 20., 40., 60.], dtype=float32)
    """
    [boxes] = as_boxes(boxes=boxes)
    for name, fmt in (("in_fmt", in_fmt), ("out_fmt", out_fmt)):
        if fmt not in FORMATS:
            raise ArgumentError(f"{name} must be one of {', '.join(FORMATS)}, got {fmt!r}")
    if in_fmt == out_fmt:
        return boxes
    first, second = boxes[..., :2], boxes[..., 2:]
    if in_fmt == "cxcywh":
        first, second = first - second / 2, first + second / 2
    elif in_fmt == "xywh":
        second = first + second
    if out_fmt == "cxcywh":
        first, second = (first + second) / 2, second - first
    elif out_fmt == "xywh":
        second = second - first
    return jnp.concatenate([first, second], -1)


def box_area(boxes: ArrayLike) -> Array:
    """Returns the area of each box.

    Args:
      boxes: floating-point array ``(..., 4)``.

    Returns:
      Array ``(...)``: float32 for half precision, whose range a box of 256 pixels exceeds, otherwise the type of
      ``boxes``.

    Raises:
      ShapeError: the last axis is not 4.

    Equals ``torchvision.ops.box_area``.

    >>> box_area(jnp.array([[0.0, 0.0, 2.0, 3.0]]))
    Array([6.], dtype=float32)
    """
    [boxes] = as_boxes(boxes=boxes)
    return area(boxes.astype(accumulator(boxes.dtype)))


def clip_boxes(boxes: ArrayLike, size: Sequence[int]) -> Array:
    """Moves the corners of boxes that are outside the image onto its border.

    Args:
      boxes: floating-point array ``(..., 4)``.
      size: height and width of the image; integers, or scalar arrays.

    Returns:
      Array of the shape and type of ``boxes``.

    Raises:
      ShapeError: the last axis is not 4, or ``size`` is not two numbers.

    Equals ``torchvision.ops.clip_boxes_to_image``.

    >>> clip_boxes(jnp.array([-5.0, 2.0, 50.0, 60.0]), (40, 30))
    Array([ 0.,  2., 30., 40.], dtype=float32)
    """
    [boxes] = as_boxes(boxes=boxes)
    if len(size) != 2:
        raise ShapeError(f"size must be the height and width of the image, got {tuple(size)}")
    height, width = (jnp.asarray(n, boxes.dtype) for n in size)
    limits = to_rank(jnp.stack([width, height, width, height]), boxes.ndim)
    return jnp.clip(boxes, jnp.zeros_like(limits), limits)


def check_boxes(
    boxes: ArrayLike, size: Sequence[int] | None = None, *, fmt: str = "xyxy", name: str = "boxes"
) -> np.ndarray:
    """Raises an error for values that no box has: corners in the wrong order, NaN, or outside the image.

    The other functions of boxes compute under jit, where values are not known, and check shapes only. This one runs on
    the host: call it where boxes are read from files.

    Args:
      boxes: ``(..., 4)``.
      size: height and width of the image that must contain the boxes; None checks no limits.
      fmt: the format, as in `box_convert`.
      name: what the message calls the argument.

    Returns:
      The boxes as a NumPy array.

    Raises:
      ShapeError: the last axis is not 4.
      ArgumentError: a value is not finite, a corner is on the wrong side of the other, or a box leaves the image.

    >>> check_boxes(jnp.array([[10.0, 20.0, 5.0, 30.0]]))
    Traceback (most recent call last):
    jaxconv.errors.ArgumentError: boxes must have x1 <= x2 and y1 <= y2, got [10.0, 20.0, 5.0, 30.0] at index (0,)
    """
    values = np.asarray(boxes)
    if values.ndim < 1 or values.shape[-1] != 4:
        raise ShapeError(f"{name} must have shape (..., 4), got {values.shape}")
    if fmt not in FORMATS:
        raise ArgumentError(f"fmt must be one of {', '.join(FORMATS)}, got {fmt!r}")
    wide = values.astype(np.float64)
    _refuse(~np.isfinite(wide).all(-1), values, name, "be finite")
    low, high = wide[..., :2], wide[..., 2:]
    if fmt == "xyxy":
        _refuse((low > high).any(-1), values, name, "have x1 <= x2 and y1 <= y2")
    else:
        _refuse((high < 0).any(-1), values, name, "have sides that are not negative")
        low = low - high / 2 if fmt == "cxcywh" else low
        high = low + high
    if size is not None:
        height, width = size
        outside = (low < 0).any(-1) | (high > np.array([width, height])).any(-1)
        _refuse(outside, values, name, f"be inside the image of height {height} and width {width}")
    return values


def _refuse(wrong: Any, boxes: np.ndarray, name: str, expected: str) -> None:
    if np.any(wrong):
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        at = f" at index {index}" if index else ""
        raise ArgumentError(f"{name} must {expected}, got {[float(v) for v in boxes[index]]}{at}")


def masks_to_boxes(masks: ArrayLike) -> Array:
    """Returns the smallest box around each mask.

    Args:
      masks: ``(..., height, width)``, of any type; elements that are not 0 are in the mask.

    Returns:
      Array ``(..., 4)``, float32: the first and last column and row, so that a mask of one pixel has a box without
      area. A mask of zeros has the box ``(0, 0, 0, 0)``.

    Raises:
      ShapeError: fewer than two axes, or an empty one.

    Equals ``torchvision.ops.masks_to_boxes``.

    >>> masks_to_boxes(jnp.zeros((4, 5)).at[1:3, 2:5].set(1))
    Array([2., 1., 4., 2.], dtype=float32)
    """
    masks = jnp.asarray(masks).astype(bool)
    if masks.ndim < 2 or 0 in masks.shape[-2:]:
        raise ShapeError(f"masks must have shape (..., height, width), got {masks.shape}")
    x1, x2 = _extent(masks.any(-2))
    y1, y2 = _extent(masks.any(-1))
    boxes = jnp.stack([x1, y1, x2, y2], -1)
    return jnp.where(masks.any((-2, -1))[..., None], boxes, 0).astype(jnp.float32)


def _extent(line: Array) -> tuple[Array, Array]:
    return jnp.argmax(line, -1), line.shape[-1] - 1 - jnp.argmax(line[..., ::-1], -1)


__all__ = ["box_area", "box_convert", "check_boxes", "clip_boxes", "masks_to_boxes"]
