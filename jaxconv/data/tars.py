"""Tar shards in WebDataset's layout: an index of the images in them, and reads of one image at a time."""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxconv.data.dataset import DataError
from jaxconv.data.images import ENDINGS
from jaxconv.data.tables import as_column

BLOCK = 512
TARGETS = ("cls", "json")


class Members(NamedTuple):
    """The positions of images in tars.

    Attributes:
      paths: the tars.
      tar: `(N,)` int32, the index of each image's tar.
      at: `(N, 2)` int64, the first byte of each image and its size.
    """

    paths: tuple[str, ...]
    tar: np.ndarray
    at: np.ndarray

    def read(self, index: int) -> bytes:
        """Returns the bytes of an image."""
        path, (start, size) = self.paths[self.tar[index]], self.at[index].tolist()
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(size)

    def take(self, indices: np.ndarray) -> "Members":
        """Returns the positions of some images."""
        return Members(self.paths, self.tar[indices], self.at[indices])

    def versions(self) -> np.ndarray:
        """Returns the size and the modification time in ns of each image's tar."""
        found = [os.stat(path) for path in self.paths]
        return np.array([(s.st_size, s.st_mtime_ns) for s in found], np.int64).reshape(-1, 2)[self.tar]


def index(paths: Sequence[Path], classes: tuple[str, ...]) -> tuple[list[str], Any, Members]:
    """Returns the names of the images in tars, their targets, and the positions of the images."""
    if not paths:
        raise DataError("path must have at least one .tar, got an empty list")
    names: list[str] = []
    targets: list[Any] = []
    tar: list[int] = []
    at: list[tuple[int, int]] = []
    for number, path in enumerate(paths):
        for key, files in _examples(path):
            images = [kind for kind in files if f".{kind.rsplit('.', 1)[-1].lower()}" in ENDINGS]
            labels = [kind for kind in TARGETS if kind in files]
            origin = f"{path}, example {key}"
            if len(images) != 1 or not labels:
                raise DataError(
                    f"{origin}: must have one image and a .cls or .json file, got {', '.join(sorted(files))}"
                )
            names.append(f"{path}/{key}.{images[0]}")
            targets.append(_target(path, files[labels[0]], labels[0], f"{origin}.{labels[0]}"))
            tar.append(number)
            at.append(files[images[0]])
    if not names:
        raise DataError(f"{', '.join(map(str, paths))} must have images, got none")
    columns = sorted(targets[0]) if isinstance(targets[0], dict) else None
    for name, target in zip(names, targets, strict=True):
        if (sorted(target) if isinstance(target, dict) else None) != columns:
            raise DataError(f"{name}: the target must have the fields of the first one, {columns}, got {target!r}")
    if columns is None:
        gathered = as_column(targets, classes, names, "the target")
    else:
        gathered = {c: as_column([t[c] for t in targets], classes, names, c) for c in columns}
    return names, gathered, Members(tuple(map(str, paths)), np.array(tar, np.int32), np.array(at, np.int64))


def _examples(path: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yields each example's name, and its files' first bytes and sizes by their ending."""
    key, files = "", dict[str, tuple[int, int]]()
    for member in _members(path):
        folder, _, file = member.name.rpartition("/")
        stem, _, kind = file.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        if name != key:
            if files:
                yield key, files
            key, files = name, {}
        if kind in files:
            raise DataError(f"{path}, example {key}: must have each file once, got {member.name} twice")
        files[kind] = (member.offset_data, member.size)
    if files:
        yield key, files


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    size = os.stat(path).st_size
    end = 0
    try:
        # "r:" refuses compressed tars.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
                if end > size:
                    raise DataError(f"{path} is truncated: {member.name} ends at byte {end:,}, the file at {size:,}")
                if member.isreg() and not os.path.basename(member.name).startswith("."):
                    yield member
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{path} must be an uncompressed tar, and is damaged, truncated or another file: {error}"
        ) from error
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(BLOCK) != bytes(BLOCK):
            raise DataError(f"{path} is truncated or damaged: its end mark is missing at byte {end:,}")


def _target(path: Path, at: tuple[int, int], kind: str, origin: str) -> Any:
    with open(path, "rb") as file:
        file.seek(at[0])
        content = file.read(at[1])
    try:
        text = content.decode().strip()
        if kind == "json":
            return json.loads(text)
        return int(text) if text.removeprefix("-").isdecimal() else text
    except ValueError as error:
        raise DataError(f"{origin}: must be {'JSON' if kind == 'json' else 'text'}, got {content[:40]!r}") from error
