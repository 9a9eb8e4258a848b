"""Networks that value the actions of a game: one output for each action, the return that is expected after it.

Mnih et al., "Human-level control through deep reinforcement learning", 2015: `nature_dqn`, for four frames of 84x84
gray pixels. Young and Tian, "MinAtar: an Atari-inspired testbed for thorough and reproducible reinforcement learning
experiments", 2019: `minatar_dqn`, for boards of 10x10. Wang et al., "Dueling network architectures for deep
reinforcement learning", 2016: ``dueling``. Gallici et al., "Simplifying deep temporal difference learning", 2024:
``layer_norm``, which stabilizes training without a target network.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxconv.compose import parallel, serial
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Layer, LayerLike
from jaxconv.layers import Conv, Dense, Flatten, LayerNorm


def _frames_to_unit(x: Array) -> Array:
    """Scales frames from 0 to 255 to the range from 0 to 1."""
    return (x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)) / 255


def _dueling_values(streams: tuple[Array, Array]) -> Array:
    """Returns the values of actions from the value of the state and the advantages of the actions."""
    value, advantages = streams
    return value + advantages - jnp.mean(advantages, axis=-1, keepdims=True)


def _rectified(name: str, layer: Layer, layer_norm: bool) -> dict[str, LayerLike]:
    norm: dict[str, LayerLike] = {f"{name}_norm": LayerNorm()} if layer_norm else {}
    return {name: layer, **norm, f"{name}_relu": jax.nn.relu}


def _values(
    actions: int, convs: Sequence[Conv], hidden: int, *, channels_first: bool, dueling: bool, layer_norm: bool
) -> dict[str, LayerLike]:
    """Returns the layers: convolutions, then one hidden layer or two streams of one hidden layer each."""
    as_int(actions, "actions", least=1)
    layers: dict[str, LayerLike] = {}
    for i, conv in enumerate(convs, 1):
        layers |= _rectified(f"conv{i}", conv, layer_norm)
    layers["flatten"] = Flatten(channels_first=channels_first)
    if not dueling:
        return layers | _rectified("fc", Dense(hidden), layer_norm) | {"values": Dense(actions)}

    def stream(outputs: int) -> Layer:
        return serial(**_rectified("fc", Dense(hidden), layer_norm), out=Dense(outputs))

    return layers | {"streams": parallel(value=stream(1), advantage=stream(actions)), "values": _dueling_values}


def nature_dqn(
    actions: int, *, dueling: bool = False, layer_norm: bool = False, transform_input: bool = False
) -> Layer:
    """Returns the network of Mnih et al. for frames of 84x84, the four most recent as channels: ``(batch, actions)``.

    1,687,206 parameters with 6 actions, 3,293,863 with ``dueling``.

    Args:
      actions: the number of actions.
      dueling: whether the value of the state and the advantages of the actions have a hidden layer each; the mean
        advantage is subtracted. Wang et al. also divide the gradient at the last convolution by the root of 2.
      layer_norm: whether channels are normalized before each ReLU.
      transform_input: whether inputs are frames from 0 to 255, of any type, which are divided by 255.

    >>> table = jc.summary(nature_dqn(6), (1, 84, 84, 4))
    >>> table.parameters, [row.output.shape[1:] for row in table.rows if isinstance(row.layer, jc.Conv)]
    (1687206, [(20, 20, 32), (9, 9, 64), (7, 7, 64)])
    """
    convs = (
        Conv(32, 8, stride=4, padding="VALID"),
        Conv(64, 4, stride=2, padding="VALID"),
        Conv(64, 3, padding="VALID"),
    )
    layers = _values(actions, convs, 512, channels_first=True, dueling=dueling, layer_norm=layer_norm)
    return serial(**({"scale": _frames_to_unit} if transform_input else {}), **layers)


def minatar_dqn(actions: int, *, dueling: bool = False, layer_norm: bool = False) -> Layer:
    """Returns the network of Young and Tian for boards of 10x10, a channel for each type of object.

    It has a quarter of the filters and hidden units of `nature_dqn`: 132,179 parameters with 4 channels and 3 actions.

    Args:
      actions, dueling, layer_norm: as in `nature_dqn`.

    >>> jc.summary(minatar_dqn(3), (1, 10, 10, 4)).parameters
    132179
    """
    convs = (Conv(16, 3, padding="VALID"),)
    return serial(**_values(actions, convs, 128, channels_first=False, dueling=dueling, layer_norm=layer_norm))


__all__ = ["minatar_dqn", "nature_dqn"]
