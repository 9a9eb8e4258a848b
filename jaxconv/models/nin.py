"""Network in network: Lin, Chen and Yan, 2014.

Each convolution is followed by two 1x1 convolutions, a small network at each position. The scores are averages of the
last feature maps, without a fully connected layer. Names and sizes are those of the authors' definitions for Caffe.
"""

from collections.abc import Sequence

import jax

from jaxconv.compose import serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AvgPool, Conv, Dropout, GlobalAvgPool, MaxPool


def _stage(widths: Sequence[int], window: int, stride: int = 1) -> list[LayerLike]:
    """Returns a convolution and two 1x1 convolutions, with a ReLU after each."""
    # A strided convolution has no padding, as in the authors' network for ImageNet.
    conv = Conv(widths[0], window, stride=stride, padding=window // 2 if stride == 1 else 0)
    pointwise = [layer for width in widths[1:] for layer in (Conv(width, 1), jax.nn.relu)]
    return [conv, jax.nn.relu, *pointwise]


def nin(classes: int = 10, *, width: int = 192, dropout: float = 0.5) -> Layer:
    """Returns the network for CIFAR-10: 966,986 parameters on images of 32x32x3.

    Args:
      classes: the number of classes.
      width: filters of each convolution; the first two 1x1 convolutions have five sixths and a half of this number.
      dropout: the dropout rate after each of the two pools.

    >>> jc.summary(nin(), (1, 32, 32, 3)).parameters
    966986
    """
    as_int(width, "width", least=1)
    return serial(
        mlpconv1=serial(*_stage((width, width * 5 // 6, width // 2), 5)),
        pool1=MaxPool(3, stride=2, ceil_mode=True),
        dropout1=Dropout(dropout),
        mlpconv2=serial(*_stage((width, width, width), 5)),
        pool2=AvgPool(3, stride=2, ceil_mode=True),
        dropout2=Dropout(dropout),
        mlpconv3=serial(*_stage((width, width, classes), 3)),
        pool3=GlobalAvgPool(),
    )


def nin_imagenet(classes: int = 1000, *, dropout: float = 0.5) -> Layer:
    """Returns the network for ImageNet, images of 224x224: 7,595,176 parameters with 1000 classes.

    Args:
      classes: the number of classes.
      dropout: the dropout rate before the last convolution that is not 1x1.

    >>> jc.summary(nin_imagenet(), (1, 224, 224, 3)).parameters
    7595176
    """

    def pool() -> Layer:
        return MaxPool(3, stride=2, ceil_mode=True)

    return serial(
        mlpconv1=serial(*_stage((96, 96, 96), 11, stride=4)),
        pool1=pool(),
        mlpconv2=serial(*_stage((256, 256, 256), 5)),
        pool2=pool(),
        mlpconv3=serial(*_stage((384, 384, 384), 3)),
        pool3=pool(),
        dropout=Dropout(dropout),
        mlpconv4=serial(*_stage((1024, 1024, classes), 3)),
        pool4=GlobalAvgPool(),
    )


__all__ = ["nin", "nin_imagenet"]
