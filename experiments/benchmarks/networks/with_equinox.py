"""Plans in Equinox."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

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
    channels_first,
    leaves,
)


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
        kernel, bias = channels_first(part, leaf)
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
            case ChannelNorm() | Scale():
                raise ValueError(f"plan must have parts that Equinox has, got {part}")
            case Pool(window, rank, stride, padding):
                return pools[rank](window, stride or window, padding)
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
