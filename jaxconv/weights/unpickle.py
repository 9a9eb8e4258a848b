"""The pickles of ``torch.save`` as data: no name in a pickle is imported or called.

This is an interpreter of the few opcodes that checkpoints contain. It knows only the names of dicts, tensors and
storages. An object of any other name becomes a `Foreign`, which contains the name only: so an optimizer's options or a
program's arguments are skipped, and a tensor that needs such an object is an error.
"""

import pickletools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv.weights.errors import WeightsError

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
# Types of tensors without separate storages.
_TYPES = {f"torch.{name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")}


# NumPy's own limit.
_MOST_AXES = 64


class Global(NamedTuple):
    """A name in the pickle that is known."""

    name: str


@dataclass(frozen=True, eq=False)
class Foreign:
    """An object whose name no state dict needs; the name is not imported or called.

    Attributes:
      name: the name in the pickle; for a tensor of a type that NumPy lacks, the name of this type.
      tensor: whether it is such a tensor.
    """

    name: str
    tensor: bool = False

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def refusal(self) -> WeightsError:
        """Returns the error for an object in place of a tensor."""
        if self.tensor:
            return WeightsError(f"it has a tensor of {self.name}, which NumPy does not support")
        return WeightsError(
            f"its pickle asks for {self.name}, which no state dict needs and which may run code: it is not read. Save "
            "model.state_dict(), or, if you trust the file, give the state dict in what torch.load(path, "
            "weights_only=False) returns"
        )


@dataclass(frozen=True)
class Storage:
    """A sequence of elements in the file."""

    dtype: np.dtype
    key: str
    count: int


@dataclass(frozen=True)
class Tensor:
    """A tensor as the pickle describes it; its elements are in the file."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _OrderedDict(dict[Any, Any]):
    """torch's state dicts have attributes, which are ignored; plain dicts have none."""


# --- The opcodes ------------------------------------------------------------------------------------------------------


def _damaged(what: str) -> WeightsError:
    return WeightsError(f"its pickle is damaged: {what}")


