"""Detectors of two stages: Faster, Mask and Keypoint R-CNN on feature pyramids, with torchvision's names and shapes.

Ren, He, Girshick and Sun, "Faster R-CNN", 2015. He, Gkioxari, Dollar and Girshick, "Mask R-CNN", 2017. Li et al.,
"Benchmarking detection transfer learning with vision transformers", 2021: their second versions in torchvision.
"""

from collections.abc import Sequence

import jax
from jax.nn import initializers

from jaxconv.compose import heads, inline, serial, shared
from jaxconv.detect import RCNN, AnchorGrid, RegionRules
from jaxconv.detect.rcnn import RoiHeads
from jaxconv.layer import Layer, LayerLike, children_of
from jaxconv.layers import BatchNorm, Conv, ConvTranspose, Dense, Flatten, Resize
from jaxconv.models.blocks import FAN_OUT, conv_norm_act
from jaxconv.models.detection import pyramid, subsampled
from jaxconv.models.mobilenet import mobilenet_v3_large
from jaxconv.models.resnet import resnet50
from jaxconv.tree import map_layers

relu = jax.nn.relu
SMALL_NORMAL = initializers.normal(0.01)
RCNN_ANCHORS = AnchorGrid(((32,), (64,), (128,), (256,), (512,)), stride=4)
NORM = BatchNorm()
LEVELS = ("0", "1", "2", "3")
RULES = RegionRules()
MOBILE_RULES = RegionRules(proposal_score=0.05)


def _conv(features: int, norm: Layer | None, init: initializers.Initializer = FAN_OUT) -> Layer:
    if norm is None:
        return serial(Conv(features, padding=1, kernel_init=init), relu)
    return conv_norm_act(features, norm=norm, kernel_init=init)


def _box_head(width: int, hidden: int, norm: Layer | None) -> Layer:
    """Returns two Dense layers, or with a norm convolutions and one Dense layer."""
    if norm is None:
        return serial(
            flatten=Flatten(channels_first=True), fc6=Dense(hidden), relu6=relu, fc7=Dense(hidden), relu7=relu
        )
    return serial(*[_conv(width, norm)] * 4, Flatten(channels_first=True), Dense(hidden), relu)


def _mask_branch(classes: int, width: int, norm: Layer | None) -> dict[str, LayerLike]:
    predictor = serial(
        conv5_mask=ConvTranspose(width, 2, stride=2),
        relu=relu,
        mask_fcn_logits=Conv(classes, 1, kernel_init=FAN_OUT),
    )
    return {"mask_head": serial(*[_conv(width, norm)] * 4), "mask_predictor": predictor}


def _keypoint_branch(points: int, width: int) -> dict[str, LayerLike]:
    convs: list[LayerLike] = [Conv(width, padding=1, kernel_init=FAN_OUT), relu] * 8
    scores = ConvTranspose(points, 4, stride=2, padding=1)
    return {"keypoint_head": serial(*convs), "keypoint_predictor": serial(kps_score_lowres=scores, up=Resize(factor=2))}


def rcnn(
    trunk: Layer,
    classes: int = 91,
    *,
    width: int = 256,
    hidden: int = 1024,
    norm: Layer | None = None,
    masks: bool = False,
    points: int = 0,
    point_width: int = 512,
    rpn_convs: int = 1,
    anchors: AnchorGrid = RCNN_ANCHORS,
    levels: Sequence[str] = LEVELS,
    rules: RegionRules = RULES,
) -> RCNN:
    """Returns a detector of two stages on any feature pyramid.

    Args:
      trunk: a layer that returns an OrderedDict of feature maps, finest first, each with ``width`` channels.
      classes: the number of classes, background 0 included.
      width, hidden: channels of the convolutions, and of the Dense layers of a region.
      norm: the norm of the heads' convolutions; with it a region has four convolutions and one Dense layer.
      masks: whether there are masks.
      points: the number of keypoints; 0 for none.
      point_width: channels of the convolutions for keypoints.
      rpn_convs: convolutions of the region proposal network.
      anchors: the anchors of each feature map.
      levels: the names of the feature maps that regions are taken from.
      rules: numbers of proposals, samples and detections, and thresholds.

    >>> body = jc.backbone(jc.models.resnet18(), {"layer3": "0", "layer4": "1"})
    >>> trunk = jc.serial(body=body, fpn=jc.fpn(["0", "1"], 16))
    >>> anchors = jc.detect.AnchorGrid(((64,), (128,)), stride=16)
    >>> rules = jc.detect.RegionRules(before=8, after=8, max_detections=4)
    >>> net = rcnn(trunk, 3, width=16, hidden=32, anchors=anchors, rules=rules)
    >>> output = jc.inspect.trace(net, (1, 64, 64, 3))[-1].output
    >>> output["class_logits"].shape, output["detections"]["boxes"].shape
    ((1, 8, 3), (1, 4, 4))
    """
    count = anchors.counts[0]
    head = serial(
        inline(serial(conv=serial(*[_conv(width, None, SMALL_NORMAL)] * rpn_convs))),
        inline(
            heads(
                cls_logits=Conv(count, 1, kernel_init=SMALL_NORMAL),
                bbox_pred=Conv(4 * count, 1, kernel_init=SMALL_NORMAL),
            )
        ),
    )
    branches: dict[str, LayerLike] = {
        "box_head": _box_head(width, hidden, norm),
        "box_predictor": heads(cls_score=Dense(classes), bbox_pred=Dense(4 * classes)),
    }
    branches |= _mask_branch(classes, width, norm) if masks else {}
    branches |= _keypoint_branch(points, point_width) if points else {}
    regions = RoiHeads(serial(**branches).children, rules)
    children = (("backbone", trunk), ("rpn", serial(head=shared(head))), ("roi_heads", regions))
    return RCNN(children, anchors, rules, tuple(levels))


