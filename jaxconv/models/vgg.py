"""VGG: stacks of 3x3 convolutions between pools.

Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", 2015: configurations A, B,
D and E, and the same with batch norm (Ioffe and Szegedy, 2015). Names and shapes are torchvision's.
"""

from collections.abc import Sequence

import jax
from jax.nn import initializers

from jaxconv.compose import serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AdaptiveAvgPool, BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool
from jaxconv.models.blocks import FAN_OUT

relu = jax.nn.relu

A, B, D, E = (1, 1, 2, 2, 2), (2, 2, 2, 2, 2), (2, 2, 3, 3, 3), (2, 2, 4, 4, 4)


def vgg(
    depths: Sequence[int],
    classes: int = 1000,
    *,
    norm: bool = False,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns a VGG: blocks of 3x3 convolutions, each with a 2x2 pool at its end, and three fully connected layers.

    Args:
      depths: convolutions in each block.
      classes: the number of classes.
      norm: whether to add batch norm between each convolution and its ReLU.
      width: filters of the first block; each block doubles them, up to a factor of 8.
      hidden: the width of the two hidden fully connected layers.
      dropout: the dropout rate after each hidden fully connected layer.
      small_images: whether to use global average pooling before the fully connected layers, in place of 7x7 bins, for
        images of 32x32, which five pools reduce to one position.

    >>> jc.summary(vgg((1, 1), 10, width=8, hidden=16, small_images=True), (1, 32, 32, 3)).parameters
    2106
    """
    as_int(width, "width", least=1)
    features: list[LayerLike] = []
    for i, depth in enumerate(depths):
        for _ in range(depth):
            features += [
                Conv(width * min(2**i, 8), 3, padding=1, kernel_init=FAN_OUT),
                *([BatchNorm()] if norm else []),
                relu,
            ]
        features.append(MaxPool(2))

    def dense(outputs: int) -> Layer:
        return Dense(outputs, kernel_init=initializers.normal(0.01))

    return serial(
        features=serial(*features),
        avgpool=AdaptiveAvgPool(1 if small_images else 7),
        flatten=Flatten(channels_first=True),
        classifier=serial(dense(hidden), relu, Dropout(dropout), dense(hidden), relu, Dropout(dropout), dense(classes)),
    )


def vgg11(
    classes: int = 1000,
    *,
    norm: bool = False,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns VGG-11, configuration A: 132,863,336 parameters with 1000 classes."""
    return vgg(A, classes, norm=norm, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg13(
    classes: int = 1000,
    *,
    norm: bool = False,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns VGG-13, configuration B: 133,047,848 parameters with 1000 classes."""
    return vgg(B, classes, norm=norm, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg16(
    classes: int = 1000,
    *,
    norm: bool = False,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns VGG-16, configuration D: 138,357,544 parameters with 1000 classes.

    >>> jc.summary(vgg16(), (1, 224, 224, 3)).parameters
    138357544
    """
    return vgg(D, classes, norm=norm, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg19(
    classes: int = 1000,
    *,
    norm: bool = False,
    width: int = 64,
    hidden: int = 4096,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns VGG-19, configuration E: 143,667,240 parameters with 1000 classes."""
    return vgg(E, classes, norm=norm, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg11_bn(
    classes: int = 1000, *, width: int = 64, hidden: int = 4096, dropout: float = 0.5, small_images: bool = False
) -> Layer:
    """Returns VGG-11 with batch norm: 132,868,840 parameters with 1000 classes."""
    return vgg(A, classes, norm=True, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg13_bn(
    classes: int = 1000, *, width: int = 64, hidden: int = 4096, dropout: float = 0.5, small_images: bool = False
) -> Layer:
    """Returns VGG-13 with batch norm: 133,053,736 parameters with 1000 classes."""
    return vgg(B, classes, norm=True, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg16_bn(
    classes: int = 1000, *, width: int = 64, hidden: int = 4096, dropout: float = 0.5, small_images: bool = False
) -> Layer:
    """Returns VGG-16 with batch norm: 138,365,992 parameters with 1000 classes."""
    return vgg(D, classes, norm=True, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


def vgg19_bn(
    classes: int = 1000, *, width: int = 64, hidden: int = 4096, dropout: float = 0.5, small_images: bool = False
) -> Layer:
    """Returns VGG-19 with batch norm: 143,678,248 parameters with 1000 classes."""
    return vgg(E, classes, norm=True, width=width, hidden=hidden, dropout=dropout, small_images=small_images)


__all__ = ["vgg", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"]
