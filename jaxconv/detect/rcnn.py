"""Detectors of two stages: proposals of regions, then a class, a box, a mask and keypoints for each region.

Ren, He, Girshick and Sun, "Faster R-CNN: towards real-time object detection with region proposal networks", 2015.
He, Gkioxari, Dollar and Girshick, "Mask R-CNN", 2017, which has the keypoints too.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxconv import ops
from jaxconv.composite import Composite, Run
from jaxconv.described import name_of
from jaxconv.detect.anchors import AnchorGrid, Size
from jaxconv.detect.dense import smooth_l1
from jaxconv.detect.keypoints import heat_positions, keypoints_of
from jaxconv.detect.masks import project_masks
from jaxconv.detect.regions import (
    WEIGHTS,
    AnchorSamples,
    Proposals,
    RegionPool,
    RegionResults,
    RegionRules,
    RegionSamples,
    flat_levels,
    grids_of,
    level_anchors,
)
from jaxconv.detect.results import Detections, Losses, check_targets, total
from jaxconv.errors import ArgumentError
from jaxconv.layer import Array, Children, Tree

BETA = 1 / 9


@dataclass(frozen=True, repr=False)
class RoiHeads(Composite):
    """The networks of regions; made by `jaxconv.models.faster_rcnn` and its like.

    The children are box_head and box_predictor, and mask_head and mask_predictor, keypoint_head and
    keypoint_predictor where there are masks or keypoints.

    Args:
      children: the networks by name.
      rules: numbers and thresholds.
      box_size, map_size: the positions of a region for boxes, and for masks and keypoints.
    """

    call: ClassVar[str] = "RoiHeads"
    children: Children
    rules: RegionRules
    box_size: int = 7
    map_size: int = 14

    def arguments(self) -> list[str]:
        return [f"{name}={name_of(layer)}" for name, layer in self.children]

    def route(self, run: Run, x: Tree) -> Tree:
        layers, proposals, out = dict(self.children), x["proposals"], OrderedDict()
        image = {name: x[name] for name in ("image", "size") if name in x}
        if "targets" in x:
            proposals = run("", RegionSamples(self.rules), {"proposals": proposals, "targets": x["targets"]})
            out["samples"] = proposals
        regions = run("", RegionPool(self.box_size), {**image, "maps": x["maps"], "boxes": proposals["boxes"]})
        predicted = run("box_predictor", layers["box_predictor"], run("box_head", layers["box_head"], regions))
        out["class_logits"], out["box_regression"] = predicted["cls_score"], predicted["bbox_pred"]
        if "targets" in x:
            # Only the first rows can be objects.
            n = min(int(self.rules.region_samples * self.rules.region_fraction), proposals["boxes"].shape[1])
            boxes = run.join(lambda boxes: boxes[:, :n], proposals["boxes"])
        else:
            found = run("", RegionResults(self.rules), {**image, "proposals": proposals, **out})
            out["detections"] = found
            boxes = found["boxes"]
        pool = RegionPool(self.map_size)
        for kind in ("mask", "keypoint"):
            if f"{kind}_head" in layers:
                y = run(
                    f"{kind}_head", layers[f"{kind}_head"], run("", pool, {**image, "maps": x["maps"], "boxes": boxes})
                )
                out[f"{kind}_logits"] = run(f"{kind}_predictor", layers[f"{kind}_predictor"], y)
        return out


@dataclass(frozen=True, repr=False)
class RCNN(Composite):
    """A detector of two stages; made by `jaxconv.models.faster_rcnn` and its like.

    The input is images ``(batch, height, width, 3)``, or a dict with image, and size where images are padded. With
    boxes, labels and valid in it too, the targets, the network returns what `loss` compares, whether in training or
    not; without them what `decode` turns into detections.

    Args:
      children: backbone, rpn and roi_heads.
      anchors: the anchors of each feature map.
      rules: numbers and thresholds.
      levels: the names of the feature maps that regions are taken from.
    """

    call: ClassVar[str] = "RCNN"
    children: Children
    anchors: AnchorGrid
    rules: RegionRules
    levels: tuple[str, ...] = ("0", "1", "2", "3")

    def arguments(self) -> list[str]:
        return [f"{name}={name_of(layer)}" for name, layer in self.children]

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        image, targets = _parts(x)
        maps = run("backbone", layers["backbone"], image["image"])
        out = OrderedDict(rpn=run("rpn", layers["rpn"], maps))
        given = image if targets is None else {**image, "targets": targets}
        if targets is not None:
            samples = AnchorSamples(self.anchors, self.rules)
            out["anchor_samples"] = run("", samples, {**given, "outputs": out["rpn"]})
        proposals = Proposals(self.anchors, self.rules, targets is not None)
        out["proposals"] = run("", proposals, {**image, "outputs": out["rpn"]})
        levels = [maps[name] for name in self.levels if name in maps]
        found = run("roi_heads", layers["roi_heads"], {**given, "maps": levels, "proposals": out["proposals"]})
        return OrderedDict([*out.items(), *found.items()])

    def decode(self, outputs: Tree) -> Detections:
        """Returns the detections of the network's outputs without targets; masks are those of the detected classes."""
        if "detections" not in outputs:
            raise ArgumentError(f"outputs must be of images without targets, got an output with {list(outputs)}")
        found = Detections(**outputs["detections"])
        if "mask_logits" in outputs:
            label = jnp.maximum(found.labels, 0)[..., None, None, None]
            masks = jnp.take_along_axis(outputs["mask_logits"], label, axis=-1)[..., 0]
            found = found._replace(masks=jax.nn.sigmoid(masks))
        if "keypoint_logits" in outputs:
            limit = 1 + int(max(self._image_size(outputs)))
            points, scores = keypoints_of(outputs["keypoint_logits"], found.boxes, found.valid, limit)
            found = found._replace(keypoints=points, keypoint_scores=scores)
        return found

    def _image_size(self, outputs: Tree) -> Size:
        return self.anchors.image_size(grids_of(outputs["rpn"]))

    def loss(self, outputs: Tree, targets: Tree = None, *, image_size: Size | None = None) -> Losses:
        """Returns the loss of a batch and its parts by torchvision's names.

        Args:
          outputs: the network's outputs for an input with targets.
          targets: a dict of boxes, labels and valid, with ``masks`` ``(batch, n, height, width)`` or ``keypoints``
            ``(batch, n, points, 3)``, x, y and visibility, where the network has them.
          image_size: height and width of the padded images; by default the finest level's size times its stride.
        """
        if "samples" not in outputs:
            raise ArgumentError(
                f"outputs must be of a dict of image, boxes, labels and valid, got an output with {list(outputs)}"
            )
        parts = self._region_losses(outputs) | self._rpn_losses(outputs, image_size or self._image_size(outputs))
        if "mask_logits" in outputs:
            check_targets(targets, "masks")
            parts["loss_mask"] = _mask_loss(outputs["mask_logits"], outputs["samples"], targets["masks"])
        if "keypoint_logits" in outputs:
            check_targets(targets, "keypoints")
            parts["loss_keypoint"] = _keypoint_loss(
                outputs["keypoint_logits"], outputs["samples"], targets["keypoints"]
            )
        return total(parts)

    def _rpn_losses(self, outputs: Tree, image_size: Size) -> dict[str, Array]:
        samples = outputs["anchor_samples"]
        scores, deltas = (jnp.concatenate(each, 1) for each in flat_levels(outputs["rpn"]))
        anchors = jnp.concatenate(level_anchors(self.anchors, outputs["rpn"], image_size))
        wanted, weight, count = samples["wanted"], samples["weight"], jnp.maximum(samples["weight"].sum(), 1)
        entropy = jax.nn.softplus(scores) - scores * wanted
        moved = smooth_l1(deltas, ops.encode_boxes(samples["boxes"], anchors), BETA).sum(-1)
        return {
            "loss_objectness": (entropy * weight).sum() / count,
            "loss_rpn_box_reg": (moved * wanted).sum() / count,
        }

    def _region_losses(self, outputs: Tree) -> dict[str, Array]:
        samples, logits = outputs["samples"], outputs["class_logits"]
        labels, valid = samples["labels"], samples["valid"]
        count = jnp.maximum(valid.sum(), 1)
        entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
        deltas = outputs["box_regression"].reshape(*logits.shape, 4)
        deltas = jnp.take_along_axis(deltas, labels[..., None, None], axis=-2)[..., 0, :]
        objects = valid & (labels > 0)
        # Rows without an object have a box with a finite loss.
        unit = jnp.array([0.0, 0.0, 1.0, 1.0])
        boxes, wanted = (jnp.where(objects[..., None], samples[name], unit) for name in ("boxes", "matched_boxes"))
        moved = smooth_l1(deltas, ops.encode_boxes(wanted, boxes, weights=WEIGHTS), BETA).sum(-1)
        return {
            "loss_classifier": jnp.where(valid, entropy, 0).sum() / count,
            "loss_box_reg": jnp.where(objects, moved, 0).sum() / count,
        }


