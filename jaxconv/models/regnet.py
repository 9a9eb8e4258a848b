"""RegNets.

Radosavovic, Kosaraju, Girshick, He and Dollár, "Designing network design spaces", 2020. The Y nets have squeeze and
excitation (Hu et al., 2018). Names and shapes are torchvision's.
"""

from collections import Counter
from typing import NamedTuple

import jax
import numpy as np
from jax.nn import initializers

from jaxconv.compose import residual, serial
from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import Dense, Dropout, DropPath, GlobalAvgPool
from jaxconv.models.blocks import conv_norm_act, divisible, drop_rates, scaled, squeeze_excite, strides_for
from jaxconv.models.variants import variant


class Stage(NamedTuple):
    """Blocks of the same width."""

    features: int
    depth: int
    group_width: int


def regnet_stages(depth: int, start: int, slope: float, step: float, group_width: int) -> list[Stage]:
    """Returns the stages of a RegNet: widths that grow linearly with depth, rounded to powers of ``step``.

    Args:
      depth: the total number of blocks.
      start: the width at depth 0.
      slope: the increase of the width with each block.
      step: the ratio of a stage's width to that of the stage before.
      group_width: channels of a group; a stage of fewer channels has one group.

    Raises:
      ArgumentError: slope is negative, step is not greater than 1, or start is not a positive multiple of 8.

    >>> regnet_stages(16, 48, 27.89, 2.09, 8)
    [Stage(features=48, depth=1, group_width=8), Stage(features=104, depth=3, group_width=8),
     Stage(features=208, depth=6, group_width=8), Stage(features=440, depth=6, group_width=8)]
    """
    if slope < 0 or step <= 1 or start <= 0 or start % 8:
        raise ArgumentError(
            "slope must not be negative, step be greater than 1, start a positive multiple of 8, "
            f"got {slope}, {step}, {start}"
        )
    powers = np.round(np.log(1 + np.arange(depth) * slope / start) / np.log(step))
    widths = 8 * np.round(start * step**powers / 8).astype(int)
    stages = []
    for width, count in Counter(widths.tolist()).items():
        group = min(group_width, width)
        stages.append(Stage(divisible(width, group), count, group))
    return stages


def _block(stage: Stage, inputs: int, stride: int, squeeze: float, drop_path: float) -> Layer:
    features, groups = stage.features, stage.features // stage.group_width
    excite = {"se": squeeze_excite(features, round(squeeze * inputs))} if squeeze else {}
    body = serial(
        a=conv_norm_act(features, 1),
        b=conv_norm_act(features, 3, stride=stride, groups=groups),
        **excite,
        c=conv_norm_act(features, 1, act=None),
    )
    project = stride != 1 or inputs != features
    return residual(
        serial(f=body, **({"stochastic_depth": DropPath(drop_path)} if drop_path else {})),
        conv_norm_act(features, 1, stride=stride, act=None) if project else None,
        after=jax.nn.relu,
        name="proj",
    )


