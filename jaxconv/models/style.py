"""Fast style transfer: Johnson, Alahi and Fei-Fei, "Perceptual losses for real-time style transfer", 2016.

The network has instance norm in place of batch norm (Ulyanov et al., 2017), resize-convolutions in place of transposed
convolutions (Odena et al., 2016), and reflected padding. Names are those of ``TransformerNet`` in pytorch/examples.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxconv.compose import residual, serial
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Layer, LayerLike
from jaxconv.layers import Conv, InstanceNorm, Resize


def _conv(features: int, window: int, stride: int = 1) -> Layer:
    return serial(conv2d=Conv(features, window, stride=stride, padding=window // 2, pad_mode="reflect"))


def _up(features: int, window: int) -> Layer:
    return serial(
        resize=Resize(factor=2, method="nearest"),
        conv2d=Conv(features, window, padding=window // 2, pad_mode="reflect"),
    )


def _block(features: int) -> Layer:
    body = serial(
        conv1=_conv(features, 3), in1=InstanceNorm(), relu=jax.nn.relu, conv2=_conv(features, 3), in2=InstanceNorm()
    )
    return residual(body)


def unit_range(x: Array) -> Array:
    """Returns ``(tanh(x) + 1) / 2``: the paper's scaled tanh, for images in [0, 1].

    >>> unit_range(jnp.array([-9.0, 0.0, 9.0])).round(3)
    Array([0. , 0.5, 1. ], dtype=float32)
    """
    return (jnp.tanh(x) + 1) / 2


def transform_net(
    channels: int = 3, *, widths: Sequence[int] = (32, 64, 128), blocks: int = 5, bounded: bool = True
) -> Layer:
    """Returns the image transformation network: strided convolutions, residual blocks, and upsampling to the same size.

    Heights and widths must be divisible by 2 for each width after the first, by default by 4; other sizes give a larger
    output. 1,679,235 parameters.

    Args:
      channels: the channels of the images.
      widths: filters at the full size, at half of it, and so on.
      blocks: residual blocks at the smallest size.
      bounded: whether `unit_range` is the last layer; ``TransformerNet`` returns values from about 0 to 255 instead.

    Raises:
      ValueError: widths is empty, or blocks is negative.

    >>> jc.summary(transform_net(), (1, 64, 64, 3)).parameters
    1679235
    """
    widths = tuple(as_int(width, "widths", least=1) for width in widths)
    if not widths:
        raise ArgumentError("widths must have at least one number of filters, got ()")
    layers: dict[str, LayerLike] = {}
    for i, width in enumerate(widths, 1):
        conv = _conv(width, 9) if i == 1 else _conv(width, 3, stride=2)
        layers |= {f"conv{i}": conv, f"in{i}": InstanceNorm(), f"relu{i}": jax.nn.relu}
    for i in range(1, as_int(blocks, "blocks", least=0) + 1):
        layers[f"res{i}"] = _block(widths[-1])
    for i, width in enumerate(widths[-2::-1], 1):
        n = len(widths) + i
        layers |= {f"deconv{i}": _up(width, 3), f"in{n}": InstanceNorm(), f"relu{n}": jax.nn.relu}
    layers[f"deconv{len(widths)}"] = _conv(channels, 9)
    return serial(**layers, **({"unit_range": unit_range} if bounded else {}))


__all__ = ["transform_net"]
