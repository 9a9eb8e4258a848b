"""Networks described once and built in four frameworks: what `experiments.benchmarks.training` trains.

A network is a plan, a tuple of parts that name their sizes. Each framework builds a plan from its own layers, as its
users write them, and takes the weights that jaxconv drew: so all compute the same function. Channels are last in
jaxconv and Flax, first in Equinox and torch.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxconv as jc

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
    """A max pool, its stride the window."""

    window: int
    rank: int = 2


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
    """A fully connected layer, of a flattened map or of features."""

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


Part: TypeAlias = Conv | Up | Norm | Pool | Average | Flatten | Dense | Residual | Skip | str
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


def mobilenetv2() -> Plan:
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
    for expansion, width, repeats, first in settings:
        for stride in (first, *(1,) * (repeats - 1)):
            hidden = inputs * expansion
            wide: Plan = () if expansion == 1 else (*_normed(inputs, hidden, 1), "relu6")
            body = (*wide, *_normed(hidden, hidden, 3, stride, hidden), "relu6", *_normed(hidden, width, 1))
            plan = (*plan, Residual(body)) if stride == 1 and inputs == width else (*plan, *body)
            inputs = width
    return (*plan, *_normed(320, 1280, 1), "relu6", Average(), Dense(1280, CLASSES))


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


NETWORKS: dict[str, Callable[[], Plan]] = {f.__name__: f for f in (lenet, resnet18, mobilenetv2, unet, conv1d, conv3d)}


def jaxconv_network(plan: Plan) -> jc.Layer:
    """Returns the plan in jaxconv."""

    def layer(part: Part) -> Any:
        match part:
            case Conv(_, features, window, stride, padding, groups, bias, rank):
                options: dict[str, Any] = {"stride": stride, "padding": padding, "groups": groups, "bias": bias}
                return jc.Conv(features, (window,) * rank, **options)
            case Up(_, features):
                return jc.ConvTranspose(features, 2, stride=2, padding=0)
            case Norm():
                return jc.BatchNorm()
            case Pool(window, rank):
                return jc.MaxPool((window,) * rank)
            case Average(rank):
                return jc.GlobalAvgPool(rank=rank)
            case Flatten(shape):
                return jc.Flatten(len(shape) - 1)
            case Dense(_, features):
                return jc.Dense(features)
            case Residual(body, shortcut):
                return jc.residual(jaxconv_network(body), jaxconv_network(shortcut) if shortcut else None)
            case Skip(body):
                return jc.concat(jc.Identity(), jaxconv_network(body))
        return getattr(jax.nn, part)

    return jc.serial(*map(layer, plan))


def leaves(plan: Plan, tree: dict[str, Any]) -> Iterator[tuple[Part, Leaf]]:
    """Yields the parts that have weights, in the order in which they run, with their leaves of jaxconv's params."""
    for name, part in ((str(i), part) for i, part in enumerate(plan)):
        match part:
            case Conv() | Up() | Norm() | Dense():
                yield part, tree.get(name, {})
            case Residual(body, shortcut):
                yield from leaves(body, tree.get(name, {}))
                yield from leaves(shortcut, tree.get(name, {}).get("shortcut", {}))
            case Skip(body):
                yield from leaves(body, tree.get(name, {}).get("1", {}))


class Linen(nn.Module):
    """The plan in Flax."""

    plan: Plan
    conv_general_dilated: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x: Any) -> Any:
        built = 0

        def name() -> str:
            nonlocal built
            built += 1
            return f"layer{built - 1}"

        def apply(part: Part, x: Any) -> Any:
            match part:
                case Conv(_, features, window, stride, padding, groups, bias, rank):
                    return nn.Conv(
                        features,
                        (window,) * rank,
                        stride,
                        padding,
                        feature_group_count=groups,
                        use_bias=bias,
                        conv_general_dilated=self.conv_general_dilated,
                        name=name(),
                    )(x)
                case Up(_, features):
                    return nn.ConvTranspose(features, (2, 2), (2, 2), "VALID", name=name())(x)
                case Norm():
                    return nn.BatchNorm(use_running_average=False, momentum=0.9, name=name())(x)
                case Pool(window, rank):
                    return nn.max_pool(x, (window,) * rank, (window,) * rank)
                case Average(rank):
                    return jnp.mean(x, axis=tuple(range(1, rank + 1)))
                case Flatten():
                    return x.reshape(x.shape[0], -1)
                case Dense(_, features):
                    return nn.Dense(features, name=name())(x)
                case Residual(body, shortcut):
                    y = run(body, x)
                    return y + run(shortcut, x)
                case Skip(body):
                    return jnp.concatenate([x, run(body, x)], axis=-1)
            return getattr(nn, part)(x)

        def run(plan: Plan, x: Any) -> Any:
            for part in plan:
                x = apply(part, x)
            return x

        return run(self.plan, x)


def flax_tree(plan: Plan, tree: dict[str, Any]) -> dict[str, Any]:
    """Returns jaxconv's params, or its state, under `Linen`'s names and in its layout."""

    def converted(part: Part, leaf: Leaf) -> Leaf:
        # Flax's transposed kernel is flipped and has its inputs first.
        flip = isinstance(part, Up) and "kernel" in leaf
        return leaf | {"kernel": jnp.flip(leaf["kernel"], (0, 1)).swapaxes(-1, -2)} if flip else leaf

    return {f"layer{i}": converted(*pair) for i, pair in enumerate(leaves(plan, tree)) if pair[1]}