def regnet(
    depth: int,
    start: int,
    slope: float,
    step: float,
    group_width: int,
    classes: int = 1000,
    *,
    squeeze: float = 0.0,
    stem: int = 32,
    width: float = 1.0,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns a RegNet: a stem, stages in ``trunk_output``, global average pooling, the scores ``fc``.

    Args:
      depth, start, slope, step, group_width: as in `regnet_stages`.
      classes: the number of classes.
      squeeze: channels between the layers of squeeze and excitation, as a fraction of a block's input; 0 adds none.
      stem: channels of the stem.
      width: a factor of all channels, except those of a group.
      dropout: the dropout rate before the scores; 0 adds no layer.
      drop_path: the drop rate of the last block; the rate increases linearly from 0 (Huang et al., 2016).
      small_images: whether the first two strides are 1, for images of about 32x32.

    Raises:
      ValueError: the widths or a rate are out of range.

    >>> jc.summary(regnet(16, 48, 27.89, 2.09, 8, squeeze=0.25), (1, 224, 224, 3)).parameters
    4344144
    """
    stages = regnet_stages(depth, start, slope, step, group_width)
    stages = [stage._replace(features=divisible(stage.features * width, stage.group_width)) for stage in stages]
    stem = scaled(stem, width)
    strides = strides_for([2] * len(stages), small_images)
    rates = drop_rates(drop_path, depth)
    inputs, trunk = stem, {}
    for number, (stage, stride) in enumerate(zip(stages, strides, strict=True), 1):
        blocks: dict[str, LayerLike] = {}
        for i in range(stage.depth):
            blocks[f"block{number}-{i}"] = _block(stage, inputs, 1 if i else stride, squeeze, next(rates))
            inputs = stage.features
        trunk[f"block{number}"] = serial(**blocks)
    return serial(
        stem=conv_norm_act(stem, 3, stride=1 if small_images else 2),
        trunk_output=serial(**trunk),
        avgpool=GlobalAvgPool(),
        **({"dropout": Dropout(dropout)} if dropout else {}),
        fc=Dense(classes, kernel_init=initializers.normal(0.01)),
    )


regnet_x_400mf = variant(
    "regnet_x_400mf",
    "Returns RegNetX-400MF: 5,495,976 parameters with 1000 classes.",
    regnet,
    *(22, 24, 24.48, 2.54, 16),
)
regnet_x_800mf = variant(
    "regnet_x_800mf",
    "Returns RegNetX-800MF: 7,259,656 parameters with 1000 classes.",
    regnet,
    *(16, 56, 35.73, 2.28, 16),
)
regnet_x_1_6gf = variant(
    "regnet_x_1_6gf",
    "Returns RegNetX-1.6GF: 9,190,136 parameters with 1000 classes.",
    regnet,
    *(18, 80, 34.01, 2.25, 24),
)
regnet_x_3_2gf = variant(
    "regnet_x_3_2gf",
    "Returns RegNetX-3.2GF: 15,296,552 parameters with 1000 classes.",
    regnet,
    *(25, 88, 26.31, 2.25, 48),
)
regnet_x_8gf = variant(
    "regnet_x_8gf", "Returns RegNetX-8GF: 39,572,648 parameters with 1000 classes.", regnet, *(23, 80, 49.56, 2.88, 120)
)
regnet_x_16gf = variant(
    "regnet_x_16gf",
    "Returns RegNetX-16GF: 54,278,536 parameters with 1000 classes.",
    regnet,
    *(22, 216, 55.59, 2.1, 128),
)
regnet_x_32gf = variant(
    "regnet_x_32gf",
    "Returns RegNetX-32GF: 107,811,560 parameters with 1000 classes.",
    regnet,
    *(23, 320, 69.86, 2.0, 168),
)
regnet_y_400mf = variant(
    "regnet_y_400mf",
    "Returns RegNetY-400MF: 4,344,144 parameters with 1000 classes.",
    regnet,
    *(16, 48, 27.89, 2.09, 8),
    squeeze=0.25,
)
regnet_y_800mf = variant(
    "regnet_y_800mf",
    "Returns RegNetY-800MF: 6,432,512 parameters with 1000 classes.",
    regnet,
    *(14, 56, 38.84, 2.4, 16),
    squeeze=0.25,
)
regnet_y_1_6gf = variant(
    "regnet_y_1_6gf",
    "Returns RegNetY-1.6GF: 11,202,430 parameters with 1000 classes.",
    regnet,
    *(27, 48, 20.71, 2.65, 24),
    squeeze=0.25,
)
regnet_y_3_2gf = variant(
    "regnet_y_3_2gf",
    "Returns RegNetY-3.2GF: 19,436,338 parameters with 1000 classes.",
    regnet,
    *(21, 80, 42.63, 2.66, 24),
    squeeze=0.25,
)
regnet_y_8gf = variant(
    "regnet_y_8gf",
    "Returns RegNetY-8GF: 39,381,472 parameters with 1000 classes.",
    regnet,
    *(17, 192, 76.82, 2.19, 56),
    squeeze=0.25,
)
regnet_y_16gf = variant(
    "regnet_y_16gf",
    "Returns RegNetY-16GF: 83,590,140 parameters with 1000 classes.",
    regnet,
    *(18, 200, 106.23, 2.48, 112),
    squeeze=0.25,
)
regnet_y_32gf = variant(
    "regnet_y_32gf",
    "Returns RegNetY-32GF: 145,046,770 parameters with 1000 classes.",
    regnet,
    *(20, 232, 115.89, 2.53, 232),
    squeeze=0.25,
)
regnet_y_128gf = variant(
    "regnet_y_128gf",
    "Returns RegNetY-128GF: 644,812,894 parameters with 1000 classes.",
    regnet,
    *(27, 456, 160.83, 2.52, 264),
    squeeze=0.25,
)


__all__ = [
    "regnet",
    "regnet_stages",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
]
