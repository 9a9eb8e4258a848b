"""Anchors on the grid of a feature map, and which object each of them is trained on."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple, as_int, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator
from jaxconv.ops.boxes import area, as_boxes
from jaxconv.ops.nms import check_fraction
from jaxconv.ops.overlaps import box_iou

UNMATCHED, IGNORED = -1, -2


def _numbers(values: float | Sequence[float], name: str) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(values, np.float32))
    if numbers.ndim != 1 or numbers.size == 0 or not (numbers > 0).all():
        raise ArgumentError(f"{name} must be positive numbers, got {values!r}")
    return numbers


def _on_grid(grid_size: IntOrTuple, stride: IntOrTuple, offset: float = 0.0) -> Array:
    """Returns the points ``(height * width, 2)`` of a grid, as (x, y), row by row; computed in the program."""
    height, width = as_tuple(grid_size, 2, "grid_size")
    step_y, step_x = as_tuple(stride, 2, "stride")
    x = (lax.broadcasted_iota(jnp.float32, (height, width), 1) + offset) * step_x
    y = (lax.broadcasted_iota(jnp.float32, (height, width), 0) + offset) * step_y
    return jnp.stack([x, y], -1).reshape(height * width, 2)


def anchor_grid(
    grid_size: IntOrTuple,
    stride: IntOrTuple,
    *,
    sizes: float | Sequence[float],
    aspect_ratios: float | Sequence[float] = (0.5, 1.0, 2.0),
) -> Array:
    """Returns the anchors of one feature map.

    Args:
      grid_size: height and width of the feature map.
      stride: pixels of the image from one position to the next.
      sizes: square roots of the areas, in pixels.
      aspect_ratios: height over width.

    Returns:
      float32 array ``(height * width * A, 4)``: for each position, row by row, A anchors around its first pixel: all
      sizes of the first aspect ratio, then those of the next. Sides are rounded to whole pixels as in torchvision.

    Raises:
      ArgumentError: a size or stride is not a positive integer.
      ArgumentError: a size or ratio of anchors is not positive.

    Equals ``torchvision.models.detection.anchor_utils.AnchorGenerator``; a pyramid has one call for each level.

    >>> anchor_grid((1, 2), 8, sizes=16, aspect_ratios=1)
    Array([[-8., -8.,  8.,  8.],
           [ 0., -8., 16.,  8.]], dtype=float32)
    """
    scales = _numbers(sizes, "sizes")
    height_ratios = np.sqrt(_numbers(aspect_ratios, "aspect_ratios"))
    widths = ((1 / height_ratios)[:, None] * scales).ravel()
    heights = (height_ratios[:, None] * scales).ravel()
    around = np.round(np.stack([-widths, -heights, widths, heights], 1) / 2)
    points = _on_grid(grid_size, stride)
    corners = jnp.concatenate([points, points], -1)
    return (corners[:, None] + jnp.asarray(around)[None]).reshape(-1, 4)


def default_boxes(
    grid_sizes: Sequence[Sequence[int]],
    image_size: Sequence[int],
    aspect_ratios: Sequence[Sequence[float]],
    *,
    scales: Sequence[float] | None = None,
    min_ratio: float = 0.15,
    max_ratio: float = 0.9,
    steps: Sequence[int] | None = None,
    clip: bool = True,
) -> Array:
    """Returns SSD's default boxes of all feature maps (Liu et al., 2016).

    Args:
      grid_sizes: height and width of each feature map.
      image_size: height and width of the image.
      aspect_ratios: for each feature map the ratios beside 1; each is used with its inverse.
      scales: the size of boxes of each feature map as a share of the image, and one more; by default evenly spaced from
        ``min_ratio`` to ``max_ratio``, and 1.
      min_ratio, max_ratio: the first and the last scale.
      steps: the stride of each feature map in pixels; by default the image's size over the grid's.
      clip: sides are at most those of the image.

    Returns:
      float32 array ``(boxes, 4)`` in pixels, feature map by feature map, position by position: two squares, then two
      boxes for each aspect ratio.

    Raises:
      ArgumentError: sizes are not positive integers.
      ArgumentError: the numbers of grids, aspect ratios, scales and steps do not fit together.

    Equals ``torchvision.models.detection.anchor_utils.DefaultBoxGenerator``.

    >>> default_boxes([(1, 1)], (100, 200), [()], scales=(0.5, 0.5))
    Array([[ 50.,  25., 150.,  75.],
           [ 50.,  25., 150.,  75.]], dtype=float32)
    """
    count = len(grid_sizes)
    if len(aspect_ratios) != count or (steps is not None and len(steps) != count):
        raise ArgumentError(
            f"aspect_ratios and steps must have one entry for each of the {count} feature maps, "
            f"got {len(aspect_ratios)} and {None if steps is None else len(steps)}"
        )
    if scales is None:
        between = max(count - 1, 1)
        scales = [min_ratio + (max_ratio - min_ratio) * k / between for k in range(count)]
        scales.append(1.0 if count > 1 else max_ratio)
    if len(scales) != count + 1:
        raise ArgumentError(f"scales must be {count + 1} numbers, one more than feature maps, got {len(scales)}")
    height, width = as_tuple(tuple(image_size), 2, "image_size")
    boxes = []
    for k, grid in enumerate(grid_sizes):
        rows, columns = as_tuple(tuple(grid), 2, "grid_sizes")
        sides = [(scales[k], scales[k]), (math.sqrt(scales[k] * scales[k + 1]),) * 2]
        for r in aspect_ratios[k]:
            wide, high = scales[k] * math.sqrt(r), scales[k] / math.sqrt(r)
            sides += [(wide, high), (high, wide)]
        pairs = np.asarray(sides, np.float32)
        pairs = np.clip(pairs, 0, 1) if clip else pairs
        # As shares of the image, in float32 as in torchvision.
        per_side = np.array([columns, rows] if steps is None else [width / steps[k], height / steps[k]], np.float32)
        centers = _on_grid((rows, columns), 1, 0.5) / jnp.asarray(per_side)[None]
        half = jnp.asarray(pairs)[None] / 2
        corners = jnp.concatenate([centers[:, None] - half, centers[:, None] + half], -1)
        boxes.append(corners.reshape(-1, 4))
    return jnp.concatenate(boxes) * jnp.array([[width, height, width, height]], jnp.float32)


def _objects(boxes: ArrayLike, anchors: ArrayLike, valid: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Returns boxes ``(M, 4)``, anchors ``(N, 4)``, at least float32 and constant, and which boxes count ``(M,)``."""
    b, a = as_boxes(boxes=boxes, anchors=anchors)
    for name, array in (("boxes", b), ("anchors", a)):
        if array.ndim != 2:
            raise ShapeError(f"{name} must have shape (N, 4), got {array.shape}: use jax.vmap for batches")
    count = jnp.ones(len(b), bool) if valid is None else jnp.asarray(valid)
    if count.dtype != jnp.bool_:
        raise DTypeError(f"valid must be bool, got {count.dtype}")
    if count.shape != b.shape[:1]:
        raise ShapeError(f"valid must have shape {b.shape[:1]}, one for each of the boxes, got {count.shape}")
    wide = accumulator(b.dtype)
    return *jax.lax.stop_gradient((b.astype(wide), a.astype(wide))), count


