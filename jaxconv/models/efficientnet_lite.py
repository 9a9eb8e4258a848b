"""EfficientNet-Lite: Tan and Le, "EfficientNet", 2019, with the changes of their code of 2020 for small devices.

The networks have no squeeze and excitation, and use ReLU6; stem, head, and first and last stages are not scaled. Names
and shapes are those of the package efficientnet-lite-pytorch; padding is TensorFlow's "SAME".
"""

import functools
import math

import jax

from jaxconv.compose import serial
from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv, Dense, Dropout, GlobalAvgPool
from jaxconv.models.blocks import FAN_OUT, scaled, strides_for, with_shortcut
from jaxconv.models.efficientnet import V1
from jaxconv.models.variants import variant

_NORM = BatchNorm(momentum=0.01, eps=1e-3)
_conv = functools.partial(Conv, padding="SAME", bias=False, kernel_init=FAN_OUT)


def _block(features: int, inputs: int, expand: int, window: int, stride: int, drop_path: float) -> Layer:
    expanded = inputs * expand
    widen: dict[str, LayerLike] = {"_expand_conv": _conv(expanded, 1), "_bn0": _NORM, "_relu0": jax.nn.relu6}
    body: dict[str, LayerLike] = {
        **(widen if expand > 1 else {}),
        "_depthwise_conv": _conv(expanded, window, stride=stride, groups=expanded),
        "_bn1": _NORM,
        "_relu1": jax.nn.relu6,
        "_project_conv": _conv(features, 1),
        "_bn2": _NORM,
    }
    return with_shortcut(stride == 1 and inputs == features, drop_path, **body)


def efficientnet_lite(
    classes: int = 1000,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    dropout: float = 0.2,
    drop_path: float = 0.2,
    small_images: bool = False,
) -> Layer:
    """Returns an EfficientNet-Lite: stem, blocks, 1x1 convolution, global average pooling, the scores ``_fc``.

    Args:
      classes: the number of classes.
      width: a factor of the stages' channels, rounded to multiples of 8.
      depth: a factor of the number of blocks of each stage except the first and the last, rounded up.
      dropout: the dropout rate before the scores.
      drop_path: the drop rate of blocks with a shortcut, which increases linearly with depth from 0 to almost this
        value (Huang et al., 2016).
      small_images: whether the first two strides are 1, for images of about 32x32.

    Raises:
      ValueError: a factor or a rate is out of range.

    >>> jc.summary(efficientnet_lite(), (1, 224, 224, 3)).parameters
    4652008
    """
    if not depth > 0:
        raise ArgumentError(f"depth must be positive, got {depth}")
    strides = strides_for([stage.stride for stage in V1], small_images)
    plan, inputs = [], 32
    for i, (stage, stride) in enumerate(zip(V1, strides, strict=True)):
        features = scaled(stage.features, width)
        repeats = stage.depth if i in (0, len(V1) - 1) else math.ceil(stage.depth * depth)
        for n in range(repeats):
            plan.append((features, inputs, stage.expand, stage.window, 1 if n else stride))
            inputs = features
    blocks = [_block(*row, drop_path * i / len(plan)) for i, row in enumerate(plan)]
    return serial(
        _conv_stem=_conv(32, 3, stride=1 if small_images else 2),
        _bn0=_NORM,
        _relu0=jax.nn.relu6,
        _blocks=serial(*blocks),
        _conv_head=_conv(1280, 1),
        _bn1=_NORM,
        _relu1=jax.nn.relu6,
        _avg_pooling=GlobalAvgPool(),
        _dropout=Dropout(dropout),
        _fc=Dense(classes),
    )


efficientnet_lite0 = variant(
    "efficientnet_lite0",
    "Returns EfficientNet-Lite0, for images of 224x224: 4,652,008 parameters with 1000 classes.",
    efficientnet_lite,
)
efficientnet_lite1 = variant(
    "efficientnet_lite1",
    "Returns EfficientNet-Lite1, for images of 240x240: 5,416,680 parameters with 1000 classes.",
    efficientnet_lite,
    depth=1.1,
)
efficientnet_lite2 = variant(
    "efficientnet_lite2",
    "Returns EfficientNet-Lite2, for images of 260x260: 6,092,072 parameters with 1000 classes.",
    efficientnet_lite,
    width=1.1,
    depth=1.2,
    dropout=0.3,
)
efficientnet_lite3 = variant(
    "efficientnet_lite3",
    "Returns EfficientNet-Lite3, for images of 280x280: 8,197,096 parameters with 1000 classes.",
    efficientnet_lite,
    width=1.2,
    depth=1.4,
    dropout=0.3,
)
efficientnet_lite4 = variant(
    "efficientnet_lite4",
    "Returns EfficientNet-Lite4, for images of 300x300: 13,006,568 parameters with 1000 classes.",
    efficientnet_lite,
    width=1.4,
    depth=1.8,
    dropout=0.3,
)


__all__ = [
    "efficientnet_lite",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
]
