"""Batches to evaluate: of one size, each example counted once."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.equal_batches import equal_batches
from jaxconv.train.mesh import Placement

Spans = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Part:
    """A batch to evaluate.

    Args:
      inputs, targets: pytrees whose leaves share the first axis.
      spans: (start, stop) of the examples that count. The others are padding, or in the batch before too.
    """

    inputs: Any
    targets: Any
    spans: Spans

    @property
    def rows(self) -> int:
        """The number of examples that count."""
        return sum(stop - start for start, stop in self.spans)


def array_parts(inputs: Any, targets: Any, batch_size: int, placement: Placement | None = None) -> Iterator[Part]:
    """Yields all examples of arrays once, in their order. NumPy arrays, memory maps included, are copied by batches.

    On a mesh the batch size is rounded up to a multiple of the number of parts, and a smaller batch is filled up.
    """
    count = len(jax.tree.leaves(inputs)[0])
    size = min(batch_size, count)
    size += 0 if placement is None else -size % placement.parts
    for part in equal_batches((inputs, targets), size):
        items = part.items
        if placement is not None:
            items = placement.put_divided(jax.tree.map(functools.partial(filled, size=size), items))
        some, theirs = items
        yield Part(some, theirs, ((part.skip, min(size, count)),))


def filled(leaf: Any, size: int) -> Any:
    """Returns an array with its first row repeated up to ``size`` rows."""
    missing = size - len(leaf)
    xp = np if isinstance(leaf, np.ndarray) else jnp
    return leaf if not missing else xp.concatenate([leaf, xp.repeat(leaf[:1], missing, 0)])


def merged(spans: list[tuple[int, int]]) -> Spans:
    """Returns spans without empty ones, adjacent ones joined, so that all complete batches have equal spans."""
    found: list[tuple[int, int]] = []
    for start, stop in spans:
        if found and found[-1][1] == start:
            found[-1] = found[-1][0], stop
        elif stop > start:
            found.append((start, stop))
    return tuple(found)
