"""SSD: Liu et al., "SSD: single shot multibox detector", 2016, with torchvision's names and shapes.

SSDlite, with depthwise heads: Sandler et al., "MobileNetV2", 2018; on MobileNet v3: Howard et al., 2019.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxconv.backbones import backbone
from jaxconv.compose import each, heads, inline, serial
from jaxconv.detect import SSD, DefaultBoxes
from jaxconv.layer import Layer, LayerLike, children_of
from jaxconv.layers import BatchNorm, Conv, Identity, MaxPool, UnitNorm
from jaxconv.models.blocks import conv_norm_act
from jaxconv.models.mobilenet import V3_LARGE, mobilenet_v3
from jaxconv.models.vgg import vgg16
from jaxconv.tree import map_layers

relu = jax.nn.relu
XAVIER = initializers.xavier_uniform()
SMALL_NORMAL = initializers.normal(0.03)
SSD300 = DefaultBoxes(
    ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
    (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05),
    (300, 300),
    (8, 16, 32, 64, 100, 300),
)
SSDLITE320 = DefaultBoxes(((2, 3),) * 6, (*(0.2 + (0.95 - 0.2) * k / 5.0 for k in range(6)), 1.0), (320, 320))
LITE_NORM = BatchNorm(momentum=0.03, eps=1e-3)
LITE_CHANNELS = (672, 480, 512, 256, 256, 128)


def ssd(
    trunk: Layer, classes: int = 91, *, anchors: DefaultBoxes = SSD300, channels: Sequence[int] | None = None
) -> SSD:
    """Returns SSD on any feature maps: a 3x3 convolution on each for classes, and one for boxes.

    Args:
      trunk: a layer that returns an OrderedDict of feature maps, finest first.
      classes: the number of classes, background 0 included.
      anchors: the default boxes of each feature map.
      channels: for SSDlite the channels of each feature map: in place of a 3x3 convolution each head is a depthwise one
        and a 1x1 convolution.

    >>> trunk = jc.backbone(jc.models.resnet18(), {"layer3": "0", "layer4": "1"})
    >>> boxes = jc.detect.DefaultBoxes(((2,), (2, 3)), (0.2, 0.5, 1.0), (64, 64))
    >>> output = jc.inspect.trace(ssd(trunk, 3, anchors=boxes), (1, 64, 64, 3))[-1].output
    >>> [y.shape for y in output["classification_head"].values()]
    [(1, 4, 4, 12), (1, 2, 2, 18)]
    """

    def head(columns: int) -> Layer:
        if channels is None:
            convs = [Conv(n * columns, padding=1, kernel_init=XAVIER) for n in anchors.counts]
        else:
            convs = [_lite_head(c, n * columns) for c, n in zip(channels, anchors.counts, strict=True)]
        return serial(module_list=each(*convs))

    both = heads(classification_head=head(classes), regression_head=head(4))
    return SSD(serial(backbone=trunk, head=both), classes, anchors)


_lite = functools.partial(conv_norm_act, norm=LITE_NORM, act=jax.nn.relu6, kernel_init=SMALL_NORMAL)


def _lite_head(channels: int, features: int) -> Layer:
    return serial(_lite(channels, 3, groups=channels), Conv(features, 1, kernel_init=SMALL_NORMAL))


def _lite_extra(features: int) -> Layer:
    half = features // 2
    return serial(_lite(half, 1), _lite(half, 3, stride=2, groups=half), _lite(features, 1))


def _initialized_for_lite(layer: Any) -> Any:
    """Returns a layer of MobileNet with torchvision's norm and initial weights in SSDlite."""
    if isinstance(layer, BatchNorm):
        return LITE_NORM
    return dataclasses.replace(layer, kernel_init=SMALL_NORMAL) if isinstance(layer, Conv) else layer


def ssdlite320_mobilenet_v3_large(classes: int = 91) -> SSD:
    """Returns SSDlite for images of 320x320, torchvision's ``ssdlite320_mobilenet_v3_large``: 3,440,060 parameters.

    Images are in [-1, 1]. MobileNet v3 large has half the channels from the last stride on; its last block before that
    is cut after the expanding convolution, whose output is the first feature map.

    Args:
      classes: the number of classes, background 0 included.

    >>> jc.summary(ssdlite320_mobilenet_v3_large(), (1, 320, 320, 3)).parameters
    3440060
    """
    reduced = [
        row._replace(features=row.features // 2, expanded=row.expanded if i == 12 else row.expanded // 2)
        if i >= 12
        else row
        for i, row in enumerate(V3_LARGE)
    ]
    net = map_layers(mobilenet_v3(reduced, 1280), _initialized_for_lite)
    blocks = [layer for _, layer in children_of(dict(children_of(net))["features"])]
    [(_, block)] = children_of(blocks[13])
    (_, expand), *rest = children_of(block)
    features = serial(serial(*blocks[:13], expand), serial(serial(**dict(rest)), *blocks[14:]))
    extra = serial(*(_lite_extra(n) for n in LITE_CHANNELS[2:]))
    maps = ("features.0", "features.1", "extra.0", "extra.1", "extra.2", "extra.3")
    trunk = backbone(serial(features=features, extra=extra), {path: str(i) for i, path in enumerate(maps)})
    return ssd(trunk, classes, anchors=SSDLITE320, channels=LITE_CHANNELS)


def ssd300_vgg16(classes: int = 91) -> SSD:
    """Returns SSD for images of 300x300, torchvision's ``ssd300_vgg16``: 35,641,826 parameters with 91 classes.

    Images are in [0, 255], less 123, 117 and 104.

    Args:
      classes: the number of classes, background 0 included.

    >>> jc.summary(ssd300_vgg16(), (1, 300, 300, 3)).parameters
    35641826
    """
    conv = functools.partial(Conv, kernel_init=XAVIER)
    vgg = [layer for _, layer in children_of(dict(children_of(vgg16()))["features"])]
    vgg[16] = MaxPool(2, ceil_mode=True)
    fc = serial(
        MaxPool(3, stride=1, padding=1),
        conv(1024, 3, padding=6, dilation=6),
        relu,
        conv(1024, 1),
        relu,
    )

    def further(narrow: int, features: int, stride: int) -> Layer:
        last = conv(features, 3, stride=2, padding=1) if stride == 2 else conv(features, 3, padding=0)
        return serial(conv(narrow, 1), relu, last, relu)

    extra = serial(
        serial(*vgg[23:30], fc), further(256, 512, 2), further(128, 256, 2), further(128, 256, 1), further(128, 256, 1)
    )
    maps = ("features", "extra.0", "extra.1", "extra.2", "extra.3", "extra.4")
    trunk = backbone(serial(features=serial(*vgg[:23]), extra=extra), {path: str(i) for i, path in enumerate(maps)})
    as_they_are: dict[str, LayerLike] = {f"map{i}": Identity() for i in range(1, len(maps))}
    scaled = each(scale_weight=UnitNorm(20.0), **as_they_are)
    return ssd(serial(inline(trunk), inline(scaled)), classes, anchors=SSD300, channels=None)


__all__ = ["ssd", "ssd300_vgg16", "ssdlite320_mobilenet_v3_large"]