def match_boxes(
    boxes: ArrayLike,
    anchors: ArrayLike,
    *,
    high: float,
    low: float,
    allow_low_quality: bool = False,
    force_best: bool = False,
    valid: ArrayLike | None = None,
) -> Array:
    """Returns for each anchor the box that it overlaps most, by thresholds of IoU.

    Args:
      boxes: floating-point array ``(M, 4)``, the objects of an image.
      anchors: floating-point array ``(N, 4)``.
      high: anchors with at least this IoU are matched.
      low: anchors with a lower IoU are background; those between count as neither.
      allow_low_quality: also match the anchors that a box overlaps most, ties included, to the box that they overlap
        most, whatever the IoU, unless it is 0 (Faster R-CNN, RetinaNet).
      force_best: also match the first anchor that a box overlaps most to this box (SSD). Of several such boxes the last
        is taken.
      valid: bool array ``(M,)``: the boxes that count, where boxes are padded to a number.

    Returns:
      int32 ``(N,)``: the index of a box; -1 for background; -2 for neither. Of boxes with the same IoU it is the first.

    Raises:
      ShapeError: a wrong shape.
      ArgumentError: thresholds are not from 0 to 1, or ``low`` is greater than ``high``.
      DTypeError: ``valid`` is not bool.

    Equals ``torchvision.models.detection._utils.Matcher``, and with ``force_best`` ``SSDMatcher``. Without any box all
    anchors are background.

    >>> anchors = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 4.0], [5.0, 5.0, 6.0, 6.0]])
    >>> match_boxes(jnp.array([[0.0, 0.0, 2.0, 2.0]]), anchors, high=0.7, low=0.3)
    Array([ 0, -2, -1], dtype=int32)
    """
    high, low = check_fraction(high, "high"), check_fraction(low, "low")
    if low > high:
        raise ArgumentError(f"low must not be greater than high, got low {low} and high {high}")
    b, a, count = _objects(boxes, anchors, valid)
    if len(b) == 0 or len(a) == 0:
        return jnp.full(len(a), UNMATCHED, jnp.int32)
    iou = jnp.where(count[:, None], box_iou(b, a), -1)
    best, nearest = jnp.max(iou, 0), jnp.argmax(iou, 0).astype(jnp.int32)
    matches = jnp.where(best >= high, nearest, jnp.where(best >= low, IGNORED, UNMATCHED))
    # NaN matches nothing, and boxes that do not count match nothing at thresholds of 0.
    matches = jnp.where(best >= 0, matches, UNMATCHED).astype(jnp.int32)
    most = jnp.max(iou, 1, keepdims=True)
    if allow_low_quality:
        matches = jnp.where(((iou == most) & (most > 0)).any(0), nearest, matches)
    if force_best:
        position = lax.iota(jnp.int32, len(b))
        chosen = jnp.where(count, jnp.argmax(iou, 1), len(a))
        forced = jnp.full(len(a), -1, jnp.int32).at[chosen].max(position, mode="drop")
        matches = jnp.where(forced >= 0, forced, matches)
    return matches


