"""Small photographs that tests write: of known pixels, in the formats that people have."""

import io

import numpy as np
from PIL import Image


def photo(number, height=60, width=80, period=25):
    """Returns smooth pixels that differ for each number, `(height, width, 3)` uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [np.sin((rows * (1 + number % 3) + columns * c + 7 * number) / period) for c in (1, 2, 3)]
    return (127 + 120 * np.stack(waves, -1)).astype(np.uint8)


def jpeg(pixels, quality=95, **options):
    """Returns the bytes of a JPEG."""
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, "JPEG", quality=quality, subsampling=0, **options)
    return buffer.getvalue()


def class_folder(path, counts=(("cat", 3), ("dog", 4)), size=(60, 80)):
    """Writes a folder of JPEGs with a subfolder for each class, and returns its path."""
    number = 0
    for name, count in counts:
        (path / name).mkdir(parents=True)
        for i in range(count):
            (path / name / f"{i}.jpg").write_bytes(jpeg(photo(number, *size)))
            number += 1
    return path
