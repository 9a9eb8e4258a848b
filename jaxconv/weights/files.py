"""Files of named arrays: reads the formats that weights come in, writes safetensors.

Nothing that a file says of itself is believed before it is checked, and nothing in it is run.
"""

import contextlib
import functools
import importlib
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv.weights import pickled
from jaxconv.weights.errors import WeightsError
from jaxconv.weights.places import as_numbers, to_numpy

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
    except (ImportError, FileNotFoundError):
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
    if Path(path).suffix.lower() == ".safetensors" and read_header(path).metadata.get("format") == FORMAT:
        raise WeightsError(f"{path}: jaxconv.weights.save wrote it: use jaxconv.weights.load")


def _safetensors(path: Path) -> Arrays:
    library = need("safetensors", "reading .safetensors")
    header = read_header(path)
    with library.safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in header.tensors}


def write(path: StrPath, arrays: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes arrays to a safetensors file. One of that name is replaced at once, or not at all if the writing fails.

    Args:
      path: the file, ending in ``.safetensors``.
      arrays: by name: NumPy or jax arrays, torch tensors.
      metadata: text by name, for the file's header.

    Raises:
      WeightsError: an array is of a type or a name that the format does not hold, or the path ends otherwise.
      FileNotFoundError: its folder is not there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.safetensors", {"weight": jnp.ones((2, 3), jnp.bfloat16)})
    ...     read(f"{folder}/a.safetensors")["weight"]
    array([[1, 1, 1],
           [1, 1, 1]], dtype=bfloat16)
    """
    numpy = need("safetensors.numpy", "writing .safetensors")
    target = Path(os.path.realpath(path))
    if target.suffix != ".safetensors":
        raise WeightsError(f"{path}: the name must end in .safetensors")
    tensors = {}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise WeightsError(f"{path}: a name must be a string other than '__metadata__', got {name!r}")
        array = to_numpy(array)
        # Not ascontiguousarray, which makes a vector of a scalar.
        tensors[name] = np.asarray(array, array.dtype.newbyteorder("="), order="C")
        if tensors[name].dtype not in DTYPES.values():
            raise WeightsError(f"{path}: {name!r} has dtype {array.dtype.name}, which safetensors does not hold")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {target.parent}")
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        beside = Path(folder) / target.name
        numpy.save_file(tensors, beside, dict(metadata) if metadata else None)
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(target)


# --- Torch ------------------------------------------------------------------------------------------------------------


IsTensor = Callable[[Any], bool]


def state_dict(saved: Any, is_tensor: IsTensor, *, key: str | None) -> Mapping[str, Any]:
    """Returns the mapping of names to tensors that was saved, or that lies one level deep in what was saved."""

    def odd(value: Mapping[Any, Any]) -> list[str]:
        """Returns what keeps a mapping from being one of names to tensors."""
        items = value.items()
        return [f"{n!r} ({type(v).__name__})" for n, v in items if not isinstance(n, str) or not is_tensor(v)]

    if not isinstance(saved, Mapping):
        raise WeightsError(f"it holds a {type(saved).__name__}, not a mapping of names to tensors")
    if key is None and not odd(saved):
        return saved
    inside = [name for name, value in saved.items() if isinstance(value, Mapping) and value and not odd(value)]
    if key is None and len(inside) == 1:
        return saved[inside[0]]
    if key in inside:
        return saved[key]
    found = f"those are {' and '.join(f'key={name!r}' for name in inside)}" if inside else "none of them is one"
    kinds = [f"{name!r} ({type(value).__name__})" for name, value in saved.items()] if inside or key else odd(saved)
    what = f"it holds {', '.join(kinds[:20]) or 'nothing'}{', ...' if len(kinds) > 20 else ''}"
    where = f" under {key!r}" if key else ""
    raise WeightsError(f"{what}, where a mapping of names to tensors is wanted{where}: {found}")


def _torch_loads_safely() -> bool:
    """Whether torch is there, in a version whose ``weights_only`` holds: before 2.6 it could be got round."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError):
        return False
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 6)


def read_by_torch(path: Path, pick: Callable[[Any, IsTensor], Mapping[str, Any]]) -> Arrays:
    """`jaxconv.weights.pickled.read` by means of torch."""
    torch = importlib.import_module("torch")
    if pickled.check_start(path):
        pickled.check_archive(path)
    try:
        # Not memory-mapped: what is read must not change when the file does.
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        if asked:
            raise pickled.unwanted(asked[1]) from error
        # Torch's reason stands before its last line, amid advice to load the file regardless.
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise WeightsError(f"its pickle is damaged or no state dict: {' '.join(lines[-2:-1])}") from error
    return {
        name: as_numbers(name, tensor) for name, tensor in pick(saved, lambda v: isinstance(v, torch.Tensor)).items()
    }


def _torch(path: Path, key: str | None = None) -> Arrays:
    reader = read_by_torch if _torch_loads_safely() else pickled.read
    arrays = reader(path, functools.partial(state_dict, key=key))
    # A stride of 0 makes any size of one number.
    check_size(path, max((array.nbytes for array in arrays.values()), default=0))
    return arrays


# --- HDF5, npz --------------------------------------------------------------------------------------------------------


def _hdf5(path: Path) -> Arrays:
    library = need("h5py", "reading .h5")
    datasets: dict[str, Any] = {}
    links: list[tuple[str, Any]] = []
    with library.File(path, "r") as file:
        file.visititems_links(lambda *link: links.append(link))
        for name, link in links:
            if not isinstance(link, library.HardLink):
                raise WeightsError(f"{name!r} is a link, perhaps to another file")
            item = file[name]
            if isinstance(item, library.Dataset):
                if item.external or item.is_virtual or item.shape is None:
                    raise WeightsError(f"{name!r} holds no numbers of its own")
                datasets[name] = item
        check_size(path, sum(int(item.nbytes) for item in datasets.values()))
        return {name: np.asarray(item[()]) for name, item in datasets.items()}


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
    ".safetensors": _safetensors,
    ".pth": _torch,
    ".pt": _torch,
    ".bin": _torch,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".npz": _npz,
}


def read(path: StrPath, *, key: str | None = None) -> Arrays:
    """Reads the arrays of a file by name, as NumPy arrays of the types that the file has.

    What ``torch.save`` wrote is read with ``weights_only=True`` where torch is installed, and by a reader that knows
    nothing but state dicts where it is not: neither runs what the file asks for. The groups of an HDF5 file are parts
    of its names: ``block1/conv1/kernel``.

    Args:
      path: a ``.safetensors``, ``.pth``, ``.pt``, ``.bin``, ``.h5``, ``.hdf5`` or ``.npz`` file.
      key: where a torch checkpoint has several mappings of tensors, the name of the one to read. One alone is found
        without it, ``{"state_dict": {...}, "epoch": 90}``.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: it is cut short, damaged, lies about itself, wants to run code, holds arrays far larger than itself,
        or is of another kind.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", weight=np.ones(3))
    ...     read(f"{folder}/a.npz")
    {'weight': array([1., 1., 1.])}
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise WeightsError(f"{path}: the name must end in one of {', '.join(_READERS)}")
    if key is not None:
        if reader is not _torch:
            raise WeightsError(f"{path}: key is for checkpoints of torch, got {key!r}")
        reader = functools.partial(_torch, key=key)
    with path.open("rb"):
        pass
    with refusing(path):
        return {name: as_numbers(name, array) for name, array in reader(path).items()}


__all__ = ["read", "write"]
