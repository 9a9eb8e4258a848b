"""Objects and poses as points on one feature map.

CenterNet: Zhou, Wang and Krahenbuhl, "Objects as points", 2019. MoveNet: Votel and Li, "Next-generation pose detection
with MoveNet and TensorFlow.js", 2021, for one person.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxconv import ops
from jaxconv.compose.base import Wrapper
from jaxconv.detect.results import Detections, Losses, check_targets, clipped, per_image, total
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Tree
from jaxconv.ops.arrays import accumulator

# MoveNet divides scores by a distance plus this constant, in positions.
NEAR = 1.8


def _wide(outputs: Tree) -> Tree:
    """Converts half precision to float32: bfloat16 cannot represent odd integers above 256."""
    return jax.tree.map(lambda y: y.astype(accumulator(y.dtype)), outputs)


@dataclass(frozen=True, repr=False)
class CenterNet(Wrapper):
    """CenterNet: heat maps of centers, with the size and the offset of an object at each position.

    Made by `jaxconv.models.centernet`. Labels begin with 0.

    Args:
      layer: the network, which returns hm, the logits of heat maps, and wh and reg, in positions.
      classes: the number of classes.
      stride: pixels of the image from one position to the next.
    """

    call: ClassVar[str] = "CenterNet"
    classes: int
    stride: int = 4

    def check(self) -> None:
        super().check()
        as_int(self.classes, "classes", least=1)
        as_int(self.stride, "stride", least=1)

    def decode(
        self, outputs: Tree, *, sizes: Any = None, score_threshold: float = 0.1, max_detections: int = 100
    ) -> Detections:
        """Returns the objects at the peaks of the heat maps, padded to a fixed number.

        Args:
          outputs: a dict of hm ``(batch, height, width, classes)``, wh and reg ``(batch, height, width, 2)``.
          sizes: ``(batch, 2)`` heights and widths of the images without padding, to which boxes are clipped.
          score_threshold: scores must be above it.
          max_detections: the number of detections of each image.
        """
        outputs = _wide(outputs)
        heat = jax.nn.sigmoid(outputs["hm"])
        n = min(max_detections, heat.shape[1] * heat.shape[2] * heat.shape[3])
        points, labels, scores, valid = ops.heatmap_peaks(heat, n)
        valid &= scores > score_threshold
        centers = points + self._at(outputs["reg"], points)
        half = self._at(outputs["wh"], points) / 2
        boxes = self.stride * jnp.concatenate([centers - half, centers + half], -1)
        limits = per_image(tuple(self.stride * n for n in heat.shape[1:3]) if sizes is None else sizes, len(heat))
        boxes = jax.vmap(clipped)(boxes, limits)
        return Detections(
            jnp.where(valid[..., None], boxes, 0), jnp.where(valid, scores, 0), jnp.where(valid, labels, -1), valid
        )

    @staticmethod
    def _at(maps: Array, points: Array) -> Array:
        """Returns the values at positions ``(batch, n, 2)``, given as x and y."""
        return jax.vmap(lambda y, p: y[p[:, 1], p[:, 0]])(maps, points)

    def loss(self, outputs: Tree, targets: Tree, *, size_weight: float = 0.1, min_overlap: float = 0.7) -> Losses:
        """Returns the loss of a batch and its parts by name, divided by the number of objects.

        Args:
          outputs: the network's outputs.
          targets: a dict of boxes, labels and valid, see `jaxconv.detect.pad_targets`.
          size_weight: the weight of the sizes' loss.
          min_overlap: sets the radius of the target's peaks, see `jaxconv.gaussian_radius`.

        Raises:
          ArgumentError: the targets are not such a dict.
        """
        check_targets(targets)
        outputs = _wide(outputs)
        logits = outputs["hm"]
        size = logits.shape[1:3]

        def one(logits: Array, wh: Array, reg: Array, boxes: Array, labels: Array, valid: Array) -> dict[str, Array]:
            boxes = boxes / self.stride
            sides = jnp.where(valid[:, None], boxes[:, 2:] - boxes[:, :2], 1)
            centers = jnp.clip((boxes[:, :2] + boxes[:, 2:]) / 2, 0, jnp.array(size[::-1]) - 1e-3)
            radius = jnp.maximum(ops.gaussian_radius(sides, min_overlap=min_overlap), 0)
            heat = ops.encode_centers(centers, labels, radius, size, self.classes, valid=valid)
            at = jnp.floor(centers).astype(jnp.int32)
            moved = jnp.abs(reg[at[:, 1], at[:, 0]] - (centers - at)).sum(1)
            sized = jnp.abs(wh[at[:, 1], at[:, 0]] - sides).sum(1)
            return {
                "heat": _focal(logits, heat),
                "offset": jnp.where(valid, moved, 0).sum(),
                "size": size_weight * jnp.where(valid, sized, 0).sum(),
            }

        given = [jnp.asarray(targets[name]) for name in ("boxes", "labels", "valid")]
        parts = jax.vmap(one)(logits, outputs["wh"], outputs["reg"], *given)
        count = jnp.maximum(given[2].sum(), 1)
        parts = {name: each.sum() / count for name, each in parts.items()}
        return total(parts)


def _focal(logits: Array, heat: Array) -> Array:
    """Returns CenterNet's focal loss; positions near a center count less as background."""
    score = jax.nn.sigmoid(logits)
    center = (1 - score) ** 2 * jax.nn.softplus(-logits)
    other = (1 - heat) ** 4 * score**2 * jax.nn.softplus(logits)
    return jnp.where(heat == 1, center, other).sum()