_MAPS = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}


def _on_resnet50(
    classes: int, rules: RegionRules, *, second: bool = False, masks: bool = False, points: int = 0
) -> RCNN:
    """Returns torchvision's detector on ResNet-50; the second version has batch norm and deeper heads."""
    norm = NORM if second else None
    trunk = pyramid(resnet50(), _MAPS, norm=norm, extra=subsampled())
    return rcnn(trunk, classes, norm=norm, masks=masks, points=points, rpn_convs=2 if second else 1, rules=rules)


def fasterrcnn_resnet50_fpn(classes: int = 91, *, rules: RegionRules = RULES) -> RCNN:
    """Returns torchvision's ``fasterrcnn_resnet50_fpn``: 41,755,286 parameters, and 53,120 of norms.

    torchvision's weights were trained with frozen norms whose eps is 0, as in `retinanet_resnet50_fpn`.
    """
    return _on_resnet50(classes, rules)


def fasterrcnn_resnet50_fpn_v2(classes: int = 91, *, rules: RegionRules = RULES) -> RCNN:
    """Returns torchvision's ``fasterrcnn_resnet50_fpn_v2``: 43,712,278 parameters."""
    return _on_resnet50(classes, rules, second=True)


def maskrcnn_resnet50_fpn(classes: int = 91, *, rules: RegionRules = RULES) -> RCNN:
    """Returns torchvision's ``maskrcnn_resnet50_fpn``: 44,401,393 parameters, and 53,120 of norms."""
    return _on_resnet50(classes, rules, masks=True)


def maskrcnn_resnet50_fpn_v2(classes: int = 91, *, rules: RegionRules = RULES) -> RCNN:
    """Returns torchvision's ``maskrcnn_resnet50_fpn_v2``: 46,359,409 parameters."""
    return _on_resnet50(classes, rules, second=True, masks=True)


def keypointrcnn_resnet50_fpn(classes: int = 2, *, points: int = 17, rules: RegionRules = RULES) -> RCNN:
    """Returns torchvision's ``keypointrcnn_resnet50_fpn``: 59,137,258 parameters, and 53,120 of norms."""
    return _on_resnet50(classes, rules, points=points)


def _on_mobilenet(classes: int, rules: RegionRules) -> RCNN:
    features = dict(children_of(mobilenet_v3_large()))["features"]
    # torchvision's detector has the usual eps, in place of MobileNet's.
    features = map_layers(features, lambda layer: BatchNorm() if isinstance(layer, BatchNorm) else layer)
    trunk = pyramid(features, {"13": "0", "16": "1"}, extra=subsampled())
    anchors = AnchorGrid(((32, 64, 128, 256, 512),) * 3, stride=32)
    return rcnn(trunk, classes, anchors=anchors, rules=rules)


def fasterrcnn_mobilenet_v3_large_fpn(classes: int = 91, *, rules: RegionRules = MOBILE_RULES) -> RCNN:
    """Returns torchvision's ``fasterrcnn_mobilenet_v3_large_fpn``: 19,386,354 parameters.

    For images of about 320 pixels (``fasterrcnn_mobilenet_v3_large_320_fpn``) its ``before`` and ``after`` are 150.
    """
    return _on_mobilenet(classes, rules)


__all__ = [
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "rcnn",
]
