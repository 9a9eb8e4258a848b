"""Reads files of named arrays in the formats that weights come in.

The contents of a file are checked before they are used, and no code in a file is run.
"""

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path as FilePath

import numpy as np

from jaxconv.weights import pickled
from jaxconv.weights.arrays import Arrays, as_numbers
from jaxconv.weights.errors import StrPath, WeightsError, refusing
from jaxconv.weights.formats import format_of
from jaxconv.weights.hdf5 import read_hdf5, read_keras
from jaxconv.weights.reading import check_size
from jaxconv.weights.safetensors import FORMAT, read_header, read_safetensors
from jaxconv.weights.state_dict import state_dict
from jaxconv.weights.tfjs import read_tfjs


def check_foreign(path: StrPath) -> None:
    """Raises if `jaxconv.weights.save` wrote the file: its names and layouts are jaxconv's."""
    if format_of(FilePath(path)) == "safetensors" and read_header(path).metadata.get("format") == FORMAT:
        raise WeightsError(f"{path}: jaxconv.weights.save wrote it: use jaxconv.weights.load")


def _torch(path: FilePath, key: str | None = None) -> Arrays:
    arrays = pickled.read(path, functools.partial(state_dict, key=key))
    # With a stride of 0 one element makes an array of any size.
    check_size(path, sum(array.nbytes for array in arrays.values()))
    return arrays


def _npz(path: FilePath) -> Arrays:
    with path.open("rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise WeightsError("it is a .npy file: one array, without a name")
        with zipfile.ZipFile(stream) as archive:
            check_size(path, sum(info.file_size for info in archive.infolist()))
        return {name: file[name] for name in file.files}


_READERS: dict[str, Callable[..., Arrays]] = {
    "safetensors": read_safetensors,
    "torch": _torch,
    "hdf5": read_hdf5,
    "keras": read_keras,
    "npz": _npz,
    "tfjs": read_tfjs,
}


def read(path: StrPath, *, key: str | None = None) -> Arrays:
    """Reads the arrays of a file by name, as NumPy arrays of the types in the file.

    The file's first bytes determine the format, so the name may be any: safetensors, files of ``torch.save`` (``.pth``,
    ``.pt``, ``.pth.tar``, ``.ckpt``, ``.bin`` and others), HDF5, ``.keras``, ``.npz``, and the JSON files of
    TensorFlow.js, ``model.json`` or ``*-weights_manifest.json``, whose arrays are in binary files beside them. The
    state dict of a torch checkpoint is read without torch, and nothing that the file names is imported or run. Other
    contents, such as an optimizer's state or a program's arguments, are ignored. The groups of an HDF5 file are parts
    of the names: ``block1/conv1/kernel``. Quantized arrays of TensorFlow.js are returned as float32.

    Args:
      path: the file.
      key: the name of the mapping to read, if a torch checkpoint has several mappings of tensors. A single mapping is
        found without it: ``{"state_dict": {...}, "epoch": 90}``.

    Raises:
      OSError: the file cannot be opened.
      WeightsError: the file is truncated, damaged, inconsistent or of another format, has a tensor that only the code
        of another library can make, or arrays far larger than the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", weight=np.ones(3))
    ...     read(f"{folder}/a.npz")
    {'weight': array([1., 1., 1.])}
    """
    path = FilePath(path)
    with refusing(path):
        name = format_of(path)
        if key is not None and name != "torch":
            raise WeightsError(f"key is for checkpoints of torch, got {key!r}")
        options = {} if key is None else {"key": key}
        return {name: as_numbers(name, array) for name, array in _READERS[name](path, **options).items()}


__all__ = ["read"]
