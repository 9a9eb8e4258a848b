"""CIFAR-10, from either of the two versions of its authors."""

import gzip
import io
import pickle
import tarfile
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np

from jaxconv.data.dataset import DataError, Dataset, check_labels
from jaxconv.data.files import (
    CHUNK,
    GZIP_FAULTS,
    Missing,
    StrPath,
    cache_folder,
    fetch,
    gzip_fault,
    locations,
    read_up_to,
    search,
)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
VERSIONS = {"binary": ".bin", "python": ""}
FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")

IMAGE_BYTES = 3 * 32 * 32
RECORD_BYTES = 1 + IMAGE_BYTES
# The largest batch of either version has 31 MB.
LARGEST_BATCH = 64 << 20

CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
# The authors publish the MD5 c32a1d4ab5d03f1284b67883e8d87530; TensorFlow Datasets has the same SHA-256.
CIFAR_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
CIFAR_VARIABLE = "JAXCONV_CIFAR10"


def cifar10(folder: StrPath | None = None, *, download: bool = False) -> Dataset:
    """Returns CIFAR-10: 50,000 training and 10,000 test images of ten classes.

    Searches ``folder``; if that is None, the folder in the environment variable JAXCONV_CIFAR10; if that is not set,
    the cache of downloads. Accepts the binary version and the python version, as the six batch files (also in the
    unpacked folder cifar-10-batches-bin or cifar-10-batches-py) or as their tar.gz. An archive is read without
    unpacking. A file of the python version is a pickle, which is read without running code.

    The archives have gzip's checksum. The batch files have no checksum: sizes, counts and labels are checked, but not
    pixels. The six batches must have equal numbers of images; the original has 10,000 in each.

    Args:
      folder: the folder of the files, or the path of the tar.gz.
      download: whether to download the binary version, 170 MB, from its authors' site, verified by its SHA-256, to
        ``folder``, or else the folder of the environment variable, or else the cache.

    Returns:
      A `Dataset` with images `(N, 32, 32, 3)`, red, green, blue.

    Raises:
      DataError: the files are not found, a file is truncated, damaged or has the wrong format, or the download fails.
      ModuleNotFoundError: ``download`` without the package pooch, of the extra ``data``.

    >>> cifar10("cifar-10-binary.tar.gz")  # doctest: +SKIP
    Dataset('cifar10': 50000 train, 10000 test, 32x32x3, 10 classes)

    References:
      A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
      https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    candidates = locations(folder, CIFAR_VARIABLE, cache_folder("cifar10"))
    if download and all(isinstance(_find(location.path), Missing) for location in candidates):
        fetch(CIFAR_URL, CIFAR_SHA256, candidates[-1].path)
    advice = (
        f"Provide it in one of three ways: pass the folder of its six batch files, or its tar.gz, as the argument "
        f"folder; or name it by {CIFAR_VARIABLE}; or pass download=True."
    )
    source = search(candidates, _find, "CIFAR-10", advice)
    batches = _batches(source)
    images, labels = zip(*map(_decode, batches), strict=True)
    for batch, held in zip(batches, labels, strict=True):
        if len(held) != len(labels[0]):
            # A file that was truncated between two records is valid on its own.
            raise DataError(f"{batch.path}: {len(held)} images, but {batches[0].path} has {len(labels[0])}")
    return Dataset("cifar10", np.concatenate(images[:5]), np.concatenate(labels[:5]), images[5], labels[5], CLASSES)


class Batch(NamedTuple):
    """The bytes of one of the six files."""

    path: str
    version: str
    content: bytes


class Source(NamedTuple):
    """The files to read: "archive" and its path, or a version and its six files."""

    format: str
    files: list[Path]


def _find(path: Path) -> Source | Missing:
    if path.is_file():
        return Source("archive", [path])
    incomplete = ""
    for sub in FOLDERS:
        for version, suffix in VERSIONS.items():
            files = [path / sub / f"{name}{suffix}" for name in BATCHES]
            absent = [file.name for file in files if not file.is_file()]
            if not absent:
                return Source(version, files)
            if len(absent) < len(files):
                incomplete = f"has some batches of the {version} version but no {', no '.join(absent)}"
    archive = next((path / name for name in ARCHIVES if (path / name).is_file()), None)
    if archive:
        return Source("archive", [archive])
    return Missing(incomplete or f"has neither the six batch files nor {' nor '.join(ARCHIVES)}")


def _batches(source: Source) -> list[Batch]:
    if source.format == "archive":
        return _read_archive(source.files[0])
    batches = []
    for file in source.files:
        with file.open("rb") as stream:
            content = read_up_to(stream, LARGEST_BATCH + 1)
        if len(content) > LARGEST_BATCH:
            raise DataError(f"{file}: more than {LARGEST_BATCH:,} bytes, too large for a batch of CIFAR-10")
        batches.append(Batch(str(file), source.format, bytes(content)))
    return batches


def _read_archive(path: Path) -> list[Batch]:
    """Reads the six batches from a tar.gz, by name, in one pass; nothing is written to disk."""
    wanted = {f"{name}{suffix}": version for version, suffix in VERSIONS.items() for name in BATCHES}
    found: dict[str, Batch] = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
                for member in archive:
                    name = member.name.rsplit("/", 1)[-1]
                    if name not in wanted:
                        continue
                    location = f"{path}: {member.name}"
                    if not member.isfile():
                        raise DataError(f"{location}: expected a regular file, got tar type {member.type!r}")
                    if name in found:
                        raise DataError(f"{location}: the archive has two files of this name")
                    if member.size > LARGEST_BATCH:
                        raise DataError(
                            f"{location}: declares {member.size:,} bytes, too large for a batch of CIFAR-10"
                        )
                    # A regular member always opens; tarfile raises ReadError where it is truncated.
                    content = cast(IO[bytes], archive.extractfile(member)).read()
                    found[name] = Batch(location, wanted[name], content)
            # gzip's checksum is at the end of the stream, and tarfile stops before it.
            while stream.read(CHUNK):
                pass
    except GZIP_FAULTS as error:
        raise DataError(f"{path}: {gzip_fault(error)}") from error
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a readable tar archive: {error}") from error
    for suffix in VERSIONS.values():
        names = [f"{name}{suffix}" for name in BATCHES]
        if all(name in found for name in names):
            return [found[name] for name in names]
    absent = [f"{name}[.bin]" for name in BATCHES if name not in found and f"{name}.bin" not in found]
    raise DataError(f"{path}: not an archive of CIFAR-10: it has no {', no '.join(absent)}")


def _decode(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Returns images `(N, 32, 32, 3)` uint8 and labels `(N,)` int32."""
    pixels, labels = (_decode_binary if batch.version == "binary" else _decode_python)(batch)
    check_labels(labels, len(CLASSES), batch.path)
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels


