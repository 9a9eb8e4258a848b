"""Metrics of keypoints."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.metrics.base import Metric, add, described

# Of COCO's 17 keypoints: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO_SIGMAS = (0.026, *(0.025,) * 2, *(0.035,) * 2, *(0.079,) * 2, *(0.072,) * 2, *(0.062,) * 2)
COCO_SIGMAS = (*COCO_SIGMAS, *(0.107,) * 2, *(0.087,) * 2, *(0.089,) * 2)


def pck(threshold: float = 0.2) -> Metric:
    """Returns the share of correct keypoints: nearer to the true position than a share of the object's size.

    Args:
      threshold: the share.

    Returns:
      A `Metric` of outputs `(N, K, 2)`, positions, and targets, a dict of "points" `(N, K, 2)` and "size" `(N,)`, such
      as the longer side of the box, or the head's or the torso's length. Keypoints whose true position is NaN do not
      count; a predicted position of NaN is wrong.

    Raises:
      ArgumentError: the threshold is not positive.

    >>> metric = pck(0.2)
    >>> targets = {"points": jnp.array([[[0.0, 0.0], [10.0, 0.0], [jnp.nan, 0.0]]]), "size": jnp.array([10.0])}
    >>> metric.finish(metric.update(jnp.array([[[1.0, 1.0], [7.0, 0.0], [5.0, 5.0]]]), targets))
    0.5
    """
    if not threshold > 0:
        raise ArgumentError(f"threshold must be positive, got {threshold!r}")
    return Metric(_Pck(float(threshold)), add, _share)


@dataclasses.dataclass(frozen=True)
class _Pck:
    threshold: float

    def __call__(self, outputs: jax.Array, targets: Any) -> dict[str, jax.Array]:
        fits = (
            isinstance(targets, dict)
            and {"points", "size"} <= targets.keys()
            and getattr(outputs, "ndim", 0) == 3
            and outputs.shape[2] == 2
            and targets["points"].shape == outputs.shape
            and targets["size"].shape == outputs.shape[:1]
        )
        if not fits:
            raise ShapeError(
                f"pck: outputs must have shape (N, K, 2), and targets be a dict of points (N, K, 2) and size (N,), "
                f"got {described(targets)} and outputs {described(outputs)}"
            )
        points, size = (targets[name].astype(jnp.float32) for name in ("points", "size"))
        counts = ~jnp.isnan(points).any(-1)
        distance = jnp.sqrt(jnp.sum((outputs.astype(jnp.float32) - points) ** 2, -1))
        right = counts & (distance <= self.threshold * size[:, None])
        return {"right": jnp.sum(right), "count": jnp.sum(counts)}


def _share(total: Any) -> float:
    return float(total["right"]) / float(total["count"]) if total["count"] else float("nan")


def object_keypoint_similarity(
    points: jax.Array,
    targets: jax.Array,
    area: jax.Array,
    *,
    visible: jax.Array | None = None,
    sigmas: Sequence[float] = COCO_SIGMAS,
) -> jax.Array:
    """Returns COCO's similarity of two sets of keypoints, the IoU of poses: 1 where all are equal.

    Args:
      points: floating-point array `(..., K, 2)`, predicted positions.
      targets: floating-point array `(..., K, 2)`, true positions; it broadcasts with ``points``.
      area: `(...)`, the area of the object.
      visible: bool `(..., K)`: the keypoints of the target that count; by default all.
      sigmas: K numbers: how exactly each keypoint can be placed; by default those of COCO's 17.

    Returns:
      Array `(...)`; 0 where no keypoint counts.

    Raises:
      ShapeError: a wrong shape, or there is not one sigma for each keypoint.

    Equals `pycocotools.cocoeval.COCOeval.computeOks` where a keypoint counts.

    >>> points = jnp.zeros((17, 2))
    >>> object_keypoint_similarity(points, points, jnp.array(100.0))
    Array(1., dtype=float32)
    """
    for name, a in (("points", points), ("targets", targets)):
        if a.ndim < 2 or a.shape[-2:] != (len(sigmas), 2):
            raise ShapeError(
                f"{name} must have shape (..., {len(sigmas)}, 2), one for each of the sigmas, got {a.shape}"
            )
    spread = (2 * jnp.asarray(sigmas, points.dtype)) ** 2
    squared = jnp.sum((points - targets) ** 2, -1)
    near = jnp.exp(-squared / (2 * spread * (area[..., None] + 2.0**-52)))
    counts = jnp.ones(near.shape, bool) if visible is None else jnp.broadcast_to(visible, near.shape)
    return jnp.sum(jnp.where(counts, near, 0), -1) / jnp.maximum(jnp.sum(counts, -1), 1).astype(near.dtype)


__all__ = ["object_keypoint_similarity", "pck"]
