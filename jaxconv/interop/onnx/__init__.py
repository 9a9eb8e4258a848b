"""ONNX in both directions: ONNX files as layers that can be trained and inspected, and layers as ONNX files.

Both need the package onnx: ``pip install 'jaxconv[onnx]'``.
"""

from importlib.util import find_spec as _find_spec

if not _find_spec("onnx"):
    raise ImportError("jaxconv.interop.onnx needs onnx: pip install 'jaxconv[onnx]'")

from jaxconv.interop.onnx.build import from_onnx
from jaxconv.interop.onnx.errors import OnnxError
from jaxconv.interop.onnx.export import to_onnx

__all__ = ["OnnxError", "from_onnx", "to_onnx"]