def _channels_first(part: Part, leaf: Leaf) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the kernel in torch's layout, and the bias."""
    kernel = np.asarray(leaf["kernel"])
    bias = np.asarray(leaf["bias"]) if "bias" in leaf else None
    if not isinstance(part, Dense):
        return np.ascontiguousarray(np.moveaxis(kernel, (-1, -2), (0, 1))), bias
    if part.map:
        kernel = np.moveaxis(kernel.reshape(*part.map, -1), -2, 0).reshape(kernel.shape)
    return np.ascontiguousarray(kernel.T), bias


class EquinoxResidual(eqx.nn.StatefulLayer):
    """`Residual` in Equinox."""

    body: eqx.nn.Sequential
    shortcut: eqx.nn.Sequential

    def __call__(self, x: Any, state: Any, *, key: Any = None) -> Any:
        y, state = self.body(x, state)
        skipped, state = self.shortcut(x, state)
        return y + skipped, state


class EquinoxSkip(eqx.nn.StatefulLayer):
    """`Skip` in Equinox."""

    body: eqx.nn.Sequential

    def __call__(self, x: Any, state: Any, *, key: Any = None) -> Any:
        y, state = self.body(x, state)
        return jnp.concatenate([x, y]), state


def equinox_network(plan: Plan, params: dict[str, Any]) -> tuple[Any, Any]:
    """Returns the plan in Equinox, a model of one example to be mapped over "batch", and its state."""
    found = leaves(plan, params)
    key = jax.random.key(0)
    pools = {1: eqx.nn.MaxPool1d, 2: eqx.nn.MaxPool2d, 3: eqx.nn.MaxPool3d}

    def loaded(layer: Any) -> Any:
        part, leaf = next(found)
        kernel, bias = _channels_first(part, leaf)
        if isinstance(part, Up):
            kernel = np.flip(kernel.swapaxes(0, 1), (2, 3))
        layer = eqx.tree_at(lambda m: m.weight, layer, jnp.asarray(kernel))
        return layer if bias is None else eqx.tree_at(lambda m: m.bias, layer, jnp.reshape(bias, layer.bias.shape))

    def layer(part: Part) -> Any:
        match part:
            case Conv(inputs, features, window, stride, padding, groups, bias, rank):
                options: dict[str, Any] = {"groups": groups, "use_bias": bias, "key": key}
                return loaded(eqx.nn.Conv(rank, inputs, features, window, stride, padding, **options))
            case Up(inputs, features):
                return loaded(eqx.nn.ConvTranspose2d(inputs, features, 2, 2, key=key))
            case Norm(channels):
                next(found)
                return eqx.nn.BatchNorm(channels, "batch", momentum=0.9, mode="batch")
            case Pool(window, rank):
                return pools[rank](window, window)
            case Average(rank):
                return eqx.nn.Lambda(functools.partial(jnp.mean, axis=tuple(range(1, rank + 1))))
            case Flatten():
                return eqx.nn.Lambda(jnp.ravel)
            case Dense(inputs, features):
                return loaded(eqx.nn.Linear(inputs, features, key=key))
            case Residual(body, shortcut):
                return EquinoxResidual(serial(body), serial(shortcut))
            case Skip(body):
                return EquinoxSkip(serial(body))
        return eqx.nn.Lambda(getattr(jax.nn, part))

    def serial(plan: Plan) -> Any:
        return eqx.nn.Sequential([layer(part) for part in plan])

    return eqx.nn.make_with_state(serial)(plan)


class TorchResidual(torch.nn.Module):
    """`Residual` in torch."""

    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Any) -> Any:
        return self.body(x) + self.shortcut(x)


class TorchSkip(torch.nn.Module):
    """`Skip` in torch."""

    def __init__(self, body: torch.nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Any) -> Any:
        return torch.cat([x, self.body(x)], 1)


def torch_network(plan: Plan, params: dict[str, Any]) -> torch.nn.Module:
    """Returns the plan in torch, channels last in memory where torch has a format for it."""
    found = leaves(plan, params)
    of = torch.nn
    convs: dict[int, Any] = {1: of.Conv1d, 2: of.Conv2d, 3: of.Conv3d}
    pools: dict[int, Any] = {1: of.MaxPool1d, 2: of.MaxPool2d, 3: of.MaxPool3d}
    averages: dict[int, Any] = {1: of.AdaptiveAvgPool1d, 2: of.AdaptiveAvgPool2d, 3: of.AdaptiveAvgPool3d}

    def loaded(layer: Any) -> torch.nn.Module:
        kernel, bias = _channels_first(*next(found))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(kernel))
            if bias is not None:
                layer.bias.copy_(torch.tensor(bias))
        return layer

    def module(part: Part) -> torch.nn.Module:
        match part:
            case Conv(inputs, features, window, stride, padding, groups, bias, rank):
                return loaded(convs[rank](inputs, features, window, stride, padding, groups=groups, bias=bias))
            case Up(inputs, features):
                return loaded(of.ConvTranspose2d(inputs, features, 2, 2))
            case Norm(channels):
                next(found)
                return of.BatchNorm2d(channels)
            case Pool(window, rank):
                return pools[rank](window)
            case Average(rank):
                return of.Sequential(averages[rank](1), of.Flatten())
            case Flatten():
                return of.Flatten()
            case Dense(inputs, features):
                return loaded(of.Linear(inputs, features))
            case Residual(body, shortcut):
                return TorchResidual(serial(body), serial(shortcut))
            case Skip(body):
                return TorchSkip(serial(body))
        return {"relu": of.ReLU, "relu6": of.ReLU6}[part](inplace=True)

    def serial(plan: Plan) -> torch.nn.Module:
        return of.Sequential(*map(module, plan))

    model = serial(plan)
    if any(isinstance(part, Conv) and part.rank == 3 for part in plan):
        return model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
