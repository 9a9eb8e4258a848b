"""Tensors of a file as NumPy arrays; each is checked before memory for it is allocated."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from jaxconv.interop.onnx.errors import OnnxError

# Where a tensor without raw bytes has its elements.
_FIELDS = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
} | dict.fromkeys(
    (
        TensorProto.INT32,
        TensorProto.INT16,
        TensorProto.INT8,
        TensorProto.UINT16,
        TensorProto.UINT8,
        TensorProto.BOOL,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
    ),
    "int32_data",
)


def dtype_of(kind: int, name: str) -> np.dtype:
    """Returns NumPy's type for one of ONNX's, or raises OnnxError for strings, 4-bit and 8-bit floating-point types."""
    if kind not in _FIELDS:
        known = {value: key for key, value in TensorProto.DataType.items()}
        raise OnnxError(
            f"{name} must be of floating point with 16 bits or more, of integers with 8 bits or more or bool, "
            f"got {known.get(kind, kind)}"
        )
    return onnx.helper.tensor_dtype_to_np_dtype(kind)


def array_of(tensor: Any, folder: Path | None, name: str) -> np.ndarray:
    """Returns a tensor's elements.

    Args:
      tensor: a TensorProto.
      folder: the folder of the model's file, which must contain external data; None for a model given as bytes.
      name: the tensor's name, for messages.

    Raises:
      OnnxError: the shape does not fit the bytes in the file; external data are outside of the folder or truncated.
    """
    dtype = dtype_of(tensor.data_type, name)
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        raise OnnxError(f"{name} must have sizes from 0 up, got shape {shape}")
    size = math.prod(shape) * dtype.itemsize
    if tensor.data_location == TensorProto.EXTERNAL:
        data = _external(tensor, folder, size, name)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    if tensor.HasField("raw_data"):
        found = len(tensor.raw_data)
    else:
        found = len(getattr(tensor, _FIELDS[tensor.data_type])) * dtype.itemsize
    if found != size:
        raise OnnxError(
            f"{name} has shape {shape}, which is {size:,} bytes of {dtype.name}, but the file has {found:,}"
        )
    return numpy_helper.to_array(tensor)


def _external(tensor: Any, folder: Path | None, size: int, name: str) -> bytes:
    about = {entry.key: entry.value for entry in tensor.external_data}
    location = about.get("location", "")
    if folder is None:
        raise OnnxError(
            f"{name} is stored in the file {location!r}, so source must be the path of the model, got bytes"
        )
    try:
        offset, length = (int(about.get(key, default)) for key, default in (("offset", 0), ("length", size)))
    except ValueError:
        raise OnnxError(f"{name} must have integers as offset and length of its external data, got {about}") from None
    root = folder.resolve()
    path = Path(os.path.realpath(root / location))
    if not location or not path.is_relative_to(root):
        raise OnnxError(f"{name} must be stored inside the model's folder, got the location {location!r}")
    if not path.is_file():
        raise OnnxError(f"{name} is stored in {location!r}, which is not a file in the model's folder")
    if offset < 0 or length != size or offset + length > path.stat().st_size:
        raise OnnxError(
            f"{name} is {size:,} bytes, got {length:,} from byte {offset:,} of {location!r}, "
            f"which has {path.stat().st_size:,}"
        )
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
