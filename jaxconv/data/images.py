"""Reading image files into arrays, with limits that are checked before decoding."""

import io
import os
import re
import stat
import unicodedata
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxconv.data.dataset import DataError
from jaxconv.data.files import StrPath
from jaxconv.extras import need
from jaxconv.leftovers import is_leftover

# Pillow's names of the supported formats, and their file endings.
FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)

LARGEST_FILE = 1 << 30
LARGEST_SIDE = 16_384
# Pillow's limit, above which Pillow refuses an image as an attack.
LARGEST_IMAGE = 89_478_485
# The limit for a JPEG's pixels times scans: 48 scans of the largest image. Encoders write 10, or 18 for CMYK. An image
# at the limit decodes in a few seconds.
LARGEST_SCANS = 1 << 32

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
# A JPEG's markers, except those inside a scan (stuffed zeros and restarts).
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_IMAGE, _END_OF_IMAGE, _START_OF_SCAN = 0xD8, 0xD9, 0xDA
JPEG_START = b"\xff\xd8"


def read_image(path: StrPath) -> np.ndarray:
    """Returns the image in a file as uint8 RGB, rotated as its EXIF data require.

    Reads PNG, JPEG, GIF, BMP, WebP, TIFF and PPM or PGM; the content, not the name, decides which. Gray is repeated to
    three channels, a palette is applied, CMYK is converted without a color profile, transparency is dropped, and only
    the first of several frames or pages is read.

    Images of 16 bits a channel keep the upper eight bits, ``value >> 8``, like libpng, OpenCV and (in color) Pillow.
    An image that uses only a part of 0 ... 65,535 is dark: scale such images yourself.

    A PNG's checksums are verified. The other formats have no checksums, so that altered bytes may change pixels.
    Truncated files are refused in all formats.

    Args:
      path: a file of at most 1 GiB.

    Returns:
      An array of shape ``(height, width, 3)``.

    Raises:
      DataError: the path is a folder; the file is empty, damaged, truncated or has another format; the image has more
        than 16,384 pixels along a side or 89,478,485 in total, or a JPEG has more scans than any encoder writes; pixels
        are floats or 32-bit integers, whose range is unknown.
      OSError: the file does not exist, or cannot be opened.
      ModuleNotFoundError: Pillow, of the extra ``data``, is not installed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "red.ppm")
    ...     _ = path.write_bytes(b"P6 1 1 255 " + bytes([255, 0, 0]))
    ...     read_image(path)
    array([[[255,   0,   0]]], dtype=uint8)
    """
    return decode_image(file_content(Path(path)), path)


def decode_image(content: bytes, name: StrPath) -> np.ndarray:
    """Returns the image in the bytes of a file, as `read_image` does; ``name`` is the file's name in errors."""
    image = open_image(content, name)
    # Decoders raise any exception for a damaged file.
    try:
        return _pixels(image, _pillow())
    except Exception as error:
        _refuse(name, error)


def open_image(content: bytes, name: StrPath) -> Any:
    """Returns the Pillow image in the bytes of a file, before its pixels are decoded, and after all checks."""
    pil = _pillow()
    if not content:
        raise DataError(f"{name} must be an image file, got an empty file")
    try:
        image = pil.Image.open(io.BytesIO(content), formats=list(FORMATS))
    except (pil.Image.DecompressionBombWarning, pil.Image.DecompressionBombError) as error:
        raise DataError(f"{name} must have at most {LARGEST_IMAGE:,} pixels in total: {error}") from error
    except pil.UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image of the formats {', '.join(FORMATS)}") from error
    except Exception as error:
        _refuse(name, error)
    check_size(name, *image.size)
    if image.mode not in _EIGHT_BITS and not _is_gray16(image):
        raise DataError(
            f"{name} must have unsigned integers of at most 16 bits a channel, got Pillow's mode {image.mode!r}: the "
            "range of the values is unknown; read the file with np.asarray(PIL.Image.open(path)) and scale it"
        )
    try:
        if image.format == "PNG":
            _check_png(content)
        elif content.startswith(JPEG_START):
            _check_scans(name, content)
    except DataError:
        raise
    except Exception as error:
        _refuse(name, error)
    return image


def images_by_class(folder: StrPath, endings: Collection[str] = ENDINGS) -> dict[str, list[Path]]:
    """Returns the images in each subfolder of a folder, and in folders inside it, by the subfolder's name.

    Classes and files are sorted by the code points of their names in Unicode's composed form (NFC), files by their path
    inside the class. The order is the same on all systems and in all languages. System files
    (`jaxconv.leftovers.is_leftover`), files without one of the endings, and subfolders without images are ignored.

    Raises:
      OSError: a folder cannot be listed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog/1.png", "Cat/1.png", "Cat/.DS_Store", ".trash/1.png"):
    ...         Path(folder, name).parent.mkdir(exist_ok=True)
    ...         Path(folder, name).touch()
    ...     {name: [path.name for path in paths] for name, paths in images_by_class(folder).items()}
    {'Cat': ['1.png'], 'dog': ['1.png']}
    """
    found = {}
    for sub in sorted(
        (sub for sub in Path(folder).iterdir() if not is_leftover(sub.name) and sub.is_dir()), key=_order
    ):
        if paths := _files_below(sub, endings):
            found[unicodedata.normalize("NFC", sub.name)] = paths
    return found


