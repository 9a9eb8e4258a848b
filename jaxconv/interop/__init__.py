"""Other frameworks, both ways: `jaxconv.interop.flax` and `jaxconv.interop.onnx`, loaded when first asked for."""

import importlib
from typing import Any

_PACKAGES = ("flax", "onnx")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"jaxconv.interop.{name}")
    raise AttributeError(f"module 'jaxconv.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PACKAGES])
