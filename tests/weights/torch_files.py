"""Writes files as ``torch.save`` does, in both of its formats, without torch: true ones and ones that lie."""

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
    "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}


@dataclass
class Global:
    """A name that the pickle asks for."""

    module: str
    name: str

    def __call__(self):
        """Only so that pickle takes it for a function."""


@dataclass(eq=False)
class Storage:
    """Numbers; what the pickle says of them may be a lie."""

    numbers: np.ndarray
    kind: str = ""
    count: int | None = None
    view: tuple = ()


@dataclass
class Tensor:
    """A tensor over a storage."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any
    function: str = "_rebuild_tensor_v2"


@dataclass
class Parameter:
    """A parameter, which torch pickles as a call of its own."""

    tensor: Tensor


@dataclass
class Call:
    """A call of any function."""

    function: Global
    args: tuple = field(default_factory=tuple)


def tensor(array):
    """Returns a tensor that owns a storage."""
    array = np.asarray(array)
    strides = [step // array.itemsize for step in array.strides]
    return Tensor(Storage(array.reshape(-1)), 0, array.shape, tuple(strides))


class Pickler(pickle._Pickler):
    """Python's pickler, which can write names of modules that are not there."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy = legacy
        self.storages = {}

    def save_name(self, value):
        self.write(b"c" + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def save_tensor(self, value):
        self.save_reduce(
            Global("torch._utils", value.function),
            (value.storage, value.offset, value.size, value.stride, False, OrderedDict()),
        )

    def save_parameter(self, value):
        self.save_reduce(Global("torch._utils", "_rebuild_parameter"), (value.tensor, True, OrderedDict()))

    def save_call(self, value):
        self.save_reduce(value.function, value.args)

    dispatch.update({Global: save_name, Tensor: save_tensor, Parameter: save_parameter, Call: save_call})

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        key = self.storages.setdefault(id(value), (str(len(self.storages)), value))[0]
        kind = Global("torch", value.kind or KINDS[value.numbers.dtype.name])
        count = value.numbers.size if value.count is None else value.count
        return ("storage", kind, key, "cpu", count, *(value.view or ((None,) if self.legacy else ())))


def pickled(saved, legacy=False):
    """Returns the pickle of an object, and the storages in it by key."""
    file = io.BytesIO()
    pickler = Pickler(file, legacy)
    pickler.dump(saved)
    return file.getvalue(), {key: storage.numbers for key, storage in pickler.storages.values()}


def zipped(saved, *, change=lambda pickle: pickle, compression=zipfile.ZIP_STORED, byteorder=b"little"):
    """Returns the bytes of a file in the format of torch 1.6 and later."""
    data, storages = pickled(saved)
    records = {"data.pkl": change(data), "byteorder": byteorder, "version": b"3\n"}
    records |= {f"data/{key}": numbers.tobytes() for key, numbers in storages.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, record in records.items():
            archive.writestr(f"archive/{name}", record)
    return file.getvalue()


def legacy(saved, *, change=lambda pickle: pickle, keys=None, magic=0x1950A86A20F9469CFC6C):
    """Returns the bytes of a file in the format before torch 1.6."""
    data, storages = pickled(saved, legacy=True)
    head = [magic, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {"long": 4}}]
    parts = [*(pickle.dumps(part, protocol=2) for part in head), change(data)]
    parts.append(pickle.dumps(list(storages) if keys is None else keys, protocol=2))
    for numbers in storages.values():
        parts += [numbers.size.to_bytes(8, "little"), numbers.tobytes()]
    return b"".join(parts)


FORMATS = {"zipped": zipped, "legacy": legacy}


def arrays():
    """Returns an array of every element type that torch's storages have."""
    return {name: np.arange(6).reshape(2, 3).astype(jnp.dtype(name)) for name in KINDS}
