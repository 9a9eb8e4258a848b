"""EfficientNets.

Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural networks", 2019: B0 to B7.
Tan and Le, "EfficientNetV2: smaller models and faster training", 2021: V2 S, M and L.
Blocks of Sandler et al., 2018, with squeeze and excitation (Hu et al., 2018). Names and shapes are torchvision's.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.nn import initializers

from jaxconv.compose import serial
from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Dense, Dropout, GlobalAvgPool
from jaxconv.models.blocks import (
    conv_norm_act,
    divisible,
    inverted_bottleneck,
    scaled,
    squeeze_excite,
    strides_for,
    with_shortcut,
)
from jaxconv.models.variants import variant

# Of B5 to B7, and of V2.
_SLOW = BatchNorm(momentum=0.01, eps=1e-3)
_V2_NORM = BatchNorm(eps=1e-3)
_OUTPUTS_UNIFORM = initializers.variance_scaling(1 / 3, "fan_out", "uniform")


class Stage(NamedTuple):
    """A stage of equal blocks; the first block has the stride."""

    expand: int
    window: int
    stride: int
    features: int
    depth: int
    fused: bool = False


# Table 1 of the first paper, table 4 of the second; M and L are only in the authors' code.
V1 = tuple(
    Stage(*row)
    for row in (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
)
V2_S = (
    Stage(1, 3, 1, 24, 2, fused=True),
    Stage(4, 3, 2, 48, 4, fused=True),
    Stage(4, 3, 2, 64, 4, fused=True),
    Stage(4, 3, 2, 128, 6),
    Stage(6, 3, 1, 160, 9),
    Stage(6, 3, 2, 256, 15),
)
V2_M = (
    Stage(1, 3, 1, 24, 3, fused=True),
    Stage(4, 3, 2, 48, 5, fused=True),
    Stage(4, 3, 2, 80, 5, fused=True),
    Stage(4, 3, 2, 160, 7),
    Stage(6, 3, 1, 176, 14),
    Stage(6, 3, 2, 304, 18),
    Stage(6, 3, 1, 512, 5),
)
V2_L = (
    Stage(1, 3, 1, 32, 4, fused=True),
    Stage(4, 3, 2, 64, 7, fused=True),
    Stage(4, 3, 2, 96, 7, fused=True),
    Stage(4, 3, 2, 192, 10),
    Stage(6, 3, 1, 224, 19),
    Stage(6, 3, 2, 384, 25),
    Stage(6, 3, 1, 640, 7),
)


def _block(stage: Stage, inputs: int, features: int, stride: int, norm: Layer, drop_path: float) -> Layer:
    expanded = divisible(inputs * stage.expand)
    act = jax.nn.silu
    if not stage.fused:
        excite = squeeze_excite(expanded, max(1, inputs // 4), act=act)
        layers = inverted_bottleneck(
            features,
            expanded,
            stage.window,
            expand=expanded != inputs,
            stride=stride,
            norm=norm,
            act=act,
            excite=excite,
        )
    elif expanded == inputs:
        layers = [conv_norm_act(features, stage.window, stride=stride, norm=norm, act=act)]
    else:
        widen = conv_norm_act(expanded, stage.window, stride=stride, norm=norm, act=act)
        layers = [widen, conv_norm_act(features, 1, norm=norm, act=None)]
    return with_shortcut(stride == 1 and inputs == features, drop_path, block=serial(*layers))


def efficientnet(
    stages: Sequence[Stage],
    classes: int = 1000,
    *,
    stem: int = 32,
    head: int | None = None,
    width: float = 1.0,
    depth: float = 1.0,
    norm: Layer | None = None,
    dropout: float = 0.2,
    drop_path: float = 0.2,
    small_images: bool = False,
) -> Layer:
    """Returns an EfficientNet: stem, stages and 1x1 convolution in ``features``, global average pooling, the scores.

    Args:
      stages: the stages at width and depth 1.
      classes: the number of classes.
      stem: channels of the stem.
      head: channels of the last convolution; None is four times the channels of the last stage.
      width: a factor of the channels of stem and stages, rounded to multiples of 8.
      depth: a factor of the number of blocks of each stage, rounded up.
      norm: the norm after each convolution; None is ``BatchNorm()``.
      dropout: the dropout rate before the scores.
      drop_path: the drop rate of blocks with a shortcut, which increases linearly with depth from 0 to almost this
        value (Huang et al., 2016).
      small_images: whether the first two strides are 1, for images of about 32x32.

    Raises:
      ValueError: a factor or a rate is out of range.

    >>> jc.summary(efficientnet(V1), (1, 224, 224, 3)).parameters
    5288548
    """
    if not depth > 0:
        raise ArgumentError(f"depth must be positive, got {depth}")
    norm = BatchNorm() if norm is None else norm
    inputs = scaled(stem, width)
    layers: list[LayerLike] = [conv_norm_act(inputs, 3, stride=1 if small_images else 2, norm=norm, act=jax.nn.silu)]
    depths = [math.ceil(stage.depth * depth) for stage in stages]
    strides = strides_for([stage.stride for stage in stages], small_images)
    done = 0
    for stage, stride, count in zip(stages, strides, depths, strict=True):
        features = scaled(stage.features, width)
        blocks = []
        for i in range(count):
            rate = drop_path * (done + i) / sum(depths)
            blocks.append(_block(stage, inputs, features, 1 if i else stride, norm, rate))
            inputs = features
        done += count
        layers.append(serial(*blocks))
    layers.append(conv_norm_act(4 * inputs if head is None else head, 1, norm=norm, act=jax.nn.silu))
    return serial(
        features=serial(*layers),
        avgpool=GlobalAvgPool(),
        classifier=serial(Dropout(dropout), Dense(classes, kernel_init=_OUTPUTS_UNIFORM)),
    )


efficientnet_b0 = variant(
    "efficientnet_b0", "Returns EfficientNet-B0: 5,288,548 parameters with 1000 classes.", efficientnet, V1
)
efficientnet_b1 = variant(
    "efficientnet_b1", "Returns EfficientNet-B1: 7,794,184 parameters with 1000 classes.", efficientnet, V1, depth=1.1
)
efficientnet_b2 = variant(
    "efficientnet_b2",
    "Returns EfficientNet-B2: 9,109,994 parameters with 1000 classes.",
    efficientnet,
    V1,
    width=1.1,
    depth=1.2,
    dropout=0.3,
)
efficientnet_b3 = variant(
    "efficientnet_b3",
    "Returns EfficientNet-B3: 12,233,232 parameters with 1000 classes.",
    efficientnet,
    V1,
    width=1.2,
    depth=1.4,
    dropout=0.3,
)
efficientnet_b4 = variant(
    "efficientnet_b4",
    "Returns EfficientNet-B4: 19,341,616 parameters with 1000 classes.",
    efficientnet,
    V1,
    width=1.4,
    depth=1.8,
    dropout=0.4,
)
efficientnet_b5 = variant(
    "efficientnet_b5",
    "Returns EfficientNet-B5: 30,389,784 parameters with 1000 classes.",
    efficientnet,
    V1,
    width=1.6,
    depth=2.2,
    norm=_SLOW,
    dropout=0.4,
)
efficientnet_b6 = variant(
    "efficientnet_b6",
    "Returns EfficientNet-B6: 43,040,704 parameters with 1000 classes.",
    efficientnet,
    V1,
    width=1.8,
    depth=2.6,
    norm=_SLOW,
    dropout=0.5,
)
efficientnet_b7 = variant(
    "efficientnet_b7",
    "Returns EfficientNet-B7: 66,347,960 parameters with 1000 classes.",
    efficientnet,
    V1,
    width=2.0,
    depth=3.1,
    norm=_SLOW,
    dropout=0.5,
)
efficientnet_v2_s = variant(
    "efficientnet_v2_s",
    "Returns EfficientNetV2-S: 21,458,488 parameters with 1000 classes.",
    efficientnet,
    V2_S,
    stem=24,
    head=1280,
    norm=_V2_NORM,
)
efficientnet_v2_m = variant(
    "efficientnet_v2_m",
    "Returns EfficientNetV2-M: 54,139,356 parameters with 1000 classes.",
    efficientnet,
    V2_M,
    stem=24,
    head=1280,
    norm=_V2_NORM,
    dropout=0.3,
)
efficientnet_v2_l = variant(
    "efficientnet_v2_l",
    "Returns EfficientNetV2-L: 118,515,272 parameters with 1000 classes.",
    efficientnet,
    V2_L,
    head=1280,
    norm=_V2_NORM,
    dropout=0.4,
)


__all__ = [
    "efficientnet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
]