def _decode_binary(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Decodes records of a label and 3,072 bytes: the red, green and blue planes."""
    size = len(batch.content)
    if size == 0 or size % RECORD_BYTES:
        raise DataError(
            f"{batch.path}: expected whole records of {RECORD_BYTES} bytes, got {size:,} bytes, "
            f"{size % RECORD_BYTES} after the last record"
        )
    records = np.frombuffer(batch.content, np.uint8).reshape(-1, RECORD_BYTES)
    return records[:, 1:], records[:, 0].astype(np.int32)


def _decode_python(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a dict with the planes as rows of an array in `b"data"`, and a list of labels in `b"labels"`."""
    content = _unpickle(batch.content, batch.path)
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise DataError(f'{batch.path}: expected a pickled dict with the keys b"data" and b"labels"')
    pixels, labels = content[b"data"], content[b"labels"]
    if not isinstance(pixels, _PickledArray):
        raise DataError(f'{batch.path}: b"data" must be a NumPy array, got {type(pixels).__name__}')
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f'{batch.path}: b"labels" must be a list of integers')
    rows = pixels.decode(batch.path)
    if len(rows) != len(labels):
        raise DataError(f"{batch.path}: {len(rows)} images but {len(labels)} labels")
    if not labels:
        raise DataError(f"{batch.path}: has no images")
    wrong = next((i for i, label in enumerate(labels) if not 0 <= label < len(CLASSES)), None)
    if wrong is not None:
        raise DataError(f"{batch.path}: label {wrong} is {labels[wrong]}, expected 0 to {len(CLASSES) - 1}")
    return rows, np.array(labels, np.int32)


class _Pickled:
    """The description of an object in a pickle: constructor arguments and state. The object is not constructed."""

    def __init__(self, *args: Any):
        self.args = args
        self.state: Any = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _PickledArray(_Pickled):
    def decode(self, path: str) -> np.ndarray:
        """Returns rows of 3,072 bytes; the state is (version, shape, element type, Fortran order, bytes)."""
        match self.state:
            case (_, (int(count), int(width)), _Pickled(args=(element, *_)), order, bytes(raw)):
                pass
            case _:
                raise DataError(f'{path}: b"data" is not a pickled two-dimensional array')
        name = element.decode("latin1") if isinstance(element, bytes) else str(element)
        if width != IMAGE_BYTES or name not in ("u1", "|u1"):
            raise DataError(f'{path}: b"data" must be (N, {IMAGE_BYTES}) u1, got ({count}, {width}) {name}')
        if len(raw) != count * width:
            raise DataError(f'{path}: b"data" must have {count} images of {width} bytes, got {len(raw):,} bytes')
        return np.frombuffer(raw, np.uint8).reshape((count, width), order="F" if order else "C")


class _PickledBytes(_Pickled):
    """Python 3's pickle of bytes for Python 2: a text to encode as Latin-1."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
        return text.encode(encoding)


# All names that an array needs, under NumPy 1 and 2. They are classes with __setstate__, so that a pickle cannot set
# attributes either.
STAND_INS: dict[tuple[str, str], type] = {
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _Pickled,
    ("numpy", "dtype"): _Pickled,
    ("_codecs", "encode"): _PickledBytes,
}


# Python's unpickler allocates memory in proportion to the file, except for one opcode, which is removed. The C
# unpickler allocates any size that the file declares.
class _Reader(pickle._Unpickler):
    dispatch = {k: v for k, v in pickle._Unpickler.dispatch.items() if k != pickle.BYTEARRAY8[0]}  # noqa: RUF012

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no NumPy array needs; no code was run")
        return STAND_INS[module, name]


def _unpickle(content: bytes, path: str) -> Any:
    try:
        # The original was written by Python 2, whose strings are bytes.
        return _Reader(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: refused: {error}") from error
    except Exception as error:
        # A damaged pickle can raise any exception, since the unpickler does not check its stack.
        raise DataError(f"{path}: not a readable pickle: {type(error).__name__} {error}") from error
