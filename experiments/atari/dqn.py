"""DQN: Q-learning from a replay buffer, with a target network.

Mnih et al., "Human-level control through deep reinforcement learning", 2015; ``double``: van Hasselt et al., "Deep
reinforcement learning with double Q-learning", 2016.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

import jaxconv as jc
from experiments.atari.games import Game
from experiments.atari.learning import (
    Player,
    Program,
    act,
    action_values,
    as_floats,
    explore,
    huber,
    new_player,
    one_step_targets,
)
from experiments.atari.replay import Batch, add, new_replay, sample
from experiments.optional import TrainState, optax

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class DQN:
    """Hyperparameters; by default those of Mnih et al., with the sizes of Young and Tian for MinAtar.

    Attributes:
      envs: the games that are played at a time. Each step in all of them is followed by one update, so four give one
        update for four frames, as in Mnih et al.
      batch: the transitions of an update.
      capacity: the frames in the replay buffer.
      warmup: the frames that are played at random before the first update.
      period: the updates between two copies of the network into the target network.
      lr: the learning rate of RMSProp.
      discount: the weight of the next state.
      epsilon, explored: the first and the last probability of an action at random, and the number of frames after which
        the last is reached.
      double: whether the network that learns selects the action whose value the target network gives.
      clip: whether rewards are clipped to [-1, 1] for learning.
    """

    envs: int = 4
    batch: int = 32
    capacity: int = 100_000
    warmup: int = 5_000
    period: int = 1_000
    lr: float = 2.5e-4
    discount: float = 0.99
    epsilon: tuple[float, float] = (1.0, 0.1)
    explored: int = 100_000
    double: bool = False
    clip: bool = True


def optimizer(settings: DQN) -> "optax.GradientTransformation":
    return optax.rmsprop(settings.lr, decay=0.95, eps=0.01, centered=True, momentum=0.95, eps_in_sqrt=False)


def learn(
    step: Any, net: jc.Layer, settings: DQN, train_state: TrainState, target: Any, batch: Batch
) -> tuple[TrainState, Array]:
    """Learns from a batch, with the parameters ``target`` of the target network. Returns (train state, loss)."""
    rewards = jnp.clip(batch.rewards, -1.0, 1.0) if settings.clip else batch.rewards
    next_values = action_values(net, target, batch.next_observations)
    online = action_values(net, train_state.params, batch.next_observations) if settings.double else None
    returns = one_step_targets(rewards, batch.ends, next_values, online, discount=settings.discount)
    train_state, measured = step(train_state, batch.observations, (batch.actions, returns))
    return train_state, measured["loss"]


def dqn(game: Game, net: jc.Layer, settings: DQN, frames: int) -> Program:
    """Returns DQN on a game. A call of its ``run`` is a period of the target network.

    Args:
      game, net: what is played, and the network, without layer state.
      settings: the hyperparameters.
      frames: the frames of the whole training after the warmup, rounded down to whole periods.

    Raises:
      ValueError: there are too few frames for one period.
    """
    runs = frames // (settings.period * settings.envs)
    if not runs:
        raise ValueError(f"frames must be at least {settings.period * settings.envs}, got {frames}")
    warmup = max(2, settings.warmup // settings.envs)
    epsilon = optax.linear_schedule(*settings.epsilon, settings.explored // settings.envs)
    step = jc.train.train_step(net, huber, optimizer(settings), preprocess=as_floats, donate=False)

    def play(player: Player, number: Array, values: Array, epsilon: Array | float) -> Any:
        act_key, game_key, key = jax.random.split(jax.random.fold_in(player.key, number), 3)
        seen, actions = player.observations, explore(act_key, values, epsilon)
        player, rewards, ends, finished = act(game, player, actions, game_key)
        memory = add(player.memory, number, seen, actions, rewards, ends)
        return dataclasses.replace(player, memory=memory), finished, key

    def start(key: Array) -> Player:
        player = new_player(game, net, optimizer(settings), settings.envs, key)
        seen = player.observations
        memory = new_replay(settings.capacity // settings.envs, settings.envs, game.shape, seen.dtype)
        anything = jnp.zeros((settings.envs, game.actions))
        return jax.lax.scan(
            lambda player, number: (play(player, number, anything, 1.0)[0], None),
            dataclasses.replace(player, memory=memory),
            jnp.arange(warmup),
        )[0]

    def run(player: Player, index: Array) -> tuple[Player, dict[str, Array]]:
        target = player.train_state.params

        def update(player: Player, number: Array) -> tuple[Player, dict[str, Array]]:
            values = action_values(net, player.train_state.params, player.observations)
            player, finished, key = play(player, warmup + number, values, epsilon(number))
            batch = sample(player.memory, warmup + number + 1, key, settings.batch)
            train_state, loss = learn(step, net, settings, player.train_state, target, batch)
            return dataclasses.replace(player, train_state=train_state), finished | {"loss": loss}

        player, measured = jax.lax.scan(update, player, index * settings.period + jnp.arange(settings.period))
        return player, jax.tree.map(jnp.sum, measured) | {"loss": jnp.mean(measured["loss"])}

    return Program(game, net, start, run, runs, settings.period * settings.envs)
