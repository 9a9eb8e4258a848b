"""Other frameworks: `jaxconv.interop.flax`, `jaxconv.interop.onnx` and `jaxconv.interop.tfjs`, loaded at first use."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxconv.interop import flax as flax
    from jaxconv.interop import onnx as onnx
    from jaxconv.interop import tfjs as tfjs
else:
    __all__ = []

    def __getattr__(name):
        """Loads a framework's module at its first use: it needs the framework."""
        if name == "flax":
            return _import_module("jaxconv.interop.flax")
        if name == "onnx":
            return _import_module("jaxconv.interop.onnx")
        if name == "tfjs":
            return _import_module("jaxconv.interop.tfjs")
        raise AttributeError(f"module 'jaxconv.interop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return ["flax", "onnx", "tfjs"]