def _files_below(folder: Path, endings: Collection[str]) -> list[Path]:
    found = []
    for here, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not is_leftover(name)]
        found += [Path(here, name) for name in names if not is_leftover(name) and Path(name).suffix.lower() in endings]
    return sorted(found, key=_order)


def _order(path: Path) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFC", part) for part in path.parts)


def _raise(error: OSError) -> NoReturn:
    raise error


def _pillow() -> Any:
    for name in ("Image", "ImageOps"):
        need(f"PIL.{name}", "read_image", "data")
    return need("PIL", "read_image", "data")


def _refuse(path: StrPath, error: Exception) -> NoReturn:
    reason = " ".join(str(error).split())
    raise DataError(f"{path} is damaged or truncated: {reason or type(error).__name__}") from error


def file_content(path: Path) -> bytes:
    """Returns the bytes of a file of at most 1 GiB; checks and decoder use the same bytes."""
    check_file(path, "an image")
    return path.read_bytes()


def check_file(path: Path, what: str) -> None:
    """Raises DataError unless the path is a regular file of at most 1 GiB; ``what`` says what it must be."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} must be {what} file, got {'a folder' if path.is_dir() else 'a pipe or device'}")
    if status.st_size > LARGEST_FILE:
        raise DataError(f"{path} must have at most {LARGEST_FILE:,} bytes, got {status.st_size:,}")


def check_size(path: StrPath, width: int, height: int) -> None:
    """Raises DataError where an image or a frame has too many pixels."""
    if max(width, height) > LARGEST_SIDE:
        raise DataError(f"{path} must have at most {LARGEST_SIDE:,} pixels along each side, got {width:,} x {height:,}")
    if width * height > LARGEST_IMAGE:
        raise DataError(f"{path} must have at most {LARGEST_IMAGE:,} pixels in total, got {width:,} x {height:,}")


def _check_png(content: bytes) -> None:
    """Raises ValueError unless a PNG is complete and the checksums of all its chunks are correct.

    Pillow verifies the checksums of some chunks only, and not of the pixels' chunks.
    """
    at, chunk = 8, b""
    while chunk != b"IEND":
        length, chunk = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 8 + length
        if end + 4 > len(content):
            raise ValueError(f"a chunk of {length:,} bytes at byte {at:,} goes past the end of the file")
        if zlib.crc32(memoryview(content)[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ValueError(f"wrong checksum of the chunk {chunk!r} at byte {at:,}")
        at = end + 4


def _check_scans(path: StrPath, content: bytes) -> None:
    """Raises DataError where a JPEG has too many pixels or scans, according to its markers.

    A scan of a progressive JPEG visits all blocks of the image, but may have only a few bytes in the file.
    """
    scans, pixels, at = 0, 0, 2
    while found := _MARKER.search(content, at):
        marker, at = content[found.end() - 1], found.end()
        if marker == _END_OF_IMAGE:
            break
        if marker == _START_OF_IMAGE:
            continue
        if marker in _START_OF_FRAME:
            height, width = (int.from_bytes(content[at + i : at + i + 2], "big") for i in (3, 5))
            check_size(path, width, height)
            pixels = max(pixels, width * height)
        scans += marker == _START_OF_SCAN
        at += max(2, int.from_bytes(content[at : at + 2], "big"))
    if scans * pixels > LARGEST_SCANS:
        raise DataError(
            f"{path} must have at most {LARGEST_SCANS // pixels:,} scans for its {pixels:,} pixels, got {scans:,}: "
            "no encoder writes more"
        )


def _is_gray16(image: Any) -> bool:
    # Pillow reads 16-bit PGMs, and in some versions 16-bit PNGs, as 32-bit integers from 0 to 65,535.
    return image.mode in _SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _pixels(image: Any, pil: Any) -> np.ndarray:
    gray16, tags = _is_gray16(image), getattr(image, "tag_v2", {})
    image = pil.ImageOps.exif_transpose(image)
    if gray16:
        # TIFF may have 12 bits, and white as zero, which Pillow does not convert.
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        gray = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        gray = 255 - gray if tags.get(_PHOTOMETRIC) == 0 else gray
        return np.repeat(gray[..., None], 3, axis=-1)
    # A direct conversion to RGB warns about palettes with transparent colors.
    return np.asarray((image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB"))
