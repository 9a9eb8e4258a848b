"""What R-CNN computes between its networks: proposals, samples of them for training, regions, and results.

Layers without parameters, whose input is a dict with the images too, of which only the size counts. Boxes have a batch
axis, and their number is static: rows that are not valid are padding.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv import ops
from jaxconv.described import Described
from jaxconv.detect.anchors import AnchorGrid, Size
from jaxconv.detect.results import clipped, per_image
from jaxconv.errors import ArgumentError
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array, Params, State, Tree
from jaxconv.layers.base import Geometry, Leaf
from jaxconv.ops.anchors import UNMATCHED

# Scales of box regression on regions.
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True, repr=False)
class RegionRules(Described):
    """The numbers and thresholds of a detector of two stages; the defaults are torchvision's.

    Args:
      before, after: the number of boxes of each level that are candidates for proposals, and the number of proposals.
      training_before, training_after: the same for an input with targets.
      proposal_iou, proposal_score: a proposal whose IoU with a better one is greater is suppressed; so is one with a
        lower score.
      anchor_iou: an anchor whose IoU with a target is below the first is background, from the second on an object.
      anchor_samples, anchor_fraction: the number of anchors of an image in the loss, and the largest fraction of them
        that are objects.
      region_iou: a proposal whose IoU with a target is at least this has its class.
      region_samples, region_fraction: the same for proposals.
      score_threshold, iou_threshold, max_detections: scores of detections are above the threshold; a detection whose
        IoU with a better one of its class is greater is suppressed; and the number of detections.
    """

    before: int = 1000
    after: int = 1000
    training_before: int = 2000
    training_after: int = 2000
    proposal_iou: float = 0.7
    proposal_score: float = 0.0
    anchor_iou: tuple[float, float] = (0.3, 0.7)
    anchor_samples: int = 256
    anchor_fraction: float = 0.5
    region_iou: float = 0.5
    region_samples: int = 512
    region_fraction: float = 0.25
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    max_detections: int = 100


def flat_levels(outputs: Tree) -> tuple[list[Array], list[Array]]:
    """Returns objectness ``(batch, anchors)`` and deltas ``(batch, anchors, 4)`` of each level."""
    scores = [y["cls_logits"].reshape(len(y["cls_logits"]), -1) for y in outputs.values()]
    return scores, [y["bbox_pred"].reshape(len(y["bbox_pred"]), -1, 4) for y in outputs.values()]


def grids_of(outputs: Tree) -> list[Size]:
    """Returns height and width of each level of a region proposal network's outputs."""
    return [y["cls_logits"].shape[1:3] for y in outputs.values()]


def level_anchors(anchors: AnchorGrid, outputs: Tree, image_size: Size) -> list[Array]:
    """Returns the anchors of each level of a region proposal network's outputs."""
    return anchors.boxes(grids_of(outputs), image_size)


def image_sizes(x: Tree) -> Array:
    """Returns the size of each image without padding."""
    image = x["image"]
    return per_image(x.get("size", image.shape[1:3]), image.shape[0])


class _Between(Leaf):
    """The base class of layers whose output positions have no receptive field."""

    def geometry(self, x: Any) -> Geometry:
        return None


