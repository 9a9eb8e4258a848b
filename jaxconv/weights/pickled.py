"""Reads what ``torch.save`` writes, without torch, and without pickle: nothing that a file names is ever called.

The pickle inside is read as data, by an interpreter of the few opcodes that a state dict is made of. Of the names in it
only those of dicts, tensors and storages are known; any other is refused.
"""

import functools
import mmap
import os
import pickletools
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv.weights.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
ZIP_START = b"PK\x03\x04"
LEGACY_START = b"\x80\x02\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."

_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
_STORAGES = {f"torch.{name}": np.dtype(dtype) for name, dtype in _DTYPES.items()}
_STORAGES["torch.storage.UntypedStorage"] = np.dtype(np.uint8)
# The types of tensors that have no storages of their own.
_TYPES = {f"torch.{name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")}


class Global(NamedTuple):
    """A name that the pickle asks for."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A run of numbers somewhere in the file."""

    dtype: np.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as the pickle describes it; its numbers are still in the file."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _OrderedDict(dict[Any, Any]):
    """Torch's state dicts carry attributes, which are left out; plain dicts have none."""


# --- The pickle -------------------------------------------------------------------------------------------------------


def unwanted(name: str) -> WeightsError:
    """Returns the error for a name that is no part of a state dict."""
    return WeightsError(f"its pickle asks for {name}, which no state dict needs and which may run code: it is not read")


def _damaged(what: str) -> WeightsError:
    return WeightsError(f"its pickle is damaged: {what}")


def _is_counts(value: Any) -> bool:
    return isinstance(value, tuple) and all(type(n) is int and n >= 0 for n in value)


def _tensor(*args: Any) -> Tensor:
    match args:
        case Storage() as storage, int(offset), size, stride, *_ if (
            _is_counts((offset,)) and _is_counts(size) and _is_counts(stride) and len(size) == len(stride)
        ):
            return Tensor(storage, offset, size, stride)
    raise _damaged("a tensor is not described by storage, offset, size and stride")


