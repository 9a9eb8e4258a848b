"""A replay buffer as arrays: the last steps of several games, and minibatches of transitions from them.

Each observation is stored once: the next observation of a step is that of the step after it, and a stack of the most
recent frames is put together when it is sampled (Mnih et al., 2015, store a million frames in this way).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Replay(NamedTuple):
    """The last steps, each array of shape ``(capacity, envs, ...)``; step number t is in row ``t % capacity``."""

    observations: Array
    actions: Array
    rewards: Array
    ends: Array


class Batch(NamedTuple):
    """Transitions, each array of shape ``(batch, ...)``."""

    observations: Array
    actions: Array
    rewards: Array
    ends: Array
    next_observations: Array


def new_replay(capacity: int, envs: int, shape: tuple[int, ...], dtype: jax.typing.DTypeLike) -> Replay:
    """Returns an empty buffer of ``capacity`` steps of ``envs`` games, whose observations have the given shape."""
    if capacity < 2:
        raise ValueError(f"capacity must be at least 2 steps, an observation and the next, got {capacity}")
    rows = (capacity, envs)
    return Replay(jnp.zeros((*rows, *shape), dtype), jnp.zeros(rows, jnp.int32), jnp.zeros(rows), jnp.zeros(rows, bool))


def add(
    replay: Replay, number: Array | int, observations: Array, actions: Array, rewards: Array, ends: Array
) -> Replay:
    """Stores step ``number``, counted from 0: what was seen, done, received, and whether the episode ended."""
    step = Replay(observations, actions, rewards, ends)
    row = number % len(replay.actions)
    return jax.tree.map(lambda rows, new: rows.at[row].set(new.astype(rows.dtype)), replay, step)


def sample(replay: Replay, count: Array | int, key: Array, batch: int, *, stack: int = 1) -> Batch:
    """Returns transitions at random, with replacement, of the last ``capacity`` of ``count`` steps.

    Args:
      replay: the buffer.
      count: the number of steps that were added, at least 2: the last has no next observation yet.
      key: a random key.
      batch: the number of transitions.
      stack: the number of most recent observations that are put together along their last axis, oldest first. Those of
        an earlier episode, or before the first step, are zero.
    """
    capacity, envs = replay.actions.shape
    step_key, env_key = jax.random.split(key)
    oldest = jnp.where(count > capacity, count - capacity + stack - 1, 0)
    steps = jax.random.randint(step_key, (batch,), oldest, count - 1)
    games = jax.random.randint(env_key, (batch,), 0, envs)
    window = steps[:, None] + jnp.arange(1 - stack, 2)  # the stack, and the next observation
    rows = window % capacity
    seen = replay.observations[rows, games[:, None]]
    ends = replay.ends[rows, games[:, None]] & (window >= 0)

    def stacked(last: int) -> Array:
        """Returns the ``stack`` observations of the window up to ``last``, as one."""
        first = last - stack + 1
        # An observation belongs to the episode if none ended from its step to the step before the last.
        ended = jnp.flip(jnp.cumsum(jnp.flip(ends[:, first:last], axis=1), axis=1), axis=1) > 0
        ended = jnp.pad(ended, ((0, 0), (0, 1))) | (window[:, first : last + 1] < 0)
        frames = seen[:, first : last + 1]
        frames = jnp.where(ended.reshape(*ended.shape, *[1] * (frames.ndim - 2)), 0, frames)
        frames = jnp.moveaxis(frames, 1, -2)
        return frames.reshape(*frames.shape[:-2], -1)

    row, transition = rows[:, stack - 1], (games,)
    actions, rewards, end = (x[row, *transition] for x in (replay.actions, replay.rewards, replay.ends))
    if stack == 1:
        return Batch(seen[:, 0], actions, rewards, end, seen[:, 1])
    return Batch(stacked(stack - 1), actions, rewards, end, stacked(stack))