def _parts(x: Tree) -> tuple[Tree, Tree]:
    """Returns a dict of images, and their sizes if given, and targets or None."""
    if not isinstance(x, dict):
        return {"image": x}, None
    if "image" not in x:
        raise ArgumentError(f"x must be images or a dict with image, got a dict with {list(x)}")
    targets = None
    if "boxes" in x:
        check_targets(x)
        targets = {name: x[name] for name in ("boxes", "labels", "valid")}
    return {name: x[name] for name in ("image", "size") if name in x}, targets


def _objects(samples: Tree, n: int) -> tuple[Array, Array, Array, Array]:
    """Returns boxes, labels and matched rows of the first n samples, and which of them are objects."""
    boxes, labels, matched = (samples[name][:, :n] for name in ("boxes", "labels", "matched"))
    return boxes, labels, matched, samples["valid"][:, :n] & (labels > 0)


def _mask_loss(logits: Array, samples: Tree, masks: Array) -> Array:
    boxes, labels, matched, objects = _objects(samples, logits.shape[1])
    masks = jnp.asarray(masks)
    wanted = jax.vmap(lambda m, b, i: project_masks(m, b, i, logits.shape[-2]))(masks, boxes, matched)
    chosen = jnp.take_along_axis(logits, labels[..., None, None, None], axis=-1)[..., 0]
    each = (jax.nn.softplus(chosen) - chosen * wanted).mean((-2, -1))
    return jnp.where(objects, each, 0).sum() / jnp.maximum(objects.sum(), 1)


def _keypoint_loss(logits: Array, samples: Tree, keypoints: Array) -> Array:
    boxes, _, matched, objects = _objects(samples, logits.shape[1])
    points = jnp.take_along_axis(jnp.asarray(keypoints), matched[..., None, None], axis=1)
    at, visible = heat_positions(points, boxes, logits.shape[-2])
    visible &= objects[..., None]
    flat = jnp.moveaxis(logits, -1, -3).reshape(*at.shape, -1)
    each = -jnp.take_along_axis(jax.nn.log_softmax(flat), at[..., None], axis=-1)[..., 0]
    return jnp.where(visible, each, 0).sum() / jnp.maximum(visible.sum(), 1)


__all__ = ["RCNN"]