@dataclass(frozen=True, repr=False)
class PoseNet(Wrapper):
    """MoveNet's heads: the person's center, keypoints relative to it, their heat maps, and offsets within a position.

    Made by `jaxconv.models.pose_points`.

    Args:
      layer: the network, which returns logits center ``(batch, height, width, 1)`` and heat ``(..., points)``, and
        regression and offset ``(..., 2 * points)``: x and y of each keypoint, in positions.
      points: the number of keypoints.
      stride: pixels of the image from one position to the next.
    """

    call: ClassVar[str] = "PoseNet"
    points: int = 17
    stride: int = 4

    def decode(self, outputs: Tree) -> tuple[Array, Array]:
        """Returns the keypoints of the person nearest to the middle of each image.

        Returns:
          ``(batch, points, 2)``, x and y in pixels; and scores ``(batch, points)``.
        """
        outputs = _wide(outputs)
        center, heat = (jax.nn.sigmoid(outputs[name]) for name in ("center", "heat"))
        height, width = center.shape[1:3]
        grid = jnp.stack(jnp.meshgrid(jnp.arange(width), jnp.arange(height)), -1).astype(heat.dtype)

        def distance(point: Array) -> Array:
            return jnp.sqrt(jnp.square(grid[:, :, None] - point).sum(-1)) + NEAR

        def highest(y: Array) -> Array:
            """Returns x and y of the highest position of each map ``(height, width, n)``."""
            at = jnp.argmax(y.reshape(-1, y.shape[-1]), 0)
            return jnp.stack([at % width, at // width], -1)

        def one(center: Array, heat: Array, regression: Array, offset: Array) -> tuple[Array, Array]:
            middle = jnp.array([[(width - 1) / 2, (height - 1) / 2]])
            [person] = highest(center / distance(middle))
            seen = person + regression[person[1], person[0]].reshape(self.points, 2)
            at = highest(heat / distance(seen))
            each = jnp.arange(self.points)
            moved = offset.reshape(height, width, self.points, 2)[at[:, 1], at[:, 0], each]
            return self.stride * (at + moved), heat[at[:, 1], at[:, 0], each]

        return jax.vmap(one)(center, heat, outputs["regression"], outputs["offset"])

    def loss(self, outputs: Tree, targets: Tree, *, sigma: float = 1.0, regression_weight: float = 0.1) -> Losses:
        """Returns the loss of a batch and its parts by name, divided by the number of keypoints.

        Args:
          outputs: the network's outputs.
          targets: a dict of ``points`` ``(batch, points, 2)``, x and y in pixels. A keypoint with NaN, or outside of
            the image, does not count; the person's center is the mean of the keypoints that count.
          sigma: the standard deviation of the heat maps, in positions.
          regression_weight: the weight of the loss of keypoint positions relative to the center.

        Raises:
          ArgumentError: the targets are not a dict of points of this shape.
        """
        points = targets.get("points") if isinstance(targets, dict) else None
        batch = len(outputs["heat"])
        if points is None or points.shape != (batch, self.points, 2):
            got = type(targets).__name__ if points is None else f"points of shape {points.shape}"
            raise ArgumentError(f"targets must be a dict of points ({batch}, {self.points}, 2), got {got}")
        outputs = _wide(outputs)
        size = outputs["heat"].shape[1:3]
        limit = jnp.array(size[::-1])

        def maps_of(points: Array, counts: Array) -> Array:
            return ops.encode_heatmap(jnp.where(counts[:, None], points, jnp.nan), size, sigma)

        def one(outputs: Tree, points: Array) -> dict[str, Array]:
            at = points / self.stride
            counts = ((at >= 0) & (at < limit)).all(-1)
            at = jnp.where(counts[:, None], at, 0)
            cells = jnp.floor(at)
            person = jnp.floor(at.sum(0) / jnp.maximum(counts.sum(), 1))[None]
            rows, columns = (cells[:, i].astype(jnp.int32) for i in (1, 0))
            offset = outputs["offset"].reshape(*size, self.points, 2)[rows, columns, jnp.arange(self.points)]
            x, y = person[0].astype(jnp.int32)
            seen = outputs["regression"][y, x].reshape(self.points, 2)

            def distance(found: Array, wanted: Array) -> Array:
                return jnp.where(counts[:, None], jnp.abs(found - wanted), 0).sum()

            return {
                "center": _focal(outputs["center"], maps_of(person, counts.any()[None])),
                "heat": _focal(outputs["heat"], maps_of(cells, counts)),
                "regression": regression_weight * distance(seen, at - person),
                "offset": distance(offset, at - cells),
                "count": counts.sum(),
            }

        parts = {name: each.sum() for name, each in jax.vmap(one)(outputs, jnp.asarray(points)).items()}
        count = jnp.maximum(parts.pop("count"), 1)
        return total({name: each / count for name, each in parts.items()})


__all__ = ["CenterNet", "PoseNet"]
