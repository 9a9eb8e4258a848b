"""Batches of one size from a data set, and the k best scores over all batches."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Tree

Preprocess = Callable[[Array], Any]


class Batch(NamedTuple):
    """A batch of a data set.

    Attributes:
      items: the batch.
      start: the index of its first item.
      skip: the number of first items that are also in the batch before.
    """

    items: Any
    start: int
    skip: int


def batches(items: Any, size: int) -> Iterator[Batch]:
    """Yields batches of one size, for one compiled program; the last batch overlaps the one before where need be.

    NumPy arrays, memory maps included, are sliced on the host.

    >>> [(part.items.tolist(), part.start, part.skip) for part in batches(jnp.arange(5), 3)]
    [([0, 1, 2], 0, 0), ([2, 3, 4], 2, 1)]
    """
    count = len(items)
    size = min(size, count)
    for first in range(0, count, size):
        start = min(first, count - size)
        if isinstance(items, jax.Array):
            # The start is an operand: JAX compiles a slice with a static start once for each start.
            part = jax.lax.dynamic_slice_in_dim(items, start, size)
        else:
            part = items[start : start + size]
        yield Batch(part, start, first - start)


def check_data(images: Any, batch_size: int, name: str = "images") -> tuple[Any, int]:
    """Returns a data set as an array and the batch size, or raises ShapeError."""
    images = images if hasattr(images, "shape") else np.asarray(images)
    if not images.ndim or not len(images):
        raise ShapeError(f"{name} must be an array with at least one item on its first axis, got {images.shape}")
    return images, min(as_int(batch_size, "batch_size", least=1), len(images))


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
