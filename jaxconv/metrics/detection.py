"""Metrics of detected objects: COCO's average precision, and that of instances by their IoU."""

import contextlib
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.extras import need
from jaxconv.geometry import as_int
from jaxconv.metrics.base import Metric, add, described
from jaxconv.metrics.keypoints import COCO_SIGMAS
from jaxconv.ops.boxes import check_boxes

KINDS = ("boxes", "keypoints")
NAMES = {
    "boxes": "AP AP50 AP75 AP_small AP_medium AP_large AR1 AR10 AR100 AR_small AR_medium AR_large".split(),
    "keypoints": "AP AP50 AP75 AP_medium AP_large AR AR50 AR75 AR_medium AR_large".split(),
}


def average_precision(kind: str = "boxes", *, sigmas: Sequence[float] = COCO_SIGMAS) -> Metric:
    """Returns COCO's average precision and recall of detected boxes or keypoints, computed by pycocotools.

    Args:
      kind: "boxes", compared by IoU; "keypoints", compared by `object_keypoint_similarity`.
      sigmas: of "keypoints", one for each.

    Returns:
      A `Metric` of outputs and targets, dicts of arrays that are padded to numbers of objects:

      outputs: "boxes" `(N, D, 4)`, "scores" `(N, D)`, integer "labels" `(N, D)`, bool "valid" `(N, D)`; for keypoints
      "points" `(N, D, K, 2)` instead of boxes.

      targets: "boxes" `(N, G, 4)`, integer "labels" `(N, G)`, bool "valid" `(N, G)`; for keypoints also "points"
      `(N, G, K, 2)` and bool "visible" `(N, G, K)`. "area" `(N, G)` is that of the box unless it is there; objects
      where bool "crowd" `(N, G)` is true neither count nor make detections wrong.

      The result is a dict: AP, AP50, AP75, and the others that COCO has; -1 where there are no objects of a size.

    Raises:
      ArgumentError: an unknown kind; when the metric is finished, boxes of targets whose corners are in the wrong
        order.
      ShapeError: entries are missing or have other shapes.
      ModuleNotFoundError: pycocotools, of the extra ``detection``, is not installed.

    The arrays of all batches are kept, and compared at the end, on the host.

    >>> metric = average_precision()
    >>> boxes = jnp.array([[[0.0, 0.0, 50.0, 50.0]]])
    >>> targets = {"boxes": boxes, "labels": jnp.array([[1]]), "valid": jnp.array([[True]])}
    >>> outputs = {**targets, "scores": jnp.array([[0.9]])}
    >>> round(metric.finish(metric.update(outputs, targets))["AP"], 6)
    1.0
    """
    if kind not in KINDS:
        raise ArgumentError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return Metric(_Objects(kind), _joined, _Coco(kind, tuple(float(s) for s in sigmas)))


@dataclasses.dataclass(frozen=True)
class _Objects:
    """Checks the arrays of a batch, and returns them as they are."""

    kind: str

    def __call__(self, outputs: Mapping[str, Any], targets: Mapping[str, Any]) -> dict[str, Any]:
        found, true = {"scores": (), "labels": (), "valid": ()}, {"boxes": (4,), "labels": (), "valid": ()}
        if self.kind == "boxes":
            found = {**found, "boxes": (4,)}
        else:
            points = getattr(outputs.get("points"), "shape", (0,) * 4)[2:]
            found = {**found, "points": points}
            true = {**true, "points": points, "visible": points[:1]}
        given = {"outputs": (outputs, found), "targets": (targets, true)}
        for name, (arrays, shapes) in given.items():
            leading = getattr(arrays.get("valid"), "shape", None)
            wrong = [
                entry
                for entry, rest in shapes.items()
                if leading is None
                or len(leading) != 2
                or getattr(arrays.get(entry), "shape", None) != (*leading, *rest)
            ]
            if wrong:
                raise ShapeError(
                    f"average_precision: {name} must have {', '.join(shapes)} for each image and object, "
                    f"got {', '.join(f'{k} {described(v)}' for k, v in arrays.items())}: see {wrong[0]}"
                )
        more = {k: targets[k] for k in ("area", "crowd") if k in targets}
        return {
            "outputs": {k: outputs[k] for k in found},
            "targets": {**{k: targets[k] for k in true}, **more},
        }