def _typed_tensor(*args: Any) -> Tensor:
    match args:
        case Storage(dtype=np.dtype(itemsize=1)) as bytes_, offset, size, stride, _, _, Global(name), *_ if (
            name in _TYPES and bytes_.count % _TYPES[name].itemsize == 0
        ):
            dtype = _TYPES[name]
            return _tensor(Storage(dtype, bytes_.key, bytes_.count // dtype.itemsize), offset, size, stride)
    raise _damaged("a tensor is not described by bytes, offset, size, stride and type")


def _parameter(*args: Any) -> Tensor:
    match args:
        case Tensor() as tensor, *_:
            return tensor
    raise _damaged("a parameter holds no tensor")


def _ordered_dict(*args: Any) -> _OrderedDict:
    result = _OrderedDict()
    for pairs in args:
        for pair in pairs:
            _put(result, list(pair))
    return result


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
}


def _storage(identity: Any) -> Storage:
    match identity:
        case "storage", Global(name), str(key), str(), int(count), *view if (
            name in _STORAGES and count >= 0 and view in ([], [None])
        ):
            return Storage(_STORAGES[name], key, count)
    raise _damaged("a storage is not described by type, key, place and count")


def _put(target: Any, items: list[Any]) -> None:
    """Puts keys and values, in turn, into a dict."""
    if not isinstance(target, dict) or len(items) % 2:
        raise _damaged("it sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other keys could take forever to hash.
        if not isinstance(key, str | int):
            raise _damaged(f"a dict has a {type(key).__name__} for a key")
        target[key] = value


class _Stack(list[Any]):
    def take(self, count: int) -> list[Any]:
        """Removes the last ``count`` items."""
        if count > len(self):
            raise _damaged("it takes more from its stack than there is")
        items = self[len(self) - count :]
        del self[len(self) - count :]
        return items

    @property
    def top(self) -> Any:
        [item] = self.take(1)
        self.append(item)
        return item


def interpret(stream: Any) -> tuple[Any, dict[str, Storage]]:
    """Returns the object that one pickle describes, and the storages that it speaks of.

    Args:
      stream: bytes, or a binary file: what comes after the pickle is left.
    """
    stack, below = _Stack(), list[_Stack]()
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}

    def marked() -> list[Any]:
        nonlocal stack
        if not below:
            raise _damaged("it has no mark where one is wanted")
        items, stack = stack, below.pop()
        return items

    for opcode, argument, _ in _opcodes(stream):
        match opcode:
            case "PROTO":
                if argument != 2:
                    raise WeightsError(f"its pickle has protocol {argument}, torch.save writes 2")
            case "STOP":
                return stack.top, storages
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode]())
            case "MARK":
                below.append(stack)
                stack = _Stack()
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = marked() if opcode == "TUPLE" else stack.take(int(opcode[-1]))
                stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = marked() if opcode == "APPENDS" else stack.take(1)
                if not isinstance(stack.top, list):
                    raise _damaged("it appends to what is no list")
                stack.top.extend(items)
            case "SETITEM" | "SETITEMS":
                items = marked() if opcode == "SETITEMS" else stack.take(2)
                _put(stack.top, items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack.top
            case "BINGET" | "LONG_BINGET":
                if argument not in memo:
                    raise _damaged(f"it recalls entry {argument}, which it never kept")
                stack.append(memo[argument])
            case "GLOBAL":
                name = argument.replace(" ", ".")
                if re.fullmatch(r"torch\.(float|u?int|bits|complex)\d+\w*", name) and name not in _TYPES:
                    raise WeightsError(f"it has a tensor of {name}, which NumPy does not hold")
                if name not in _CALLS and name not in _STORAGES and name not in _TYPES:
                    raise unwanted(name)
                stack.append(Global(name))
            case "REDUCE":
                function, args = stack.take(2)
                if not isinstance(function, Global) or function.name not in _CALLS or not isinstance(args, tuple):
                    raise _damaged("it calls what is no function")
                stack.append(_CALLS[function.name](*args))
            case "BUILD":
                stack.take(1)
                if not isinstance(stack.top, _OrderedDict):
                    raise _damaged("it sets attributes of what has none")
            case "BINPERSID":
                storage = _storage(*stack.take(1))
                storages.setdefault(storage.key, storage)
                stack.append(storage)
            case _:
                raise WeightsError(f"its pickle has the opcode {opcode}, which no state dict needs: it is not read")
    raise _damaged("it does not end")


def _opcodes(stream: Any) -> Iterator[tuple[str, Any, int | None]]:
    """Yields name and argument of each opcode."""
    try:
        for opcode, argument, position in pickletools.genops(stream):
            yield opcode.name, argument, position
    except (ValueError, UnicodeDecodeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise _damaged(str(error)) from error


# --- The file ---------------------------------------------------------------------------------------------------------


def check_start(path: Path) -> bool:
    """Returns whether the file is a zip archive rather than of the older format; raises if it is neither."""
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if start.startswith(ZIP_START):
        return True
    if start == LEGACY_START:
        return False
    raise WeightsError("it is no file that torch.save writes")


def read(path: Path, pick: Callable[[Any, Callable[[Any], bool]], Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Reads tensors out of a file of either format of ``torch.save``.

    Args:
      path: the file.
      pick: returns the state dict, given what was saved and what tells a tensor in it.

    Raises:
      WeightsError: what is no state dict, damaged, or in an unknown format.
    """
    with (_zipped if check_start(path) else _legacy)(path) as (saved, numbers):
        once = functools.cache(numbers)
        return {name: _array(tensor, once) for name, tensor in pick(saved, lambda v: isinstance(v, Tensor)).items()}


Numbers = Callable[[str], bytes]


def _open(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise WeightsError(f"its zip archive is damaged or cut short: {error}") from error


def check_archive(path: Path) -> None:
    """Raises if a file of a zip archive is not what its checksum says, which torch does not look at."""
    with _open(path) as archive:
        try:
            bad = archive.testzip()
        except (EOFError, OSError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise WeightsError(f"its zip archive is damaged: {error}") from error
        if bad is not None:
            raise WeightsError(f"its zip archive is damaged: {bad} is not what its checksum says")


@contextmanager
def _zipped(path: Path) -> Iterator[tuple[Any, Numbers]]:
    """Opens torch's format since 1.6: a zip archive of a pickle and a file for each storage."""
    length = os.path.getsize(path)
    with _open(path) as archive:
        names = archive.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(roots) != 1 or len(names) != len(set(names)):
            raise WeightsError("its zip archive is not laid out as torch.save does it")
        root = roots[0]

        def record(name: str) -> bytes:
            info = archive.NameToInfo.get(root + name)
            if info is None:
                raise WeightsError(f"its zip archive has no {root}{name}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > length:
                raise WeightsError(f"its zip archive holds {root}{name} otherwise than torch.save does")
            try:
                return archive.read(info)
            except (zipfile.BadZipFile, EOFError, OSError) as error:
                raise WeightsError(f"its zip archive is damaged: {error}") from error

        if root + "byteorder" in archive.NameToInfo and record("byteorder") != b"little":
            raise WeightsError("its numbers are not little-endian")
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
                raise WeightsError(f"it lists a storage {key!r}, of which its pickle does not speak")
            where[storage.key] = slice(position + 8, position + 8 + storage.count * storage.dtype.itemsize)
            if where[storage.key].stop > len(stream):
                raise WeightsError(f"it ends inside storage {key}: it is cut short")
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
