"""Other frameworks, both ways. `jaxconv.interop.flax` is loaded when it is first asked for."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "flax":
        return importlib.import_module("jaxconv.interop.flax")
    raise AttributeError(f"module 'jaxconv.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "flax"])
