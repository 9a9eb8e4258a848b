"""ShuffleNet v2.

Ma, Zhang, Zheng and Sun, "ShuffleNet V2: practical guidelines for efficient CNN architecture design", 2018. Names and
shapes are torchvision's.
"""

import functools
from collections.abc import Sequence

from jax.nn import initializers

from jaxconv.compose import concat, inline, serial, split
from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import ChannelShuffle, Dense, Dropout, GlobalAvgPool, Identity, MaxPool
from jaxconv.models.blocks import conv_norm_act, flat, scaled
from jaxconv.models.variants import variant

# Torch's default initializer.
_conv = functools.partial(conv_norm_act, kernel_init=initializers.variance_scaling(1 / 3, "fan_in", "uniform"))


def _block(inputs: int, features: int, stride: int) -> Layer:
    """Returns a block that changes half of its channels, or for a stride of 2 halves the size and changes all."""
    half = features // 2
    depthwise = functools.partial(_conv, stride=stride, act=None)
    branch2 = serial(*flat(_conv(half, 1), depthwise(half, groups=half), _conv(half, 1)))
    if stride == 1:
        body: Layer = split(branch1=Identity(), branch2=branch2)
    else:
        body = concat(branch1=serial(*flat(depthwise(inputs, groups=inputs), _conv(half, 1))), branch2=branch2)
    return serial(inline(body), shuffle=ChannelShuffle(2))


def shufflenet_v2(
    widths: Sequence[int],
    classes: int = 1000,
    *,
    depths: Sequence[int] = (4, 8, 4),
    width: float = 1.0,
    dropout: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns a ShuffleNet v2: stem, stages ``stage2``, ..., 1x1 convolution, global average pooling, the scores.

    Args:
      widths: channels of the stem, of each stage (even numbers), and of the last convolution.
      classes: the number of classes.
      depths: blocks in each stage.
      width: a factor of all channels, rounded to even numbers.
      dropout: the dropout rate before the scores; 0 adds no layer.
      small_images: whether the stem has no stride and no pool, for images of about 32x32.

    Raises:
      ArgumentError: widths does not have two more entries than depths, or the width of a stage is odd.

    >>> jc.summary(shufflenet_v2((24, 116, 232, 464, 1024)), (1, 224, 224, 3)).parameters
    2278604
    """
    if len(widths) != len(depths) + 2 or any(width % 2 for width in widths[1:-1]):
        raise ArgumentError(
            f"widths must be of the stem, {len(depths)} stages (even numbers) and the last convolution, got {widths}"
        )
    widths = [scaled(features, width, 2) for features in widths]
    inputs = widths[0]
    layers: dict[str, LayerLike] = {"conv1": _conv(inputs, 3, stride=1 if small_images else 2)}
    if not small_images:
        layers["maxpool"] = MaxPool(3, stride=2, padding=1)
    for i, (features, depth) in enumerate(zip(widths[1:-1], depths, strict=True), 2):
        layers[f"stage{i}"] = serial(
            _block(inputs, features, 2), *(_block(features, features, 1) for _ in range(depth - 1))
        )
        inputs = features
    layers |= {f"conv{len(widths)}": _conv(widths[-1], 1), "avgpool": GlobalAvgPool()}
    if dropout:
        layers["dropout"] = Dropout(dropout)
    return serial(**layers, fc=Dense(classes))


shufflenet_v2_x0_5 = variant(
    "shufflenet_v2_x0_5",
    "Returns ShuffleNet v2 of half the width: 1,366,792 parameters with 1000 classes.",
    shufflenet_v2,
    (24, 48, 96, 192, 1024),
)
shufflenet_v2_x1_0 = variant(
    "shufflenet_v2_x1_0",
    "Returns ShuffleNet v2: 2,278,604 parameters with 1000 classes.",
    shufflenet_v2,
    (24, 116, 232, 464, 1024),
)
shufflenet_v2_x1_5 = variant(
    "shufflenet_v2_x1_5",
    "Returns ShuffleNet v2 of 1.5 times the width: 3,503,624 parameters with 1000 classes.",
    shufflenet_v2,
    (24, 176, 352, 704, 1024),
)
shufflenet_v2_x2_0 = variant(
    "shufflenet_v2_x2_0",
    "Returns ShuffleNet v2 of twice the width: 7,393,996 parameters with 1000 classes.",
    shufflenet_v2,
    (24, 244, 488, 976, 2048),
)


__all__ = ["shufflenet_v2", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0"]
