"""Plans in jaxconv."""

import functools
from typing import Any

import jax

import jaxconv as jc
from experiments.benchmarks.networks import (
    Average,
    ChannelNorm,
    Conv,
    Dense,
    Flatten,
    Norm,
    Part,
    Plan,
    Pool,
    Residual,
    Scale,
    Skip,
    Up,
)


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
            case ChannelNorm():
                return jc.LayerNorm(1e-6)
            case Scale():
                return jc.LayerScale(1e-6)
            case Pool(window, rank, stride, padding):
                return jc.MaxPool((window,) * rank, stride=stride, padding=padding)
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
        return functools.partial(jax.nn.gelu, approximate=False) if part == "gelu" else getattr(jax.nn, part)

    return jc.serial(*map(layer, plan))
