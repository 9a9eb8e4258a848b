"""The network's forward pass over many batches: one compiled program, whose results are awaited one batch behind."""

import functools
from collections.abc import Iterator
from typing import Any

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer


@functools.partial(jit, static_argnums=(0, 1))
def forward(net: Layer, preprocess: Preprocess | None, params: Any, state: Any, inputs: Any) -> Any:
    """Returns the network's output for a batch, with ``train=False``."""
    return net.apply(params, state, inputs if preprocess is None else preprocess(inputs), train=False)[0]


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