@dataclass(frozen=True, repr=False)
class Proposals(_Between):
    """The best boxes of a region proposal network, ``{"boxes": (batch, n, 4), "valid": (batch, n)}``."""

    anchors: AnchorGrid
    rules: RegionRules
    targets: bool = False
    min_size: float = 1e-3

    def forward(self, params: Params, x: Tree) -> Tree:
        outputs = x["outputs"]
        scores, deltas = flat_levels(outputs)
        anchors = level_anchors(self.anchors, outputs, x["image"].shape[1:3])
        rules = self.rules
        before, after = rules.before, rules.after
        if self.targets:
            before, after = rules.training_before, rules.training_after
        n = min(after, sum(min(before, y.shape[1]) for y in scores))

        def one(scores: list[Array], deltas: list[Array], size: Array) -> Tree:
            boxes, values, levels = [], [], []
            for i, (y, d, a) in enumerate(zip(scores, deltas, anchors, strict=True)):
                best, at = lax.top_k(y, min(before, y.shape[0]))
                boxes.append(clipped(ops.decode_boxes(d[at], a[at]), size))
                values.append(jax.nn.sigmoid(best))
                levels.append(jnp.full(at.shape, i))
            kept, value, level = map(jnp.concatenate, (boxes, values, levels))
            valid = large(kept, self.min_size) & (value >= rules.proposal_score)
            at, valid = ops.batched_nms(kept, value, level, rules.proposal_iou, n, valid=valid)
            return {"boxes": jnp.where(valid[:, None], kept[at], 0), "valid": valid}

        found = jax.vmap(one)(scores, deltas, image_sizes(x))
        # As in the paper, no gradient flows through the coordinates of proposals.
        return lax.stop_gradient(found)


