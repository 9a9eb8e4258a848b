"""Detectors of one stage: a class and a box for each anchor, at all positions of a few feature maps.

RetinaNet: Lin, Goyal, Girshick, He and Dollar, "Focal loss for dense object detection", 2017.
FCOS: Tian, Shen, Chen and He, "FCOS: fully convolutional one-stage object detection", 2019.
SSD: Liu et al., "SSD: single shot multibox detector", 2016.
"""

import functools
import operator
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv import ops
from jaxconv.compose.base import Wrapper
from jaxconv.detect.anchors import Anchors, Size
from jaxconv.detect.results import Detections, Losses, check_targets, clipped, per_image, taken, total
from jaxconv.errors import ArgumentError
from jaxconv.layer import Array, Tree
from jaxconv.losses import generalized_box_iou_loss, sigmoid_focal_loss
from jaxconv.ops.anchors import IGNORED


@dataclass(frozen=True, repr=False)
class Detector(Wrapper):
    """The base class of detectors of one stage: a network, its anchors, and what its outputs mean.

    As a layer it is the network ``layer``: it returns raw outputs, an OrderedDict of heads with an OrderedDict of
    feature maps each. ``decode`` turns outputs into detections, ``loss`` compares them with targets. Both are pure
    functions of arrays.
    """

    # Where in the outputs the heads are: classes, boxes, and centers if there are any.
    paths: ClassVar[tuple[tuple[str, ...], ...]]
    classes: int
    anchors: Anchors

    def levels(self, outputs: Tree) -> list[list[Array]]:
        """Returns for each head the outputs of each level as ``(batch, height * width * anchors, columns)``."""
        return [
            [y.reshape(y.shape[0], -1, n) for y in _arrays(outputs, path)]
            for path, n in zip(self.paths, self._columns(), strict=False)
        ]

    def _columns(self) -> tuple[int, ...]:
        """Returns for each head the number of values of one anchor."""
        return (self.classes, 4, 1)

    def image_size(self, outputs: Tree) -> Size:
        """Returns the size of the images whose outputs have these shapes."""
        return self.anchors.image_size(self._grids(outputs))

    def anchor_boxes(self, outputs: Tree, image_size: Size | None = None) -> list[Array]:
        """Returns the anchors of each level, ``(height * width * anchors, 4)``.

        Args:
          outputs: the network's outputs, or their shapes.
          image_size: height and width of the padded images; by default the finest level's size times its stride.
        """
        return self.anchors.boxes(self._grids(outputs), image_size or self.image_size(outputs))

    def _grids(self, outputs: Tree) -> list[Size]:
        return [y.shape[1:3] for y in _arrays(outputs, self.paths[0])]

    def _batched(self, outputs: Tree, image_size: Size | None, sizes: Any) -> Array:
        """Returns the size of each image."""
        batch = _arrays(outputs, self.paths[0])[0].shape[0]
        return per_image((image_size or self.image_size(outputs)) if sizes is None else sizes, batch)


def _arrays(outputs: Tree, path: Sequence[str]) -> list[Any]:
    """Returns the outputs of one head, level by level."""
    name, *inside = path
    if not isinstance(outputs, OrderedDict) or name not in outputs:
        got = list(outputs) if isinstance(outputs, dict) else type(outputs).__name__
        raise ArgumentError(f"outputs must be what the network returns, an OrderedDict with {name!r}, got {got}")
    return [functools.reduce(operator.getitem, inside, level) for level in outputs[name].values()]


