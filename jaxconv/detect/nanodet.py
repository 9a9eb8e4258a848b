"""NanoDet: RangiLyu, "NanoDet", 2020, on generalized focal loss: Li et al., "Generalized focal loss", 2020."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxconv import ops
from jaxconv.detect.anchors import Size
from jaxconv.detect.dense import Detector, best_of, candidates_of, matched_boxes
from jaxconv.detect.results import Detections, Losses, check_targets, clipped, total
from jaxconv.layer import Array, Tree
from jaxconv.losses import generalized_box_iou_loss
from jaxconv.ops.arrays import accumulator


@dataclass(frozen=True, repr=False)
class NanoDet(Detector):
    """NanoDet: scores that are the quality of the box, and a distribution for the distance to each side.

    Made by `jaxconv.models.nanodet`. Labels begin with 0.

    Args:
      layer: the network, with one head gfl_cls: classes, then 4 times ``bins``.
      classes: the number of classes.
      anchors: squares for matching, at each position one; their side is ``scale`` strides.
      bins: distances are from 0 to ``bins - 1`` strides.
      scale: as in ``anchors``.
    """

    call: ClassVar[str] = "NanoDet"
    paths: ClassVar[tuple[tuple[str, ...], ...]] = (("gfl_cls",),)
    bins: int = 8
    scale: int = 5

    def _columns(self) -> tuple[int, ...]:
        return (self.classes + 4 * self.bins,)

    def _parts(self, y: Array) -> tuple[Array, Array]:
        """Returns logits of classes, and of distances ``(..., 4, bins)``."""
        return y[..., : self.classes], y[..., self.classes :].reshape(*y.shape[:-1], 4, self.bins)

    def _distances(self, bins: Array) -> Array:
        """Returns the expected distances in sides of the anchor."""
        wide = bins.astype(accumulator(bins.dtype))
        return (jax.nn.softmax(wide) * jnp.arange(self.bins, dtype=wide.dtype)).sum(-1) / self.scale

    def decode(
        self,
        outputs: Tree,
        image_size: Size | None = None,
        *,
        sizes: Any = None,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        candidates: int = 1000,
    ) -> Detections:
        """Returns the detections in each image, always the same number; arguments as in `RetinaNet.decode`."""
        [levels], anchors = self.levels(outputs), self.anchor_boxes(outputs, image_size)

        def one(levels: list[Array], size: Array) -> Detections:
            found = []
            for y, a in zip(levels, anchors, strict=True):
                logits, bins = self._parts(y)
                boxes = clipped(ops.decode_distances(self._distances(bins), a), size)
                found.append(candidates_of(jax.nn.sigmoid(logits), boxes, candidates, score_threshold))
            return best_of(found, iou_threshold, max_detections)

        return jax.vmap(one)(levels, self._batched(outputs, image_size, sizes))

    def loss(self, outputs: Tree, targets: Tree, *, image_size: Size | None = None) -> Losses:
        """Returns the loss of a batch and its parts by name: of qualities, boxes and distributions.

        Args:
          outputs: the network's outputs.
          targets: a dict of boxes, labels and valid, see `jaxconv.detect.pad_targets`.
          image_size: height and width of the images; by default the finest level's size times its stride.
        """
        check_targets(targets)
        anchors = self.anchor_boxes(outputs, image_size)
        every, sizes = jnp.concatenate(anchors), [len(a) for a in anchors]
        y = jnp.concatenate(self.levels(outputs)[0], 1)

        def one(y: Array, boxes: Array, labels: Array, valid: Array) -> tuple[dict[str, Array], Array, Array]:
            found = ops.match_atss(boxes, every, sizes, valid=valid)
            logits, bins = self._parts(y)
            target = matched_boxes(found, boxes, every)
            predicted = ops.decode_distances(self._distances(bins), every)
            each = generalized_box_iou_loss(predicted, target)
            quality = jax.vmap(lambda a, b: ops.box_iou(a[None], b[None])[0, 0])(predicted, target)
            quality = jax.lax.stop_gradient(jnp.where(found >= 0, quality, 0))
            wanted = jax.nn.one_hot(jnp.where(found >= 0, labels[found], -1), self.classes) * quality[:, None]
            score = jax.nn.sigmoid(logits)
            focal = (wanted - score) ** 2 * (jax.nn.softplus(logits) - logits * wanted)
            # A box has the weight of the highest score at its position.
            weight = jax.lax.stop_gradient(jnp.where(found >= 0, score.max(1), 0))
            distances = jnp.clip(ops.encode_distances(target, every) * self.scale, 0, self.bins - 1.001)
            spread = _two_bins(bins, distances).mean(1)
            parts = {
                "quality": focal.sum(),
                "bbox_regression": 2 * (weight * each).sum(),
                "distribution": 0.25 * (weight * spread).sum(),
            }
            return parts, (found >= 0).sum(), weight.sum()

        parts, count, weight = jax.vmap(one)(y, *(jnp.asarray(targets[k]) for k in ("boxes", "labels", "valid")))
        count, weight = jnp.maximum(count.sum(), 1), jnp.maximum(weight.sum(), 1e-6)
        parts = {name: each.sum() / (count if name == "quality" else weight) for name, each in parts.items()}
        return total(parts)


def _two_bins(logits: Array, distance: Array) -> Array:
    """Returns the cross entropy of logits ``(..., bins)`` with the two bins around each distance."""
    low = jnp.floor(distance).astype(jnp.int32)
    share = distance - low
    entropy = -jax.nn.log_softmax(logits)
    at = [jnp.take_along_axis(entropy, (low + i)[..., None], -1)[..., 0] for i in (0, 1)]
    return at[0] * (1 - share) + at[1] * share


__all__ = ["NanoDet"]