def large(boxes: Array, min_size: float) -> Array:
    """Returns whether both sides of each box are at least ``min_size``."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= min_size).all(-1)


def sampled(key: Array, positive: Array, negative: Array, size: int, fraction: float) -> tuple[Array, Array]:
    """Returns which positives and negatives are chosen: ``size`` in all, at most ``fraction`` of them positive."""
    n_positive = jnp.minimum(positive.sum(), int(size * fraction))
    n_negative = jnp.minimum(negative.sum(), size - n_positive)
    draws = jax.random.uniform(key, positive.shape)

    def first(mask: Array, n: Array) -> Array:
        rank = jnp.argsort(jnp.argsort(jnp.where(mask, draws, 2.0)))
        return mask & (rank < n)

    return first(positive, n_positive), first(negative, n_negative)


class _Sampling(_Between):
    """The base class of layers that draw; without a key they draw the same each time."""

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        return lax.stop_gradient(self.draw(jax.random.key(0) if key is None else as_key(key), x)), {}

    def draw(self, key: Array, x: Tree) -> Tree:
        """Returns the output."""
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class AnchorSamples(_Sampling):
    """The anchors that the loss of a region proposal network compares.

    The output has ``wanted``, 1 for objects, ``weight``, 1 for anchors of the sample, both ``(batch, anchors)``, and
    the ``boxes`` of the objects, ``(batch, anchors, 4)``.
    """

    anchors: AnchorGrid
    rules: RegionRules

    def draw(self, key: Array, x: Tree) -> Tree:
        outputs, targets = x["outputs"], x["targets"]
        anchors, rules = jnp.concatenate(level_anchors(self.anchors, outputs, x["image"].shape[1:3])), self.rules

        def one(key: Array, boxes: Array, valid: Array) -> Tree:
            low, high = rules.anchor_iou
            found = ops.match_boxes(boxes, anchors, high=high, low=low, allow_low_quality=True, valid=valid)
            positive, negative = sampled(
                key, found >= 0, found == UNMATCHED, rules.anchor_samples, rules.anchor_fraction
            )
            return {
                "wanted": positive.astype(anchors.dtype),
                "weight": (positive | negative).astype(anchors.dtype),
                "boxes": jnp.where(found[:, None] >= 0, boxes[found], anchors),
            }

        return jax.vmap(one)(jax.random.split(key, len(targets["boxes"])), targets["boxes"], targets["valid"])


@dataclass(frozen=True, repr=False)
class RegionSamples(_Sampling):
    """The proposals that the losses of regions compare: objects first, then background, then padding.

    The output has ``boxes``, ``valid``, ``labels``, ``matched``, the row of the target, and ``matched_boxes``.
    """

    rules: RegionRules

    def draw(self, key: Array, x: Tree) -> Tree:
        proposals, targets, rules = x["proposals"], x["targets"], self.rules

        def one(key: Array, proposals: Tree, boxes: Array, labels: Array, valid: Array) -> Tree:
            everything = jnp.concatenate([proposals["boxes"], boxes.astype(proposals["boxes"].dtype)])
            usable = jnp.concatenate([proposals["valid"], valid])
            found = ops.match_boxes(boxes, everything, high=rules.region_iou, low=rules.region_iou, valid=valid)
            positive, negative = sampled(
                key, usable & (found >= 0), usable & (found < 0), rules.region_samples, rules.region_fraction
            )
            order = jnp.argsort(jnp.where(positive, 0, jnp.where(negative, 1, 2)), stable=True)
            at = order[: rules.region_samples]
            return {
                "boxes": everything[at],
                "valid": (positive | negative)[at],
                "labels": jnp.where(positive, labels[found], 0)[at],
                "matched": jnp.maximum(found, 0)[at],
                "matched_boxes": boxes[jnp.maximum(found, 0)][at],
            }

        keys = jax.random.split(key, len(targets["boxes"]))
        return jax.vmap(one)(keys, proposals, *(targets[name] for name in ("boxes", "labels", "valid")))


@dataclass(frozen=True, repr=False)
class RegionPool(_Between):
    """The features of each box on the level of a pyramid that fits its size: `jaxconv.multiscale_roi_align`.

    Args:
      size: height and width of the output ``(batch, boxes, size, size, channels)``.
      sampling: points along each axis of an output position.
    """

    size: int
    sampling: int = 2

    def forward(self, params: Params, x: Tree) -> Tree:
        maps, boxes = list(x["maps"]), x["boxes"]
        batch, n = boxes.shape[:2]
        scales = [2.0 ** round(float(np.log2(y.shape[1] / x["image"].shape[1]))) for y in maps]
        # As in torchvision, maps of the first one's size beside it are not used.
        used = 1 + round(float(np.log2(scales[0] / scales[-1])))
        maps, scales = maps[:used], scales[:used]
        image = jnp.repeat(jnp.arange(batch), n)
        flat = ops.multiscale_roi_align(
            maps, boxes.reshape(-1, 4), image, self.size, spatial_scales=scales, sampling_ratio=self.sampling
        )
        return flat.reshape(batch, n, *flat.shape[1:])


@dataclass(frozen=True, repr=False)
class RegionResults(_Between):
    """The detections among classified proposals: an OrderedDict of boxes, scores, labels and valid."""

    rules: RegionRules
    min_size: float = 1e-2

    def forward(self, params: Params, x: Tree) -> Tree:
        logits, deltas, proposals = x["class_logits"], x["box_regression"], x["proposals"]
        n, classes = logits.shape[1:]
        if deltas.shape[-1] != 4 * classes:
            raise ArgumentError(f"box_regression must have 4 columns for each of {classes} classes, got {deltas.shape}")

        def one(logits: Array, deltas: Array, boxes: Array, valid: Array, size: Array) -> Tree:
            scores = jax.nn.softmax(logits)[:, 1:]
            moved = ops.decode_boxes(deltas.reshape(n, classes, 4)[:, 1:], boxes[:, None], weights=WEIGHTS)
            moved = clipped(moved, size)
            use = valid[:, None] & (scores > self.rules.score_threshold) & large(moved, self.min_size)
            labels = jnp.broadcast_to(jnp.arange(1, classes), scores.shape)
            flat = moved.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1)
            at, valid = ops.batched_nms(
                *flat, self.rules.iou_threshold, self.rules.max_detections, valid=use.reshape(-1)
            )
            return OrderedDict(
                boxes=jnp.where(valid[:, None], flat[0][at], 0),
                scores=jnp.where(valid, flat[1][at], 0),
                labels=jnp.where(valid, flat[2][at], -1),
                valid=valid,
            )

        return jax.vmap(one)(logits, deltas, proposals["boxes"], proposals["valid"], image_sizes(x))


__all__ = ["RegionRules"]
