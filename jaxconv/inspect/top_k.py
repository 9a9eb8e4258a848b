"""The k highest scores over all batches of a data set."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.layer import Tree


def nothing_yet(rows: int, k: int, dtype: Any, others: int) -> Tree:
    """Returns the initial state of `keep_best`: scores of -inf, and ``others`` int32 arrays of zeros."""
    return (jnp.full((rows, k), -jnp.inf, dtype), *(jnp.zeros((rows, k), jnp.int32) for _ in range(others)))


def keep_best(best: Tree, fresh: Tree) -> Tree:
    """Returns, for each row, the k highest scores of ``best`` and ``fresh`` with the other values at these scores.

    Args:
      best: a tuple of arrays ``(rows, k)``; the first has the scores.
      fresh: such a tuple of arrays ``(rows, n)``. Among equal scores those of ``best`` are kept.

    >>> best = keep_best(nothing_yet(1, 2, jnp.float32, 1), (jnp.array([[1.0, 3.0, 2.0]]), jnp.array([[0, 1, 2]])))
    >>> best[1].tolist()
    [[1, 2]]
    """
    joined = [jnp.concatenate([old, new.astype(old.dtype)], axis=1) for old, new in zip(best, fresh, strict=True)]
    _, at = jax.lax.top_k(joined[0], best[0].shape[1])
    return tuple(jnp.take_along_axis(values, at, axis=1) for values in joined)
