"""Windows of images: the random or central part of an image that a network sees, chosen and resized at load time."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxconv.data.images import JPEG_START, decode_image, open_image
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.extras import need
from jaxconv.geometry import as_int

# The names of their kernels in the package that resizes. Catmull and Rom's is what others call bicubic, with a = -1/2.
METHODS = {"bilinear": "bilinear", "bicubic": "catmull_rom"}
_ORIENTATION = 0x0112
# By EXIF's orientation: whether to transpose, then whether to reverse the rows, and the columns.
_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}

Random = Callable[[], float]


class Window(NamedTuple):
    """A rectangle of an image, in pixels, and whether to exchange its left and right."""

    top: int
    left: int
    height: int
    width: int
    flip: bool = False


class Crop(Protocol):
    """What chooses the window of an image: `RandomResizedCrop`, `CenterCrop`, or any object with these attributes."""

    @property
    def size(self) -> int:
        """The side of the result."""

    @property
    def method(self) -> str:
        """ "bilinear" or "bicubic"."""

    def window(self, height: int, width: int, random: Random) -> Window:
        """Returns the window of an image of this size. ``random()`` returns numbers from 0 to 1, 1 excluded."""


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random window of an image, resized to a square and flipped at random: the usual crop for training on ImageNet.

    The window's area and its ratio of width to height are drawn, then its position. Where ten draws do not fit into the
    image, the window is the largest central one of a permitted ratio.

    Args:
      size: the side of the result, `(size, size, 3)`.
      scale: the least and the greatest area, as a fraction of the image's.
      ratio: the least and the greatest ratio of width to height; its logarithm is drawn.
      flip: whether to exchange left and right with probability one half.
      method: "bilinear" or "bicubic", with antialiasing.

    Raises:
      ArgumentError: an argument is out of range.

    >>> RandomResizedCrop(224).window(375, 500, iter([0.5, 0.5, 0.25, 0.75, 0.1]).__next__)
    Window(top=14, left=137, height=318, width=318, flip=True)

    Equals `torchvision.transforms.v2.RandomResizedCrop`, then `RandomHorizontalFlip`, in distribution.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    method: str = "bilinear"

    def __post_init__(self) -> None:
        _check(self.size, self.method)
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ArgumentError(f"scale must be two increasing fractions of the image's area, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ArgumentError(f"ratio must be two increasing positive numbers, got {self.ratio}")

    def window(self, height: int, width: int, random: Random) -> Window:
        """Returns a random window."""
        logs = [math.log(r) for r in self.ratio]
        for _ in range(10):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * random())
            ratio = math.exp(logs[0] + (logs[1] - logs[0]) * random())
            rows, columns = max(1, round(math.sqrt(area / ratio))), max(1, round(math.sqrt(area * ratio)))
            if rows <= height and columns <= width:
                top, left = int((height - rows + 1) * random()), int((width - columns + 1) * random())
                return Window(top, left, rows, columns, self._flips(random))
        rows = min(height, max(1, round(width / self.ratio[0])))
        columns = min(width, max(1, round(height * self.ratio[1])))
        return Window((height - rows) // 2, (width - columns) // 2, rows, columns, self._flips(random))

    def _flips(self, random: Random) -> bool:
        return self.flip and random() < 0.5


@dataclass(frozen=True)
class CenterCrop:
    """The central square of an image, resized: the usual crop for evaluation.

    Args:
      size: the side of the result, `(size, size, 3)`.
      fraction: the side of the square, as a fraction of the image's shorter side; rounded down to a pixel.
      method: "bilinear" or "bicubic", with antialiasing.

    Raises:
      ArgumentError: an argument is out of range.

    >>> CenterCrop(224).window(375, 500, random=None)
    Window(top=23, left=86, height=328, width=328, flip=False)

    Equals `torchvision.transforms.v2.Resize(size / fraction)`, then `CenterCrop(size)`, up to the rounding of the
    window to pixels.
    """

    size: int
    fraction: float = 0.875
    method: str = "bilinear"

    def __post_init__(self) -> None:
        _check(self.size, self.method)
        if not 0 < self.fraction <= 1:
            raise ArgumentError(f"fraction must be more than 0 and at most 1, got {self.fraction}")

    def window(self, height: int, width: int, random: Random | None = None) -> Window:
        """Returns the central window; nothing is drawn."""
        side = max(1, int(min(height, width) * self.fraction))
        return Window((height - side) // 2, (width - side) // 2, side, side)


class ArrayImage:
    """A decoded image, of which a window can be taken.

    Raises:
      ShapeError: the pixels are not `(height, width, 3)` uint8.
    """

    def __init__(self, pixels: Any) -> None:
        self.pixels = np.asarray(pixels)
        if self.pixels.ndim != 3 or self.pixels.shape[2] != 3 or self.pixels.dtype != np.uint8:
            raise ShapeError(
                f"an image must be (height, width, 3) uint8 to be cropped, got {self.pixels.dtype} {self.pixels.shape}"
            )
        self.height, self.width = pixels.shape[:2]

    def whole(self) -> np.ndarray:
        """Returns all pixels."""
        return self.pixels

    def window(self, window: Window, size: tuple[int, int], method: str = "bilinear") -> np.ndarray:
        """Returns the window's pixels, resized to `(*size, 3)`."""
        return _resized(self.pixels, window, size, method)


