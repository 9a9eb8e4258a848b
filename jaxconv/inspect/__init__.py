"""What a network is and what it sees: small functions over the layers that it is made of."""

import importlib
from typing import Any

from jaxconv.inspect.activations import activations
from jaxconv.inspect.summary import Summary, summary
from jaxconv.inspect.trace import Row, receptive_field, trace

__all__ = ["Row", "Summary", "activations", "receptive_field", "summary", "trace"]


def __getattr__(name: str) -> Any:
    """Loads the figures when they are asked for: they alone want matplotlib."""
    if name == "figures":
        return importlib.import_module("jaxconv.inspect.figures")
    raise AttributeError(f"module 'jaxconv.inspect' has no attribute {name!r}")
