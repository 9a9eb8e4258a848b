"""Boxes of a batch of images, padded to one number: what is found, and what is to be found."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv import ops
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Tree

Losses = tuple[Array, dict[str, Array]]


class Detections(NamedTuple):
    """What a detector finds: the same number of detections for each image, best first; unused ones are not valid.

    Attributes:
      boxes: ``(batch, n, 4)``, corners x1, y1, x2, y2 in pixels.
      scores: ``(batch, n)``, between 0 and 1.
      labels: ``(batch, n)``, classes; -1 where not valid.
      valid: ``(batch, n)``, whether there is a detection.
      masks: ``(batch, n, height, width)``, the probability that a position of the box belongs to the object; or None.
      keypoints: ``(batch, n, points, 3)``, x and y in pixels, and 1; or None.
      keypoint_scores: ``(batch, n, points)``, or None.
    """

    boxes: Array
    scores: Array
    labels: Array
    valid: Array
    masks: Array | None = None
    keypoints: Array | None = None
    keypoint_scores: Array | None = None


def taken(indices: Array, valid: Array, boxes: Array, scores: Array, labels: Array) -> Detections:
    """Returns the detections at ``indices`` of one image, with zeros, and a label of -1, where not valid."""
    return Detections(
        jnp.where(valid[:, None], boxes[indices], 0),
        jnp.where(valid, scores[indices], 0),
        jnp.where(valid, labels[indices], -1),
        valid,
    )


def pad_targets(boxes: Sequence[Any], labels: Sequence[Any], n: int | None = None) -> dict[str, np.ndarray]:
    """Returns the boxes of several images as arrays of one shape, the targets of a detector's loss.

    Args:
      boxes: for each image, an array ``(count, 4)`` of corners x1, y1, x2, y2 in pixels; the count may be 0.
      labels: for each image, ``(count,)`` classes.
      n: the number of rows of each image; by default the largest count.

    Returns:
      A dict of boxes ``(batch, n, 4)`` float32, labels ``(batch, n)`` int32, and valid ``(batch, n)``, False for rows
      that are padding.

    Raises:
      ArgumentError: boxes and labels differ in number, a box has no area, or an image has more than n boxes.

    >>> targets = pad_targets([[[0, 0, 4, 4]], []], [[3], []])
    >>> targets["boxes"].shape, targets["labels"].tolist(), targets["valid"].tolist()
    ((2, 1, 4), [[3], [0]], [[True], [False]])
    """
    arrays = [np.asarray(each, np.float32).reshape(-1, 4) for each in boxes]
    classes = [np.asarray(each, np.int32).reshape(-1) for each in labels]
    counts = [len(each) for each in arrays]
    if counts != [len(each) for each in classes]:
        raise ArgumentError(
            f"labels must have one entry for each box, got {[len(each) for each in classes]} labels for {counts} boxes"
        )
    n = max([1, *counts]) if n is None else as_int(n, "n", least=1)
    for i, each in enumerate(arrays):
        if len(each) > n:
            raise ArgumentError(f"n must be at least the number of boxes of each image, got {n} for {len(each)} boxes")
        for row in each[~np.all(each[:, 2:] > each[:, :2], axis=-1)]:
            raise ArgumentError(f"boxes must have x1 < x2 and y1 < y2, got {row.tolist()} in image {i}")
    out = {"boxes": np.zeros((len(arrays), n, 4), np.float32), "labels": np.zeros((len(arrays), n), np.int32)}
    for i, (each, own) in enumerate(zip(arrays, classes, strict=True)):
        out["boxes"][i, : len(each)], out["labels"][i, : len(own)] = each, own
    return out | {"valid": np.arange(n) < np.array(counts)[:, None]}


def per_image(size: Any, batch: int) -> Array:
    """Returns ``(height, width)``, or an array of them, as an array with a row for each image."""
    return jnp.broadcast_to(jnp.asarray(size), (batch, 2))


def clipped(boxes: Array, size: Array) -> Array:
    """Returns boxes of one image with their corners moved onto its border; ``size`` may depend on data."""
    return ops.clip_boxes(boxes, size)  # type: ignore[arg-type]


def total(parts: dict[str, Array]) -> Losses:
    """Returns the sum of the parts of a loss, and the parts."""
    return functools.reduce(jnp.add, parts.values()), parts


def check_targets(targets: Tree, *more: str) -> None:
    """Raises ArgumentError where targets lack an entry."""
    wanted = ("boxes", "labels", "valid", *more)
    missing = [name for name in wanted if not isinstance(targets, dict) or name not in targets]
    if missing:
        has = list(targets) if isinstance(targets, dict) else type(targets).__name__
        raise ArgumentError(f"targets must be a dict of {', '.join(wanted)}, see jaxconv.detect.pad_targets, got {has}")


__all__ = ["Detections", "pad_targets"]
