"""Networks described once and built in four frameworks: what `training` and `first_step` measure.

A network is a plan, a tuple of parts that name their sizes. Each framework builds a plan from its own layers, as its
users write them, in a module of its own, so that a process imports the frameworks that it measures only. Channels are
last in jaxconv and Flax, first in Equinox and torch.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

CLASSES = 10


@dataclass(frozen=True)
class Conv:
    """A convolution, padded with ``padding`` zeros on every side."""

    inputs: int
    features: int
    window: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1
    bias: bool = True
    rank: int = 2


@dataclass(frozen=True)
class Up:
    """A transposed convolution, window and stride 2, in 2-D."""

    inputs: int
    features: int


@dataclass(frozen=True)
class Norm:
    """A 2-D batch norm in training."""

    channels: int


@dataclass(frozen=True)
class Pool:
    """A max pool; without a stride its stride is the window."""

    window: int
    rank: int = 2
    stride: int | None = None
    padding: int = 0


@dataclass(frozen=True)
class ChannelNorm:
    """A layer norm over the channels of each position, its eps 1e-6."""

    channels: int


@dataclass(frozen=True)
class Scale:
    """A learned scale of each channel, at first 1e-6."""

    channels: int


@dataclass(frozen=True)
class Average:
    """The mean over space."""

    rank: int = 2


@dataclass(frozen=True)
class Flatten:
    """One axis out of a map ``(*spatial, channels)``."""

    map: tuple[int, ...]


@dataclass(frozen=True)
class Dense:
    """A fully connected layer, of a flattened map, of features, or of the channels of each position."""

    inputs: int
    features: int
    map: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Residual:
    """``body(x) + shortcut(x)``; no shortcut is x itself."""

    body: "Plan"
    shortcut: "Plan" = ()


@dataclass(frozen=True)
class Skip:
    """``x`` and ``body(x)`` joined on channels."""

    body: "Plan"


Part: TypeAlias = Conv | Up | Norm | ChannelNorm | Scale | Pool | Average | Flatten | Dense | Residual | Skip | str
Plan: TypeAlias = tuple[Part, ...]
Leaf: TypeAlias = dict[str, Any]


def _flat(shape: tuple[int, ...], features: int) -> Plan:
    return Flatten(shape), Dense(math.prod(shape), features, shape)


def lenet() -> Plan:
    """Returns LeNet-5 with max pools and ReLUs (LeCun et al., 1998), for 28x28x1."""
    features = (Conv(1, 6, 5, padding=2), "relu", Pool(2), Conv(6, 16, 5, padding=0), "relu", Pool(2))
    return (*features, *_flat((5, 5, 16), 120), "relu", Dense(120, 84), "relu", Dense(84, CLASSES))


def _normed(inputs: int, features: int, window: int = 3, stride: int = 1, groups: int = 1) -> Plan:
    return Conv(inputs, features, window, stride, window // 2, groups, bias=False), Norm(features)


def resnet18() -> Plan:
    """Returns ResNet-18 (He et al., 2016) with the 3x3 stem of small images."""
    plan: Plan = (*_normed(3, 64), "relu")
    inputs = 64
    for width in (64, 128, 256, 512):
        for stride in (1 if width == 64 else 2, 1):
            body = (*_normed(inputs, width, stride=stride), "relu", *_normed(width, width))
            shortcut = () if inputs == width else _normed(inputs, width, 1, stride)
            plan = (*plan, Residual(body, shortcut), "relu")
            inputs = width
    return (*plan, Average(), Dense(512, CLASSES))


def resnet50(large: bool = False, classes: int = CLASSES, blocks: Sequence[int] = (3, 4, 6, 3)) -> Plan:
    """Returns ResNet-50 (He et al., 2016) with the 3x3 stem of small images, or the 7x7 stem of large ones."""
    plan: Plan = (*(_normed(3, 64, 7, 2) if large else _normed(3, 64)), "relu")
    plan = (*plan, Pool(3, stride=2, padding=1)) if large else plan
    inputs = 64
    for width, repeats in zip((64, 128, 256, 512), blocks, strict=False):
        for stride in (1 if width == 64 else 2, *(1,) * (repeats - 1)):
            inner = (*_normed(inputs, width, 1), "relu", *_normed(width, width, 3, stride), "relu")
            body = (*inner, *_normed(width, 4 * width, 1))
            shortcut = () if inputs == 4 * width else _normed(inputs, 4 * width, 1, stride)
            plan = (*plan, Residual(body, shortcut), "relu")
            inputs = 4 * width
    return (*plan, Average(), Dense(inputs, classes))


def convnext_tiny(classes: int = CLASSES, blocks: Sequence[int] = (3, 3, 9, 3)) -> Plan:
    """Returns ConvNeXt-T (Liu et al., 2022) without its stochastic depth."""
    plan: Plan = (Conv(3, 96, 4, 4, 0), ChannelNorm(96))
    inputs = 96
    for width, repeats in zip((96, 192, 384, 768), blocks, strict=False):
        if width != inputs:
            plan = (*plan, ChannelNorm(inputs), Conv(inputs, width, 2, 2, 0))
        hidden = (ChannelNorm(width), Dense(width, 4 * width), "gelu", Dense(4 * width, width), Scale(width))
        plan = (*plan, *(Residual((Conv(width, width, 7, 1, 3, width), *hidden)),) * repeats)
        inputs = width
    return (*plan, Average(), ChannelNorm(inputs), Dense(inputs, classes))


def mobilenetv2(classes: int = CLASSES, stages: int = 7) -> Plan:
    """Returns MobileNetV2 (Sandler et al., 2018) without its dropout."""
    plan: Plan = (*_normed(3, 32, stride=2), "relu6")
    inputs = 32
    settings = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, width, repeats, first in settings[:stages]:
        for stride in (first, *(1,) * (repeats - 1)):
            hidden = inputs * expansion
            wide: Plan = () if expansion == 1 else (*_normed(inputs, hidden, 1), "relu6")
            body = (*wide, *_normed(hidden, hidden, 3, stride, hidden), "relu6", *_normed(hidden, width, 1))
            plan = (*plan, Residual(body)) if stride == 1 and inputs == width else (*plan, *body)
            inputs = width
    return (*plan, *_normed(inputs, 1280, 1), "relu6", Average(), Dense(1280, classes))


def unet(base: int = 32, levels: int = 3) -> Plan:
    """Returns a U-Net (Ronneberger et al., 2015) with batch norm, and scores for each pixel."""

    def twice(inputs: int, features: int) -> Plan:
        return (*_normed(inputs, features), "relu", *_normed(features, features), "relu")

    def level(inputs: int, width: int, below: int) -> Plan:
        if not below:
            return twice(inputs, width)
        inner = (Pool(2), *level(width, 2 * width, below - 1), Up(2 * width, width))
        return (*twice(inputs, width), Skip(inner), *twice(2 * width, width))

    return (*level(3, base, levels - 1), Conv(base, CLASSES, 1, padding=0))


def conv1d() -> Plan:
    """Returns a network for signals, 4096x1."""
    conv = functools.partial(Conv, window=9, padding=4, rank=1)
    features = (conv(1, 32, stride=4), "relu", Pool(4, 1), conv(32, 64), "relu", Pool(4, 1), conv(64, 128), "relu")
    return (*features, Average(1), Dense(128, CLASSES))


def conv3d() -> Plan:
    """Returns a network for volumes, 16x32x32x1."""
    plan: Plan = ()
    for inputs, width in ((1, 16), (16, 32), (32, 64)):
        plan = (*plan, Conv(inputs, width, rank=3), "relu", Pool(2, 3))
    return (*plan, *_flat((2, 4, 4, 64), CLASSES))


NETWORKS: dict[str, Callable[[], Plan]] = {
    f.__name__: f for f in (lenet, resnet18, resnet50, mobilenetv2, unet, conv1d, conv3d)
}


def leaves(plan: Plan, tree: dict[str, Any]) -> Iterator[tuple[Part, Leaf]]:
    """Yields the parts that have weights, in the order in which they run, with their leaves of jaxconv's params."""
    for name, part in ((str(i), part) for i, part in enumerate(plan)):
        match part:
            case Conv() | Up() | Norm() | ChannelNorm() | Scale() | Dense():
                yield part, tree.get(name, {})
            case Residual(body, shortcut):
                yield from leaves(body, tree.get(name, {}))
                yield from leaves(shortcut, tree.get(name, {}).get("shortcut", {}))
            case Skip(body):
                yield from leaves(body, tree.get(name, {}).get("1", {}))


def channels_first(part: Part, leaf: Leaf) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the kernel in torch's layout, and the bias."""
    kernel = np.asarray(leaf["kernel"])
    bias = np.asarray(leaf["bias"]) if "bias" in leaf else None
    if not isinstance(part, Dense):
        return np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1))), bias
    if part.map:
        kernel = np.moveaxis(kernel.reshape(*part.map, -1), -2, 0).reshape(kernel.shape)
    return np.ascontiguousarray(kernel.T), bias
