"""The network's forward pass: one compiled program."""

import functools
from typing import Any

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer


@functools.partial(jit, static_argnums=(0, 1))
def forward(net: Layer, preprocess: Preprocess | None, params: Any, state: Any, inputs: Any) -> Any:
    """Returns the network's output for a batch, with ``train=False``."""
    return net.apply(params, state, inputs if preprocess is None else preprocess(inputs), train=False)[0]
