"""Files of TensorFlow.js: a JSON file that lists the arrays, and binary files beside it with their bytes.

Two forms: ``model.json`` with the graph under "modelTopology" and the list under "weightsManifest"; and the list alone,
as in ``*-weights_manifest.json`` of face-api. Everything in a list is checked before it is used.
"""

import json
import math
import os
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import numpy as np

from jaxconv.weights.arrays import Arrays
from jaxconv.weights.errors import WeightsError

# The types of arrays, and the stored types of quantized ones.
DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|b1", "complex64": "<c8"}
QUANTIZED = {"float16": "<f2", "uint8": "|u1", "uint16": "<u2"}
_LONGEST_JSON = 100_000_000


class Model(NamedTuple):
    """The contents of a file: the JSON document, and the arrays by name."""

    document: Any
    arrays: Arrays


class _Entry(NamedTuple):
    """An array of the list, and how to decode its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored: str
    scale: float | None
    low: float

    @property
    def size(self) -> int:
        return math.prod(self.shape) * np.dtype(self.stored).itemsize

    def array(self, data: memoryview) -> np.ndarray:
        found = np.frombuffer(data, self.stored).reshape(self.shape)
        if self.scale is not None:
            # Computed in float64, as in JavaScript, and then converted.
            found = found * self.scale + self.low
            found = np.floor(found + 0.5) if self.dtype == "int32" else found
        return found.astype(np.dtype(DTYPES[self.dtype]).newbyteorder("="))


def _entry(value: Any) -> _Entry:
    """Returns an entry of the list after a check of all that it says."""
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        raise WeightsError(f"its list must give each array a name, a shape and a dtype, got {str(value)[:60]}")
    shape, dtype, packed = value.get("shape"), value.get("dtype"), value.get("quantization")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise WeightsError(f"{name!r} must have a shape of integers from 0 up, got {shape!r}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{name!r} has dtype {dtype!r}, which is not one of {', '.join(DTYPES)}")
    if packed is None:
        return _Entry(name, tuple(shape), dtype, DTYPES[dtype], None, 0.0)
    kind = packed.get("dtype") if isinstance(packed, dict) else None
    takes = ["float32"] if kind == "float16" else ["float32", "int32"]
    if not isinstance(kind, str) or kind not in QUANTIZED or dtype not in takes:
        raise WeightsError(f"{name!r}, {dtype}, has quantization {packed!r}: known are {', '.join(QUANTIZED)}")
    if kind == "float16":
        return _Entry(name, tuple(shape), dtype, QUANTIZED[kind], None, 0.0)
    numbers = [packed.get("scale"), packed.get("min")]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise WeightsError(f"{name!r} must have a quantization with a scale and a min, got {packed!r}")
    return _Entry(name, tuple(shape), dtype, QUANTIZED[kind], float(numbers[0]), float(numbers[1]))


def _shard(folder: FilePath, name: Any) -> FilePath:
    """Returns the path of a binary file, which must be in the folder of the JSON file."""
    if not isinstance(name, str) or not name:
        raise WeightsError(f"its paths must be names of files, got {name!r}")
    root = FilePath(os.path.realpath(folder))
    path = FilePath(os.path.realpath(root / name))
    if not path.is_relative_to(root):
        raise WeightsError(f"its paths must be inside its folder, got {name!r}")
    if not path.is_file():
        raise WeightsError(f"its arrays are stored in {name!r}, which is not a file beside it")
    return path


def _group(folder: FilePath, group: Any) -> Arrays:
    """Returns the arrays of one group: they follow each other through the group's files."""
    paths, weights = (group.get(key) if isinstance(group, dict) else None for key in ("paths", "weights"))
    if not isinstance(paths, list) or not isinstance(weights, list):
        raise WeightsError("its list must be of groups with paths and weights")
    entries, files = [_entry(value) for value in weights], [_shard(folder, name) for name in paths]
    wanted, found = sum(entry.size for entry in entries), sum(path.stat().st_size for path in files)
    if wanted != found:
        names = ", ".join(path.name for path in files) or "no files"
        raise WeightsError(f"its arrays take {wanted} bytes by the list, {names} have {found}")
    data = memoryview(b"".join(path.read_bytes() for path in files))
    arrays: Arrays = {}
    for entry in entries:
        if entry.name in arrays:
            raise WeightsError(f"its list names {entry.name!r} more than once")
        arrays[entry.name], data = entry.array(data[: entry.size]), data[entry.size :]
    return arrays


def read_model(path: FilePath) -> Model:
    """Reads a JSON file of TensorFlow.js and the binary files that it names.

    Raises:
      WeightsError: the file is not of TensorFlow.js; an array has an unknown type; a file is missing, truncated or too
        long, or in another folder.
    """
    if os.path.getsize(path) > _LONGEST_JSON:
        raise WeightsError(f"its JSON must have at most {_LONGEST_JSON} bytes, got {os.path.getsize(path)}")
    try:
        document = json.loads(path.read_text("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"it is not complete JSON: {error}") from error
    groups = document.get("weightsManifest") if isinstance(document, dict) else document
    if not isinstance(groups, list) or not groups:
        raise WeightsError("it is JSON, but has no weightsManifest, the list of arrays of TensorFlow.js")
    arrays: Arrays = {}
    for group in groups:
        more = _group(path.parent, group)
        if twice := arrays.keys() & more.keys():
            raise WeightsError(f"its list names {sorted(twice)[0]!r} more than once")
        arrays |= more
    return Model(document, arrays)


def read_tfjs(path: FilePath) -> Arrays:
    """Reads the arrays of a JSON file of TensorFlow.js."""
    return read_model(path).arrays
