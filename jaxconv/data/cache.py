"""A file of decoded images, in which random windows can be read without decoding: written once, mapped into memory."""

import contextlib
import io
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data.dataset import DataError
from jaxconv.data.files import StrPath
from jaxconv.data.folder import ImageFolder
from jaxconv.data.loader import BROKEN, threaded
from jaxconv.data.windows import ArrayImage, Crop, Random, Window, cropped, lazy_image
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int

MAGIC = b"jaxconv images 1"
# The index's first byte, size and CRC-32, then MAGIC again.
_FOOTER = struct.Struct("<QQI16s")


class ImageCache:
    """The images of an `ImageFolder`, decoded in a file that is mapped into memory; see `image_cache`.

    A cache is a random-access data set as the folder is. The system reads the parts of the file that are used, and
    drops them when memory is needed, so that the file can be larger than memory.

    Attributes:
      source: the images' folder, without those that were skipped.
      skipped: the error of each image that could not be read, by its name.
    """

    def __init__(self, source: ImageFolder, path: Path, index: dict[str, np.ndarray], skipped: dict[str, str]) -> None:
        self.source, self.path, self.skipped = source, path, skipped
        self._start, self._shape, self._sum = index["start"], index["shape"], index["sum"]
        self._pixels = np.asarray(np.memmap(path, np.uint8, "r"))
        self._verified = np.zeros(len(source), bool)

    @property
    def targets(self) -> Any:
        """The targets of the images."""
        return self.source.targets

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        return self.load(index)

    def __repr__(self) -> str:
        return f"ImageCache({str(self.path)!r}: {len(self)} images, {self._pixels.size / 2**20:.0f} MiB)"

    def load(self, index: int, crop: Crop | None = None, random: Random | None = None) -> tuple[np.ndarray, Any]:
        """Returns the window of an image that ``crop`` chooses, or the whole image, and its target.

        Raises:
          DataError: the image's pixels are not those that were written. They are verified when it is first read.
        """
        index = range(len(self))[index]
        start, (height, width) = int(self._start[index]), self._shape[index].tolist()
        pixels = self._pixels[start : start + height * width * 3]
        if not self._verified[index]:
            if zlib.crc32(pixels.data) != self._sum[index]:
                raise DataError(
                    f"{self.path} is damaged: the pixels of {self.name(index)} are altered; delete the file"
                )
            self._verified[index] = True
        image = ArrayImage(pixels.reshape(height, width, 3))
        return cropped(image, crop, random or (lambda: 0.0)), self.source.target(index)

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return self.source.name(index)

    def fingerprint(self) -> str:
        """Returns a hash by which a checkpoint recognizes the data set."""
        return f"{self.source.fingerprint()} in {zlib.crc32(self._sum.tobytes()):08x}"


def image_cache(
    source: ImageFolder, path: StrPath, *, size: int = 256, broken: str = "raise", workers: int = 2
) -> ImageCache:
    """Returns the images of a data set from a file of decoded pixels, which is written where it does not exist.

    Crops are then made without decoding. The file has three bytes a pixel: 262 KB for an image of 256 x 341.

    The file is written under a temporary name and renamed when it is complete, so that no run reads an incomplete file.
    A file that is truncated, older than the images, or made from other images, targets or settings is refused.

    Args:
      source: an `ImageFolder`.
      path: the file, in a folder that exists.
      size: images are made smaller so that their shorter side has at most this many pixels.
      broken: "raise" an error for an image that cannot be read, or "skip" the image: then the cache lacks the image,
        and `ImageCache.skipped` has the error.
      workers: the number of threads that decode.

    Raises:
      DataError: an image cannot be read; ``path`` is damaged, or another file, or stale.
      ArgumentError: an argument is out of range.
      OSError: the file cannot be written.

    >>> import tempfile
    >>> from PIL import Image
    >>> from jaxconv.data import image_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         Path(folder, name).mkdir()
    ...         Image.new("RGB", (80, 60)).save(Path(folder, name, "1.png"))
    ...     cache = image_cache(image_folder(folder), Path(folder, "pixels"), size=30)
    ...     cache[0][0].shape, len(cache)
    ((30, 40, 3), 2)
    """
    as_int(size, "size", least=1)
    if broken not in BROKEN:
        raise ArgumentError(f"broken must be one of {', '.join(BROKEN)}, got {broken!r}")
    path = Path(path)
    wanted = {
        "images": len(source),
        "fingerprint": source.fingerprint(),
        "files": f"{zlib.crc32(source.versions().tobytes()):08x}",
        "size": size,
        "broken": broken,
    }
    if not path.exists():
        _write(source, path, wanted, as_int(workers, "workers", least=1))
    index, about = _read_index(path)
    found = {name: about.get(name) for name in wanted}
    if found != wanted:
        name = next(name for name in wanted if found[name] != wanted[name])
        reason = {
            "files": "the images' files have changed since it was written",
            "fingerprint": "it is of images of other names or targets",
        }.get(name, f"its {name} is {found[name]!r} instead of {wanted[name]!r}")
        raise DataError(f"{path} is stale: {reason}; delete it, or give another path")
    kept = source if len(index["kept"]) == len(source) else source.take(index["kept"])
    return ImageCache(kept, path, index, about["skipped"])


