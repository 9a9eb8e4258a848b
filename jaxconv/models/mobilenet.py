"""Networks for mobile devices.

Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: inverted residuals and linear bottlenecks", 2018.
Howard et al., "Searching for MobileNetV3", 2019. Names and shapes are torchvision's.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from jax.nn import initializers

from jaxconv.compose import serial
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Dense, Dropout, GlobalAvgPool
from jaxconv.models.blocks import (
    conv_norm_act,
    divisible,
    flat,
    inverted_bottleneck,
    scaled,
    squeeze_excite,
    strides_for,
    with_shortcut,
)

_SMALL_NORMAL = initializers.normal(0.01)

# Table 2 of the paper: expansion of a block's input, features, number of blocks, stride of the first block.
V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    classes: int = 1000,
    *,
    width: float = 1.0,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns MobileNet v2: 3,504,872 parameters with 1000 classes and width 1.

    Args:
      classes: the number of classes.
      width: a factor of the channels, rounded to multiples of 8; the last convolution has at least 1280.
      dropout: the dropout rate before the scores.
      drop_path: the drop rate of blocks with a shortcut, which increases linearly with depth from 0 to almost this
        value (Huang et al., 2016).
      small_images: whether the first two strides are 1, for images of about 32x32.

    Raises:
      ValueError: a factor or a rate is out of range.

    >>> jc.summary(mobilenet_v2(), (1, 224, 224, 3)).parameters
    3504872
    """
    inputs = scaled(32, width)
    stem = conv_norm_act(inputs, 3, stride=1 if small_images else 2, act=jax.nn.relu6)
    strides = strides_for([stride for *_, stride in V2], small_images)
    total = sum(depth for _, _, depth, _ in V2)
    blocks: list[LayerLike] = []
    for (expand, unscaled, depth, _), first in zip(V2, strides, strict=True):
        features = scaled(unscaled, width)
        for i in range(depth):
            stride = 1 if i else first
            *front, narrow = inverted_bottleneck(
                features, inputs * expand, expand=expand > 1, stride=stride, act=jax.nn.relu6
            )
            conv = serial(*front, *flat(narrow))
            rate = drop_path * len(blocks) / total
            blocks.append(with_shortcut(stride == 1 and inputs == features, rate, conv=conv))
            inputs = features
    head = conv_norm_act(scaled(1280, max(1.0, width)), 1, act=jax.nn.relu6)
    return serial(
        features=serial(stem, *blocks, head),
        avgpool=GlobalAvgPool(),
        classifier=serial(Dropout(dropout), Dense(classes, kernel_init=_SMALL_NORMAL)),
    )


class Bottleneck(NamedTuple):
    """A block of MobileNet v3."""

    window: int
    expanded: int
    features: int
    excite: bool
    hard_swish: bool
    stride: int


# Tables 1 and 2 of the paper.
V3_LARGE = tuple(
    Bottleneck(*row)
    for row in (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )
)
V3_SMALL = tuple(
    Bottleneck(*row)
    for row in (
        (3, 16, 16, True, False, 2),
        (3, 72, 24, False, False, 2),
        (3, 88, 24, False, False, 1),
        (5, 96, 40, True, True, 2),
        (5, 240, 40, True, True, 1),
        (5, 240, 40, True, True, 1),
        (5, 120, 48, True, True, 1),
        (5, 144, 48, True, True, 1),
        (5, 288, 96, True, True, 2),
        (5, 576, 96, True, True, 1),
        (5, 576, 96, True, True, 1),
    )
)


def mobilenet_v3(
    rows: Sequence[Bottleneck],
    hidden: int,
    classes: int = 1000,
    *,
    width: float = 1.0,
    dilate: bool = False,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns a MobileNet v3: stem, blocks and 1x1 convolution in ``features``, global average pooling, two layers.

    Args:
      rows: the blocks at width 1.
      hidden: units of the layer before the scores, at width 1.
      classes: the number of classes.
      width: a factor of the channels, rounded to multiples of 8.
      dilate: whether the last stride is 1 and depthwise filters after it are dilated by 2, for dense prediction.
      dropout: the dropout rate before the scores.
      drop_path: the drop rate of blocks with a shortcut, which increases linearly with depth from 0 to almost this
        value (Huang et al., 2016).
      small_images: whether the first two strides are 1, for images of about 32x32.

    Raises:
      ValueError: a factor or a rate is out of range.

    >>> jc.summary(mobilenet_v3(V3_SMALL, 1024), (1, 224, 224, 3)).parameters
    2542856
    """
    norm = BatchNorm(momentum=0.01, eps=1e-3)
    inputs = scaled(16, width)
    stem = conv_norm_act(inputs, 3, stride=1 if small_images else 2, norm=norm, act=jax.nn.hard_swish)
    strides = strides_for([row.stride for row in rows], small_images)
    last = max((i for i, row in enumerate(rows) if row.stride > 1), default=len(rows))
    blocks: list[LayerLike] = []
    for i, (row, stride) in enumerate(zip(rows, strides, strict=True)):
        features, expanded = scaled(row.features, width), scaled(row.expanded, width)
        dilated = dilate and i >= last
        squeezed = divisible(expanded // 4)
        block = serial(
            *inverted_bottleneck(
                features,
                expanded,
                row.window,
                expand=expanded != inputs,
                stride=1 if dilated else stride,
                dilation=2 if dilated else 1,
                norm=norm,
                act=jax.nn.hard_swish if row.hard_swish else jax.nn.relu,
                excite=squeeze_excite(expanded, squeezed, scale=jax.nn.hard_sigmoid) if row.excite else None,
            )
        )
        # By the stride before dilation, as in torchvision.
        shortcut = stride == 1 and inputs == features
        blocks.append(with_shortcut(shortcut, drop_path * i / len(rows), block=block))
        inputs = features
    head = conv_norm_act(6 * inputs, 1, norm=norm, act=jax.nn.hard_swish)
    return serial(
        features=serial(stem, *blocks, head),
        avgpool=GlobalAvgPool(),
        classifier=serial(
            Dense(scaled(hidden, width), kernel_init=_SMALL_NORMAL),
            jax.nn.hard_swish,
            Dropout(dropout),
            Dense(classes, kernel_init=_SMALL_NORMAL),
        ),
    )


def mobilenet_v3_large(
    classes: int = 1000,
    *,
    width: float = 1.0,
    dilate: bool = False,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns MobileNet v3 large: 5,483,032 parameters with 1000 classes."""
    return mobilenet_v3(
        V3_LARGE,
        1280,
        classes,
        width=width,
        dilate=dilate,
        dropout=dropout,
        drop_path=drop_path,
        small_images=small_images,
    )


def mobilenet_v3_small(
    classes: int = 1000,
    *,
    width: float = 1.0,
    dilate: bool = False,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns MobileNet v3 small: 2,542,856 parameters with 1000 classes."""
    return mobilenet_v3(
        V3_SMALL,
        1024,
        classes,
        width=width,
        dilate=dilate,
        dropout=dropout,
        drop_path=drop_path,
        small_images=small_images,
    )


__all__ = ["mobilenet_v2", "mobilenet_v3", "mobilenet_v3_large", "mobilenet_v3_small"]
