"""Reading photographs, and central crops for networks."""

import numpy as np

from experiments.optional import Image
from jaxconv.data import read_image


def central_crop(image: np.ndarray, size: int = 224, share: float = 224 / 256) -> np.ndarray:
    """Returns the central square of an image, with ``share`` of its shorter side, resized to ``size``.

    Uses Pillow's bicubic filter with antialiasing.

    Args:
      image: uint8 of shape ``(height, width, 3)``.
      size: the side of the result, ``(size, size, 3)``.
      share: the fraction of the shorter side, rounded down to a pixel.

    >>> central_crop(np.full((300, 451, 3), 7, np.uint8)).shape
    (224, 224, 3)
    """
    height, width = image.shape[:2]
    side = max(1, int(min(height, width) * share))
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(image[top : top + side, left : left + side]))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


__all__ = ["central_crop", "read_image"]
