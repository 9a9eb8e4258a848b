"""The inputs of KataGo's networks for states of pgx's Go, in JAX, for thousands of positions at once under jit.

They equal those of `experiments.goban.features` for the rules "pgx", except that the planes of ladders are 0, points
that superko forbids are not marked (pgx lets a player move there, and lose), and dead stones inside pass-alive
territory count as alive.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.goban.features import GLOBALS, MOVES, PLANES


def _adjacent(size: int) -> np.ndarray:
    """Returns which points are neighbors, float32 ``(size**2, size**2)``."""
    row, column = np.divmod(np.arange(size**2), size)
    distance = np.abs(row[:, None] - row) + np.abs(column[:, None] - column)
    return (distance == 1).astype(np.float32)


def observe(state: Any, komi: float = 7.5) -> tuple[jax.Array, jax.Array]:
    """Returns the planes ``(size, size, 22)`` and the global features ``(19,)`` of one state; `jax.vmap` for a batch.

    Args:
      state: the GameState of pgx, ``env_state._x``.
      komi: that of the environment.
    """
    points = state.board.shape[-1]
    size = round(points**0.5)
    adjacent = _adjacent(size)
    white = state.color == 1
    own = jnp.where(white, -1, 1)
    stones = jnp.sign(state.board) * own
    liberties = _liberties(state.board, adjacent)
    planes = [jnp.ones(points), stones == 1, stones == -1]
    planes += [(stones != 0) & (liberties == n) for n in (1, 2, 3)]
    planes += [jnp.arange(points) == state.ko, jnp.zeros(points), jnp.zeros(points)]
    moves, passes = _moves(state, own)
    area = _area(stones, adjacent)
    planes += [*moves, *[jnp.zeros(points)] * 4, area == 1, area == -1, jnp.zeros(points), jnp.zeros(points)]
    own_komi = jnp.where(white, komi, -komi)
    rules = jnp.zeros(GLOBALS - MOVES).at[0].set(own_komi / 20).at[1].set(1.0).at[2].set(0.5)
    rules = rules.at[9].set((state.consecutive_pass_count == 1).astype(jnp.float32))
    rules = rules.at[13].set(_wave(own_komi, size))
    stacked = jnp.stack([jnp.asarray(plane, jnp.float32) for plane in planes], axis=-1)
    assert stacked.shape[-1] == PLANES
    return stacked.reshape(size, size, PLANES), jnp.concatenate([passes, rules])


def _liberties(board: jax.Array, adjacent: np.ndarray) -> jax.Array:
    """Returns the liberties of the chain at each point; the board has the number of the chain, negative for white."""
    same = (board[:, None] == board) & (board != 0)
    touched = jnp.dot(same.astype(jnp.float32), adjacent) > 0
    return (touched & (board == 0)).sum(-1)


def _moves(state: Any, own: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """Returns a plane for each of the last moves, and which of them are passes, from the last boards."""
    # Before the first move pgx fills the history with 2.
    boards = jnp.where(jnp.abs(state.board_history) == 2, 0, state.board_history)
    over = state.consecutive_pass_count >= 2
    planes, passes = [], []
    for i in range(MOVES):
        mover = -own if i % 2 == 0 else own
        there = (state.step_count > i) & ~over
        plane = (boards[i] == mover) & (boards[i + 1] != mover) & there
        planes.append(plane)
        passes.append(there & ~plane.any())
    return planes, jnp.stack(passes).astype(jnp.float32)


def _area(stones: jax.Array, adjacent: np.ndarray) -> jax.Array:
    """Returns the owner of each point: 1 or -1 for stones and for empty regions that one color borders, else 0."""

    def reached(color: int) -> jax.Array:
        def grow(found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            points, _ = found
            more = points | ((jnp.dot(points.astype(jnp.float32), adjacent) > 0) & (stones == 0))
            return more, (more != points).any()

        return jax.lax.while_loop(lambda found: found[1], grow, (stones == color, jnp.bool_(True)))[0]

    by_own, by_other = reached(1), reached(-1)
    return jnp.where(stones != 0, stones, by_own.astype(jnp.int32) - by_other.astype(jnp.int32))


def _wave(komi: jax.Array, size: int) -> jax.Array:
    even = size % 2 == 0
    delta = komi - (jnp.floor(komi / 2) * 2 if even else jnp.floor((komi - 1) / 2) * 2 + 1)
    return jnp.where(delta < 0.5, delta, jnp.where(delta < 1.5, 1 - delta, delta - 2))
