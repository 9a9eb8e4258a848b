"""Images that stay in their files: folders of classes, tables, and tar shards, read one image at a time."""

import dataclasses
import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxconv.data import tables, tars
from jaxconv.data.dataset import DataError
from jaxconv.data.files import StrPath
from jaxconv.data.images import ENDINGS, file_content, images_by_class
from jaxconv.data.windows import Crop, Random, image_window
from jaxconv.errors import ShapeError

PARTS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
TABLES = (".csv", ".jsonl", ".ndjson")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ImageFolder:
    """Images in files, with their targets: a data set that is read one image at a time.

    ``source[i]`` is an image, uint8 RGB `(height, width, 3)` as `read_image` returns it, and its target. This is the
    protocol of grain's and torch's random-access data sets, so that an ImageFolder works in their loaders too.

    Args:
      root: the folder of the files.
      names: the path of each image relative to ``root``, with "/" between folders; of a tar's member, the tar's path
        and the member's name.
      targets: an array with a target for each image, a list of arrays, or a dict of these by name.
      classes: the name of each class; () where it is not known.
      members: for tar shards, the position of each image in the tars.

    >>> source = image_folder("photos")   # doctest: +SKIP
    >>> len(source), source.classes       # doctest: +SKIP
    (2, ('cat', 'dog'))
    """

    root: str
    names: Sequence[str]
    targets: Any
    classes: tuple[str, ...] = ()
    members: "tars.Members | None" = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[np.ndarray, Any]:
        return self.load(index)

    def __repr__(self) -> str:
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"ImageFolder({self.root!r}: {len(self)} images{classes})"

    def load(self, index: int, crop: Crop | None = None, random: Random | None = None) -> tuple[np.ndarray, Any]:
        """Returns the window of an image that ``crop`` chooses, or the whole image, and its target.

        Raises:
          DataError: the image cannot be read; see `read_image`.
        """
        pixels = image_window(self.encoded(index), self.name(index), crop, random or (lambda: 0.0))
        return pixels, self.target(index)

    def encoded(self, index: int) -> bytes:
        """Returns the bytes of an image's file."""
        index = range(len(self))[index]
        try:
            if self.members is not None:
                return self.members.read(index)
            return file_content(Path(self.root, self.names[index]))
        except OSError as error:
            raise DataError(f"{self.name(index)} cannot be read: {error.strerror}") from error

    def target(self, index: int) -> Any:
        """Returns the target of an image."""
        if isinstance(self.targets, dict):
            return {name: column[index] for name, column in self.targets.items()}
        return self.targets[index]

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self.root, self.names[index])

    def take(self, indices: Any) -> "ImageFolder":
        """Returns the images of some indices, such as those that `split` gives.

        >>> kept, held_out = split(source.targets, 0.1, seed=0)               # doctest: +SKIP
        >>> training, validation = source.take(kept), source.take(held_out)   # doctest: +SKIP
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or not np.issubdtype(indices.dtype, np.integer):
            raise ShapeError(f"indices must be (N,) integers, got shape {indices.shape} {indices.dtype}")

        def taken(column: Any) -> Any:
            return column[indices] if isinstance(column, np.ndarray) else [column[i] for i in indices]

        columns = self.targets
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in indices],
            targets={n: taken(c) for n, c in columns.items()} if isinstance(columns, dict) else taken(columns),
            members=None if self.members is None else self.members.take(indices),
        )

    def fingerprint(self) -> str:
        """Returns a hash of the names and the targets, by which a checkpoint recognizes the data set."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode() + b"\0")
        digest.update(repr(self.classes).encode())
        for name, column in tables.columns(self.targets):
            digest.update(name.encode())
            for value in [column] if isinstance(column, np.ndarray) else column:
                digest.update(repr((value.shape, value.dtype.str)).encode() + np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()[:16]

    def versions(self) -> np.ndarray:
        """Returns the size and the modification time in ns of each image's file, `(N, 2)` int64."""
        if self.members is not None:
            return self.members.versions()
        found = (os.stat(self.name(i)) for i in range(len(self)))
        return np.array([(s.st_size, s.st_mtime_ns) for s in found], np.int64).reshape(-1, 2)


def image_folder(path: StrPath | Sequence[StrPath], *, classes: Sequence[str] | None = None) -> ImageFolder:
    """Returns the images of a folder of classes, a table, or tar shards, with their targets. No image is read yet.

    - A folder with a subfolder for each class, such as `photos/cat/1.jpg`. Targets are the classes' indices, int32, in
      the order of the subfolders' names. Files that are not images by their ending are ignored.
    - A table, `.csv` with a header line, or `.jsonl` with an object a line. The column `path` has the images' paths,
      relative to the table's folder; the other columns are the targets: one column gives an array, several give a dict
      of arrays by name. Values are numbers; in JSON lines also nested lists of numbers, whose shapes may differ between
      images.
    - Tar shards as WebDataset writes them: a `.tar` file, a folder with `.tar` files, or a list of them. The files of
      an example share their name up to the first dot: `0001.jpg` with `0001.cls` (an integer) or `0001.json` (numbers,
      nested lists of numbers, or an object with these). The tars must not be compressed, so that examples can be read
      in any order.

    Integers become int32, other numbers float32.

    Args:
      path: the folder, the table, the tar, or a list of tars.
      classes: the classes' names. A folder of classes then must have no other subfolder with images, and may lack some,
        which gives the indices of another data set: ``image_folder("val", classes=training.classes)``. In a table or a
        shard, targets that are strings are then converted to their indices.

    Raises:
      DataError: there are no images, or those of one class only; the subfolders are parts of a data set such as "train"
        and "test" instead of classes; a table lacks a column or a file; a target is not a number, a class's index is
        negative or has no name; a tar is truncated, compressed or damaged.
      OSError: ``path`` does not exist.

    >>> image_folder("photos")   # doctest: +SKIP
    ImageFolder('photos': 2000 images, 2 classes)
    """
    names = checked_classes(classes)
    if not isinstance(path, str | os.PathLike):
        paths = [Path(p) for p in path]
        return _from_tars(str(Path(*paths[:1]).parent), paths, names)
    path = Path(path).expanduser()
    if not path.is_dir():
        path.stat()
        if path.suffix.lower() in TABLES:
            listed, targets = tables.read_table(path, names)
            return ImageFolder(str(path.parent), listed, targets, names)
        if path.suffix.lower() == ".tar":
            return _from_tars(str(path.parent), [path], names)
        raise DataError(f"{path} must be a folder, a table ({', '.join(TABLES)}) or a .tar")
    if shards := sorted(p for p in path.iterdir() if p.suffix.lower() == ".tar"):
        return _from_tars(str(path), shards, names)
    return from_classes(path, names)


def checked_classes(classes: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the classes' names, () for None, or raises DataError where a name occurs twice."""
    names = () if classes is None else tuple(classes)
    if len(set(names)) < len(names):
        raise DataError(f"classes must have no name twice, got {names}")
    return names


def _from_tars(root: str, paths: Sequence[Path], classes: tuple[str, ...]) -> ImageFolder:
    names, targets, members = tars.index(paths, classes)
    return ImageFolder(root, [os.path.relpath(name, root) for name in names], targets, classes, members)


def from_classes(
    path: Path, classes: tuple[str, ...], endings: Collection[str] = ENDINGS, what: str = "image"
) -> ImageFolder:
    """Returns the files with some endings in a folder that has a subfolder for each class."""
    found = images_by_class(path, endings)
    if not found:
        loose = any(p.suffix.lower() in endings for p in path.iterdir())
        raise DataError(
            f"{path} must have a subfolder of {what}s for each class, got "
            + (f"{what}s that are in no subfolder" if loose else f"no {what}s")
            + f"; {what} files end with {', '.join(sorted(endings))}"
        )
    if classes:
        if unknown := sorted(set(found) - set(classes)):
            raise DataError(f"{path} must have subfolders named for the classes {classes}, got {', '.join(unknown)}")
    elif all(name.lower() in PARTS for name in found):
        raise DataError(
            f"{path} must have a subfolder for each class, got {', '.join(found)}, which are parts of a data set: give "
            f"one of them, such as {path / next(iter(found))}"
        )
    elif len(found) == 1:
        raise DataError(
            f"{path} must have {what}s of at least two classes, got only {next(iter(found))!r}; if this is meant, pass "
            f"classes={tuple(found)}"
        )
    classes = classes or tuple(found)
    labels = np.repeat(
        np.array([classes.index(name) for name in found], np.int32), [len(files) for files in found.values()]
    )
    names = [file.relative_to(path).as_posix() for files in found.values() for file in files]
    return ImageFolder(str(path), names, labels, classes)