class JpegImage:
    """A JPEG, of which a window can be decoded at a reduced scale.

    libjpeg decodes at half, a quarter or an eighth of the size in a fraction of the time. The smallest scale is used at
    which the window still has at least ``size`` pixels along each axis.
    """

    def __init__(self, content: bytes, orientation: int, height: int, width: int) -> None:
        self.content = content
        self.turn = _TURNS.get(orientation, _TURNS[1])
        self.height, self.width = (width, height) if self.turn[0] else (height, width)

    def whole(self) -> np.ndarray:
        """Returns all pixels."""
        return self._decoded(1)

    def window(self, window: Window, size: tuple[int, int], method: str = "bilinear") -> np.ndarray:
        """Returns the window's pixels, resized to `(*size, 3)`."""
        factor = next((f for f in (8, 4, 2) if window.height >= f * size[0] and window.width >= f * size[1]), 1)
        return _resized(self._decoded(factor), window, size, method, factor)

    def _decoded(self, factor: int) -> np.ndarray:
        transpose, up, left = self.turn
        height, width = (self.width, self.height) if transpose else (self.height, self.width)
        smaller = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
        pixels = _package("simplejpeg").decode_jpeg(self.content, "RGB", **smaller)
        if transpose:
            pixels = pixels.transpose(1, 0, 2)
        return pixels[:: -1 if up else 1, :: -1 if left else 1]


def lazy_image(content: bytes, name: str) -> ArrayImage | JpegImage:
    """Returns the image in the bytes of a file, whose pixels are those of `read_image`; JPEGs are not yet decoded.

    Raises:
      DataError: as `read_image`. A damaged JPEG may be found only when it is decoded, with a ValueError of the decoder.
    """
    if content.startswith(JPEG_START):
        image = open_image(content, name)
        if image.mode in ("RGB", "L"):
            try:
                orientation = image.getexif().get(_ORIENTATION, 1)
            except Exception:
                # Pillow raises any exception for damaged EXIF data, and decode_image decides about it.
                return ArrayImage(decode_image(content, name))
            return JpegImage(content, orientation, image.height, image.width)
    return ArrayImage(decode_image(content, name))


def image_window(content: bytes, name: str, crop: Crop | None, random: Random) -> np.ndarray:
    """Returns the window that ``crop`` chooses of the image in the bytes of a file, or the whole image without one.

    Raises:
      DataError: as `read_image`.
    """
    image = lazy_image(content, name)
    if isinstance(image, JpegImage):
        try:
            return cropped(image, crop, random)
        except ValueError:
            # simplejpeg is stricter than Pillow about data that libjpeg warns of: Pillow decodes it or names the fault.
            image = ArrayImage(decode_image(content, name))
    return cropped(image, crop, random)


def cropped(image: ArrayImage | JpegImage, crop: Crop | None, random: Random) -> np.ndarray:
    """Returns the window that ``crop`` chooses of an image, or the whole image without one."""
    if crop is None:
        return image.whole()
    return image.window(crop.window(image.height, image.width, random), (crop.size, crop.size), crop.method)


def _resized(pixels: np.ndarray, window: Window, size: tuple[int, int], method: str, factor: int = 1) -> np.ndarray:
    """Returns a window, resized. Its pixels are ``factor`` times as many along each axis as those of ``pixels``."""
    # Where the window begins or ends within a pixel, the whole pixel is cut, and the resizing weights it.
    top, left = window.top // factor, window.left // factor
    bottom = min(-(-(window.top + window.height) // factor), pixels.shape[0])
    right = min(-(-(window.left + window.width) // factor), pixels.shape[1])
    part = pixels[top:bottom, left:right]
    if window[:4] != (top, left, *size):
        resizer = _package("cykooz_resizer")
        x, y = window.left / factor - left, window.top / factor - top
        width, height = min(window.width / factor, right - left - x), min(window.height / factor, bottom - top - y)
        source = resizer.ImageData(right - left, bottom - top, resizer.PixelType.U8x3, part.tobytes())
        result = resizer.ImageData(size[1], size[0], resizer.PixelType.U8x3)
        kernel = resizer.ResizeAlg.convolution(resizer.FilterType[METHODS[method]])
        options = resizer.ResizeOptions(kernel, crop_box=resizer.CropBox(x, y, width, height))
        resizer.Resizer().resize(source, result, options)
        part = np.frombuffer(result.get_buffer(), np.uint8).reshape(*size, 3)
    return part[:, ::-1] if window.flip else part


def _package(name: str) -> Any:
    return need(name, "loading images in batches", "data")


def _check(size: int, method: str) -> None:
    as_int(size, "size", least=1)
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
