"""Photographs from files into arrays, within limits that are checked before anything is decoded."""

import os
import warnings

import numpy as np
from PIL import Image, ImageOps

LARGEST_SIDE = 16_384
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns the image in a file as uint8 RGB of shape ``(height, width, 3)``, upright as its EXIF data say.

    Grey is repeated, transparency dropped, and of an animation the first frame is taken.

    Raises:
      OSError: there is no such file, or it cannot be opened.
      ValueError: it is no image that Pillow knows or is cut short, has more than 16,384 pixels along a side or more in
        all than Pillow takes for honest (89,478,485), or more than 8 bits a channel.
    """
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(file)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} must have at most {Image.MAX_IMAGE_PIXELS:,} pixels in all: {error}") from error
        except Image.UnidentifiedImageError as error:
            raise ValueError(f"{path} is not an image of a kind that Pillow knows") from error
        except Exception as error:
            raise _damaged(path, error) from error
        if max(image.size) > LARGEST_SIDE:
            width, height = image.size
            raise ValueError(
                f"{path} must have at most {LARGEST_SIDE:,} pixels along each side, it has {width:,} x {height:,}"
            )
        if image.mode not in _EIGHT_BITS:
            raise ValueError(f"{path} must have 8 bits a channel, its pixels are of Pillow's mode {image.mode!r}")
        # Decoders raise whatever they meet in a damaged file.
        try:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Exception as error:
            raise _damaged(path, error) from error


def _damaged(path: str | os.PathLike[str], error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged or cut short: {error}")


def central_crop(image: np.ndarray, size: int = 224, share: float = 224 / 256) -> np.ndarray:
    """Returns the square in the middle of an image, its side ``share`` of the shorter one, resized to ``size``.

    By Pillow's bicubic filter, which averages where it makes smaller.

    Args:
      image: uint8 of shape ``(height, width, 3)``.
      size: the side of what is returned, ``(size, size, 3)``.
      share: of the shorter side, rounded down to a pixel.

    >>> central_crop(np.full((300, 451, 3), 7, np.uint8)).shape
    (224, 224, 3)
    """
    height, width = image.shape[:2]
    side = max(1, int(min(height, width) * share))
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))
