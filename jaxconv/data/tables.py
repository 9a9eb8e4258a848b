"""Targets in tables: CSV and JSON lines, and their conversion to arrays."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data.dataset import DataError

PATH = "path"


def read_table(path: Path, classes: tuple[str, ...], what: str = "image") -> tuple[list[str], Any]:
    """Returns the paths in a table's column `path`, and its other columns as targets; see `image_folder`."""
    rows = _csv_rows(path, classes) if path.suffix.lower() == ".csv" else _json_rows(path)
    names: list[str] = []
    found: dict[str, list[Any]] = {}
    where: list[str] = []
    for line, row in rows:
        name = row.pop(PATH, None)
        if not isinstance(name, str) or not name:
            raise DataError(f"{path}, line {line}: must have a column {PATH!r} with the {what}'s path, got {name!r}")
        if not names:
            found = {column: [] for column in row}
        if set(row) != set(found):
            raise DataError(
                f"{path}, line {line}: must have the columns {', '.join([PATH, *found])}, got "
                f"{', '.join([PATH, *map(str, row)])}"
            )
        if not (path.parent / name).is_file():
            raise DataError(f"{path}, line {line}: the {what} {path.parent / name} does not exist")
        names.append(name)
        where.append(f"{path}, line {line}")
        for column, value in row.items():
            found[column].append(value)
    if not names:
        raise DataError(f"{path} must have a line for each {what}, got no line")
    if not found:
        raise DataError(f"{path} must have the column {PATH!r} and at least one column of targets, got only {PATH!r}")
    targets = {column: as_column(values, classes, where, column) for column, values in found.items()}
    return names, next(iter(targets.values())) if len(targets) == 1 else targets


def as_column(values: list[Any], classes: tuple[str, ...], where: Sequence[str], column: str) -> Any:
    """Returns targets as an array, or as a list of arrays where their shapes differ.

    Args:
      values: the target of each image: a number, nested lists of numbers, or the name of a class.
      classes: the classes' names.
      where: for errors, the origin of each value.
      column: for errors, the values' name.
    """
    index = {name: i for i, name in enumerate(classes)}
    arrays = []
    for value, origin in zip(values, where, strict=True):
        if isinstance(value, str):
            if value not in index:
                expected = f"one of the classes {', '.join(classes)}" if classes else "a number, or classes be given"
                raise DataError(f"{origin}: {column} must be {expected}, got {value!r}")
            value = index[value]
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.asarray(None)
        if array.dtype.kind not in "iufb":
            raise DataError(f"{origin}: {column} must be numbers in lists of equal lengths, got {value!r}")
        if classes and array.ndim == 0 and array.dtype.kind in "iu" and not 0 <= array < len(classes):
            raise DataError(f"{origin}: {column} must be from 0 to {len(classes) - 1}, got {value}")
        arrays.append(array)
    # An empty list, such as the boxes of an image without objects, is of the others' type.
    whole = all(array.dtype.kind in "iub" for array in arrays if array.size)
    if whole and any(array.size and max(abs(int(array.min())), abs(int(array.max()))) >= 1 << 31 for array in arrays):
        raise DataError(f"{column} must be integers that int32 can represent")
    arrays = [array.astype(np.int32 if whole else np.float32) for array in arrays]
    return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else arrays


def columns(targets: Any) -> Iterable[tuple[str, Any]]:
    """Returns the columns of targets, with their names."""
    return targets.items() if isinstance(targets, dict) else [("", targets)]


def _csv_rows(path: Path, classes: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            if PATH not in (reader.fieldnames or ()):
                header = ", ".join(reader.fieldnames or ())
                raise DataError(f"{path} must have a header line with the column {PATH!r}, got {header!r}")
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {reader.line_num}: must have {len(reader.fieldnames or ())} columns")
                line = f"{path}, line {reader.line_num}"
                yield (
                    reader.line_num,
                    {k: v if k == PATH else _value(v, classes, f"{line}: {k}") for k, v in row.items()},
                )
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{path} must be CSV in UTF-8: {error}") from error


def _value(text: str, classes: tuple[str, ...], where: str) -> int | float | str:
    """Returns a number, or the text that is none or names a class."""
    value = _number(text)
    if text not in classes:
        return value
    index = classes.index(text)
    if isinstance(value, int) and value != index:
        raise DataError(
            f"{where} must be the name or the index of a class, got {text}, which names the class of index {index}; "
            "JSON lines distinguish names from numbers"
        )
    return text


def _number(text: str) -> int | float | str:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(path, encoding="utf-8-sig") as file:
        try:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                row = json.loads(text)
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {line}: must be a JSON object, got {type(row).__name__}")
                yield line, row
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {line}: must be a JSON object: {error}") from error
