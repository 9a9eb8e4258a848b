"""PQN: Q-learning in many games at a time, without replay buffer and target network.

Gallici et al., "Simplifying deep temporal difference learning", 2024 (arXiv:2407.04811): with layer norm the targets of
the network that learns are stable enough; the steps of parallel games take the place of the replay buffer.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

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
    lambda_returns,
    new_player,
    squared_error,
)
from experiments.optional import TrainState, optax

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PQN:
    """Hyperparameters; by default those of the authors' configuration for MinAtar, for 1e7 frames.

    Attributes:
      envs, steps: the games, and the steps in each of them before an update: ``envs * steps`` frames.
      epochs, minibatches: how often these frames are learned from, and in how many parts.
      lr: the learning rate, which decreases linearly to 0.
      max_norm: the largest norm of a gradient.
      discount, decay: as in `lambda_returns`.
      epsilon, explored: the first and the last probability of an action at random, and the share of all updates after
        which the last is reached.
      clip: whether rewards are clipped to [-1, 1] for learning.
    """

    envs: int = 128
    steps: int = 32
    epochs: int = 2
    minibatches: int = 32
    lr: float = 5e-4
    max_norm: float = 10.0
    discount: float = 0.99
    decay: float = 0.65
    epsilon: tuple[float, float] = (1.0, 0.05)
    explored: float = 0.1
    clip: bool = False


class Rollout(NamedTuple):
    """The steps of an update, each of shape ``(steps, envs, ...)``."""

    observations: Array
    actions: Array
    rewards: Array
    ends: Array
    values: Array


def optimizer(settings: PQN, updates: int) -> "optax.GradientTransformation":
    steps = updates * settings.epochs * settings.minibatches
    return optax.chain(
        optax.clip_by_global_norm(settings.max_norm), optax.radam(optax.linear_schedule(settings.lr, 0.0, steps))
    )


def learn(step: Any, settings: PQN, train_state: TrainState, rollout: Rollout, last: Array, key: Array) -> Any:
    """Learns from a rollout; ``last`` are the values of the states after it. Returns (train state, mean loss)."""
    rewards = jnp.clip(rollout.rewards, -1.0, 1.0) if settings.clip else rollout.rewards
    next_values = jnp.concatenate([rollout.values[1:], last[None]])
    returns = lambda_returns(rewards, rollout.ends, next_values, discount=settings.discount, decay=settings.decay)
    data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (rollout.observations, rollout.actions, returns))
    count = data[1].size
    order = jax.vmap(lambda key: jax.random.permutation(key, count))(jax.random.split(key, settings.epochs))

    def minibatch(train_state: TrainState, rows: Array) -> tuple[TrainState, Array]:
        observations, actions, returns = jax.tree.map(lambda x: x[rows], data)
        train_state, measured = step(train_state, observations, (actions, returns))
        return train_state, measured["loss"]

    train_state, losses = jax.lax.scan(
        minibatch, train_state, order.reshape(settings.epochs * settings.minibatches, -1)
    )
    return train_state, jnp.mean(losses)


def pqn(game: Game, net: jc.Layer, settings: PQN, frames: int, *, updates: int = 8) -> Program:
    """Returns PQN on a game.

    Args:
      game, net: what is played, and the network, without layer state.
      settings: the hyperparameters.
      frames: the frames of the whole training, rounded down to whole calls of ``run``.
      updates: the updates of a call of ``run``.

    Raises:
      ValueError: there are too few frames for one call, or the minibatches do not divide the frames of an update.
    """
    batch = settings.envs * settings.steps
    if batch % settings.minibatches:
        raise ValueError(f"minibatches must divide {batch} frames of an update, got {settings.minibatches}")
    runs = frames // (batch * updates)
    if not runs:
        raise ValueError(f"frames must be at least {batch * updates}, got {frames}")
    total = runs * updates
    epsilon = optax.linear_schedule(*settings.epsilon, max(1, round(settings.explored * total)))
    moves = optimizer(settings, total)
    step = jc.train.train_step(net, squared_error, moves, preprocess=as_floats, donate=False)

    def play(epsilon: Array, player: Player, key: Array) -> tuple[Player, tuple[Rollout, dict[str, Array]]]:
        act_key, game_key = jax.random.split(key)
        seen = player.observations
        values = action_values(net, player.train_state.params, seen)
        actions = explore(act_key, values, epsilon)
        player, rewards, ends, finished = act(game, player, actions, game_key)
        return player, (Rollout(seen, actions, rewards, ends, jnp.max(values, axis=-1)), finished)

    def update(player: Player, number: Array) -> tuple[Player, dict[str, Array]]:
        play_key, learn_key = jax.random.split(jax.random.fold_in(player.key, number))
        keys = jax.random.split(play_key, settings.steps)
        player, (rollout, finished) = jax.lax.scan(functools.partial(play, epsilon(number)), player, keys)
        last = jnp.max(action_values(net, player.train_state.params, player.observations), axis=-1)
        train_state, loss = learn(step, settings, player.train_state, rollout, last, learn_key)
        return dataclasses.replace(player, train_state=train_state), jax.tree.map(jnp.sum, finished) | {"loss": loss}

    def run(player: Player, index: Array) -> tuple[Player, dict[str, Array]]:
        player, measured = jax.lax.scan(update, player, index * updates + jnp.arange(updates))
        return player, jax.tree.map(jnp.sum, measured) | {"loss": jnp.mean(measured["loss"])}

    start = functools.partial(new_player, game, net, moves, settings.envs)
    return Program(game, net, start, run, runs, batch * updates)
