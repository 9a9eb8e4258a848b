"""Games as functions of arrays: many are played at a time, and one that ends starts again.

MinAtar's games (Young and Tian, 2019) are those of pgx rather than of gymnax: pgx repeats the last action with
probability 0.1 as the original does, ends no episode after 1,000 frames, and can be installed with JAX 0.12. The
license of pgx is Apache-2.0, but its files of MinAtar's games are GPL-3: pgx is optional, and imported on use.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxconv.extras import need

MINATAR = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
Array = jax.Array


class Game(NamedTuple):
    """A game for a given number of players at a time, each with its board.

    Attributes:
      name: the game's name.
      actions: the number of actions.
      shape: the shape of an observation.
      start: ``start(key, count) -> (state, observations)``.
      step: ``step(state, actions, key) -> (state, observations, rewards, ends)``. Where ``ends`` is true the episode is
        over, and the observation is the first of the next episode.
    """

    name: str
    actions: int
    shape: tuple[int, ...]
    start: Callable[[Array, int], tuple[Any, Array]]
    step: Callable[[Any, Array, Array], tuple[Any, Array, Array, Array]]


def where(condition: Array, a: Any, b: Any) -> Any:
    """Selects whole rows of the arrays of two trees."""
    return jax.tree.map(lambda x, y: jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y), a, b)


def minatar(name: str) -> Game:
    """Returns a game of MinAtar: boards of 10x10 with a channel of booleans for each type of object."""
    game = need("pgx", "MinAtar", "play").make(f"minatar-{name}")

    def start(key: Array, count: int) -> tuple[Any, Array]:
        state = jax.vmap(game.init)(jax.random.split(key, count))
        return state, state.observation

    def step(state: Any, actions: Array, key: Array) -> tuple[Any, Array, Array, Array]:
        step_key, start_key = jax.random.split(key)
        state = jax.vmap(game.step)(state, actions, jax.random.split(step_key, len(actions)))
        rewards, ends = state.rewards[:, 0], state.terminated
        state = where(ends, start(start_key, len(actions))[0], state)
        return state, state.observation, rewards, ends

    return Game(name, game.num_actions, game.observation_shape, start, step)
