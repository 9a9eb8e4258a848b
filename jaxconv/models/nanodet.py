"""NanoDet: RangiLyu, "NanoDet", 2020, a detector for small devices; on EfficientNet-Lite0."""

import functools
from collections.abc import Sequence

import jax
from jax.nn import initializers

from jaxconv.compose import each, heads, serial
from jaxconv.detect import AnchorGrid, NanoDet
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv
from jaxconv.models.detection import prior_bias, pyramid
from jaxconv.models.efficientnet_lite import efficientnet_lite0

NORM = BatchNorm()
STRIDES = (8, 16, 32)
leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.1)


def nanodet(
    trunk: Layer,
    classes: int = 80,
    *,
    width: int = 96,
    convs: int = 2,
    bins: int = 8,
    strides: Sequence[int] = STRIDES,
    scale: int = 5,
) -> NanoDet:
    """Returns NanoDet's heads on any feature pyramid: separable convolutions, and one for classes and boxes together.

    Args:
      trunk: a layer that returns an OrderedDict of feature maps, finest first, each with ``width`` channels.
      classes: the number of classes, without a background.
      width: the channels of the heads.
      convs: the number of separable convolutions of each head.
      bins: distances to the sides of a box are from 0 to ``bins - 1`` strides.
      strides: the stride of each feature map.
      scale: the side of the squares that are matched with targets, in strides. It must not be much larger than objects.

    >>> body = jc.backbone(jc.models.resnet18(), {"layer3": "0", "layer4": "1"})
    >>> net = nanodet(jc.serial(body=body, fpn=jc.fpn(["0", "1"], 16)), 3, width=16, strides=(16, 32))
    >>> [y.shape for y in jc.inspect.trace(net, (1, 64, 64, 3))[-1].output["gfl_cls"].values()]
    [(1, 4, 4, 35), (1, 2, 2, 35)]
    """
    separable: list[LayerLike] = [
        *(Conv(width, padding=1, groups=width, bias=False), NORM, leaky),
        *(Conv(width, 1, bias=False), NORM, leaky),
    ]
    last = Conv(classes + 4 * bins, 1, kernel_init=initializers.normal(0.01), bias_init=prior_bias())
    head = serial(cls_convs=serial(*separable * convs), gfl_cls=last)
    anchors = AnchorGrid(tuple((scale * stride,) for stride in strides), (1.0,), stride=strides[0])
    both = heads(gfl_cls=each(*[head for _ in strides]))
    return NanoDet(serial(backbone=trunk, head=both), classes, anchors, bins, scale)


def nanodet_efficientnet_lite0(classes: int = 80, *, convs: int = 2, bins: int = 8) -> NanoDet:
    """Returns NanoDet's heads on EfficientNet-Lite0 with a feature pyramid, for images of 320x320."""
    maps = {"_blocks.4": "0", "_blocks.10": "1", "_blocks.15": "2"}
    trunk = pyramid(efficientnet_lite0(), maps, 96)
    return nanodet(trunk, classes, width=96, convs=convs, bins=bins, strides=STRIDES, scale=5)


__all__ = ["nanodet", "nanodet_efficientnet_lite0"]