class _Decoded:
    """Decodes images, in any order and in any thread; those that cannot be read are their error."""

    def __init__(self, source: ImageFolder, size: int, skip: bool) -> None:
        self.source, self.size, self.skip = source, size, skip

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray | DataError:
        try:
            return _smaller(self.source, index, self.size)
        except DataError as error:
            if not self.skip:
                raise
            return error


def _smaller(source: ImageFolder, index: int, size: int) -> np.ndarray:
    image = lazy_image(source.encoded(index), source.name(index))
    scale = min(1.0, size / min(image.height, image.width))
    shape = max(1, round(image.height * scale)), max(1, round(image.width * scale))
    return image.window(Window(0, 0, image.height, image.width), shape)


def _write(source: ImageFolder, path: Path, about: dict[str, Any], workers: int) -> None:
    """Writes a cache under a temporary name, which is renamed when it is complete."""
    # Not by tempfile, whose files only this user may read.
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        with temporary.open("xb") as file:
            file.write(MAGIC)
            start: list[int] = []
            shape: list[tuple[int, ...]] = []
            sums: list[int] = []
            skipped: dict[int, str] = {}
            with threaded(_Decoded(source, about["size"], about["broken"] == "skip"), workers, 4 * workers) as decoded:
                for number, pixels in enumerate(decoded):
                    if isinstance(pixels, DataError):
                        skipped[number] = str(pixels)
                        continue
                    pixels = np.ascontiguousarray(pixels)
                    start.append(file.tell())
                    shape.append(pixels.shape[:2])
                    sums.append(zlib.crc32(pixels.data))
                    file.write(pixels.data)
            if not start:
                raise DataError(f"source must have at least one readable image, got {len(skipped)} that are broken")
            index = io.BytesIO()
            np.savez(
                index,
                kept=np.array([i for i in range(len(source)) if i not in skipped]),
                start=np.array(start),
                shape=np.array(shape),
                sum=np.array(sums, np.uint32),
                about=np.array(json.dumps(about | {"skipped": {source.name(i): skipped[i] for i in skipped}})),
            )
            content, at = index.getvalue(), file.tell()
            file.write(content + _FOOTER.pack(at, len(content), zlib.crc32(content), MAGIC))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _read_index(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the arrays at the end of a cache, and what it was made of."""
    with open(path, "rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{path} must be a cache of images, or not exist, got another file")
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _FOOTER.size))
        footer = file.read()
        at, length, checksum, magic = _FOOTER.unpack(footer) if len(footer) == _FOOTER.size else (0, 0, 0, b"")
        if magic != MAGIC or at + length + _FOOTER.size != size:
            raise DataError(f"{path} is damaged or truncated: its end mark is missing; delete it")
        file.seek(at)
        content = file.read(length)
    if zlib.crc32(content) != checksum:
        raise DataError(f"{path} is damaged: the checksum of its index is wrong; delete it")
    with np.load(io.BytesIO(content)) as arrays:
        index = dict(arrays)
    return index, json.loads(str(index.pop("about")))