def _joined(total: Any, batch: Any) -> Any:
    """Returns the images of both, each padded to the larger number of objects."""

    def join(one: Any, other: Any) -> Any:
        one, other = np.asarray(one), np.asarray(other)
        most = max(one.shape[1], other.shape[1])
        padded = [np.pad(a, [(0, 0), (0, most - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]) for a in (one, other)]
        return np.concatenate(padded)

    return jax.tree.map(join, total, batch)


@dataclasses.dataclass(frozen=True)
class _Coco:
    """What pycocotools makes of all images."""

    kind: str
    sigmas: tuple[float, ...]

    def __call__(self, total: Any) -> dict[str, float]:
        coco, cocoeval = (
            need(f"pycocotools.{name}", "average_precision", "detection") for name in ("coco", "cocoeval")
        )
        found, true = ({k: np.asarray(v) for k, v in total[side].items()} for side in ("outputs", "targets"))
        check_boxes(np.where(true["valid"][..., None], true["boxes"], 0), name="boxes of targets")
        labels = {int(label) for side in (found, true) for label in np.unique(side["labels"][side["valid"]])}
        images = [{"id": i + 1} for i in range(len(true["valid"]))]
        sides = []
        for arrays in (true, found):
            side = coco.COCO()
            side.dataset = {
                "images": images,
                "categories": [{"id": label} for label in sorted(labels)],
                "annotations": self._annotations(arrays),
            }
            with contextlib.redirect_stdout(io.StringIO()):
                side.createIndex()
            sides.append(side)
        kind = "bbox" if self.kind == "boxes" else "keypoints"
        evaluation = cocoeval.COCOeval(*sides, kind)
        if kind == "keypoints":
            evaluation.params.kpt_oks_sigmas = np.array(self.sigmas)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return {name: float(value) for name, value in zip(NAMES[self.kind], evaluation.stats, strict=True)}

    def _annotations(self, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Returns the objects that count, as COCO's files have them."""
        annotations: list[dict[str, Any]] = []
        for image, place in np.argwhere(arrays["valid"]):
            at = (image, place)
            row: dict[str, Any] = {
                "id": len(annotations) + 1,
                "image_id": int(image) + 1,
                "category_id": int(arrays["labels"][at]),
                "iscrowd": 0,
            }
            if "points" in arrays:
                points = arrays["points"][at].astype(float)
                seen = arrays["visible"][at] if "visible" in arrays else np.ones(len(points), bool)
                row["keypoints"] = np.concatenate([points, 2.0 * seen[:, None]], 1).ravel().tolist()
                row["num_keypoints"] = int(seen.sum())
                low, high = points.min(0), points.max(0)
            if "boxes" in arrays:
                low, high = arrays["boxes"][at][:2].astype(float), arrays["boxes"][at][2:].astype(float)
            row["bbox"] = [*low.tolist(), *(high - low).tolist()]
            row["area"] = float(arrays["area"][at]) if "area" in arrays else float((high - low).prod())
            if "crowd" in arrays:
                row["iscrowd"] = int(arrays["crowd"][at])
            if "scores" in arrays:
                row["score"] = float(arrays["scores"][at])
            annotations.append(row)
        return annotations


def instance_precision(thresholds: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9), *, max_objects: int = 256) -> Metric:
    """Returns the precision of segmented instances, ``TP / (TP + FP + FN)``, at thresholds of their IoU.

    This is the metric of the Data Science Bowl 2018, which nuclei are compared by.

    Args:
      thresholds: from 0.5 to 1, so that an object matches one at most. A match has at least this IoU.
      max_objects: the largest label that an image may have.

    Returns:
      A `Metric` of outputs and targets `(N, height, width)`, integers: 0 is background, others are the objects of an
      image. The result is a dict: "AP50" and so on for each threshold, and "AP", their mean.

    Raises:
      ArgumentError: thresholds are not from 0.5 to 1; when the metric is finished, a label is negative or greater than
        ``max_objects``.
      ShapeError: shapes differ.

    Equals `stardist.matching.matching_dataset(by_image=False)`, its "accuracy".

    >>> metric = instance_precision([0.5, 0.75])
    >>> true = jnp.array([[[1, 1, 0, 2, 2, 2]]])
    >>> metric.finish(metric.update(jnp.array([[[5, 5, 0, 0, 3, 3]]]), true))
    {'AP50': 1.0, 'AP75': 0.333..., 'AP': 0.666...}
    """
    limits = tuple(float(t) for t in thresholds)
    if not limits or not all(0.5 <= t <= 1 for t in limits):
        raise ArgumentError(f"thresholds must be numbers from 0.5 to 1, got {limits}")
    return Metric(_Instances(limits, as_int(max_objects, "max_objects", least=1)), add, _Precision(limits))


@dataclasses.dataclass(frozen=True)
class _Instances:
    """For each threshold the numbers of matched, predicted and true objects, and of pixels with impossible labels."""

    thresholds: tuple[float, ...]
    most: int

    def __call__(self, outputs: jax.Array, targets: jax.Array) -> dict[str, jax.Array]:
        integers = all(jnp.issubdtype(getattr(a, "dtype", jnp.float32), jnp.integer) for a in (outputs, targets))
        if not integers or outputs.ndim != 3 or outputs.shape != targets.shape:
            raise ShapeError(
                f"instance_precision: outputs and targets must be integers (N, height, width) of one shape, "
                f"got {described(targets)} and outputs {described(outputs)}"
            )
        both = jnp.stack([outputs, targets])
        wrong = jnp.sum((both < 0) | (both > self.most))
        found, true = jnp.clip(both, 0, self.most).astype(jnp.int32)
        matched, numbers = jax.vmap(self._image)(found, true)
        return {"matched": matched.sum(0), "objects": numbers.sum(), "wrong": wrong}

    def _image(self, found: jax.Array, true: jax.Array) -> tuple[jax.Array, jax.Array]:
        size = self.most + 1
        counts = jnp.zeros((size, size), jnp.int32).at[true.ravel(), found.ravel()].add(1)
        areas, theirs = counts.sum(1), counts.sum(0)
        both = counts[1:, 1:].astype(jnp.float32)
        either = (areas[1:, None] + theirs[None, 1:]).astype(jnp.float32) - both
        iou = both / jnp.maximum(either, 1)
        # At 0.5 two objects may both match one: that counts once.
        matches = [(jnp.any(iou >= t, 1).sum(), jnp.any(iou >= t, 0).sum()) for t in self.thresholds]
        matched = jnp.stack([jnp.minimum(rows, columns) for rows, columns in matches])
        return matched, jnp.sum(areas[1:] > 0) + jnp.sum(theirs[1:] > 0)


@dataclasses.dataclass(frozen=True)
class _Precision:
    thresholds: tuple[float, ...]

    def __call__(self, total: Any) -> dict[str, float]:
        if total["wrong"]:
            raise ArgumentError(
                f"labels must be from 0 to max_objects, got {int(total['wrong'])} pixels with others: "
                f"give instance_precision a larger max_objects"
            )
        matched = np.asarray(total["matched"], float)
        # TP + FP + FN: all objects of both sides, where a match is one.
        whole = np.asarray(total["objects"], float) - matched
        shares = np.where(whole > 0, matched / np.maximum(whole, 1), np.nan)
        named = {f"AP{round(100 * t):02d}": float(share) for t, share in zip(self.thresholds, shares, strict=True)}
        return {**named, "AP": float(np.mean(shares))}


__all__ = ["average_precision", "instance_precision"]
