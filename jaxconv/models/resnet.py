"""Residual networks.

He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016: ResNet-18 to 152, and those for CIFAR.
Xie et al., "Aggregated residual transformations for deep neural networks", 2017: ResNeXt.
Zagoruyko and Komodakis, "Wide residual networks", 2016. Names and shapes are torchvision's, where the stride of a
bottleneck is in its 3x3 convolution.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxconv.compose import residual, serial
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Layer, LayerLike
from jaxconv.layers import BatchNorm, Conv, Dense, Dropout, DropPath, GlobalAvgPool, MaxPool
from jaxconv.models.blocks import FAN_OUT, drop_rates
from jaxconv.models.variants import variant

Block = Callable[..., Layer]


def _conv(features: int, window: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> Conv:
    padding = dilation * (window // 2)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Conv(features, window, **options, bias=False, kernel_init=FAN_OUT)  # type: ignore[arg-type]


def _basic_body(features: int, stride: int, dilation: int, drop_path: float) -> Layer:
    body: dict[str, LayerLike] = {
        "conv1": _conv(features, 3, stride, dilation),
        "bn1": BatchNorm(),
        "relu": jax.nn.relu,
        "conv2": _conv(features, 3, dilation=dilation),
        "bn2": BatchNorm(),
    }
    return serial(**body, **_dropped(drop_path))


def _dropped(rate: float) -> dict[str, LayerLike]:
    return {"drop_path": DropPath(rate)} if rate else {}


def _projection(features: int, stride: int) -> Layer:
    return serial(_conv(features, 1, stride), BatchNorm())


def basic(features: int, stride: int, dilation: int, project: bool, drop_path: float = 0.0) -> Layer:
    """Returns a block of two 3x3 convolutions, with a 1x1 convolution as shortcut if ``project``."""
    shortcut = _projection(features, stride) if project else None
    return residual(_basic_body(features, stride, dilation, drop_path), shortcut, after=jax.nn.relu, name="downsample")


def bottleneck(
    features: int,
    stride: int,
    dilation: int,
    project: bool,
    drop_path: float = 0.0,
    *,
    groups: int = 1,
    group_width: int = 64,
) -> Layer:
    """Returns a block of a 1x1, a 3x3 and a 1x1 convolution; the last has ``4 * features`` channels."""
    width = features * group_width // 64 * groups
    body: dict[str, LayerLike] = {
        "conv1": _conv(width, 1),
        "bn1": BatchNorm(),
        "relu1": jax.nn.relu,
        "conv2": _conv(width, 3, stride, dilation, groups),
        "bn2": BatchNorm(),
        "relu2": jax.nn.relu,
        "conv3": _conv(4 * features, 1),
        "bn3": BatchNorm(),
    }
    shortcut = _projection(4 * features, stride) if project else None
    return residual(serial(**body, **_dropped(drop_path)), shortcut, after=jax.nn.relu, name="downsample")


def plain_basic(features: int, stride: int, dilation: int, project: bool, drop_path: float = 0.0) -> Layer:
    """Returns a `basic` block whose shortcut has no weights: it subsamples positions and adds channels of zeros."""
    shortcut = serial(MaxPool(1, stride=stride), adding_channels(features)) if project else None
    return residual(_basic_body(features, stride, dilation, drop_path), shortcut, after=jax.nn.relu)


@functools.cache
def adding_channels(features: int) -> Callable[[Array], Array]:
    """Returns a function that adds channels of zeros: the same one each time, so that equal networks compare equal."""
    return functools.partial(_more_channels, features=features)


def _more_channels(x: Array, features: int) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, features - x.shape[-1])])


def resnet(
    block: Block,
    depths: Sequence[int],
    classes: int = 1000,
    *,
    width: int = 64,
    dilate: Sequence[bool] = (),
    small_images: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Layer:
    """Returns a residual network: stem, stages ``layer1``, ``layer2``, ..., global average pooling, the scores ``fc``.

    Args:
      block: `basic`, `bottleneck`, or a function of the same arguments.
      depths: blocks in each stage.
      classes: the number of classes.
      width: filters of the first stage; each stage doubles them.
      dilate: for each stage after the first, whether the stage dilates its filters in place of its stride.
      small_images: whether to use a 3x3 stem without stride and pool, as usual for images of 32x32, in place of 7x7 and
        a pool.
      dropout: the dropout rate before the scores; 0 adds no layer.
      drop_path: the drop rate of the last block; the rate increases linearly from 0 (Huang et al., 2016).

    Raises:
      ArgumentError: depths is empty, or dilate has more entries than stages after the first.

    >>> jc.summary(resnet(basic, (1, 1), 10, width=16, small_images=True), (1, 32, 32, 3)).parameters
    19994
    """
    as_int(width, "width", least=1)
    if not depths:
        raise ArgumentError("depths must have at least one stage, got none")
    if len(dilate) > len(depths) - 1:
        more = len(depths) - 1
        raise ArgumentError(f"dilate must have at most one entry for each of {more} stages, got {tuple(dilate)}")
    stem: dict[str, LayerLike] = {"conv1": _conv(width, 3) if small_images else _conv(width, 7, 2)}
    stem |= {"bn1": BatchNorm(), "relu": jax.nn.relu}
    if not small_images:
        stem["maxpool"] = MaxPool(3, stride=2, padding=1)
    stages: dict[str, LayerLike] = {}
    rates = drop_rates(drop_path, sum(depths))
    dilation = 1
    for i, depth in enumerate(depths):
        stride = 1 if i == 0 else 2
        first = dilation
        if i and i <= len(dilate) and dilate[i - 1]:
            dilation, stride = dilation * stride, 1
        features = width * 2**i
        # A basic block of the first stage has equal input and output channels.
        project = i > 0 or block is not basic
        blocks = [
            block(features, stride if n == 0 else 1, first if n == 0 else dilation, project and n == 0, next(rates))
            for n in range(depth)
        ]
        stages[f"layer{i + 1}"] = serial(*blocks)
    dropped = {"dropout": Dropout(dropout)} if dropout else {}
    return serial(**stem, **stages, avgpool=GlobalAvgPool(), **dropped, fc=Dense(classes))


resnet18 = variant(
    "resnet18", "Returns ResNet-18: 11,689,512 parameters with 1000 classes.", resnet, basic, (2, 2, 2, 2)
)
resnet34 = variant(
    "resnet34", "Returns ResNet-34: 21,797,672 parameters with 1000 classes.", resnet, basic, (3, 4, 6, 3)
)
resnet50 = variant(
    "resnet50", "Returns ResNet-50: 25,557,032 parameters with 1000 classes.", resnet, bottleneck, (3, 4, 6, 3)
)
resnet101 = variant(
    "resnet101", "Returns ResNet-101: 44,549,160 parameters with 1000 classes.", resnet, bottleneck, (3, 4, 23, 3)
)
resnet152 = variant(
    "resnet152", "Returns ResNet-152: 60,192,808 parameters with 1000 classes.", resnet, bottleneck, (3, 8, 36, 3)
)
resnext50_32x4d = variant(
    "resnext50_32x4d",
    "Returns ResNeXt-50 with 32 groups of 4 channels: 25,028,904 parameters with 1000 classes.",
    resnet,
    functools.partial(bottleneck, groups=32, group_width=4),
    (3, 4, 6, 3),
)
resnext101_32x8d = variant(
    "resnext101_32x8d",
    "Returns ResNeXt-101 with 32 groups of 8 channels: 88,791,336 parameters with 1000 classes.",
    resnet,
    functools.partial(bottleneck, groups=32, group_width=8),
    (3, 4, 23, 3),
)
resnext101_64x4d = variant(
    "resnext101_64x4d",
    "Returns ResNeXt-101 with 64 groups of 4 channels: 83,455,272 parameters with 1000 classes.",
    resnet,
    functools.partial(bottleneck, groups=64, group_width=4),
    (3, 4, 23, 3),
)
wide_resnet50_2 = variant(
    "wide_resnet50_2",
    "Returns ResNet-50 with 3x3 convolutions twice as wide: 68,883,240 parameters with 1000 classes.",
    resnet,
    functools.partial(bottleneck, group_width=128),
    (3, 4, 6, 3),
)
wide_resnet101_2 = variant(
    "wide_resnet101_2",
    "Returns ResNet-101 with 3x3 convolutions twice as wide: 126,886,696 parameters with 1000 classes.",
    resnet,
    functools.partial(bottleneck, group_width=128),
    (3, 4, 23, 3),
)


def cifar_resnet(
    depth: int,
    classes: int = 10,
    *,
    width: int = 16,
    dilate: Sequence[bool] = (),
    small_images: bool = True,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Layer:
    """Returns the paper's network for images of 32x32: stages of 16, 32 and 64 filters, shortcuts without weights.

    Args:
      depth: 6 n + 2: the layers with weights.
      classes: the number of classes.
      width, dilate, small_images, dropout, drop_path: as in `resnet`.

    Raises:
      ArgumentError: the depth is not 6 n + 2.

    >>> jc.summary(cifar_resnet(20), (1, 32, 32, 3)).parameters
    269722
    """
    depth = as_int(depth, "depth")
    if depth < 8 or (depth - 2) % 6:
        raise ArgumentError(f"depth must be 6 n + 2 (20, 32, 44, 56, 110), got {depth}")
    return resnet(
        plain_basic,
        [(depth - 2) // 6] * 3,
        classes,
        width=width,
        dilate=dilate,
        small_images=small_images,
        dropout=dropout,
        drop_path=drop_path,
    )


resnet20 = variant("resnet20", "Returns the ResNet-20 of CIFAR-10: 269,722 parameters.", cifar_resnet, 20)
resnet32 = variant("resnet32", "Returns the ResNet-32 of CIFAR-10: 464,154 parameters.", cifar_resnet, 32)
resnet44 = variant("resnet44", "Returns the ResNet-44 of CIFAR-10: 658,586 parameters.", cifar_resnet, 44)
resnet56 = variant("resnet56", "Returns the ResNet-56 of CIFAR-10: 853,018 parameters.", cifar_resnet, 56)
resnet110 = variant("resnet110", "Returns the ResNet-110 of CIFAR-10: 1,727,962 parameters.", cifar_resnet, 110)


__all__ = [
    "cifar_resnet",
    "resnet",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet101",
    "resnet110",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
