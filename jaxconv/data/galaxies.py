"""Galaxy10: photographs of galaxies in ten classes of shape, from the HDF5 files of its authors."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data.dataset import DataError, Dataset, check_labels, split
from jaxconv.data.files import StrPath
from jaxconv.data.windows import ArrayImage, Window
from jaxconv.extras import need
from jaxconv.geometry import as_int

# The classes of the two versions, by the side of their images.
DECALS = (
    "disturbed",
    "merging",
    "round smooth",
    "in-between round smooth",
    "cigar shaped smooth",
    "barred spiral",
    "unbarred tight spiral",
    "unbarred loose spiral",
    "edge-on without bulge",
    "edge-on with bulge",
)
SDSS = (
    "disk, face-on, no spiral",
    "smooth, completely round",
    "smooth, in-between round",
    "smooth, cigar shaped",
    "disk, edge-on, rounded bulge",
    "disk, edge-on, boxy bulge",
    "disk, edge-on, no bulge",
    "disk, face-on, tight spiral",
    "disk, face-on, medium spiral",
    "disk, face-on, loose spiral",
)
VERSIONS = {256: ("galaxy10_decals", DECALS), 69: ("galaxy10_sdss", SDSS)}
AT_ONCE = 256


def galaxy10(path: StrPath, *, size: int = 64, fraction: float = 0.1, seed: int = 0) -> Dataset:
    """Returns Galaxy10: about 18,000 (DECaLS) or 22,000 (SDSS) photographs of galaxies of ten classes.

    Reads `Galaxy10_DECals.h5` or `Galaxy10.h5`: the datasets `images`, `(N, 256, 256, 3)` or `(N, 69, 69, 3)` uint8,
    and `ans`, the labels. The side of the images says which version it is. The authors define no
    split into training and test images. Nothing is downloaded. The images are read and resized a few at a time.

    Args:
      path: the file.
      size: the side of the images, to which they are resized, with antialiasing.
      fraction: the fraction of each class that is in the test set.
      seed: the seed of the split.

    Returns:
      A `Dataset` with images `(N, size, size, 3)`, in the order of the file.

    Raises:
      DataError: the file does not exist, is damaged, or does not have these datasets.
      ArgumentError: ``size`` or ``fraction`` is out of range.
      ModuleNotFoundError: h5py or cykooz-resizer, of the extra ``data``, is not installed.

    >>> galaxy10("Galaxy10_DECals.h5")  # doctest: +SKIP
    Dataset('galaxy10_decals': 15962 train, 1774 test, 64x64x3, 10 classes)

    References:
      H. Leung and J. Bovy, Galaxy10 DECaLS, https://astronn.readthedocs.io/en/latest/galaxy10.html.
    """
    as_int(size, "size", least=1)
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"{path} must be a file, Galaxy10_DECals.h5 or Galaxy10.h5 of https://astronn.readthedocs.io")
    name, classes, images, labels = _read(path, size)
    kept, held_out = split(labels, fraction, seed=seed)
    return Dataset(name, images[kept], labels[kept], images[held_out], labels[held_out], classes)


def _read(path: Path, size: int) -> tuple[str, tuple[str, ...], np.ndarray, np.ndarray]:
    """Returns the version's name and classes, images and labels."""
    library = _h5py()
    try:
        with library.File(path, "r") as file:
            if not all(name in file and _is_own(library, file, name) for name in ("images", "ans")):
                names = ", ".join(sorted(file)) or "none"
                raise DataError(f"{path} must have the datasets images and ans, got {names}")
            images, labels = file["images"], file["ans"]
            version = VERSIONS.get(images.shape[1]) if images.ndim == 4 else None
            if version is None or images.shape[1:] != (images.shape[1],) * 2 + (3,) or images.dtype != np.uint8:
                sides = " or ".join(f"(N, {side}, {side}, 3)" for side in VERSIONS)
                raise DataError(f"{path}: images must be {sides} uint8, got {images.shape} {images.dtype}")
            if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
                raise DataError(
                    f"{path}: ans must be {images.shape[:1]} integers, a label for each image, got {labels.shape} "
                    f"{labels.dtype}"
                )
            answers = labels[()].astype(np.int32)
            check_labels(answers, len(version[1]), f"{path}: ans")
            return *version, _resized(images, size), answers
    except (OSError, RuntimeError, KeyError) as error:
        # h5py's errors of damaged files.
        raise DataError(f"{path} is not a readable HDF5 file: {error}") from error


def _is_own(library: Any, file: Any, name: str) -> bool:
    """Returns whether a name is that of a dataset in the file itself, not in another one."""
    if not isinstance(file.get(name, getlink=True), library.HardLink):
        return False
    item = file[name]
    return isinstance(item, library.Dataset) and not item.external and not item.is_virtual


def _resized(images: Any, size: int) -> np.ndarray:
    result = np.empty((len(images), size, size, 3), np.uint8)
    side = images.shape[1]
    for start in range(0, len(images), AT_ONCE):
        for i, image in enumerate(images[start : start + AT_ONCE], start):
            result[i] = ArrayImage(image).window(Window(0, 0, side, side), (size, size))
    return result


def _h5py() -> Any:
    return need("h5py", "galaxy10", "data")
