"""Data sets: four arrays and the names of the classes; splits into two parts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int


class DataError(ValueError):
    """A data set is not found, or a file is truncated, altered or has the wrong format."""


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labeled images, with a training set and a test set.

    Use the test set once, for the final figure. To choose between epochs or settings, hold out a part of the training
    set with `split`.

    Args:
      name: the name of the data set.
      train_images: `(N, H, W, C)` uint8.
      train_labels: `(N,)` int32, indices into ``classes``.
      test_images: `(M, H, W, C)` uint8.
      test_labels: `(M,)` int32.
      classes: the name of each class.

    Raises:
      DataError: a shape, an element type, a count or a label does not fit the others.

    >>> images, labels = np.zeros((6, 28, 28, 1), np.uint8), np.array([0, 1, 0, 1, 0, 1], np.int32)
    >>> Dataset("stripes", images, labels, images[:2], labels[:2], classes=("across", "down"))
    Dataset('stripes': 6 train, 2 test, 28x28x1, 2 classes)
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_pair(self.train_images, self.train_labels, len(self.classes), f"{self.name}: train")
        check_pair(self.test_images, self.test_labels, len(self.classes), f"{self.name}: test")
        train, test = self.train_images.shape[1:], self.test_images.shape[1:]
        if train != test:
            raise DataError(f"{self.name}: train images are {train}, test images {test}")

    def __repr__(self) -> str:
        size = "x".join(map(str, self.train_images.shape[1:]))
        counts = f"{len(self.train_labels)} train, {len(self.test_labels)} test"
        return f"Dataset({self.name!r}: {counts}, {size}, {len(self.classes)} classes)"


def check_pair(images: np.ndarray, labels: np.ndarray, classes: int, part: str) -> None:
    """Raises DataError unless ``images`` and ``labels`` are one part, "train" or "test", of a data set."""
    if images.ndim != 4 or images.dtype != np.uint8:
        raise DataError(f"{part} images must be (N, H, W, C) uint8, got {images.shape} {images.dtype}")
    if labels.ndim != 1 or labels.dtype != np.int32:
        raise DataError(f"{part} labels must be (N,) int32, got {labels.shape} {labels.dtype}")
    if len(images) != len(labels):
        raise DataError(f"{part}: {len(images)} images but {len(labels)} labels")
    check_labels(labels, classes, f"{part} labels")


def check_labels(labels: np.ndarray, classes: int, source: str) -> None:
    """Raises DataError for the first label that is out of range, with its index in ``source``."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(f"{source}: label {first} is {labels[first]}, expected 0 to {classes - 1}")


def split(labels: ArrayLike | Sequence[int], fraction: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples into two parts at random, with the same proportion of each class (a stratified split).

    Of each class ``fraction`` of its examples, up to one, are held out; in total `round(fraction * N)`. The split
    depends on the labels, ``fraction`` and ``seed`` only: it is the same on all platforms and with all versions of
    NumPy.

    Args:
      labels: `(N,)` integers, in any order.
      fraction: the fraction to hold out, between 0 and 1, both excluded.
      seed: a non-negative integer.

    Returns:
      `(kept, held_out)`: indices into ``labels``, int64, both ascending. The two are disjoint and cover `0 ... N-1`.

    Raises:
      ArgumentError: ``fraction`` or ``seed`` is out of range.
      ShapeError: ``labels`` is not `(N,)`, or one of the two parts would be empty.
      DTypeError: ``labels`` are not integers.

    >>> kept, held_out = split([7, 7, 7, 7, 3, 3, 3, 3], 0.25, seed=0)
    >>> kept.size, np.asarray([7, 7, 7, 7, 3, 3, 3, 3])[held_out]
    (6, array([7, 3]))

    Equals `sklearn.model_selection.StratifiedShuffleSplit` in proportions; the draws differ.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1:
        raise ShapeError(f"labels must be (N,), got shape {classes.shape}")
    if classes.size and not np.issubdtype(classes.dtype, np.integer):
        raise DTypeError(f"labels must be integers, got {classes.dtype}")
    if not 0 < fraction < 1:
        raise ArgumentError(f"fraction must be between 0 and 1, both excluded, got {fraction!r}")
    seed = as_int(seed, "seed", least=0)
    held = round(fraction * classes.size)
    if not 0 < held < classes.size:
        raise ShapeError(f"fraction must leave no part of the {classes.size} labels empty, got {fraction}")

    # Largest remainder method: each class gives the integer part of its share; the largest remainders give one more.
    _, member, count = np.unique(classes, return_inverse=True, return_counts=True)
    share = fraction * count
    quota = np.floor(share).astype(np.int64)
    quota[np.argsort(quota - share, kind="stable")[: held - quota.sum()]] += 1

    # Raw words of the bit generator: NumPy keeps these the same in all versions, unlike Generator.permutation.
    draw = np.random.PCG64(seed).random_raw(classes.size)
    order = np.lexsort((draw, member))
    rank = np.arange(classes.size) - np.repeat(np.cumsum(count) - count, count)
    chosen = np.zeros(classes.size, bool)
    chosen[order] = rank < quota[member[order]]
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def shuffled(indices: np.ndarray, *, seed: Sequence[int]) -> np.ndarray:
    """Returns ``indices`` in random order, which like `split` is the same on all platforms."""
    return indices[np.argsort(np.random.PCG64(seed).random_raw(indices.size), kind="stable")]