def candidates_of(scores: Array, boxes: Array, n: int, threshold: float) -> tuple[Array, Array, Array]:
    """Returns boxes, scores and labels of the n best pairs of box and class; a score of -inf is none.

    Args:
      scores: ``(boxes, classes)``.
      boxes: ``(boxes, 4)``.
    """
    scores = jnp.where(scores > threshold, scores, -jnp.inf)
    classes = scores.shape[1]
    # The best pairs are pairs of the boxes with the best classes, which are fewer to sort.
    _, rows = lax.top_k(scores.max(1), min(n, scores.shape[0]))
    values, at = lax.top_k(scores[rows].reshape(-1), min(n, rows.size * classes))
    return boxes[rows[at // classes]], values, at % classes


def best_of(candidates: Sequence[tuple[Array, Array, Array]], iou_threshold: float, n: int) -> Detections:
    """Returns what non-maximum suppression, class by class, leaves of the candidates."""
    boxes, scores, labels = map(jnp.concatenate, zip(*candidates, strict=True))
    indices, valid = ops.batched_nms(boxes, scores, labels, iou_threshold, n, valid=scores > -jnp.inf)
    return taken(indices, valid, boxes, scores, labels)


def smooth_l1(x: Array, y: Array, beta: float = 1.0) -> Array:
    """Returns ``|x - y| - beta / 2``, or ``(x - y)^2 / (2 beta)`` where ``|x - y| < beta``."""
    difference = jnp.abs(x - y)
    return jnp.where(difference < beta, 0.5 * jnp.square(difference) / beta, difference - 0.5 * beta)


@dataclass(frozen=True, repr=False)
class RetinaNet(Detector):
    """RetinaNet: focal loss on sigmoids, boxes relative to anchors; made by `jaxconv.models.retinanet`.

    Args:
      layer: the network; its heads are called classification_head and regression_head.
      classes: the number of classes; torchvision counts an unused class 0 among them.
      anchors: the anchors of each level.
      box_loss: "l1" of the encoded boxes, or "giou".
    """

    call: ClassVar[str] = "RetinaNet"
    paths: ClassVar[tuple[tuple[str, ...], ...]] = (("classification_head",), ("regression_head",))
    box_loss: str = "l1"

    def check(self) -> None:
        super().check()
        if self.box_loss not in ("l1", "giou"):
            raise ArgumentError(f"box_loss must be 'l1' or 'giou', got {self.box_loss!r}")

    def decode(
        self,
        outputs: Tree,
        image_size: Size | None = None,
        *,
        sizes: Any = None,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 300,
        candidates: int = 1000,
    ) -> Detections:
        """Returns the detections in each image, always the same number; equals torchvision's.

        Args:
          outputs: the network's outputs.
          image_size: height and width of the padded images; by default the finest level's size times its stride.
          sizes: ``(batch, 2)`` heights and widths of the images without padding, to which boxes are clipped.
          score_threshold: scores must be above it.
          iou_threshold: a box whose IoU with a better one of its class is greater is suppressed.
          max_detections: the number of detections for each image.
          candidates: the number of boxes of each level that are compared.
        """
        (logits, deltas), anchors = self.levels(outputs), self.anchor_boxes(outputs, image_size)

        def one(logits: list[Array], deltas: list[Array], size: Array) -> Detections:
            found = []
            for y, d, a in zip(logits, deltas, anchors, strict=True):
                boxes = clipped(ops.decode_boxes(d, a), size)
                found.append(candidates_of(jax.nn.sigmoid(y), boxes, candidates, score_threshold))
            return best_of(found, iou_threshold, max_detections)

        return jax.vmap(one)(logits, deltas, self._batched(outputs, image_size, sizes))

    def loss(
        self,
        outputs: Tree,
        targets: Tree,
        *,
        image_size: Size | None = None,
        positive: float = 0.5,
        negative: float = 0.4,
    ) -> Losses:
        """Returns the loss of each image, ``(batch,)``, and its parts by name; equals torchvision's on average.

        Args:
          outputs: the network's outputs.
          targets: a dict of boxes, labels and valid, see `jaxconv.detect.pad_targets`.
          image_size: height and width of the padded images; by default the finest level's size times its stride.
          positive, negative: an anchor whose IoU with a box is at least ``positive`` has its class; below ``negative``
            with all boxes it has none; between, it is ignored. The best anchors of a box always have its class.
        """
        check_targets(targets)
        logits, deltas = (jnp.concatenate(each, 1) for each in self.levels(outputs))
        anchors = jnp.concatenate(self.anchor_boxes(outputs, image_size))

        def one(logits: Array, deltas: Array, boxes: Array, labels: Array, valid: Array) -> dict[str, Array]:
            found = ops.match_boxes(boxes, anchors, high=positive, low=negative, allow_low_quality=True, valid=valid)
            focal = sigmoid_focal_loss(logits, _one_hot(found, labels, self.classes)).sum(1)
            each = self._box_loss(deltas, anchors, matched_boxes(found, boxes, anchors))
            count = jnp.maximum((found >= 0).sum(), 1)
            return {
                "classification": jnp.where(found == IGNORED, 0, focal).sum() / count,
                "bbox_regression": jnp.where(found >= 0, each, 0).sum() / count,
            }

        parts = jax.vmap(one)(logits, deltas, *(jnp.asarray(targets[k]) for k in ("boxes", "labels", "valid")))
        return total(parts)

    def _box_loss(self, deltas: Array, anchors: Array, boxes: Array) -> Array:
        if self.box_loss == "giou":
            return generalized_box_iou_loss(ops.decode_boxes(deltas, anchors), boxes)
        return jnp.abs(deltas - ops.encode_boxes(boxes, anchors)).sum(1)


def _one_hot(found: Array, labels: Array, classes: int) -> Array:
    """Returns ``(anchors, classes)``: 1 at the class of the box of each anchor that has one."""
    return jax.nn.one_hot(jnp.where(found >= 0, labels[found], -1), classes)


def matched_boxes(found: Array, boxes: Array, anchors: Array) -> Array:
    """Returns the box of each anchor that has one, and elsewhere the anchor, whose loss is finite."""
    return jnp.where(found[:, None] >= 0, boxes[found], anchors)


@dataclass(frozen=True, repr=False)
class FCOS(Detector):
    """FCOS: distances to the sides of a box, and how central the position is; made by `jaxconv.models.fcos`.

    Args:
      layer: the network; its heads are classification_head, and regression_head with bbox_reg and bbox_ctrness.
      classes: the number of classes; torchvision counts an unused class 0 among them.
      anchors: squares as large as each level's stride.
    """

    call: ClassVar[str] = "FCOS"
    paths: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("classification_head",),
        ("regression_head", "bbox_reg"),
        ("regression_head", "bbox_ctrness"),
    )

    def decode(
        self,
        outputs: Tree,
        image_size: Size | None = None,
        *,
        sizes: Any = None,
        score_threshold: float = 0.2,
        iou_threshold: float = 0.6,
        max_detections: int = 100,
        candidates: int = 1000,
    ) -> Detections:
        """Returns the detections in each image, always the same number; arguments as in `RetinaNet.decode`."""
        (logits, deltas, centers), anchors = self.levels(outputs), self.anchor_boxes(outputs, image_size)

        def one(logits: list[Array], deltas: list[Array], centers: list[Array], size: Array) -> Detections:
            found = []
            for y, d, c, a in zip(logits, deltas, centers, anchors, strict=True):
                scores = jnp.sqrt(jax.nn.sigmoid(y) * jax.nn.sigmoid(c))
                boxes = clipped(ops.decode_distances(d, a), size)
                found.append(candidates_of(scores, boxes, candidates, score_threshold))
            return best_of(found, iou_threshold, max_detections)

        return jax.vmap(one)(logits, deltas, centers, self._batched(outputs, image_size, sizes))

    def loss(self, outputs: Tree, targets: Tree, *, image_size: Size | None = None, radius: float = 1.5) -> Losses:
        """Returns the loss of a batch and its parts by name, divided by the foreground of the batch as in torchvision.

        Args:
          outputs: the network's outputs.
          targets: a dict of boxes, labels and valid, see `jaxconv.detect.pad_targets`.
          image_size: height and width of the padded images; by default the finest level's size times its stride.
          radius: positions within this number of strides of a box's center are foreground.
        """
        check_targets(targets)
        levels = self.anchor_boxes(outputs, image_size)
        anchors = jnp.concatenate(levels)
        logits, deltas, centers = (jnp.concatenate(each, 1) for each in self.levels(outputs))

        def one(
            logits: Array, deltas: Array, centers: Array, boxes: Array, labels: Array, valid: Array
        ) -> tuple[dict[str, Array], Array]:
            found = ops.match_centers(boxes, anchors, [len(each) for each in levels], radius=radius, valid=valid)
            target = matched_boxes(found, boxes, anchors)
            sides = ops.encode_distances(target, anchors)
            x, y = sides[:, 0::2], sides[:, 1::2]
            ratio = (x.min(1) / x.max(1)) * (y.min(1) / y.max(1))
            central = jnp.sqrt(jnp.where(found >= 0, ratio, 1))
            parts = {
                "bbox_regression": generalized_box_iou_loss(ops.decode_distances(deltas, anchors), target),
                "bbox_ctrness": _binary_cross_entropy(centers[:, 0], central),
            }
            parts = {name: jnp.where(found >= 0, each, 0).sum() for name, each in parts.items()}
            wanted = _one_hot(found, labels, self.classes)
            return {"classification": sigmoid_focal_loss(logits, wanted).sum()} | parts, (found >= 0).sum()

        given = (jnp.asarray(targets[k]) for k in ("boxes", "labels", "valid"))
        parts, count = jax.vmap(one)(logits, deltas, centers, *given)
        parts = {name: each.sum() / jnp.maximum(count.sum(), 1) for name, each in parts.items()}
        return total(parts)


def _binary_cross_entropy(logits: Array, wanted: Array) -> Array:
    return jax.nn.softplus(logits) - logits * wanted


@dataclass(frozen=True, repr=False)
class SSD(Detector):
    """SSD: a softmax over classes and the background, class 0; made by `jaxconv.models.ssd`.

    Args:
      layer: the network; its heads are called classification_head and regression_head.
      classes: the number of classes, with the background.
      anchors: the default boxes of each level.
    """

    call: ClassVar[str] = "SSD"
    weights: ClassVar[tuple[float, ...]] = (10.0, 10.0, 5.0, 5.0)
    paths: ClassVar[tuple[tuple[str, ...], ...]] = (("classification_head",), ("regression_head",))

    def decode(
        self,
        outputs: Tree,
        image_size: Size | None = None,
        *,
        sizes: Any = None,
        score_threshold: float = 0.01,
        iou_threshold: float = 0.45,
        max_detections: int = 200,
        candidates: int = 400,
    ) -> Detections:
        """Returns the detections in each image, always the same number; arguments as in `RetinaNet.decode`.

        ``candidates`` is the number of boxes of each class that are compared. torchvision's SSDlite has a score
        threshold of 0.001, an IoU threshold of 0.55, 300 detections and 300 candidates.
        """
        logits, deltas = (jnp.concatenate(each, 1) for each in self.levels(outputs))
        anchors = jnp.concatenate(self.anchor_boxes(outputs, image_size))

        def one(logits: Array, deltas: Array, size: Array) -> Detections:
            boxes = clipped(ops.decode_boxes(deltas, anchors, weights=self.weights), size)
            scores = jax.nn.softmax(logits).T[1:]
            scores = jnp.where(scores > score_threshold, scores, -jnp.inf)
            values, at = lax.top_k(scores, min(candidates, scores.shape[1]))
            labels = jnp.broadcast_to(jnp.arange(1, self.classes)[:, None], at.shape)
            found = boxes[at.reshape(-1)], values.reshape(-1), labels.reshape(-1)
            return best_of([found], iou_threshold, max_detections)

        return jax.vmap(one)(logits, deltas, self._batched(outputs, image_size, sizes))

    def loss(
        self,
        outputs: Tree,
        targets: Tree,
        *,
        image_size: Size | None = None,
        positive: float = 0.5,
        negatives: float = 3.0,
    ) -> Losses:
        """Returns the loss of a batch and its parts by name, divided by the foreground of the batch as in torchvision.

        Args:
          outputs: the network's outputs.
          targets: a dict of boxes, labels and valid, see `jaxconv.detect.pad_targets`; labels begin with 1.
          image_size: height and width of the images; by default those of the anchors.
          positive: anchors whose IoU with a box is at least this have its class, as has the best anchor of each box.
          negatives: for each anchor in the foreground, the number of the worst others that count.
        """
        check_targets(targets)
        logits, deltas = (jnp.concatenate(each, 1) for each in self.levels(outputs))
        anchors = jnp.concatenate(self.anchor_boxes(outputs, image_size))

        def one(
            logits: Array, deltas: Array, boxes: Array, labels: Array, valid: Array
        ) -> tuple[dict[str, Array], Array]:
            found = ops.match_boxes(boxes, anchors, high=positive, low=positive, force_best=True, valid=valid)
            wanted = ops.encode_boxes(matched_boxes(found, boxes, anchors), anchors, weights=self.weights)
            regression = jnp.where(found >= 0, smooth_l1(deltas, wanted).sum(1), 0)
            label = jnp.where(found >= 0, labels[found], 0)
            each = -jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
            hard = jnp.where(label > 0, -jnp.inf, lax.stop_gradient(each))
            rank = jnp.argsort(jnp.argsort(-hard))
            counted = (label > 0).astype(each.dtype) + (rank < negatives * (label > 0).sum())
            return {"bbox_regression": regression.sum(), "classification": (each * counted).sum()}, (found >= 0).sum()

        given = (jnp.asarray(targets[k]) for k in ("boxes", "labels", "valid"))
        parts, count = jax.vmap(one)(logits, deltas, *given)
        parts = {name: each.sum() / jnp.maximum(count.sum(), 1) for name, each in parts.items()}
        return total(parts)


__all__ = ["FCOS", "SSD", "Detector", "RetinaNet"]
