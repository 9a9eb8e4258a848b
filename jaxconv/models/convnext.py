"""ConvNeXt: Liu, Mao, Wu, Feichtenhofer, Darrell and Xie, "A ConvNet for the 2020s", 2022.

Names and shapes are torchvision's.
"""

import functools
import math
from collections.abc import Sequence

import jax
from jax.nn import initializers

from jaxconv.compose import serial
from jaxconv.errors import ArgumentError
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AdaptiveAvgPool, Conv, Dense, Dropout, Flatten, Identity, LayerNorm, LayerScale
from jaxconv.models.blocks import drop_rates, scaled, with_shortcut
from jaxconv.models.variants import variant

# Torch truncates the normal distribution at 100 standard deviations, which has no effect.
_NORMAL = initializers.normal(0.02)
_NORM = LayerNorm(eps=1e-6)
_conv = functools.partial(Conv, kernel_init=_NORMAL)
_dense = functools.partial(Dense, kernel_init=_NORMAL)
_GELU = functools.partial(jax.nn.gelu, approximate=False)
# An identity keeps torch's names; a permutation is not needed, since channels are last.
_PERMUTE = Identity()


def _block(features: int, layer_scale: float, drop_path: float) -> Layer:
    block = serial(
        _conv(features, 7, padding=3, groups=features),
        _PERMUTE,
        _NORM,
        _dense(4 * features),
        _GELU,
        _dense(features),
        _PERMUTE,
    )
    return with_shortcut(True, drop_path, block=block, layer_scale=LayerScale(layer_scale))


def convnext(
    widths: Sequence[int],
    depths: Sequence[int],
    classes: int = 1000,
    *,
    width: float = 1.0,
    layer_scale: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns a ConvNeXt: patches and stages with downsampling in ``features``, global average pooling, the scores.

    Args:
      widths: channels of each stage.
      depths: blocks in each stage.
      classes: the number of classes.
      layer_scale: the initial scale of the blocks' channels (Touvron et al., 2021).
      width: a factor of all widths.
      dropout: the dropout rate before the scores; 0 adds no layer.
      drop_path: the drop rate of the last block; the rate increases linearly from 0 (Huang et al., 2016).
      small_images: whether to use a 3x3 stem without stride, for images of about 32x32, in place of patches of 4x4.

    Raises:
      ValueError: widths and depths have different lengths, or a rate is out of range.

    >>> jc.summary(convnext((96, 192, 384, 768), (3, 3, 9, 3)), (1, 224, 224, 3)).parameters
    28589128
    """
    if len(widths) != len(depths):
        raise ArgumentError(f"widths and depths must have the same length, got {widths} and {depths}")
    widths = [scaled(features, width, math.gcd(features, 8)) for features in widths]
    patches = _conv(widths[0], 3, padding=1) if small_images else _conv(widths[0], 4, stride=4, padding="VALID")
    rates = drop_rates(drop_path, sum(depths))
    layers: list[LayerLike] = [serial(patches, _NORM)]
    for i, (features, depth) in enumerate(zip(widths, depths, strict=True)):
        if i:
            layers.append(serial(_NORM, _conv(features, 2, stride=2, padding="VALID")))
        layers.append(serial(*(_block(features, layer_scale, next(rates)) for _ in range(depth))))
    dropped = {"dropout": Dropout(dropout)} if dropout else {}
    return serial(
        features=serial(*layers),
        avgpool=AdaptiveAvgPool(1),
        **dropped,
        classifier=serial(_NORM, Flatten(), _dense(classes)),
    )


convnext_tiny = variant(
    "convnext_tiny",
    "Returns ConvNeXt-Tiny: 28,589,128 parameters with 1000 classes.",
    convnext,
    (96, 192, 384, 768),
    (3, 3, 9, 3),
    drop_path=0.1,
)
convnext_small = variant(
    "convnext_small",
    "Returns ConvNeXt-Small: 50,223,688 parameters with 1000 classes.",
    convnext,
    (96, 192, 384, 768),
    (3, 3, 27, 3),
    drop_path=0.4,
)
convnext_base = variant(
    "convnext_base",
    "Returns ConvNeXt-Base: 88,591,464 parameters with 1000 classes.",
    convnext,
    (128, 256, 512, 1024),
    (3, 3, 27, 3),
    drop_path=0.5,
)
convnext_large = variant(
    "convnext_large",
    "Returns ConvNeXt-Large: 197,767,336 parameters with 1000 classes.",
    convnext,
    (192, 384, 768, 1536),
    (3, 3, 27, 3),
    drop_path=0.5,
)


__all__ = ["convnext", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny"]
