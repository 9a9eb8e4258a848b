"""Files of named arrays: reads the formats that weights come in, writes safetensors.

Nothing that a file says of itself is believed before it is checked, and nothing in it is run.
"""

import contextlib
import functools
import importlib
import io
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv.weights import pickled
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.formats import format_of
from jaxconv.weights.places import as_numbers, to_numpy
from jaxconv.weights.unpickle import Foreign

StrPath = str | os.PathLike[str]
Arrays = dict[str, np.ndarray]

# Safetensors' names of the element types that NumPy holds, bfloat16 included.
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    **{f"I{8 * n}": np.dtype(f"i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"u{n}") for n in (1, 2, 4, 8)},
    **{f"F{8 * n}": np.dtype(f"f{n}") for n in (2, 4, 8)},
    "BF16": np.dtype(jnp.bfloat16),
    "C64": np.dtype(np.complex64),
}
# What `jaxconv.weights.save` says of its files.
FORMAT, VERSION = "jaxconv.weights", "1"
# Safetensors' own limit.
_LONGEST_HEADER = 100_000_000
# Networks are a few groups deep.
_DEEPEST_GROUP = 64


def need(module: str, use: str, extra: str = "weights") -> Any:
    """Imports a package of an extra, or raises ImportError, which names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{use} needs {module.split('.')[0]}: pip install 'jaxconv[{extra}]'") from error


@contextlib.contextmanager
def refusing(path: StrPath) -> Iterator[None]:
    """Makes one WeightsError, which names the file, of whatever its contents make the block raise."""
    try:
        yield
    except (ImportError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except Exception as error:
        what = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: it is damaged, cut short, or of another kind: {what}") from error


def check_size(path: Path, size: int) -> None:
    """Raises if arrays take far more bytes than their file: weights hardly compress, so it is made to fill memory."""
    length = os.path.getsize(path)
    if size > 100 * length + 2**20:
        raise WeightsError(f"its arrays take {size} bytes, the file has {length}: too many to be weights")


# --- Safetensors ------------------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """What a safetensors file says of itself."""

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
    """Returns where a tensor begins and ends, after it has been checked against its type and shape."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise WeightsError(f"its header must give {name!r} a dtype, a shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise WeightsError(f"{name!r} has dtype {dtype!r}, which is none of {', '.join(DTYPES)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise WeightsError(f"{name!r} must have a shape and two offsets of integers, got {shape!r} and {offsets!r}")
    begin, end = offsets
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != size:
        raise WeightsError(f"{name!r} has {size} bytes by dtype {dtype} and shape {shape}, and offsets {offsets}")
    return begin, end


def read_header(path: StrPath) -> Header:
    """Reads and checks the header of a safetensors file: its tensors fill what follows, without overlap or hole.

    Raises:
      WeightsError: they do not, or the header is not what the format wants.
    """
    total = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(total - 8, _LONGEST_HEADER):
            raise WeightsError(
                f"it is no safetensors file, or cut short: its header wants {length} bytes, the file has {total}"
            )
        text = file.read(length)
    try:
        tensors = json.loads(text.decode("utf-8"), object_pairs_hook=_distinct)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise WeightsError(f"its header is no JSON: {error}") from error
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


def check_foreign(path: StrPath) -> None:
    """Raises if a file is one that `jaxconv.weights.save` wrote: its names and layouts are nobody else's."""
    if format_of(Path(path)) == "safetensors" and read_header(path).metadata.get("format") == FORMAT:
        raise WeightsError(f"{path}: jaxconv.weights.save wrote it: use jaxconv.weights.load")


def checksums(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the CRC-32 of each array by name: of its type, its shape and its bytes as safetensors have them."""
    return {name: f"{_checksum(array):08x}" for name, array in arrays.items()}


def _checksum(array: np.ndarray) -> int:
    # Not ascontiguousarray, which makes a vector of a scalar.
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return zlib.crc32(array.reshape(-1).view(np.uint8).data, zlib.crc32(f"{array.dtype.name}{array.shape}".encode()))


def _safetensors(path: Path) -> Arrays:
    library = need("safetensors", "reading .safetensors")
    header = read_header(path)
    with library.safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in header.tensors}


def _write_safetensors(file: BinaryIO, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Writes a header and the arrays behind it, those of wide types first: each begins at a multiple of its width."""
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
    """Writes arrays to a safetensors file. One of that name is replaced at once, or not at all if the writing fails.

    Args:
      path: the file, ending in ``.safetensors``.
      arrays: by name: NumPy or jax arrays, torch tensors.
      metadata: text by name, for the file's header.

    Raises:
      WeightsError: an array is of a type or a name that the format does not hold, or the path ends otherwise.
      FileNotFoundError: its folder is not there.
      OSError: the file cannot be written, where the disk is full for instance.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.safetensors", {"weight": jnp.ones((2, 3), jnp.bfloat16)})
    ...     read(f"{folder}/a.safetensors")["weight"]
    array([[1, 1, 1],
           [1, 1, 1]], dtype=bfloat16)
    """
    target = Path(os.path.realpath(path))
    if target.suffix != ".safetensors":
        raise WeightsError(f"{path}: the name must end in .safetensors")
    tensors = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise WeightsError(f"{path}: a name must be a string other than '__metadata__', got {name!r}")
        array = to_numpy(array)
        tensors[name] = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
        if tensors[name].dtype not in DTYPES.values():
            raise WeightsError(f"{path}: {name!r} has dtype {array.dtype.name}, which safetensors does not hold")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        beside = Path(folder) / target.name
        with beside.open("wb") as file:
            _write_safetensors(file, tensors, metadata or {})
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)


# --- Torch ------------------------------------------------------------------------------------------------------------


IsTensor = Callable[[Any], bool]


def _named(value: Any) -> str:
    return value.name if isinstance(value, Foreign) else type(value).__name__


def state_dict(saved: Any, is_tensor: IsTensor, *, key: str | None) -> Mapping[str, Any]:
    """Returns the mapping of names to tensors that was saved, or that is one level deep in what was saved.

    What a module has besides tensors, torch's ``_extra_state``, is left out.
    """

    def odd(value: Mapping[Any, Any]) -> dict[Any, Any]:
        """Returns what keeps a mapping from being one of names to tensors."""
        return {n: v for n, v in value.items() if not isinstance(n, str) or not (is_tensor(v) or _is_extra(n))}

    def tensors(value: Mapping[Any, Any]) -> Mapping[str, Any]:
        return {n: v for n, v in value.items() if is_tensor(v)} if any(map(_is_extra, value)) else value

    if isinstance(saved, Foreign):
        raise saved.refusal()
    if not isinstance(saved, Mapping):
        raise WeightsError(f"it holds a {type(saved).__name__}, not a mapping of names to tensors")
    if key is None and not odd(saved):
        return tensors(saved)
    mappings = {name: value for name, value in saved.items() if isinstance(value, Mapping) and value}
    inside = [name for name, value in mappings.items() if not odd(value)]
    if key is None and len(inside) == 1:
        return tensors(saved[inside[0]])
    if key in inside:
        return tensors(saved[key])
    # What would be a state dict but for foreign objects: that of the key, else those that hold tensors, else the whole.
    near = [mappings[key]] if key in mappings else []
    if key is None and not inside:
        near = [mapping for mapping in mappings.values() if any(map(is_tensor, mapping.values()))]
        near = near or [saved, *mappings.values()]
    for mapping in near:
        values = list(odd(mapping).values())
        foreign = [value for value in values if isinstance(value, Foreign)]
        if foreign and (len(foreign) == len(values) or len(values) == len(mapping)):
            raise foreign[0].refusal()
    found = f"those are {' and '.join(f'key={name!r}' for name in inside)}" if inside else "none of them is one"
    listed = saved if inside or key else odd(saved)
    kinds = [f"{name!r} ({_named(value)})" for name, value in listed.items()]
    what = f"it holds {', '.join(kinds[:20]) or 'nothing'}{', ...' if len(kinds) > 20 else ''}"
    where = f" under {key!r}" if key else ""
    raise WeightsError(f"{what}, where a mapping of names to tensors is wanted{where}: {found}")


def _is_extra(name: Any) -> bool:
    return isinstance(name, str) and name.split(".")[-1] == "_extra_state"


def _torch(path: Path, key: str | None = None) -> Arrays:
    arrays = pickled.read(path, functools.partial(state_dict, key=key))
    # A stride of 0 makes any size of one number.
    check_size(path, sum(array.nbytes for array in arrays.values()))
    return arrays


# --- HDF5, Keras, npz -------------------------------------------------------------------------------------------------


def _hdf5(path: Path, content: Any = None) -> Arrays:
    """Reads the datasets of an HDF5 file: that of the path, or one in memory."""
    library = need("h5py", "reading .h5")
    with library.File(path if content is None else content, "r") as file:
        datasets = _datasets(library, file)
        check_size(path, sum(int(item.nbytes) for item in datasets.values()))
        return {name: np.asarray(item[()]) for name, item in datasets.items()}


def _datasets(library: Any, file: Any) -> dict[str, Any]:
    """Returns the datasets of a file by name. Each group is entered once, from the one around it."""
    found: dict[str, Any] = {}
    groups, entered = [("", file, 0)], set()
    while groups:
        prefix, group, depth = groups.pop()
        number = library.h5o.get_info(group.id).addr
        if depth > _DEEPEST_GROUP:
            raise WeightsError(f"its groups are more than {_DEEPEST_GROUP} deep: {prefix[:40]}...")
        if number in entered:
            raise WeightsError(f"{prefix[:-1]!r} is a second link to a group")
        entered.add(number)
        for part in group:
            name = prefix + part
            if not isinstance(group.get(part, getlink=True), library.HardLink):
                raise WeightsError(f"{name!r} is a link, perhaps to another file")
            item = group[part]
            if isinstance(item, library.Group):
                groups.append((f"{name}/", item, depth + 1))
            elif isinstance(item, library.Dataset):
                if item.external or item.is_virtual or item.shape is None:
                    raise WeightsError(f"{name!r} holds no numbers of its own")
                found[name] = item
    return dict(sorted(found.items()))


KERAS_WEIGHTS, KERAS_CONFIG = "model.weights.h5", "config.json"


def in_archive(path: Path, name: str) -> bytes:
    """Returns a file of a zip archive, if the archive is not far smaller."""
    with zipfile.ZipFile(path) as archive:
        if name not in archive.NameToInfo:
            raise WeightsError(f"its zip archive has no {name}")
        check_size(path, archive.NameToInfo[name].file_size)
        return archive.read(name)


def _keras(path: Path) -> Arrays:
    return _hdf5(path, io.BytesIO(in_archive(path, KERAS_WEIGHTS)))


def _npz(path: Path) -> Arrays:
    with path.open("rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise WeightsError("it is a .npy file: one array, without a name")
        with zipfile.ZipFile(stream) as archive:
            check_size(path, sum(info.file_size for info in archive.infolist()))
        return {name: file[name] for name in file.files}


# --- Any --------------------------------------------------------------------------------------------------------------

_READERS: dict[str, Callable[..., Arrays]] = {
    "safetensors": _safetensors,
    "torch": _torch,
    "hdf5": _hdf5,
    "keras": _keras,
    "npz": _npz,
}


def read(path: StrPath, *, key: str | None = None) -> Arrays:
    """Reads the arrays of a file by name, as NumPy arrays of the types that the file has.

    The format is known by the file's first bytes, so that its name may be any: safetensors, what ``torch.save`` writes
    (``.pth``, ``.pt``, ``.pth.tar``, ``.ckpt``, ``.bin`` and others), HDF5, ``.keras``, ``.npz``. Of a checkpoint of
    torch the state dict is read, without torch, and nothing that the file names is imported or run: what else it holds,
    an optimizer's state or a program's arguments, is passed over. The groups of an HDF5 file are parts of its names:
    ``block1/conv1/kernel``.

    Args:
      path: the file.
      key: where a torch checkpoint has several mappings of tensors, the name of the one to read. One alone is found
        without it, ``{"state_dict": {...}, "epoch": 90}``.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: it is cut short, damaged, lies about itself, has a tensor that only code of another library makes,
        holds arrays far larger than itself, or is of another format.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", weight=np.ones(3))
    ...     read(f"{folder}/a.npz")
    {'weight': array([1., 1., 1.])}
    """
    path = Path(path)
    with refusing(path):
        name = format_of(path)
        if key is not None and name != "torch":
            raise WeightsError(f"key is for checkpoints of torch, got {key!r}")
        options = {} if key is None else {"key": key}
        return {name: as_numbers(name, array) for name, array in _READERS[name](path, **options).items()}


__all__ = ["read", "write"]
