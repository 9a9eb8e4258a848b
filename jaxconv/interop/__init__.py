"""Other frameworks, both ways: `jaxconv.interop.flax` and `jaxconv.interop.onnx`, loaded when first asked for."""

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "flax":
        return importlib.import_module("jaxconv.interop.flax")
    if name == "onnx":
        return importlib.import_module("jaxconv.interop.onnx")
    raise AttributeError(f"module 'jaxconv.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "flax", "onnx"])
