"""Searches a folder of images: `retrieve --folder PATH --query FILE`.

The descriptor of each image (`experiments.descriptors`) is computed once. index.npz below --out keeps descriptors with
the names, sizes and times of their files; a later run reads only files that are new or changed. An index that was made
for another folder is refused; if it has other descriptors, they are computed again. Images are resized to a square as
they are read, so that at most one photograph and --batch squares are in memory.
"""

import argparse
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import descriptors, report
from experiments.descriptors import nearest_views, views
from experiments.optional import Image, figures, tqdm
from experiments.pictures import photograph
from jaxconv.data import read_image
from jaxconv.data.images import ENDINGS
from jaxconv.inspect import Neighbors, Whitening, whiten
from jaxconv.leftovers import is_leftover

K = 10
# The side of the squares that are described.
SIDE = 128
# The rows of the sheet, and the longer side of its pictures.
SHEET, SHOWN = 12, 256
# The seconds between two saves of an index that is being made.
EVERY = 60.0


class Index(NamedTuple):
    """The images of a folder.

    Attributes:
      folder: its absolute path.
      made: what computed the descriptors.
      marks: the bytes of each file and its time of modification in nanoseconds, by its path below the folder.
      rows: descriptors in the order of ``marks``, ``(images, features)`` float16.
      whitened: the whitening learned from the descriptors, and the whitened descriptors ``(images, components)``
        float16; None until all images are read.
    """

    folder: str
    made: str
    marks: dict[str, list[int]]
    rows: np.ndarray
    whitened: tuple[Whitening, np.ndarray] | None = None


def save(path: Path, index: Index) -> None:
    """Writes an index under a temporary name, then renames it."""
    facts = {"folder": index.folder, "made": index.made, "marks": index.marks}
    arrays: dict[str, Any] = {"rows": index.rows, "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8)}
    if index.whitened is not None:
        (mean, matrix), vectors = index.whitened
        arrays |= {"mean": np.asarray(mean), "matrix": np.asarray(matrix), "vectors": vectors}
    beside = path.with_name(path.name + ".partial")
    with beside.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(beside, path)


def load(path: Path) -> Index:
    """Returns an index that `save` wrote.

    Raises:
      ValueError: the file is damaged, or something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            facts = json.loads(arrays["facts"].tobytes())
            index = Index(facts["folder"], facts["made"], facts["marks"], arrays["rows"])
            if "vectors" in arrays:
                whitening = Whitening(arrays["mean"], arrays["matrix"])
                index = index._replace(whitened=(whitening, arrays["vectors"]))
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be an index of images, delete it if it is damaged: {error}") from error
    if len(index.rows) != len(index.marks):
        raise ValueError(f"{path} must have a descriptor for each file, got {len(index.rows)} of {len(index.marks)}")
    return index


def files(folder: Path, apart: Path) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Lists the images below a folder, except those below ``apart``.

    Returns:
      marks: as of `Index`.
      failed: why a file or a folder cannot be listed, by its path.
    """
    marks: dict[str, list[int]] = {}
    failed: dict[str, str] = {}

    def note(error: OSError) -> None:
        failed[os.path.relpath(error.filename, folder)] = error.strerror or str(error)

    for here, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not is_leftover(name) and Path(here, name).resolve() != apart)
        for path in (Path(here, name) for name in sorted(names) if not is_leftover(name)):
            if path.suffix.lower() in ENDINGS:
                try:
                    status = path.stat()
                except OSError as error:
                    note(error)
                else:
                    marks[path.relative_to(folder).as_posix()] = [status.st_size, status.st_mtime_ns]
    return marks, failed


def square(image: np.ndarray) -> np.ndarray:
    """Returns a photograph resized to the square that descriptors are computed from; its proportions change."""
    sides = (SIDE, SIDE)
    return np.asarray(Image.fromarray(image).resize(sides, Image.Resampling.BICUBIC, reducing_gap=4.0))


def squares_of(
    folder: Path, names: Iterable[str], batch: int, failed: dict[str, str]
) -> Iterator[tuple[list[str], Any]]:
    """Yields the names and the squares of images, up to ``batch`` at a time; ``failed`` gets those that fail."""
    good: list[str] = []
    images: list[np.ndarray] = []
    for name in names:
        try:
            images.append(square(read_image(folder / name)))
            good.append(name)
        except (ValueError, OSError) as error:
            failed[name] = str(error)
        if len(good) == batch:
            yield good, np.stack(images)
            good, images = [], []
    if good:
        yield good, np.stack(images)


