"""Batches of one size from a data set, so that one compiled program serves all of them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from jaxconv.layer import Array

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


def equal_batches(items: Any, batch_size: int) -> Iterator[Batch]:
    """Yields batches of one size, for one compiled program; the last batch overlaps the one before where need be.

    ``items`` is an array, or a pytree of arrays that share the first axis. NumPy arrays, memory maps included, are
    sliced on the host.

    >>> [(part.items.tolist(), part.start, part.skip) for part in equal_batches(jnp.arange(5), 3)]
    [([0, 1, 2], 0, 0), ([2, 3, 4], 2, 1)]
    """
    count = len(jax.tree.leaves(items)[0])
    size = min(batch_size, count)
    for first in range(0, count, size):
        start = min(first, count - size)
        yield Batch(jax.tree.map(lambda leaf, at=start: _part(leaf, at, size), items), start, first - start)


def _part(items: Any, start: int, size: int) -> Any:
    if isinstance(items, jax.Array):
        # The start is an operand: JAX compiles a slice with a static start once for each start.
        return jax.lax.dynamic_slice_in_dim(items, start, size)
    return items[start : start + size]


def one_behind(results: Iterator[Any]) -> Iterator[Any]:
    """Yields each result after the next one has started: the device is kept busy, and no queue of batches fills memory.

    >>> list(one_behind(iter([1, 2, 3])))
    [1, 2, 3]
    """
    last = next(results)
    for result in results:
        yield last
        last = result
    yield last
