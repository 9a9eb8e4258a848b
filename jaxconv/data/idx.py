"""The idx format of MNIST and similar data sets: a magic number, the dimensions, the elements, all big-endian."""

import gzip
import math
import os
from pathlib import Path

import numpy as np

from jaxconv.data.dataset import DataError
from jaxconv.data.files import GZIP_FAULTS, GZIP_MAGIC, Readable, StrPath, gzip_fault, read_up_to
from jaxconv.geometry import as_int

ELEMENT_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

# Deflate expands one byte to at most 1,032 bytes (https://zlib.net/zlib_tech.html).
GZIP_LARGEST_RATIO = 1032


def read_idx(path: StrPath, *, most_bytes: int = 1 << 30) -> np.ndarray:
    """Reads an idx file, gzipped or plain; the content, not the name, decides which.

    The declared size is compared with the file's size, and for a gzipped file with ``most_bytes``, before memory is
    allocated. At most the declared size is decompressed.

    Args:
      path: the file.
      most_bytes: the largest size of a gzipped file's elements, in bytes. The default is 1 GiB, twenty times MNIST; a
        gzipped file of 1 MB may contain that many equal elements.

    Returns:
      An array of the declared dimensions, in native byte order: uint8, int8, int16, int32, float32 or float64.

    Raises:
      DataError: the magic number, the element type or the dimensions are wrong, bytes are missing or left over, or the
        gzip stream is truncated, damaged or larger than ``most_bytes``.
      ArgumentError: ``most_bytes`` is not a positive integer.
      OSError: the file cannot be opened.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "labels-idx1-ubyte")
    ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 5, 0, 4]))
    ...     read_idx(path)
    array([5, 0, 4], dtype=uint8)

    References:
      Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits, "File formats".
    """
    path = Path(path)
    most_bytes = as_int(most_bytes, "most_bytes", least=1)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(2)
        file.seek(0)
        if magic != GZIP_MAGIC:
            return _read(file, path, size, None)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read(stream, path, size * GZIP_LARGEST_RATIO, most_bytes)
        except GZIP_FAULTS as error:
            raise DataError(f"{path}: {gzip_fault(error)}") from error


def _read(stream: Readable, path: Path, most: int, wanted: int | None) -> np.ndarray:
    """Reads a stream of at most ``most`` bytes, and raises where the elements have more than ``wanted`` bytes."""
    magic = read_up_to(stream, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise DataError(f"{path}: not an idx file: it starts with {magic.hex(' ') or 'nothing'}, expected 00 00")
    code, rank = magic[2], magic[3]
    if code not in ELEMENT_TYPES:
        known = ", ".join(f"0x{c:02x}" for c in ELEMENT_TYPES)
        raise DataError(f"{path}: idx element type 0x{code:02x} is unknown, expected one of {known}")
    if rank == 0:
        raise DataError(f"{path}: the idx header declares no dimensions")
    header = read_up_to(stream, 4 * rank)
    if len(header) < 4 * rank:
        raise DataError(
            f"{path}: the idx header is truncated: {rank} dimensions take {4 * rank} bytes, {len(header)} left"
        )
    dims = tuple(int(d) for d in np.frombuffer(header, ">u4"))
    dtype = np.dtype(ELEMENT_TYPES[code])
    # Python's integers do not overflow.
    declared = math.prod(dims) * dtype.itemsize
    shape = f"{'x'.join(map(str, dims))} {dtype.newbyteorder('=').name}"
    left = most - len(magic) - len(header)
    if declared > left:
        raise DataError(f"{path}: truncated: {shape} takes {declared:,} bytes, at most {left:,} are there")
    if wanted is not None and declared > wanted:
        raise DataError(
            f"{path}: {shape} takes {declared:,} bytes, more than most_bytes={wanted:,}, the most that is read from a "
            "gzipped file: pass a larger most_bytes, or unpack the file"
        )
    content = read_up_to(stream, declared + 1)
    if len(content) < declared:
        raise DataError(f"{path}: truncated: {shape} takes {declared:,} bytes, {len(content):,} are there")
    if len(content) > declared:
        raise DataError(f"{path}: trailing bytes: {shape} takes {declared:,} bytes, more are there")
    # NumPy raises for more than 64 dimensions; the file really contains the elements here.
    try:
        return np.frombuffer(content, dtype).reshape(dims).astype(dtype.newbyteorder("="), copy=False)
    except ValueError as error:
        raise DataError(f"{path}: {rank} dimensions are too many for NumPy: {error}") from error
