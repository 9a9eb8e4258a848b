"""DenseNet: Huang, Liu, van der Maaten and Weinberger, "Densely connected convolutional networks", 2017.

With the bottlenecks and the compression of the paper's DenseNet-BC. Names and shapes are torchvision's.
"""

import re
from collections.abc import Sequence

import jax

from jaxconv.compose import concat, inline, remat, serial
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AvgPool, BatchNorm, Conv, Dense, Dropout, GlobalAvgPool, Identity, MaxPool

relu = jax.nn.relu
# torch once allowed dots in the names of modules: torchvision's published files have norm.1 in place of norm1.
PUBLISHED_NAMES = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"


def _dense_layer(growth: int, bn_size: int, dropout: float, memory_efficient: bool) -> Layer:
    """Returns a layer that appends ``growth`` channels to its input."""
    bottleneck = serial(norm1=BatchNorm(), relu1=relu, conv1=Conv(bn_size * growth, 1, bias=False))
    rest: dict[str, LayerLike] = {"norm2": BatchNorm(), "relu2": relu, "conv2": Conv(growth, 3, padding=1, bias=False)}
    if dropout:
        rest["dropout"] = Dropout(dropout)
    new = serial(inline(remat(bottleneck) if memory_efficient else bottleneck), **rest)
    return concat(Identity(), inline(new))


def densenet(
    growth: int,
    depths: Sequence[int],
    classes: int = 1000,
    *,
    width: int = 64,
    bn_size: int = 4,
    dropout: float = 0.0,
    memory_efficient: bool = False,
    small_images: bool = False,
) -> Layer:
    """Returns a DenseNet: a stem, dense blocks with transitions that halve channels and sizes, and the scores.

    Args:
      growth: the channels that each layer of a block appends, k in the paper.
      depths: layers in each block.
      classes: the number of classes.
      width: filters of the stem.
      bn_size: the channels between a layer's 1x1 and 3x3 convolutions, divided by ``growth``.
      dropout: the dropout rate after each layer of a block.
      memory_efficient: whether to recompute concatenated and normalized feature maps in the backward pass (Pleiss et
        al., 2017).
      small_images: whether to use a 3x3 stem without stride and pool, as in the paper for images of 32x32, in place of
        7x7 and a pool.

    >>> cifar = densenet(12, (16, 16, 16), 10, width=24, small_images=True)
    >>> jc.summary(cifar, (1, 32, 32, 3)).parameters
    769162
    """
    as_int(width, "width", least=1)
    features: dict[str, LayerLike] = {
        "conv0": Conv(width, 3, padding=1, bias=False)
        if small_images
        else Conv(width, 7, stride=2, padding=3, bias=False)
    }
    # The paper's network for CIFAR has no norm between the stem and the first block, whose layers begin with a norm.
    if not small_images:
        features |= {"norm0": BatchNorm(), "relu0": relu, "pool0": MaxPool(3, stride=2, padding=1)}
    channels = width
    for i, depth in enumerate(depths, 1):
        layers = {
            f"denselayer{n}": _dense_layer(growth, bn_size, dropout, memory_efficient) for n in range(1, depth + 1)
        }
        features[f"denseblock{i}"] = serial(**layers)
        channels += depth * growth
        if i < len(depths):
            channels //= 2
            transition = serial(norm=BatchNorm(), relu=relu, conv=Conv(channels, 1, bias=False), pool=AvgPool(2))
            features[f"transition{i}"] = transition
    features["norm5"] = BatchNorm()
    return serial(features=serial(**features), relu=relu, avgpool=GlobalAvgPool(), classifier=Dense(classes))


def densenet121(
    classes: int = 1000,
    *,
    width: int = 64,
    bn_size: int = 4,
    dropout: float = 0.0,
    memory_efficient: bool = False,
    small_images: bool = False,
) -> Layer:
    """Returns DenseNet-121: 7,978,856 parameters with 1000 classes.

    >>> jc.summary(densenet121(), (1, 224, 224, 3)).parameters
    7978856
    """
    return densenet(
        32,
        (6, 12, 24, 16),
        classes,
        width=width,
        bn_size=bn_size,
        dropout=dropout,
        memory_efficient=memory_efficient,
        small_images=small_images,
    )


def densenet161(
    classes: int = 1000,
    *,
    width: int = 96,
    bn_size: int = 4,
    dropout: float = 0.0,
    memory_efficient: bool = False,
    small_images: bool = False,
) -> Layer:
    """Returns DenseNet-161, which grows by 48: 28,681,000 parameters with 1000 classes."""
    return densenet(
        48,
        (6, 12, 36, 24),
        classes,
        width=width,
        bn_size=bn_size,
        dropout=dropout,
        memory_efficient=memory_efficient,
        small_images=small_images,
    )


def densenet169(
    classes: int = 1000,
    *,
    width: int = 64,
    bn_size: int = 4,
    dropout: float = 0.0,
    memory_efficient: bool = False,
    small_images: bool = False,
) -> Layer:
    """Returns DenseNet-169: 14,149,480 parameters with 1000 classes."""
    return densenet(
        32,
        (6, 12, 32, 32),
        classes,
        width=width,
        bn_size=bn_size,
        dropout=dropout,
        memory_efficient=memory_efficient,
        small_images=small_images,
    )


def densenet201(
    classes: int = 1000,
    *,
    width: int = 64,
    bn_size: int = 4,
    dropout: float = 0.0,
    memory_efficient: bool = False,
    small_images: bool = False,
) -> Layer:
    """Returns DenseNet-201: 20,013,928 parameters with 1000 classes."""
    return densenet(
        32,
        (6, 12, 48, 32),
        classes,
        width=width,
        bn_size=bn_size,
        dropout=dropout,
        memory_efficient=memory_efficient,
        small_images=small_images,
    )


__all__ = ["densenet", "densenet121", "densenet161", "densenet169", "densenet201"]
