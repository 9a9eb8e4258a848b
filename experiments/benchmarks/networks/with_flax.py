"""Plans in Flax: linen and NNX."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx

from experiments.benchmarks.networks import (
    Average,
    ChannelNorm,
    Conv,
    Dense,
    Flatten,
    Leaf,
    Norm,
    Part,
    Plan,
    Pool,
    Residual,
    Scale,
    Skip,
    Up,
    leaves,
)


class LinenScale(nn.Module):
    """`Scale` in Flax."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        scale = self.param("scale", nn.initializers.constant(1e-6), x.shape[-1:])
        return x * scale.astype(x.dtype)


class Linen(nn.Module):
    """The plan in Flax; with ``dtype`` it computes in that, from parameters in float32."""

    plan: Plan
    conv_general_dilated: Callable[..., Any] | None = None
    dtype: Any = None

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
                        dtype=self.dtype,
                        name=name(),
                    )(x)
                case Up(_, features):
                    return nn.ConvTranspose(features, (2, 2), (2, 2), "VALID", name=name())(x)
                case Norm():
                    return nn.BatchNorm(use_running_average=False, momentum=0.9, dtype=self.dtype, name=name())(x)
                case ChannelNorm():
                    return nn.LayerNorm(dtype=self.dtype, name=name())(x)
                case Scale():
                    return LinenScale(name=name())(x)
                case Pool(window, rank, stride, padding):
                    return nn.max_pool(x, (window,) * rank, (stride or window,) * rank, ((padding, padding),) * rank)
                case Average(rank):
                    return jnp.mean(x, axis=tuple(range(1, rank + 1)))
                case Flatten():
                    return x.reshape(x.shape[0], -1)
                case Dense(_, features):
                    return nn.Dense(features, dtype=self.dtype, name=name())(x)
                case Residual(body, shortcut):
                    y = run(body, x)
                    return y + run(shortcut, x)
                case Skip(body):
                    return jnp.concatenate([x, run(body, x)], axis=-1)
            return nn.gelu(x, approximate=False) if part == "gelu" else getattr(nn, part)(x)

        def run(plan: Plan, x: Any) -> Any:
            for part in plan:
                x = apply(part, x)
            return x

        return run(self.plan, x)


class Sum(nnx.Module):
    """`Residual` in NNX."""

    def __init__(self, body: nnx.Module, shortcut: nnx.Module):
        self.body, self.shortcut = body, shortcut

    def __call__(self, x: Any) -> Any:
        return self.body(x) + self.shortcut(x)


class Joined(nnx.Module):
    """`Skip` in NNX."""

    def __init__(self, body: nnx.Module):
        self.body = body

    def __call__(self, x: Any) -> Any:
        return jnp.concatenate([x, self.body(x)], axis=-1)


class NnxScale(nnx.Module):
    """`Scale` in NNX."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.full(channels, 1e-6))

    def __call__(self, x: Any) -> Any:
        return x * self.scale


def nnx_network(plan: Plan, rngs: nnx.Rngs) -> nnx.Module:
    """Returns the plan in NNX, with the weights that ``rngs`` draws."""

    def layer(part: Part) -> Any:
        match part:
            case Conv(inputs, features, window, stride, padding, groups, bias, rank):
                options: dict[str, Any] = {"feature_group_count": groups, "use_bias": bias, "rngs": rngs}
                return nnx.Conv(inputs, features, (window,) * rank, stride, padding=padding, **options)
            case Up(inputs, features):
                return nnx.ConvTranspose(inputs, features, (2, 2), (2, 2), padding="VALID", rngs=rngs)
            case Norm(channels):
                return nnx.BatchNorm(channels, use_running_average=False, momentum=0.9, rngs=rngs)
            case ChannelNorm(channels):
                return nnx.LayerNorm(channels, rngs=rngs)
            case Scale(channels):
                return NnxScale(channels)
            case Pool(window, rank, stride, padding):
                strides, pads = (stride or window,) * rank, ((padding, padding),) * rank
                return functools.partial(nnx.max_pool, window_shape=(window,) * rank, strides=strides, padding=pads)
            case Average(rank):
                return functools.partial(jnp.mean, axis=tuple(range(1, rank + 1)))
            case Flatten():
                return lambda x: x.reshape(x.shape[0], -1)
            case Dense(inputs, features):
                return nnx.Linear(inputs, features, rngs=rngs)
            case Residual(body, shortcut):
                return Sum(nnx_network(body, rngs), nnx_network(shortcut, rngs))
            case Skip(body):
                return Joined(nnx_network(body, rngs))
        return functools.partial(nnx.gelu, approximate=False) if part == "gelu" else getattr(nnx, part)

    return nnx.Sequential(*map(layer, plan))


def flax_tree(plan: Plan, tree: dict[str, Any]) -> dict[str, Any]:
    """Returns jaxconv's params, or its state, under `Linen`'s names and in its layout."""

    def converted(part: Part, leaf: Leaf) -> Leaf:
        # Flax's transposed kernel is flipped and has its inputs first.
        flip = isinstance(part, Up) and "kernel" in leaf
        return leaf | {"kernel": jnp.flip(leaf["kernel"], (0, 1)).swapaxes(-1, -2)} if flip else leaf

    return {f"layer{i}": converted(*pair) for i, pair in enumerate(leaves(plan, tree)) if pair[1]}