def _level_ranges(level_sizes: Sequence[int], total: int) -> list[tuple[int, int]]:
    sizes = [as_int(n, "level_sizes", least=1) for n in level_sizes]
    if sum(sizes) != total:
        raise ShapeError(f"level_sizes must sum to the number of anchors, {total}, got {tuple(sizes)}")
    ends = np.cumsum(sizes).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def match_atss(
    boxes: ArrayLike,
    anchors: ArrayLike,
    level_sizes: Sequence[int],
    *,
    candidates: int = 9,
    valid: ArrayLike | None = None,
) -> Array:
    """Returns for each anchor its box by adaptive training sample selection (Zhang et al., 2020).

    Of each level of the pyramid, a box takes the anchors whose centers are nearest to its own as candidates. Those are
    matched whose IoU is at least the mean plus the standard deviation over the candidates, and whose center is inside
    the box.

    Args:
      boxes: floating-point array ``(M, 4)``, the objects of an image.
      anchors: floating-point array ``(N, 4)``, level after level.
      level_sizes: the number of anchors of each level.
      candidates: how many of each level.
      valid: bool array ``(M,)``: the boxes that count, where boxes are padded to a number.

    Returns:
      int32 ``(N,)``: the index of a box, of several the one with the largest IoU; -1 for background.

    Raises:
      ShapeError: a wrong shape, or ``level_sizes`` do not sum to N.
      ArgumentError: ``candidates`` or a level size is not a positive integer.
      DTypeError: ``valid`` is not bool.

    >>> anchors = anchor_grid((4, 4), 8, sizes=8, aspect_ratios=1)
    >>> int((match_atss(jnp.array([[4.0, 4.0, 20.0, 20.0]]), anchors, [16]) == 0).sum())
    4
    """
    candidates = as_int(candidates, "candidates", least=1)
    b, a, count = _objects(boxes, anchors, valid)
    ranges = _level_ranges(level_sizes, len(a))
    if len(b) == 0:
        return jnp.full(len(a), UNMATCHED, jnp.int32)
    iou = box_iou(b, a)
    own, theirs = (b[:, :2] + b[:, 2:]) / 2, (a[:, :2] + a[:, 2:]) / 2
    squared = jnp.sum((own[:, None] - theirs[None]) ** 2, -1)
    nearest = jnp.concatenate(
        [start + lax.top_k(-squared[:, start:stop], min(candidates, stop - start))[1] for start, stop in ranges], 1
    )
    overlaps = jnp.take_along_axis(iou, nearest, 1)
    number = nearest.shape[1]
    mean = jnp.mean(overlaps, 1, keepdims=True)
    deviation = jnp.sqrt(jnp.sum((overlaps - mean) ** 2, 1, keepdims=True) / max(number - 1, 1))
    x, y = theirs[None, :, 0], theirs[None, :, 1]
    inside = jnp.minimum(jnp.minimum(x - b[:, :1], y - b[:, 1:2]), jnp.minimum(b[:, 2:3] - x, b[:, 3:] - y))
    rows = lax.broadcasted_iota(jnp.int32, nearest.shape, 0)
    candidate = jnp.zeros(iou.shape, bool).at[rows, nearest].set(True)
    chosen = candidate & (iou >= mean + deviation) & (inside > 0.01) & count[:, None]
    quality = jnp.where(chosen, iou, -1)
    return jnp.where(chosen.any(0), jnp.argmax(quality, 0), UNMATCHED).astype(jnp.int32)


