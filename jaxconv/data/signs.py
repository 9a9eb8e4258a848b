"""GTSRB, the German Traffic Sign Recognition Benchmark: photographs of 43 signs, cut out at their boxes."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxconv.data.dataset import DataError, Dataset
from jaxconv.data.files import StrPath
from jaxconv.data.images import read_image
from jaxconv.data.windows import ArrayImage, Window
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.ops.boxes import check_boxes

SIGNS = (
    *(f"speed limit {n}" for n in (20, 30, 50, 60, 70, 80)),
    "end of speed limit 80",
    *(f"speed limit {n}" for n in (100, 120)),
    "no passing",
    "no passing for trucks",
    "right of way at crossing",
    "priority road",
    "yield",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "danger",
    "bend left",
    "bend right",
    "bends",
    "bumpy road",
    "slippery road",
    "road narrows right",
    "road works",
    "traffic lights",
    "pedestrians",
    "children",
    "bicycles",
    "ice",
    "wild animals",
    "end of limits",
    "right ahead",
    "left ahead",
    "ahead",
    "ahead or right",
    "ahead or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no passing",
    "end of no passing for trucks",
)
COLUMNS = ("Filename", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
# The archive of the test's labels has its table at the top.
TEST_TABLES = ("GT-final_test.csv", "Final_Test/GT-final_test.csv", "Final_Test/Images/GT-final_test.csv")
TRAIN, TEST = "Final_Training/Images", "Final_Test/Images"


def gtsrb(folder: StrPath, *, size: int = 32) -> Dataset:
    """Returns GTSRB: 39,209 training and 12,630 test photographs of 43 traffic signs.

    Reads the layout of its authors' archives, unpacked into one folder: `Final_Training/Images/00000/GT-00000.csv` with
    the photographs of a class beside it, `Final_Test/Images`, and `GT-final_test.csv`. The tables have semicolons and
    the columns Filename, Roi.X1, Roi.Y1, Roi.X2, Roi.Y2 and ClassId. Nothing is downloaded. Any number of photographs
    and of classes is accepted.

    The training photographs of one sign, a track, are almost equal; their file names begin with the same number. For
    validation, hold out whole tracks.

    Args:
      folder: the folder of the files, or its parent.
      size: the side of the images, to which the box around each sign is resized, with antialiasing.

    Returns:
      A `Dataset` with images `(N, size, size, 3)` in the order of the tables, and the benchmark's labels.

    Raises:
      DataError: a file is missing or damaged, a table lacks a column, or a box is not inside of its photograph.
      ArgumentError: ``size`` is not a positive integer.
      ModuleNotFoundError: Pillow or cykooz-resizer, of the extra ``data``, is not installed.

    >>> gtsrb("GTSRB")  # doctest: +SKIP
    Dataset('gtsrb': 39209 train, 12630 test, 32x32x3, 43 classes)

    References:
      J. Stallkamp, M. Schlipsing, J. Salmen and C. Igel, Man vs. computer, 2012, https://benchmark.ini.rub.de.
    """
    as_int(size, "size", least=1)
    root = _root(Path(folder).expanduser())
    tables = sorted(root.glob(f"{TRAIN}/*/GT-*.csv"))
    if not tables:
        raise DataError(f"{root / TRAIN} must have a folder for each class with its table, such as 00000/GT-00000.csv")
    test = next((root / name for name in TEST_TABLES if (root / name).is_file()), None)
    if test is None:
        raise DataError(f"{root} must have the table of the test's labels, {TEST_TABLES[0]}")
    train = [_read(table, table.parent, size) for table in tables]
    images, labels = (np.concatenate(part) for part in zip(*train, strict=True))
    return Dataset("gtsrb", images, labels, *_read(test, root / TEST, size), SIGNS)


def _root(folder: Path) -> Path:
    """Returns the folder that has the training photographs."""
    for candidate in (folder, folder / "GTSRB"):
        if (candidate / TRAIN).is_dir():
            return candidate
    raise DataError(f"{folder} must have the folder {TRAIN}, with the unpacked training photographs of GTSRB")


def _read(table: Path, folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and labels of a table."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, delimiter=";")
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{table} must have the columns {', '.join(COLUMNS)} with semicolons, got no {missing[0]}"
                )
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} must be a table with semicolons: {error}") from error
    if not rows:
        raise DataError(f"{table} must have a line for each photograph, got none")
    images, labels = np.zeros((len(rows), size, size, 3), np.uint8), np.zeros(len(rows), np.int32)
    for i, row in enumerate(rows):
        where = f"{table}, line {i + 2}"
        numbers = [row[name] or "" for name in COLUMNS[1:]]
        if not all(re.fullmatch(r"\d{1,6}", text.strip()) for text in numbers):
            raise DataError(f"{where}: {', '.join(COLUMNS[1:])} must be integers, got {';'.join(numbers)}")
        *corners, label = map(int, numbers)
        if label >= len(SIGNS):
            raise DataError(f"{where}: ClassId must be from 0 to {len(SIGNS) - 1}, got {label}")
        images[i], labels[i] = _cut(folder / str(row["Filename"]), corners, size, where), label
    return images, labels


def _cut(path: Path, corners: Sequence[int], size: int, where: str) -> np.ndarray:
    """Returns the box of a photograph, resized to a square."""
    try:
        photograph = ArrayImage(read_image(path))
    except OSError as error:
        raise DataError(f"{where}: the photograph {path} cannot be read: {error.strerror}") from error
    left, top, right, bottom = corners
    try:
        check_boxes(np.array([corners]), (photograph.height, photograph.width))
    except ArgumentError as error:
        raise DataError(f"{where}: {error}") from error
    if right == left or bottom == top:
        raise DataError(f"{where}: the box must have an area, got {corners}")
    return photograph.window(Window(top, left, bottom - top, right - left), (size, size))
