"""The format of a file of weights, by its first bytes, since ``torch.save`` accepts any file name."""

import zipfile
from pathlib import Path

from jaxconv.weights.errors import WeightsError
from jaxconv.weights.pickled import LEGACY_START, ZIP_START

# The format by the ending of the name, for files whose first bytes are unknown. The reader then finds the fault.
ENDINGS = {
    ".safetensors": "safetensors",
    ".pth": "torch",
    ".pt": "torch",
    ".bin": "torch",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".keras": "keras",
    ".npz": "npz",
    ".json": "tfjs",
}
_HDF5_START = b"\x89HDF\r\n\x1a\n"
# Files that are often downloaded in place of weights: the position of their first bytes, the bytes, and what to do.
_OTHERS = (
    (0, b"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (0, b"BZh", "it is compressed by bzip2: unpack it first"),
    (0, b"\xfd7zXZ\0", "it is compressed by xz: unpack it first"),
    (257, b"ustar", "it is a tar archive: unpack it first"),
    (0, b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself: run git lfs pull"),
    (0, b"<", "it is a page of HTML or XML, not the file that was to be downloaded"),
    (0, b"\x80", "it is a pickle, but no file that torch.save writes: it is not read, a pickle may run code"),
)


def _zip_format(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:
        # Damaged: the reader reports how.
        return ENDINGS.get(path.suffix.lower(), "torch")
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    if "model.weights.h5" in names:
        return "keras"
    return "npz" if any(name.endswith(".npy") for name in names) else ENDINGS.get(path.suffix.lower(), "")


def format_of(path: Path) -> str:
    """Returns the format of a file: "safetensors", "torch", "hdf5", "keras", "npz" or "tfjs".

    Raises:
      OSError: the file cannot be opened.
      WeightsError: neither its first bytes nor the ending of its name are those of a known format.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(ZIP_START):
        found = _zip_format(path)
    elif start.startswith(LEGACY_START):
        found = "torch"
    elif any(start[at:].startswith(_HDF5_START) for at in (0, 512, 1024, 2048)):
        found = "hdf5"
    elif start.lstrip()[:1] in (b"{", b"[") and b"\0" not in start[:8]:
        # The length with which safetensors begins has zeros.
        found = "tfjs"
    elif start[8:9] == b"{":
        found = "safetensors"
    else:
        for at, bytes_, what in _OTHERS:
            if start[at:].startswith(bytes_):
                raise WeightsError(what)
        found = ENDINGS.get(path.suffix.lower(), "")
    if not found:
        raise WeightsError("its format is not safetensors, torch.save's, HDF5, .keras, .npz or TensorFlow.js's")
    return found