def _is_counts(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= _MOST_AXES and all(type(n) is int and n >= 0 for n in value)


def _tensor(*args: Any) -> Tensor:
    match args:
        case Storage() as storage, int(offset), size, stride, *_ if (
            _is_counts((offset,)) and _is_counts(size) and _is_counts(stride) and len(size) == len(stride)
        ):
            return Tensor(storage, offset, size, stride)
    raise _damaged("a tensor is not described by storage, offset, size and stride")


def _typed_tensor(*args: Any) -> Tensor | Foreign:
    match args:
        case Storage(dtype=np.dtype(itemsize=1)) as bytes_, offset, size, stride, _, _, Global(name), *_ if (
            name in _TYPES and bytes_.count % _TYPES[name].itemsize == 0
        ):
            dtype = _TYPES[name]
            return _tensor(Storage(dtype, bytes_.key, bytes_.count // dtype.itemsize), offset, size, stride)
        case Storage(), _, _, _, _, _, Foreign(name), *_ if _ELEMENT_TYPE.fullmatch(name):
            return Foreign(name, tensor=True)
    raise _damaged("a tensor is not described by bytes, offset, size, stride and type")


def _parameter(*args: Any) -> Tensor:
    match args:
        case Tensor() as tensor, *_:
            return tensor
    raise _damaged("a parameter has no tensor")


def _subclassed(*args: Any) -> Any:
    match args:
        case Global(name), _, tuple(described), *_ if name in _TENSORS:
            return _call(Global(name), described)
        case Foreign(name), *_:
            return Foreign(name)
    raise _damaged("a tensor of another class is not described by function, class and arguments")


def _ordered_dict(*args: Any) -> _OrderedDict:
    result = _OrderedDict()
    for pairs in args:
        if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
            raise _damaged("an ordered dict is not described by pairs")
        for pair in pairs:
            _put(result, list(pair))
        # A list is used once: a short pickle could otherwise copy a long list into many dicts.
        pairs.clear()
    return result


_ELEMENT_TYPE = re.compile(r"torch\.(float|u?int|bits|complex)\d+\w*")
_TENSORS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
_CALLS: dict[str, Callable[..., Any]] = {
    **_TENSORS,
    "torch._tensor._rebuild_from_type_v2": _subclassed,
    "collections.OrderedDict": _ordered_dict,
}


def _call(function: Any, args: Any) -> Any:
    """Returns a substitute for the result of a call; only the functions above run."""
    if isinstance(function, Foreign):
        return Foreign(function.name)
    if not isinstance(function, Global) or function.name not in _CALLS or not isinstance(args, tuple):
        raise _damaged("it calls an object that is not a function")
    if args and isinstance(args[0], Foreign) and function.name in _TENSORS:
        return args[0]
    return _CALLS[function.name](*args)


def _storage(identity: Any) -> Storage | Foreign:
    match identity:
        case (("storage" | "module"), Foreign(name), *_):
            return Foreign(name)
        case "storage", Global(name), str(key), str(), int(count), *view if (
            name in _STORAGES and count >= 0 and view in ([], [None])
        ):
            return Storage(_STORAGES[name], key, count)
    raise _damaged("a storage is not described by type, key, place and count")


def _put(target: Any, items: list[Any]) -> None:
    """Puts keys and values, in turn, into a dict."""
    if isinstance(target, Foreign):
        return
    if not isinstance(target, dict) or len(items) % 2:
        raise _damaged("it sets items of an object that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if isinstance(key, list | dict):
            raise _damaged(f"a dict has a {type(key).__name__} for a key")
        # Hashing other keys could take unbounded time.
        target[key if isinstance(key, str | int | float | None) else Foreign(type(key).__name__)] = value


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
    """Returns the object that one pickle describes, and the storages that the pickle names.

    Args:
      stream: bytes, or a binary file, which is read up to the end of the pickle.
    """
    stack, below = _Stack(), list[_Stack]()
    memo: dict[int, Any] = {}
    storages: dict[str, Storage] = {}

    def marked() -> list[Any]:
        nonlocal stack
        if not below:
            raise _damaged("it lacks a mark")
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
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING" | "BINSTRING"
            ):
                stack.append(argument)
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}[opcode]())
            case "MARK":
                below.append(stack)
                stack = _Stack()
            case "POP":
                if stack:
                    stack.take(1)
                else:
                    marked()
            case "POP_MARK":
                marked()
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = marked() if opcode == "TUPLE" else stack.take(int(opcode[-1]))
                stack.append(tuple(items))
            case "APPEND" | "APPENDS":
                items = marked() if opcode == "APPENDS" else stack.take(1)
                if not isinstance(stack.top, list | Foreign):
                    raise _damaged("it appends to an object that is not a list")
                if isinstance(stack.top, list):
                    stack.top.extend(items)
            case "SETITEM" | "SETITEMS":
                items = marked() if opcode == "SETITEMS" else stack.take(2)
                _put(stack.top, items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack.top
            case "BINGET" | "LONG_BINGET":
                if argument not in memo:
                    raise _damaged(f"it recalls entry {argument}, which it never stored")
                stack.append(memo[argument])
            case "GLOBAL":
                name = argument.replace(" ", ".")
                known = name in _CALLS or name in _STORAGES or name in _TYPES
                stack.append(Global(name) if known else Foreign(name))
            case "REDUCE" | "NEWOBJ":
                stack.append(_call(*stack.take(2)))
            case "BUILD":
                stack.take(1)
                if not isinstance(stack.top, _OrderedDict | Foreign):
                    raise _damaged("it sets attributes of an object without attributes")
            case "BINPERSID":
                storage = _storage(*stack.take(1))
                if isinstance(storage, Storage):
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
