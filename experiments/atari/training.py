"""Trains an agent for several seeds in one program, and keeps what it measured."""

import functools
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.atari.learning import Player, Program, evaluate


class Trained(NamedTuple):
    """The players of all seeds, the curves, and the time.

    Attributes:
      player: a tree whose arrays have a leading axis of seeds.
      frames: the frames of each seed after each call, ``(points,)``.
      returns: the mean return of the episodes that ended in the call, ``(seeds, points)``; NaN where none did.
      losses: the mean loss, ``(seeds, points)``.
      seconds, processor_seconds: of all calls but the first, which compiles.
      compile_seconds: of the first call.
    """

    player: Player
    frames: np.ndarray
    returns: np.ndarray
    losses: np.ndarray
    seconds: float
    processor_seconds: float
    compile_seconds: float


def processor() -> float:
    """Returns the processor time of this process in seconds, in all of its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def seed_keys(seeds: Sequence[int]) -> jax.Array:
    """Returns a random key for each seed."""
    return jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))


@functools.lru_cache(maxsize=8)
def ensemble(program: Program) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns ``start(keys)`` and ``run(players, index)`` of all seeds at once, compiled once for a program."""
    start = jc.jit(jax.vmap(program.start))
    run = jc.jit(jax.vmap(program.run, in_axes=(0, None)), donate_argnums=0)
    return start, run


def train(
    program: Program, seeds: Sequence[int], report: Callable[[int, np.ndarray], None] = lambda frames, returns: None
) -> Trained:
    """Trains all seeds; ``report(frames, returns)`` is called after each call of ``run``, which has a return a seed."""
    start, run = ensemble(program)
    player = start(seed_keys(seeds))
    returns, losses, marks = [], [], [(time.perf_counter(), processor())]
    for i in range(program.runs):
        player, measured = run(player, jnp.int32(i))
        episodes = np.asarray(measured["episodes"])
        total = np.asarray(measured["return"])
        returns.append(np.where(episodes > 0, total / np.maximum(episodes, 1), np.nan))
        losses.append(np.asarray(measured["loss"]))
        marks.append((time.perf_counter(), processor()))
        report((i + 1) * program.frames, returns[-1])
    frames = (1 + np.arange(program.runs)) * program.frames
    seconds, used = (last - first for first, last in zip(marks[1], marks[-1], strict=True))
    return Trained(player, frames, np.stack(returns, 1), np.stack(losses, 1), seconds, used, marks[1][0] - marks[0][0])


def greedy_returns(
    program: Program, player: Player, key: jax.Array, *, episodes: int = 32, limit: int = 1000
) -> np.ndarray:
    """Returns the returns of each seed's best actions, ``(seeds, episodes)``, cut after ``limit`` frames."""

    def one(params: Any, key: jax.Array) -> jax.Array:
        return evaluate(program.game, program.net, params, key, episodes=episodes, limit=limit)

    params = player.train_state.params
    keys = jax.random.split(key, len(jax.tree.leaves(params)[0]))
    return np.asarray(jc.jit(jax.vmap(one))(params, keys))