def update(
    index: Index,
    marks: Mapping[str, list[int]],
    describe: Callable[[np.ndarray], np.ndarray],
    failed: dict[str, str],
    path: Path,
    *,
    batch: int,
    quiet: bool,
) -> Index:
    """Returns the index of the files in ``marks``, of which it reads those that are new or changed.

    The index is saved as images are read, so that a run that was stopped goes on where it was.
    """
    kept = [name for name, mark in index.marks.items() if marks.get(name) == mark]
    fresh = [name for name in marks if name not in set(kept)]
    if not fresh and len(kept) == len(index.marks) and index.whitened is not None:
        return index
    at = {name: i for i, name in enumerate(index.marks)}
    known = {name: marks[name] for name in kept}
    parts = [index.rows[[at[name] for name in kept]]] if kept else []
    saved = time.monotonic()
    with tqdm(total=len(fresh), desc="reading", unit="image", disable=quiet) as bar:
        for names, images in squares_of(Path(index.folder), fresh, batch, failed):
            parts.append(describe(images).astype(np.float16))
            known |= {name: marks[name] for name in names}
            bar.update(len(names))
            if time.monotonic() - saved > EVERY:
                parts = [np.concatenate(parts)]
                save(path, Index(index.folder, index.made, known, parts[0]))
                saved = time.monotonic()
    if not known:
        raise ValueError(f"--folder must have at least one image that can be read, got {index.folder}")
    if known == index.marks and index.whitened is not None:  # All other files cannot be read.
        return index
    rows = np.concatenate(parts)
    whitening = descriptors.learn_whitening(rows)
    vectors = np.asarray(whiten(rows, whitening)).astype(np.float16)
    index = Index(index.folder, index.made, known, rows, (whitening, vectors))
    save(path, index)
    return index


def small(image: np.ndarray) -> np.ndarray:
    """Returns a picture for the sheet."""
    picture = Image.fromarray(image)
    picture.thumbnail((SHOWN, SHOWN))
    return np.asarray(picture)


def printable(name: str) -> str:
    """Returns a file's name with replacements for bytes that are no text."""
    return os.fsencode(name).decode(errors="replace")


def shown(folder: Path, name: str) -> np.ndarray:
    """Returns an image of the folder for the sheet; gray if the file is no longer there."""
    try:
        return small(read_image(folder / name))
    except (ValueError, OSError):
        return np.full((SHOWN, SHOWN, 3), 128, np.uint8)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Brings the index up to date, searches it for each query, and writes the sheet; returns the metrics."""
    asked = [(square(image), small(image)) for image in map(photograph, options.query)]
    squares, pictures = np.stack([one for one, _ in asked]), [picture for _, picture in asked[:SHEET]]
    describe, made = descriptors.describer(options.weights, options.batch)
    made += f", {SIDE} pixels"
    folder, path = Path(options.folder).resolve(), options.out / "index.npz"
    empty = Index(str(folder), made, {}, np.empty((0, 0), np.float16))
    old = load(path) if path.exists() else empty
    if old.folder != str(folder):
        raise ValueError(
            f"--out must be new or have the index of {folder}, got {options.out} with that of {old.folder}"
        )
    if old.made != made:
        print("the index has descriptors of another type: all images are read again")
        old = empty
    marks, failed = files(folder, options.out.resolve())
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter(), time.process_time()
    index = update(old, marks, describe, failed, path, batch=options.batch, quiet=options.quiet)
    indexed = time.perf_counter(), time.process_time()
    changed = sum(old.marks.get(name) != mark for name, mark in index.marks.items())
    gone = sum(name not in index.marks for name in old.marks)
    print(f"{len(index.marks):,} images: {changed:,} read, {gone:,} gone, {len(failed):,} that cannot be read")
    for name, why in failed.items():
        print(printable(f"cannot read {name}: {why}"))

    assert index.whitened is not None
    whitening, vectors = index.whitened[0], index.whitened[1].astype(np.float32)

    def described(one: np.ndarray) -> np.ndarray:
        return np.asarray(whiten(describe(views(one)), whitening))

    def searched(rows: np.ndarray) -> Neighbors:
        return nearest_views(rows, vectors, min(K, len(vectors)))

    searched(np.stack([described(squares[0])] * len(squares)))  # Compiles.
    compiled = time.perf_counter()
    rows = np.stack([described(one) for one in squares])
    between = time.perf_counter()
    found = searched(rows)
    end = time.perf_counter()
    names = [*index.marks]
    for query, near, far in zip(options.query, *found, strict=True):
        print(printable(query))
        for i, distance in zip(near, far, strict=True):
            print(printable(f"  {max(distance, 0):.3f}  {names[i]}"))
    each = {
        "describe": (between - compiled) / len(rows),
        "search": (end - between) / len(rows),
    }
    print(
        f"a query takes {sum(each.values()):.3f} s: {each['describe']:.3f} s for its descriptor, "
        f"{each['search']:.3f} s for the search; before the first, {compiled - indexed[0]:.1f} s to compile"
    )
    metrics = {
        "images": len(names),
        "read": changed,
        "gone": gone,
        "failed": len(failed),
        "index_seconds": round(indexed[0] - start[0], 1),
        "index_processor_seconds": round(indexed[1] - start[1], 1),
        "seconds_per_query": each,
        "nearest": [[names[i] for i in near] for near in found.indices],
        **report.environment(),
        "arguments": report.arguments(options),
    }
    report.write_json(options.out / "metrics.json", metrics)
    sheet: list[np.ndarray] = []
    titles: list[str] = []
    for picture, near, far in zip(pictures, *found, strict=False):
        sheet += [picture, *(shown(folder, names[i]) for i in near)]
        titles += ["query", *(f"{max(distance, 0):.3f}" for distance in far)]
    figure = figures.images(sheet, titles, columns=1 + found.indices.shape[1])
    facts = {
        "images": len(names),
        "seconds of a query": f"{sum(each.values()):.3f}",
        "cannot be read": printable(", ".join(failed)) or "none",
        "device": metrics["device"],
    }
    caption = f"Queries and the nearest images of {printable(str(folder))}, with cosine distances"
    print(f"open {report.write_report(options.out, 'Images of a folder', facts, [('neighbors', caption, figure)])}")
    return metrics
