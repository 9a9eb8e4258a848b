"""Residual networks of 18 layers for video, ``(batch, frames, height, width, channels)``.

Tran, Wang, Torresani, Ray, LeCun and Paluri, "A closer look at spatiotemporal convolutions for action recognition",
2018. Names and shapes are torchvision's.
"""

from collections.abc import Callable, Sequence

import jax

from jaxconv.compose import residual, serial
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv, Dense, Dropout, DropPath, GlobalAvgPool
from jaxconv.models.blocks import FAN_OUT, drop_rates

Convolution = Callable[[int, int, int], Layer]


def _conv(features: int, window: tuple[int, int, int], stride: tuple[int, int, int] = (1, 1, 1)) -> Conv:
    padding = tuple(f // 2 for f in window)
    return Conv(features, window, stride=stride, padding=padding, bias=False, kernel_init=FAN_OUT)


def spatiotemporal(before: int, features: int, stride: int) -> Layer:
    """Returns a 3x3x3 convolution."""
    return _conv(features, (3, 3, 3), (stride,) * 3)


def spatial(before: int, features: int, stride: int) -> Layer:
    """Returns a 3x3 convolution of each frame."""
    return _conv(features, (1, 3, 3), (1, stride, stride))


def factored(before: int, features: int, stride: int) -> Layer:
    """Returns a 3x3 convolution of each frame and one of 3 frames at each position: R(2+1)D.

    The channels between the two give the number of parameters of a 3x3x3 convolution of ``before`` channels.
    """
    between = 27 * before * features // (9 * before + 3 * features)
    first = _conv(between, (1, 3, 3), (1, stride, stride))
    return serial(first, BatchNorm(), jax.nn.relu, _conv(features, (3, 1, 1), (stride, 1, 1)))


def _stem(width: int, stride: int) -> Layer:
    return serial(_conv(width, (3, 7, 7), (1, stride, stride)), BatchNorm(), jax.nn.relu)


def _factored_stem(width: int, stride: int) -> Layer:
    first: tuple[LayerLike, ...] = (_conv(width * 45 // 64, (1, 7, 7), (1, stride, stride)), BatchNorm(), jax.nn.relu)
    return serial(*first, _conv(width, (3, 1, 1)), BatchNorm(), jax.nn.relu)


def _block(conv: Convolution, before: int, features: int, stride: int, drop_path: float) -> Layer:
    body: dict[str, LayerLike] = {
        "conv1": serial(conv(before, features, stride), BatchNorm(), jax.nn.relu),
        # The channels inside a factored convolution depend on the block's input here too.
        "conv2": serial(conv(before, features, 1), BatchNorm()),
    }
    if drop_path:
        body["drop_path"] = DropPath(drop_path)
    strides = (1 if conv is spatial else stride, stride, stride)
    project = stride > 1 or before != features
    shortcut = serial(_conv(features, (1, 1, 1), strides), BatchNorm()) if project else None
    return residual(serial(**body), shortcut, after=jax.nn.relu, name="downsample")


def video_resnet(
    convs: Sequence[Convolution],
    classes: int = 400,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    stem: Callable[[int, int], Layer] = _stem,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns a residual network for video: a stem, stages, global average pooling, the scores ``fc``.

    Args:
      convs: the convolution of each stage: `spatiotemporal`, `spatial`, `factored`, or a function of the channels
        before, the channels after and the stride.
      classes: the number of classes.
      depths: blocks in each stage.
      width: filters of the first stage; each later stage doubles them, and halves the size.
      stem: a function of the width and the spatial stride.
      dropout: the dropout rate before the scores; 0 adds no layer.
      drop_path: the drop rate of the last block; the rate increases linearly from 0.
      small_images: whether the stem has no stride, for frames of about 32x32.

    >>> net = video_resnet([spatial] * 2, 5, depths=(1, 1), width=8)
    >>> [row.output.shape for row in jc.inspect.trace(net, (1, 4, 32, 32, 3)) if row.path in ("layer1", "layer2", "fc")]
    [(1, 4, 16, 16, 8), (1, 4, 8, 8, 16), (1, 5)]
    """
    as_int(width, "width", least=1)
    if len(convs) != len(depths):
        raise ArgumentError(f"convs must be one for each of the {len(depths)} stages, got {len(convs)}")
    blocks = sum(depths)
    rates = drop_rates(drop_path, blocks)
    stages: dict[str, LayerLike] = {}
    before = width
    for i, (conv, depth) in enumerate(zip(convs, depths, strict=True)):
        stage = []
        for n in range(depth):
            stage.append(_block(conv, before, width * 2**i, 2 if i and n == 0 else 1, next(rates)))
            before = width * 2**i
        stages[f"layer{i + 1}"] = serial(*stage)
    return serial(
        stem=stem(width, 1 if small_images else 2),
        **stages,
        avgpool=GlobalAvgPool(rank=3),
        **({"dropout": Dropout(dropout)} if dropout else {}),
        fc=Dense(classes),
    )


def r3d_18(
    classes: int = 400,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    stem: Callable[[int, int], Layer] = _stem,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns R3D-18, with 3x3x3 convolutions: 33,371,472 parameters with 400 classes.

    >>> jc.summary(r3d_18(), (1, 4, 32, 32, 3)).parameters
    33371472
    """
    return video_resnet(
        [spatiotemporal] * 4,
        classes,
        depths=depths,
        width=width,
        stem=stem,
        dropout=dropout,
        drop_path=drop_path,
        small_images=small_images,
    )


def mc3_18(
    classes: int = 400,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    stem: Callable[[int, int], Layer] = _stem,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns MC3-18, with 3x3x3 convolutions in the first stage and 3x3 in the others: 11,695,440 parameters."""
    return video_resnet(
        [spatiotemporal, *[spatial] * 3],
        classes,
        depths=depths,
        width=width,
        stem=stem,
        dropout=dropout,
        drop_path=drop_path,
        small_images=small_images,
    )


def r2plus1d_18(
    classes: int = 400,
    *,
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    small_images: bool = False,
) -> Layer:
    """Returns R(2+1)D-18, its convolutions factored into space and time: 31,505,325 parameters with 400 classes."""
    return video_resnet(
        [factored] * 4,
        classes,
        stem=_factored_stem,
        depths=depths,
        width=width,
        dropout=dropout,
        drop_path=drop_path,
        small_images=small_images,
    )


__all__ = ["mc3_18", "r2plus1d_18", "r3d_18", "video_resnet"]
