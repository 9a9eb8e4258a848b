"""What the agents share: targets of Q-learning, exploration, and the train state that plays."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxconv as jc
from experiments.atari.games import Game
from experiments.optional import TrainState, optax

Array = jax.Array


def chosen(values: Array, actions: Array) -> Array:
    """Returns the value of each row's action, ``(batch,)``, of values ``(batch, actions)``."""
    return jnp.take_along_axis(values, actions[:, None], axis=1)[:, 0]


def squared_error(values: Array, targets: tuple[Array, Array]) -> Array:
    """The loss of PQN: half of the squared error of the chosen actions, for ``targets`` (actions, returns)."""
    actions, returns = targets
    return 0.5 * jnp.square(chosen(values, actions) - returns)


def huber(values: Array, targets: tuple[Array, Array]) -> Array:
    """The loss of DQN: the squared error, whose gradient is clipped to [-1, 1]."""
    actions, returns = targets
    return optax.huber_loss(chosen(values, actions), returns)


def one_step_targets(
    rewards: Array, ends: Array, next_values: Array, online: Array | None = None, *, discount: float
) -> Array:
    """Returns ``r + discount * Q(s', a')``, or the reward where the episode ends.

    Args:
      rewards, ends: of shape ``(batch,)``.
      next_values: the values of the next state by the target network, ``(batch, actions)``.
      online: the values of the next state by the network that learns, which then selects a' (double Q-learning, van
        Hasselt et al., 2016); None, a' is the best action by ``next_values``.
      discount: the weight of the next state.
    """
    best = jnp.argmax(next_values if online is None else online, axis=-1)
    return rewards + discount * jnp.where(ends, 0.0, chosen(next_values, best))


def lambda_returns(rewards: Array, ends: Array, next_values: Array, *, discount: float, decay: float) -> Array:
    """Returns the returns G of Q(lambda) (Peng and Williams, 1994), from the last step backward.

    ``G[t] = r[t] + discount * ((1 - decay) * next_values[t] + decay * G[t + 1])``, the reward where the episode ends,
    and at the last step ``r + discount * next_values``.

    Args:
      rewards, ends: of shape ``(steps, ...)``.
      next_values: the value of the state after each step, of the same shape.
      discount: the weight of the next state.
      decay: lambda. 0 gives one-step targets, 1 the discounted sum of rewards.
    """

    def back(later: Array, step: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        reward, end, value = step
        now = reward + discount * jnp.where(end, 0.0, (1 - decay) * value + decay * later)
        return now, now

    return jax.lax.scan(back, next_values[-1], (rewards, ends, next_values), reverse=True)[1]


def explore(key: Array, values: Array, epsilon: Array | float) -> Array:
    """Returns the best action of each row, or with probability ``epsilon`` any action."""
    coin_key, action_key = jax.random.split(key)
    count, actions = values.shape
    anything = jax.random.randint(action_key, (count,), 0, actions)
    return jnp.where(jax.random.uniform(coin_key, (count,)) < epsilon, anything, jnp.argmax(values, axis=-1))


def as_floats(observations: Array) -> Array:
    """Returns observations, of any type, as float32."""
    return observations.astype(jnp.float32)


def action_values(net: jc.Layer, params: Any, observations: Array) -> Array:
    """Returns the values of all actions, ``(batch, actions)``, by a network without layer state."""
    return net.apply(params, {}, as_floats(observations))[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Player:
    """The state of an agent: what it has learned, and the games that it plays.

    Attributes:
      train_state: parameters and the optimizer's state.
      games, observations: of the games.
      scores: the rewards of the episodes that are running.
      key: a random key, which never changes.
      memory: the replay buffer of an agent that has one.
    """

    train_state: TrainState
    games: Any
    observations: Array
    scores: Array
    key: Array
    memory: Any = None


def new_player(game: Game, net: jc.Layer, optimizer: "optax.GradientTransformation", envs: int, key: Array) -> Player:
    """Returns a player before its first action."""
    net_key, game_key, key = jax.random.split(key, 3)
    games, observations = game.start(game_key, envs)
    train_state = TrainState.create(net, optimizer, net_key, (1, *game.shape))
    return Player(train_state, games, observations, jnp.zeros(envs), key)


def act(game: Game, player: Player, actions: Array, key: Array) -> tuple[Player, Array, Array, dict[str, Array]]:
    """Plays a step in each game; returns the player, rewards, ends, and the returns of the episodes that ended."""
    games, observations, rewards, ends = game.step(player.games, actions, key)
    scores = player.scores + rewards
    finished = {"return": jnp.sum(jnp.where(ends, scores, 0.0)), "episodes": jnp.sum(ends)}
    moved = dataclasses.replace(player, games=games, observations=observations, scores=jnp.where(ends, 0.0, scores))
    return moved, rewards, ends, finished


@dataclasses.dataclass(frozen=True)
class Program:
    """An agent that learns a game, as two functions to be mapped over seeds and compiled.

    Attributes:
      game, net: what it plays, and what it plays with.
      start: ``start(key) -> player``.
      run: ``run(player, index) -> (player, measured)``, one of the calls in order: many steps of acting and learning
        as one scan. ``measured`` has the sum of the returns of the episodes that ended, their number, and the loss.
      runs: the number of calls.
      frames: the frames of a call.
    """

    game: Game
    net: jc.Layer
    start: Callable[[Array], Player]
    run: Callable[[Player, Array], tuple[Player, dict[str, Array]]]
    runs: int
    frames: int


def evaluate(
    game: Game, net: jc.Layer, params: Any, key: Array, *, episodes: int, limit: int, epsilon: float = 0.0
) -> Array:
    """Returns the returns of the first episode of each of ``episodes`` games, cut after ``limit`` frames."""
    start_key, key = jax.random.split(key)
    games, observations = game.start(start_key, episodes)

    def going(carry: Any) -> Array:
        _, _, _, over, step = carry
        return (step < limit) & ~jnp.all(over)

    def step(carry: Any) -> Any:
        games, observations, scores, over, number = carry
        act_key, game_key = jax.random.split(jax.random.fold_in(key, number))
        actions = explore(act_key, action_values(net, params, observations), epsilon)
        games, observations, rewards, ends = game.step(games, actions, game_key)
        return games, observations, scores + jnp.where(over, 0.0, rewards), over | ends, number + 1

    begin = (games, observations, jnp.zeros(episodes), jnp.zeros(episodes, bool), jnp.int32(0))
    return jax.lax.while_loop(going, step, begin)[2]


def watch(game: Game, net: jc.Layer, params: Any, key: Array, *, steps: int) -> dict[str, Array]:
    """Plays one game by the best actions and returns what was seen, done and received at each step."""
    start_key, key = jax.random.split(key)

    def step(carry: Any, key: Array) -> Any:
        games, observations = carry
        values = action_values(net, params, observations)
        actions = jnp.argmax(values, axis=-1)
        games, seen, rewards, ends = game.step(games, actions, key)
        record = {
            "observations": observations[0], "actions": actions[0], "values": values[0], "rewards": rewards[0],
            "ends": ends[0],
        }  # fmt: skip
        return (games, seen), record

    return jax.lax.scan(step, game.start(start_key, 1), jax.random.split(key, steps))[1]  # type: ignore[no-any-return]