def match_centers(
    boxes: ArrayLike,
    anchors: ArrayLike,
    level_sizes: Sequence[int],
    *,
    radius: float = 1.5,
    valid: ArrayLike | None = None,
) -> Array:
    """Returns for each position its box by center sampling, as FCOS does (Tian et al., 2019).

    A position is matched to a box if it is inside, less than ``radius`` strides from its center along each axis, and if
    the farthest side of the box is between 4 and 8 strides away; without the lower limit on the first level and without
    the upper on the last.

    Args:
      boxes: floating-point array ``(M, 4)``, the objects of an image.
      anchors: floating-point array ``(N, 4)``: one square a position, whose side is the stride, level after level.
      level_sizes: the number of positions of each level.
      radius: in strides.
      valid: bool array ``(M,)``: the boxes that count, where boxes are padded to a number.

    Returns:
      int32 ``(N,)``: the index of a box, of several the one with the smallest area; -1 for background.

    Raises:
      ShapeError: a wrong shape, or ``level_sizes`` do not sum to N.
      ArgumentError: a level size is not a positive integer.
      DTypeError: ``valid`` is not bool.

    Equals ``torchvision.models.detection.FCOS``, the matching inside of its loss.

    >>> anchors = anchor_grid((4, 4), 8, sizes=8, aspect_ratios=1)
    >>> match_centers(jnp.array([[2.0, 2.0, 14.0, 14.0]]), anchors, [16], radius=0.5).reshape(4, 4)[:2, :2]
    Array([[-1, -1],
           [-1,  0]], dtype=int32)
    """
    b, a, count = _objects(boxes, anchors, valid)
    ranges = _level_ranges(level_sizes, len(a))
    if len(b) == 0:
        return jnp.full(len(a), UNMATCHED, jnp.int32)
    own, theirs = (b[:, :2] + b[:, 2:]) / 2, (a[:, :2] + a[:, 2:]) / 2
    stride = (a[:, 2] - a[:, 0])[None]
    near = jnp.max(jnp.abs(own[:, None] - theirs[None]), -1) < radius * stride
    distances = jnp.concatenate([theirs[None] - b[:, None, :2], b[:, None, 2:] - theirs[None]], -1)
    position = lax.iota(jnp.int32, len(a))[None]
    farthest = jnp.max(distances, -1)
    fits = (farthest > jnp.where(position < ranges[0][1], 0, 4 * stride)) & (
        (farthest < 8 * stride) | (position >= ranges[-1][0])
    )
    chosen = near & fits & (jnp.min(distances, -1) > 0) & count[:, None]
    areas = jnp.where(chosen, area(b)[:, None], jnp.finfo(b.dtype).max)
    return jnp.where(chosen.any(0), jnp.argmin(areas, 0), UNMATCHED).astype(jnp.int32)


__all__ = ["anchor_grid", "default_boxes", "match_atss", "match_boxes", "match_centers"]
