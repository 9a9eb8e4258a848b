"""SqueezeNet: Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters", 2016.

Version 1.1 of the authors' repository has earlier pools, and smaller filters in the stem. Names and shapes are
torchvision's.
"""

from collections.abc import Sequence

import jax
from jax.nn import initializers

from jaxconv.compose import concat, inline, serial
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import Conv, Dropout, GlobalAvgPool, Identity, MaxPool
from jaxconv.models.blocks import scaled

UNIFORM = initializers.he_uniform()

# Filters of a fire module's 1x1 squeeze and of each half of its expansion, in pairs; None is a pool.
PLAN = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))


def _conv(name: str, features: int, window: int = 1) -> Layer:
    conv: LayerLike = Conv(features, window, padding=window // 2, kernel_init=UNIFORM)
    return inline(serial(**{name: conv, f"{name}_activation": jax.nn.relu}))


def fire(squeezed: int, expanded: int) -> Layer:
    """Returns a fire module: a 1x1 convolution to few channels, then a 1x1 and a 3x3 convolution, concatenated.

    Args:
      squeezed: the channels of the first convolution.
      expanded: the channels of each of the other two.
    """
    expand = concat(_conv("expand1x1", expanded), _conv("expand3x3", expanded, 3))
    return serial(_conv("squeeze", squeezed), inline(expand))


def squeezenet(
    stem: Conv,
    pools: Sequence[int],
    classes: int = 1000,
    *,
    width: float = 1.0,
    dropout: float = 0.5,
    small_images: bool = False,
) -> Layer:
    """Returns a SqueezeNet: a stem, eight `fire` modules with pools, and averages of one feature map for each class.

    Args:
      stem: the first convolution.
      pools: indices of the fire modules, from 0, that follow a 3x3 max pool with a stride of 2.
      classes: the number of classes.
      width: a factor of the fire modules' channels, rounded to multiples of 8.
      dropout: the dropout rate before the last convolution.
      small_images: whether to use a 3x3 stem without stride, and no pool after it, for images of 32x32.

    >>> jc.summary(squeezenet(jc.Conv(64), (0, 2), 10, width=0.5), (1, 32, 32, 3)).parameters
    185514
    """
    if small_images:
        stem = Conv(stem.features, 3, kernel_init=UNIFORM)
    features: list[LayerLike] = [stem, jax.nn.relu]
    for i, (squeezed, expanded) in enumerate(PLAN):
        if i in pools:
            skipped = small_images and len(features) == 2
            features.append(Identity() if skipped else MaxPool(3, stride=2, ceil_mode=True))
        features.append(fire(scaled(squeezed, width), scaled(expanded, width)))
    scores = Conv(classes, 1, kernel_init=initializers.normal(0.01))
    return serial(features=serial(*features), classifier=serial(Dropout(dropout), scores, jax.nn.relu, GlobalAvgPool()))


def squeezenet1_0(
    classes: int = 1000, *, width: float = 1.0, dropout: float = 0.5, small_images: bool = False
) -> Layer:
    """Returns SqueezeNet 1.0, the paper's: 1,248,424 parameters with 1000 classes.

    >>> jc.summary(squeezenet1_0(), (1, 224, 224, 3)).parameters
    1248424
    """
    stem = Conv(96, 7, stride=2, padding="VALID", kernel_init=UNIFORM)
    return squeezenet(stem, (0, 3, 7), classes, width=width, dropout=dropout, small_images=small_images)


def squeezenet1_1(
    classes: int = 1000, *, width: float = 1.0, dropout: float = 0.5, small_images: bool = False
) -> Layer:
    """Returns SqueezeNet 1.1, with 2.4 times fewer multiply-adds: 1,235,496 parameters with 1000 classes."""
    stem = Conv(64, 3, stride=2, padding="VALID", kernel_init=UNIFORM)
    return squeezenet(stem, (0, 2, 4), classes, width=width, dropout=dropout, small_images=small_images)


__all__ = ["squeezenet", "squeezenet1_0", "squeezenet1_1"]
