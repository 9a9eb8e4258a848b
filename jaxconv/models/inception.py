"""Inception networks: blocks that concatenate convolutions with several windows of the same feature map.

Szegedy et al., "Going deeper with convolutions", 2015: GoogLeNet, here with batch norm (Ioffe and Szegedy, 2015).
Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception architecture for computer vision", 2016:
Inception v3. Names and shapes are torchvision's. Auxiliary heads run in training only, where the output is
``(scores, {head's name: scores})``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxconv.backbones import auxiliary
from jaxconv.compose import concat, inline, serial
from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Array, Layer, LayerLike
from jaxconv.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    MaxPool,
)
from jaxconv.models.blocks import scaled

# How the names of the auxiliary heads' tensors begin, and the argument that adds the heads.
AUXILIARY = dict.fromkeys(("aux1.", "aux2.", "AuxLogits."), "aux_logits")


def halved(x: Array) -> Array:
    """Converts RGB normalized by ImageNet's mean and standard deviation to RGB normalized by 0.5 and 0.5.

    >>> [f"{value:.3f}" for value in halved(jnp.array([0.0, 0.0, -0.406 / 0.225]))]
    ['-0.030', '-0.088', '-1.000']
    """
    if x.shape[-1] != 3:
        raise ShapeError(f"x must have 3 channels, red, green and blue, for transform_input, got shape {x.shape}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DTypeError(f"x must be a floating-point array for transform_input, got {x.dtype}: normalize it first")
    mean, std = jnp.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], x.dtype)
    return (x * std + (mean - 0.5)) / 0.5


def _conv(features: int, window: IntOrTuple = 1, *, std: float, **options: Any) -> Layer:
    """Returns a convolution with norm and ReLU; by default the convolution keeps the size."""
    conv = Conv(features, window, bias=False, kernel_init=initializers.normal(std), **options)
    return serial(conv=conv, bn=BatchNorm(eps=1e-3), relu=jax.nn.relu)


def _network(
    body: dict[str, LayerLike], heads: dict[str, tuple[str, LayerLike]], scores: dict[str, LayerLike], transform: bool
) -> Layer:
    first: dict[str, LayerLike] = {"transform_input": halved} if transform else {}
    net = serial(**first, **body, **scores)
    return auxiliary(net, **heads) if heads else net


# --- GoogLeNet --------------------------------------------------------------------------------------------------------

# Filters of each block: the 1x1 branch; the two convolutions of the second branch; the two of the third branch; the
# pool branch. A number is the window of a pool between blocks.
GOOGLENET: dict[str, tuple[int, ...] | int] = {
    "inception3a": (64, 96, 128, 16, 32, 32),
    "inception3b": (128, 128, 192, 32, 96, 64),
    "maxpool3": 3,
    "inception4a": (192, 96, 208, 16, 48, 64),
    "inception4b": (160, 112, 224, 24, 64, 64),
    "inception4c": (128, 128, 256, 24, 64, 64),
    "inception4d": (112, 144, 288, 32, 64, 64),
    "inception4e": (256, 160, 320, 32, 128, 128),
    "maxpool4": 2,
    "inception5a": (256, 160, 320, 32, 128, 128),
    "inception5b": (384, 192, 384, 48, 128, 128),
}


def googlenet(
    classes: int = 1000,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
    width: float = 1.0,
    dropout: float = 0.2,
    dropout_aux: float = 0.7,
    small_images: bool = False,
) -> Layer:
    """Returns GoogLeNet: 6,624,904 parameters with 1000 classes, 13,004,888 with its two auxiliary heads.

    As in torchvision, the third branch of a block is a 3x3 convolution; in the paper it is 5x5.

    Args:
      classes: the number of classes.
      aux_logits: whether to add the heads ``aux1`` and ``aux2``, which run in training only.
      transform_input: whether inputs are normalized like torchvision's, as its published weights require; see `halved`.
      width: a factor of the convolutions' channels, rounded to multiples of 8.
      dropout: the dropout rate before the scores.
      dropout_aux: the dropout rate before the heads' scores.
      small_images: whether to use a 3x3 stem without stride, and no pool before the first block, for images of 32x32.

    >>> jc.summary(googlenet(aux_logits=False), (1, 224, 224, 3)).parameters
    6624904
    """

    def conv(features: int, window: int = 1, **options: Any) -> Layer:
        return _conv(scaled(features, width), window, std=0.01, **options)

    def block(one: int, before_three: int, three: int, before_five: int, five: int, pooled: int) -> Layer:
        return concat(
            branch1=conv(one),
            branch2=serial(conv(before_three), conv(three, 3)),
            branch3=serial(conv(before_five), conv(five, 3)),
            branch4=serial(MaxPool(3, stride=1, padding=1), conv(pooled)),
        )

    def pool(window: int = 3) -> Layer:
        return MaxPool(window, stride=2, ceil_mode=True)

    def head() -> Layer:
        return serial(
            avgpool=AdaptiveAvgPool(4),
            conv=conv(128),
            flatten=Flatten(channels_first=True),
            fc1=Dense(1024, kernel_init=initializers.normal(0.01)),
            relu=jax.nn.relu,
            dropout=Dropout(dropout_aux),
            fc2=Dense(classes, kernel_init=initializers.normal(0.01)),
        )

    body: dict[str, LayerLike] = {
        "conv1": conv(64, 3) if small_images else conv(64, 7, stride=2, padding=3),
        "maxpool1": Identity() if small_images else pool(),
        "conv2": conv(64),
        "conv3": conv(192, 3),
        "maxpool2": Identity() if small_images else pool(),
        **{name: pool(each) if isinstance(each, int) else block(*each) for name, each in GOOGLENET.items()},
    }
    heads: dict[str, tuple[str, LayerLike]] = {"aux1": ("inception4a", head()), "aux2": ("inception4d", head())}
    scores: dict[str, LayerLike] = {
        "avgpool": GlobalAvgPool(),
        "dropout": Dropout(dropout),
        "fc": Dense(classes, kernel_init=initializers.normal(0.01)),
    }
    return _network(body, heads if aux_logits else {}, scores, transform_input)


# --- Inception v3 -----------------------------------------------------------------------------------------------------


def inception_v3(
    classes: int = 1000,
    *,
    aux_logits: bool = True,
    transform_input: bool = False,
    width: float = 1.0,
    dropout: float = 0.5,
) -> Layer:
    """Returns Inception v3 for images of 299x299: 27,161,264 parameters with 1000 classes and the auxiliary head.

    Images must be at least 75x75 without the auxiliary head, and 299x299 with it, since the head is always initialized.

    Args:
      classes: the number of classes.
      aux_logits: whether to add the head ``AuxLogits``, which runs in training only.
      transform_input: whether inputs are normalized like torchvision's, as its published weights require; see `halved`.
      width: a factor of the convolutions' channels, rounded to multiples of 8.
      dropout: the dropout rate before the scores.

    >>> jc.summary(inception_v3(), (1, 299, 299, 3)).parameters
    27161264
    """

    def conv(features: int, window: IntOrTuple = 1, **options: Any) -> Layer:
        return _conv(scaled(features, width), window, std=0.1, **options)

    def reduce(features: int) -> Layer:
        return conv(features, 3, stride=2, padding="VALID")

    def row(name: str, *layers: Layer) -> Layer:
        """Returns layers called name_1, name_2, ..., at the block's level."""
        return inline(serial(**{f"{name}_{i}": layer for i, layer in enumerate(layers, 1)}))

    def only(name: str, layer: Layer) -> Layer:
        return inline(serial(**{name: layer}))

    def pooled(features: int) -> Layer:
        return inline(serial(pool=AvgPool(3, stride=1, padding=1), branch_pool=conv(features)))

    def a(features: int) -> Layer:
        return concat(
            only("branch1x1", conv(64)),
            row("branch5x5", conv(48), conv(64, 5)),
            row("branch3x3dbl", conv(64), conv(96, 3), conv(96, 3)),
            pooled(features),
        )

    def b() -> Layer:
        return concat(
            only("branch3x3", reduce(384)),
            row("branch3x3dbl", conv(64), conv(96, 3), reduce(96)),
            only("pool", MaxPool(3, stride=2)),
        )

    def c(seven: int) -> Layer:
        wide, tall = (1, 7), (7, 1)
        return concat(
            only("branch1x1", conv(192)),
            row("branch7x7", conv(seven), conv(seven, wide), conv(192, tall)),
            row("branch7x7dbl", conv(seven), conv(seven, tall), conv(seven, wide), conv(seven, tall), conv(192, wide)),
            pooled(192),
        )

    def d() -> Layer:
        return concat(
            row("branch3x3", conv(192), reduce(320)),
            row("branch7x7x3", conv(192), conv(192, (1, 7)), conv(192, (7, 1)), reduce(192)),
            only("pool", MaxPool(3, stride=2)),
        )

    def fork(name: str) -> Layer:
        """Returns a 1x3 and a 3x1 convolution of the same feature map."""
        return inline(concat(**{f"{name}a": conv(384, (1, 3)), f"{name}b": conv(384, (3, 1))}))

    def e() -> Layer:
        return concat(
            only("branch1x1", conv(320)),
            inline(serial(row("branch3x3", conv(384)), fork("branch3x3_2"))),
            inline(serial(row("branch3x3dbl", conv(448), conv(384, 3)), fork("branch3x3dbl_3"))),
            pooled(192),
        )

    body: dict[str, LayerLike] = {
        "Conv2d_1a_3x3": reduce(32),
        "Conv2d_2a_3x3": conv(32, 3, padding="VALID"),
        "Conv2d_2b_3x3": conv(64, 3),
        "maxpool1": MaxPool(3, stride=2),
        "Conv2d_3b_1x1": conv(80),
        "Conv2d_4a_3x3": conv(192, 3, padding="VALID"),
        "maxpool2": MaxPool(3, stride=2),
        "Mixed_5b": a(32),
        "Mixed_5c": a(64),
        "Mixed_5d": a(64),
        "Mixed_6a": b(),
        "Mixed_6b": c(128),
        "Mixed_6c": c(160),
        "Mixed_6d": c(160),
        "Mixed_6e": c(192),
        "Mixed_7a": d(),
        "Mixed_7b": e(),
        "Mixed_7c": e(),
    }
    head = serial(
        avgpool=AvgPool(5, stride=3),
        conv0=conv(128),
        conv1=conv(768, 5, padding="VALID"),
        pool=GlobalAvgPool(),
        fc=Dense(classes, kernel_init=initializers.normal(0.001)),
    )
    scores: dict[str, LayerLike] = {
        "avgpool": GlobalAvgPool(),
        "dropout": Dropout(dropout),
        "fc": Dense(classes, kernel_init=initializers.normal(0.1)),
    }
    return _network(body, {"AuxLogits": ("Mixed_6e", head)} if aux_logits else {}, scores, transform_input)


__all__ = ["googlenet", "inception_v3"]
