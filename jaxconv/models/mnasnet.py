"""MNASNet: Tan et al., "MnasNet: platform-aware neural architecture search for mobile", 2019: the variant B1.

Names and shapes are torchvision's.
"""

from jax.nn import initializers

from jaxconv.compose import serial
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Dense, Dropout, GlobalAvgPool
from jaxconv.models.blocks import conv_norm_act, flat, inverted_bottleneck, scaled, strides_for, with_shortcut
from jaxconv.models.variants import variant

# 0.9997 in the paper, which uses Keras's definition of momentum.
_NORM = BatchNorm(momentum=3e-4)
_OUTPUTS_UNIFORM = initializers.variance_scaling(1.0, "fan_out", "uniform")

# Expansion of a block's input, window, features, number of blocks, stride of the first block.
STAGES = ((3, 3, 24, 3, 2), (3, 5, 40, 3, 2), (6, 5, 80, 3, 2), (6, 3, 96, 2, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1))


def mnasnet(
    classes: int = 1000,
    *,
    width: float = 1.0,
    dropout: float = 0.2,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns MNASNet-B1: stem, stages and 1x1 convolution in ``layers``, global average pooling, the scores.

    Args:
      classes: the number of classes.
      width: a factor of the channels, rounded to multiples of 8; the last convolution has 1280.
      dropout: the dropout rate before the scores.
      drop_path: the drop rate of blocks with a shortcut, which increases linearly with depth from 0 to almost this
        value (Huang et al., 2016).
      small_images: whether the first two strides are 1, for images of about 32x32.

    Raises:
      ValueError: a factor or a rate is out of range.

    >>> jc.summary(mnasnet(), (1, 224, 224, 3)).parameters
    4383312
    """
    first, inputs = scaled(32, width), scaled(16, width)
    stem = [
        conv_norm_act(first, 3, stride=1 if small_images else 2, norm=_NORM),
        *inverted_bottleneck(inputs, first, expand=False, norm=_NORM),
    ]
    strides = strides_for([stride for *_, stride in STAGES], small_images)
    total, done = sum(depth for *_, depth, _ in STAGES), 0
    stages: list[LayerLike] = []
    for (expand, window, unscaled, depth, _), stride in zip(STAGES, strides, strict=True):
        features = scaled(unscaled, width)
        blocks = []
        for i in range(depth):
            layers = inverted_bottleneck(features, inputs * expand, window, stride=1 if i else stride, norm=_NORM)
            shortcut = i > 0 or (stride == 1 and inputs == features)
            blocks.append(with_shortcut(shortcut, drop_path * done / total, layers=serial(*flat(*layers))))
            inputs, done = features, done + 1
        stages.append(serial(*blocks))
    return serial(
        layers=serial(*flat(*stem), *stages, *flat(conv_norm_act(1280, 1, norm=_NORM))),
        avgpool=GlobalAvgPool(),
        classifier=serial(Dropout(dropout), Dense(classes, kernel_init=_OUTPUTS_UNIFORM)),
    )


mnasnet0_5 = variant(
    "mnasnet0_5", "Returns MNASNet of half the width: 2,218,512 parameters with 1000 classes.", mnasnet, width=0.5
)
mnasnet0_75 = variant(
    "mnasnet0_75",
    "Returns MNASNet of three quarters of the width: 3,170,208 parameters with 1000 classes.",
    mnasnet,
    width=0.75,
)
mnasnet1_0 = variant("mnasnet1_0", "Returns MNASNet: 4,383,312 parameters with 1000 classes.", mnasnet)
mnasnet1_3 = variant(
    "mnasnet1_3", "Returns MNASNet of 1.3 times the width: 6,282,256 parameters with 1000 classes.", mnasnet, width=1.3
)


__all__ = ["mnasnet", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3"]
