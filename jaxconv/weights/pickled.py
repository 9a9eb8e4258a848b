"""Reads files of ``torch.save`` without torch and without pickle: see `jaxconv.weights.unpickle`."""

import functools
import mmap
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.weights.errors import WeightsError
from jaxconv.weights.unpickle import Tensor, interpret

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."


def check_start(path: Path) -> bool:
    """Returns whether the file is a zip archive (False: the older format), or raises if it has neither format."""
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if start.startswith(ZIP_START):
        return True
    if start == LEGACY_START:
        return False
    raise WeightsError("it is not a file of torch.save")


def read(path: Path, pick: Callable[[Any, Callable[[Any], bool]], Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Reads tensors from a file of either format of ``torch.save``.

    Args:
      path: the file.
      pick: returns the state dict from the saved object and a function that recognizes tensors.

    Raises:
      WeightsError: the file is damaged, in an unknown format, or has no state dict.
    """
    with (_zipped if check_start(path) else _legacy)(path) as (saved, numbers):
        once = functools.cache(numbers)
        return {name: _array(tensor, once) for name, tensor in pick(saved, lambda v: isinstance(v, Tensor)).items()}


Numbers = Callable[[str], bytes]


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"its zip archive is damaged or truncated: {error}") from error


@contextmanager
def _zipped(path: Path) -> Iterator[tuple[Any, Numbers]]:
    """Opens torch's format since 1.6: a zip archive of a pickle and a file for each storage."""
    length = os.path.getsize(path)
    with _open(path) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1 or len(names) != len(set(names)):
            raise WeightsError("its zip archive has another layout than those of torch.save")
        root = roots[0]
        packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
        total = sum(info.file_size for info in archive.infolist())
        if packed or total > length:
            what = f"{packed[0]} compressed" if packed else f"{total} bytes in {length}"
            raise WeightsError(f"its zip archive has {what}, unlike those of torch.save, and is not read")

        def record(name: str) -> bytes:
            info = archive.NameToInfo.get(root + name)
            if info is None:
                raise WeightsError(f"its zip archive has no {root}{name}")
            try:
                return archive.read(info)
            except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
                raise WeightsError(f"its zip archive is damaged: {error}") from error

        if root + "byteorder" in archive.NameToInfo and record("byteorder") != b"little":
            raise WeightsError("its data are not little-endian")
        saved, _ = interpret(record("data.pkl"))
        yield saved, lambda key: record(f"data/{key}")


@contextmanager
def _legacy(path: Path) -> Iterator[tuple[Any, Numbers]]:
    """Opens torch's format before 1.6: pickles of a magic number, a version, the writer, the object; then storages."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        if interpret(stream)[0] != MAGIC or interpret(stream)[0] != PROTOCOL:
            raise WeightsError(f"it is not in torch's format {PROTOCOL}")
        interpret(stream)
        saved, storages = interpret(stream)
        keys, _ = interpret(stream)
        where: dict[str, slice] = {}
        position = stream.tell()
        for key in keys if isinstance(keys, list) else [None]:
            storage = storages.get(key) if isinstance(key, str) else None
            if storage is None:
                raise WeightsError(f"it lists a storage {key!r}, which its pickle does not name")
            where[storage.key] = slice(position + 8, position + 8 + storage.count * storage.dtype.itemsize)
            if where[storage.key].stop > len(stream):
                raise WeightsError(f"it ends inside storage {key}: it is truncated")
            if int.from_bytes(stream[position : position + 8], "little") != storage.count:
                raise WeightsError(f"storage {key} has another count than its pickle says")
            position = where[storage.key].stop

        def numbers(key: str) -> bytes:
            if key not in where:
                raise WeightsError(f"it has no storage {key}")
            return stream[where[key]]

        yield saved, numbers


def _array(tensor: Tensor, numbers: Numbers) -> np.ndarray:
    storage, size = tensor.storage, tensor.size
    raw = numbers(storage.key)
    if len(raw) != storage.count * storage.dtype.itemsize:
        raise WeightsError(
            f"storage {storage.key} has {len(raw)} bytes, its pickle says {storage.count} of {storage.dtype.name}"
        )
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = tensor.offset + sum((n - 1) * step for n, step in zip(size, tensor.stride, strict=True))
    if last >= storage.count:
        raise WeightsError(f"a tensor of size {size} reaches beyond the {storage.count} numbers of its storage")
    flat = np.frombuffer(raw, storage.dtype)[tensor.offset :]
    strides = [step * storage.dtype.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(flat, size, strides, writeable=False)
