"""ONNX in both directions: ONNX files as layers that can be trained and inspected, and layers as ONNX files.

Both need the package onnx: ``pip install '.[onnx]'`` in a checkout of jaxconv.
"""

from jaxconv.extras import missing as _missing

if _error := _missing("jaxconv.interop.onnx", "onnx", extra="onnx"):
    raise _error

from jaxconv.interop.onnx.build import from_onnx
from jaxconv.interop.onnx.errors import OnnxError
from jaxconv.interop.onnx.export import to_onnx

__all__ = ["OnnxError", "from_onnx", "to_onnx"]
