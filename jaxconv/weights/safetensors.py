"""Safetensors files. Everything in a header is checked before it is used."""

import json
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv.ops.memory import zeros
from jaxconv.weights.arrays import Arrays, to_numpy
from jaxconv.weights.errors import StrPath, WeightsError

# Safetensors' names of the element types that NumPy can represent, bfloat16 included.
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"I{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
    "BF16": np.dtype(jnp.bfloat16),
    "C64": np.dtype(np.complex64),
}
# The metadata of files that `jaxconv.weights.save` writes.
FORMAT, VERSION = "jaxconv.weights", "1"
# Safetensors' own limit.
_LONGEST_HEADER = 100_000_000


class Header(NamedTuple):
    """The header of a safetensors file."""

    tensors: dict[str, Any]
    metadata: dict[str, str]


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise WeightsError(f"its header names {next(n for n in names if names.count(n) > 1)!r} more than once")
    return result


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _span(name: str, entry: Any) -> tuple[int, int]:
    """Returns the first byte and the end of a tensor, after a check against its type and shape."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"its header must give {name!r} a dtype, a shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{name!r} has dtype {dtype!r}, which is not one of {', '.join(DTYPES)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise WeightsError(f"{name!r} must have a shape and two offsets of integers, got {shape!r} and {offsets!r}")
    begin, end = offsets
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != size:
        raise WeightsError(f"{name!r} has {size} bytes by dtype {dtype} and shape {shape}, and offsets {offsets}")
    return begin, end


def read_header(path: StrPath) -> Header:
    """Reads and checks the header of a safetensors file: the tensors fill the rest without overlaps and gaps.

    Raises:
      WeightsError: the tensors overlap or leave gaps, or the header does not follow the format.
    """
    total = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(total - 8, _LONGEST_HEADER):
            raise WeightsError(
                f"it is not a complete safetensors file: its header needs {length} bytes, the file has {total}"
            )
        text = file.read(length)
    try:
        tensors = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"its header is not JSON: {error}") from error
    metadata = tensors.pop("__metadata__", {}) if isinstance(tensors, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsError("its header must be a JSON object whose __metadata__ maps names to strings")
    spans = sorted((*_span(name, entry), name) for name, entry in tensors.items())
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise WeightsError(f"{name!r} begins at {begin} where the tensor before it ends at {position}")
        position = end
    if position != total - 8 - length:
        raise WeightsError(f"its tensors take {position} bytes by its header, the file has {total - 8 - length}")
    return Header(tensors, metadata)


def checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the CRC-32 of each array by name: of its type, its shape and its bytes as in safetensors files."""
    return {name: f"{_checksum(array):08x}" for name, array in arrays.items()}


def _checksum(array: np.ndarray) -> int:
    # Not ascontiguousarray, which turns a scalar into a vector.
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(f"{array.dtype.name}{array.shape}".encode()))


def read_safetensors(path: FilePath) -> Arrays:
    """Reads each tensor into memory that JAX's CPU backend can share, so that no second copy of it is needed."""
    arrays = {}
    tensors = read_header(path).tensors
    with open(path, "rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        for name, entry in tensors.items():
            array = zeros(tuple(entry["shape"]), DTYPES[entry["dtype"]].newbyteorder("<"))
            file.seek(start + entry["data_offsets"][0])
            if file.readinto(array.reshape(-1).view(np.uint8).data) < array.nbytes:
                raise WeightsError(f"it ends before {name!r} does: it was changed while it was read")
            arrays[name] = array
    return arrays


def _write_safetensors(file: BinaryIO, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Writes a header and the arrays, wide types first, so that each begins at a multiple of its element's size."""
    kinds = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    end = 0
    for name in order:
        begin, end = end, end + arrays[name].nbytes
        shape = list(arrays[name].shape)
        header[name] = {"dtype": kinds[arrays[name].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(arrays[name].reshape(-1).view(np.uint8).data)


def write(path: StrPath, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays to a safetensors file. An existing file is replaced atomically, and kept if writing fails.

    Args:
      path: the file, ending in ``.safetensors``.
      arrays: by name: NumPy or jax arrays, torch tensors.
      metadata: text by name, for the file's header.

    Raises:
      WeightsError: the format does not support an array's type or name, or the path has another ending.
      FileNotFoundError: the folder of the path does not exist.
      OSError: the file cannot be written, for example because the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.safetensors", {"weight": jnp.ones((2, 3), jnp.bfloat16)})
    ...     jc.weights.read(f"{folder}/a.safetensors")["weight"]
    array([[1, 1, 1],
           [1, 1, 1]], dtype=bfloat16)
    """
    target = FilePath(os.path.realpath(path))
    if target.suffix != ".safetensors":
        raise WeightsError(f"{path}: the name must end in .safetensors")
    tensors = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise WeightsError(f"{path}: a name must be a string other than '__metadata__', got {name!r}")
        array = to_numpy(array)
        tensors[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        if tensors[name].dtype not in DTYPES.values():
            raise WeightsError(f"{path}: {name!r} has dtype {array.dtype.name}, which safetensors does not support")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        beside = FilePath(folder) / target.name
        with beside.open("wb") as file:
            _write_safetensors(file, tensors, metadata or {})
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)


__all__ = ["write"]
