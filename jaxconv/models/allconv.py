"""The all-convolutional net: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity", 2015.

The three base networks A, B and C for images of 32x32 have two pools. The paper replaces the pools by a stride of the
convolution before, or by strided convolutions (All-CNN).
"""

from collections.abc import Callable

import jax

from jaxconv.compose import serial
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import Conv, Dropout, GlobalAvgPool, MaxPool

# The windows of the convolutions before each of the two pools.
BASES = {"A": (5,), "B": (5, 1), "C": (3, 3)}


def _pooled(features: int, windows: tuple[int, ...]) -> list[LayerLike]:
    return [*_convs(features, windows), MaxPool(3, stride=2, padding="SAME")]


def _conv_pooled(features: int, windows: tuple[int, ...]) -> list[LayerLike]:
    return _pooled(features, (*windows, 3))


def _strided(features: int, windows: tuple[int, ...]) -> list[LayerLike]:
    return _convs(features, windows, last_stride=2)


def _all_conv(features: int, windows: tuple[int, ...]) -> list[LayerLike]:
    return _strided(features, (*windows, 3))


def _convs(features: int, windows: tuple[int, ...], last_stride: int = 1) -> list[LayerLike]:
    layers: list[LayerLike] = []
    for i, window in enumerate(windows, 1):
        stride = last_stride if i == len(windows) else 1
        layers += [Conv(features, window, stride=stride, padding=window // 2), jax.nn.relu]
    return layers


REDUCE: dict[str, Callable[[int, tuple[int, ...]], list[LayerLike]]] = {
    "pool": _pooled,
    "stride": _strided,
    "conv_pool": _conv_pooled,
    "conv": _all_conv,
}


def allconv(
    base: str,
    classes: int = 10,
    *,
    reduce: str = "conv",
    width: int = 96,
    input_dropout: float = 0.2,
    dropout: float = 0.5,
) -> Layer:
    """Returns one of the paper's networks: two stages that halve the size, three convolutions, global average pooling.

    Args:
      base: "A", "B" or "C": the layers before each pool are one 5x5 convolution, a 5x5 and a 1x1, or two 3x3.
      classes: the number of classes.
      reduce: how a stage halves the size: "pool", the base network's 3x3 max pool with a stride of 2; "stride", a
        stride of the stage's last convolution; "conv_pool", one more 3x3 convolution before the pool; "conv" (All-CNN),
        one more 3x3 convolution with a stride in place of the pool.
      width: filters of the first stage; later layers have twice this number.
      input_dropout: the dropout rate of the image's values.
      dropout: the dropout rate after each stage.

    Raises:
      ArgumentError: base or reduce is unknown.

    >>> {way: jc.summary(allconv("C", reduce=way), (1, 32, 32, 3)).parameters for way in ("pool", "stride", "conv")}
    {'pool': 954730, 'stride': 954730, 'conv': 1369738}
    """
    as_int(width, "width", least=1)
    if base not in BASES:
        raise ArgumentError(f"base must be one of {', '.join(map(repr, BASES))}, got {base!r}")
    if reduce not in REDUCE:
        raise ArgumentError(f"reduce must be one of {', '.join(map(repr, REDUCE))}, got {reduce!r}")
    stage, windows = REDUCE[reduce], BASES[base]
    return serial(
        dropout0=Dropout(input_dropout),
        stage1=serial(*stage(width, windows)),
        dropout1=Dropout(dropout),
        stage2=serial(*stage(2 * width, windows)),
        dropout2=Dropout(dropout),
        # Without padding, so that the average is over 6x6 positions as in the paper.
        head=serial(
            Conv(2 * width, 3, padding="VALID"),
            jax.nn.relu,
            Conv(2 * width, 1),
            jax.nn.relu,
            Conv(classes, 1),
            jax.nn.relu,
        ),
        mean=GlobalAvgPool(),
    )


def all_cnn_a(
    classes: int = 10, *, reduce: str = "conv", width: int = 96, input_dropout: float = 0.2, dropout: float = 0.5
) -> Layer:
    """Returns All-CNN-A: 1,254,250 parameters with 10 classes; the paper says about 1.28 million."""
    return allconv("A", classes, reduce=reduce, width=width, input_dropout=input_dropout, dropout=dropout)


def all_cnn_b(
    classes: int = 10, *, reduce: str = "conv", width: int = 96, input_dropout: float = 0.2, dropout: float = 0.5
) -> Layer:
    """Returns All-CNN-B: 1,300,618 parameters with 10 classes; the paper says about 1.35 million."""
    return allconv("B", classes, reduce=reduce, width=width, input_dropout=input_dropout, dropout=dropout)


def all_cnn_c(
    classes: int = 10, *, reduce: str = "conv", width: int = 96, input_dropout: float = 0.2, dropout: float = 0.5
) -> Layer:
    """Returns All-CNN-C: 1,369,738 parameters with 10 classes; the paper says about 1.4 million.

    >>> jc.summary(all_cnn_c(), (1, 32, 32, 3)).parameters
    1369738
    """
    return allconv("C", classes, reduce=reduce, width=width, input_dropout=input_dropout, dropout=dropout)


__all__ = ["all_cnn_a", "all_cnn_b", "all_cnn_c", "allconv"]
