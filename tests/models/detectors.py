"""Detectors that torchvision has too: small ones, whose outputs are recorded, and those that it publishes."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import jaxconv as jc
from jaxconv.detect import AnchorGrid, DefaultBoxes, RegionRules
from jaxconv.models.detection import coarser, pyramid, subsampled
from jaxconv.models.resnet import basic, resnet

MAPS = {"layer2": "0", "layer3": "1", "layer4": "2"}
WIDTH, CLASSES, POINTS = 64, 3, 2
ANCHORS = AnchorGrid(((16,), (24,), (32,), (48,), (64,)), stride=8)
CELLS = AnchorGrid(((8,), (16,), (32,), (64,), (128,)), (1.0,), stride=8)
RCNN_ANCHORS = AnchorGrid(((16,), (24,), (32,), (64,)), stride=8)
BOXES = DefaultBoxes(((2,), (2, 3), (2,)), (0.2, 0.4, 0.7, 1.0), (64, 64))
# Samples that take all, so that no draws differ.
RULES = RegionRules(
    before=30, after=20, training_before=40, training_after=25, anchor_samples=10_000, region_samples=4096,
    score_threshold=0.2, max_detections=10,
)  # fmt: skip
GROUPS = jc.GroupNorm(32)
NORM = jc.BatchNorm()
AVERAGE = (0.5, 0.5, 0.5)


def body() -> jc.Layer:
    return resnet(basic, (1, 1, 1, 1))


def _rcnn(**options: Any) -> jc.Layer:
    trunk = pyramid(body(), MAPS, WIDTH, extra=subsampled(), norm=options.get("norm"))
    options = {"width": WIDTH, "hidden": 32, "point_width": 32, **options}
    return jc.models.rcnn(trunk, CLASSES, anchors=RCNN_ANCHORS, levels=("0", "1", "2"), rules=RULES, **options)


@dataclass(frozen=True)
class Pair:
    """A detector; ``ours`` makes jaxconv's, `tests.record_detectors` torchvision's by the name."""

    name: str
    ours: Callable[[], Any]
    size: int = 64
    decode: dict[str, Any] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def two_stages(self) -> bool:
        return "rcnn" in self.name


SMALL = (
    Pair(
        "small_retinanet",
        lambda: jc.models.retinanet(
            pyramid(body(), MAPS, WIDTH, extra=coarser(WIDTH)), CLASSES, width=WIDTH, anchors=ANCHORS
        ),
    ),
    Pair(
        "small_retinanet_v2",
        lambda: jc.models.retinanet(
            pyramid(body(), MAPS, WIDTH, extra=coarser(WIDTH), extra_from_input=True),
            CLASSES, width=WIDTH, anchors=ANCHORS, norm=GROUPS, box_loss="giou",
        ),
    ),
    Pair(
        "small_fcos",
        lambda: jc.models.fcos(pyramid(body(), MAPS, WIDTH, extra=coarser(WIDTH)), CLASSES, width=WIDTH, anchors=CELLS),
    ),
    Pair("small_ssd", lambda: jc.models.ssd(jc.backbone(body(), MAPS), CLASSES, anchors=BOXES)),
    Pair("small_rcnn", functools.partial(_rcnn, masks=True, points=POINTS)),
)  # fmt: skip
LITE = {"score_threshold": 0.001, "iou_threshold": 0.55, "max_detections": 300, "candidates": 300}
# With fewer proposals than by default, since torchvision's RoIAlign in Python takes a second for a few hundred.
FEWER = RegionRules(before=100, after=50)
PUBLISHED = (
    Pair("retinanet_resnet50_fpn", jc.models.retinanet_resnet50_fpn, 128),
    Pair("retinanet_resnet50_fpn_v2", jc.models.retinanet_resnet50_fpn_v2, 128),
    Pair("fcos_resnet50_fpn", jc.models.fcos_resnet50_fpn, 128),
    Pair("ssdlite320_mobilenet_v3_large", jc.models.ssdlite320_mobilenet_v3_large, 320, LITE),
    Pair("ssd300_vgg16", jc.models.ssd300_vgg16, 300),
    *(
        Pair(name, functools.partial(getattr(jc.models, name), rules=FEWER), 128)
        for name in (
            "fasterrcnn_resnet50_fpn",
            "fasterrcnn_resnet50_fpn_v2",
            "maskrcnn_resnet50_fpn",
            "maskrcnn_resnet50_fpn_v2",
            "keypointrcnn_resnet50_fpn",
            "fasterrcnn_mobilenet_v3_large_fpn",
        )
    ),
)


def images(pair: Pair, batch: int = 2) -> np.ndarray:
    """Returns images as the network takes them, the same each time."""
    return np.random.default_rng(0).normal(size=(batch, pair.size, pair.size, 3)).astype(np.float32)


def targets(pair: Pair) -> dict[str, np.ndarray]:
    """Returns two boxes of the first image and one of the second, with masks and keypoints."""
    s = pair.size / 64
    boxes = [np.array([[4, 6, 30, 40], [20, 10, 62, 50]]) * s, np.array([[8, 12, 44, 33]]) * s]
    found = jc.detect.pad_targets(boxes, [[1, 2], [1]])
    masks = np.zeros((2, 2, pair.size, pair.size), np.uint8)
    points = np.zeros((2, 2, 17 if pair.name.startswith("keypoint") else POINTS, 3), np.float32)
    random = np.random.default_rng(1)
    for i, rows in enumerate(boxes):
        for j, (x1, y1, x2, y2) in enumerate(rows.astype(int)):
            y, x = np.mgrid[: pair.size, : pair.size]
            middle, half = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2)
            masks[i, j] = ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 <= 1
            points[i, j, :, 0] = random.uniform(x1, x2, points.shape[2])
            points[i, j, :, 1] = random.uniform(y1, y2, points.shape[2])
            points[i, j, :, 2] = random.integers(0, 3, points.shape[2])
    return found | {"masks": masks, "keypoints": points}


def raw(net: Any, outputs: Any) -> list[np.ndarray]:
    """Returns class scores, box regression and so on, ``(batch, anchors, columns)``, in torchvision's order."""
    if isinstance(net, jc.detect.RCNN):
        scores, deltas = jc.detect.regions.flat_levels(outputs["rpn"])
        return [np.concatenate(scores, 1)[..., None], np.concatenate(deltas, 1)]
    return [np.concatenate(each, 1) for each in net.levels(outputs)]
