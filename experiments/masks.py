"""Shared parts of experiments on masks: reading images and masks of any depth, pairs of both, pictures of both."""

import argparse
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.optional import Image
from experiments.pictures import stems
from experiments.pretrained import packaged
from jaxconv.data.images import ENDINGS

# Colors of classes and of instances; the background has none.
PALETTE = np.array(
    [
        (230, 60, 60), (70, 200, 90), (80, 140, 250), (250, 190, 40), (200, 90, 220), (60, 210, 220),
        (250, 130, 50), (170, 220, 60), (250, 130, 180), (120, 110, 240), (40, 170, 140), (190, 150, 100),
    ],
    np.uint8,
)  # fmt: skip


class Pair(NamedTuple):
    """An image ``(height, width, channels)`` and its mask ``(height, width)``, as they are stored."""

    name: str
    image: np.ndarray
    mask: np.ndarray


def read_raster(source: Any, name: str = "") -> np.ndarray:
    """Returns an image as it is stored: ``(height, width, channels)`` with 1 or 3 channels, 8 or 16 bits or floats.

    Unlike `jaxconv.data.read_image` it keeps all bits of a pixel. Palettes and transparency are dropped: a palette's
    indices are the pixels.

    Args:
      source: a path, or a binary file.
      name: what an error calls it; by default the path.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: the file is not an image that Pillow reads.
    """
    try:
        with Image.open(source) as image:
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name or source} is not an image: {error}") from error
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]


def read_rasters(paths: Sequence[Path]) -> dict[Path, np.ndarray]:
    """Returns images by their paths, whose names without endings name the results.

    Raises:
      FileNotFoundError, ValueError: as `read_raster`, or two files have the same name.
    """
    stems(paths)
    return {path: read_raster(path) for path in paths}


def check_use(options: argparse.Namespace) -> None:
    """Raises ValueError unless the arguments are those of a use of --weights, without training."""
    if not options.image:
        raise ValueError("--weights needs --image, the images to use the weights on")
    if options.data or options.folder or options.resume:
        raise ValueError("--weights must come without --data, --folder and --resume, which are for training")


def pair(name: str, image: np.ndarray, mask: np.ndarray) -> Pair:
    """Returns an image with its mask.

    Raises:
      ValueError: the mask has another size than the image, or several channels that differ.
    """
    if mask.shape[:2] != image.shape[:2]:
        sizes = [f"{a.shape[1]} x {a.shape[0]}" for a in (image, mask)]
        raise ValueError(f"{name}: the mask must have the size of the image, {sizes[0]}, got {sizes[1]}")
    if (mask != mask[..., :1]).any():
        raise ValueError(f"{name}: a mask must be one channel of numbers, got an image in color")
    return Pair(name, image, mask[..., 0])


def from_package(module: str, files: tuple[str, str], install: str, data: Path | None = None) -> Pair:
    """Returns an image and its mask out of a package: an installed one, its wheel, or a folder with both files.

    Args:
      module: the package's import name.
      files: the paths of both inside the package.
      install: how to get the package, for the error where it is missing.
      data: a wheel, or a folder; None looks for the installed package.

    Raises:
      FileNotFoundError: the package is not installed, or the wheel or the folder has no such file.
      ValueError: a file is not an image, or their sizes differ.
    """
    found: list[Any] = []
    names = [Path(file).name for file in files]
    if data is None:
        try:
            found = [packaged(module, file, module) for file in files]
        except FileNotFoundError as error:
            raise FileNotFoundError(f"the package {module} is not installed: {install}") from error
    elif data.is_file():
        if not zipfile.is_zipfile(data):
            raise ValueError(f"--data must be a wheel or a folder, got the file {data}")
        with zipfile.ZipFile(data) as wheel:
            inside = {Path(entry).name: entry for entry in wheel.namelist()}
            if lacking := [name for name in names if name not in inside]:
                raise FileNotFoundError(f"{data} has no {lacking[0]}")
            found = [io.BytesIO(wheel.read(inside[name])) for name in names]
    else:
        for name in names:
            paths = sorted(data.rglob(name))
            if not paths:
                raise FileNotFoundError(f"{data} has no {name}")
            found.append(paths[0])
    image, mask = (read_raster(source, name) for source, name in zip(found, names, strict=True))
    return pair(names[0], image, mask)


def from_folder(folder: Path) -> list[Pair]:
    """Returns the images in ``folder/images`` with the masks in ``folder/masks`` that have the same names.

    Raises:
      FileNotFoundError: an image has no mask.
      ValueError: there are no images, a file is not an image, or a mask has another size than its image.
    """
    images, masks = ({p.stem: p for p in _files(folder / name)} for name in ("images", "masks"))
    if not images:
        raise ValueError(f"--folder must have images in images/ and their masks in masks/, got none in {folder}")
    if lacking := sorted(set(images) - set(masks)):
        raise FileNotFoundError(f"{folder / 'masks'} has no mask for the image {images[lacking[0]].name}")
    return [pair(path.name, read_raster(path), read_raster(masks[stem])) for stem, path in images.items()]


def _files(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found if p.suffix.lower() in ENDINGS and not p.name.startswith("."))


def divided(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Returns the pairs to train on and those to test on: the halves of one image, or every fifth pair for the test.

    >>> one = Pair("a", np.zeros((4, 10, 1)), np.zeros((4, 10)))
    >>> [part[0].image.shape for part in divided([one])]
    [(4, 5, 1), (4, 5, 1)]
    """
    if len(pairs) > 1:
        testing = set(range(0, len(pairs), 5))
        return tuple([p for i, p in enumerate(pairs) if (i in testing) == test] for test in (False, True))  # type: ignore[return-value]
    [(name, image, mask)] = pairs
    middle = image.shape[1] // 2
    sides = (slice(None, middle), slice(middle, None))
    left, right = (Pair(name, image[:, side], mask[:, side]) for side in sides)
    return [left], [right]


def standardized(image: np.ndarray, low: float = 1.0, high: float = 99.8) -> np.ndarray:
    """Returns an image in float32 in which the given percentiles are 0 and 1.

    >>> standardized(np.arange(11)[:, None, None] * 1000, 0, 100).ravel()[[0, 5, 10]]
    array([0. , 0.5, 1. ], dtype=float32)
    """
    bottom, top = np.percentile(image, [low, high])
    return ((image - bottom) / max(top - bottom, 1e-6)).astype(np.float32)


def gray(image: np.ndarray) -> np.ndarray:
    """Returns ``(height, width, 1)``: the mean of the channels."""
    return image.astype(np.float32).mean(-1, keepdims=True)


def smaller(image: np.ndarray, scale: int) -> np.ndarray:
    """Returns the means of blocks of ``scale`` pixels; the last rows and columns without a whole block are repeated.

    >>> smaller(np.arange(6.0).reshape(2, 3, 1), 2)[..., 0].tolist()
    [[2.0, 3.5]]
    """
    height, width, channels = image.shape
    padded = np.pad(image, [(0, -height % scale), (0, -width % scale), (0, 0)], mode="edge")
    blocks = padded.reshape(padded.shape[0] // scale, scale, padded.shape[1] // scale, scale, channels)
    return blocks.mean((1, 3), dtype=np.float32)


def in_color(image: np.ndarray) -> np.ndarray:
    """Converts the result of `standardized` to uint8 RGB ``(height, width, 3)``, clipped to [0, 1]."""
    pixels = np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)).copy()


def painted(image: np.ndarray, labels: np.ndarray, *, opacity: float = 0.5, borders: bool = True) -> np.ndarray:
    """Returns an image with labels painted over it: each label other than 0 in a color, its border opaque.

    Args:
      image: ``(height, width, 3)`` uint8.
      labels: integers ``(height, width)``; label i has color i - 1 of `PALETTE`, which repeats.
      opacity: the weight of a label's color, from 0 to 1.
      borders: whether pixels next to another label have the full color.
    """
    colors = PALETTE[(labels - 1) % len(PALETTE)].astype(np.float32)
    edge = np.zeros(labels.shape, bool)
    if borders:
        down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
        edge[1:] |= down
        edge[:-1] |= down
        edge[:, 1:] |= right
        edge[:, :-1] |= right
    share = np.where(labels > 0, np.where(edge, 1.0, opacity), 0.0)[..., None]
    return np.round(image * (1 - share) + colors * share).astype(np.uint8)


def iou(predicted: np.ndarray, true: np.ndarray) -> float:
    """Returns the intersection over union of two bool masks; NaN where both are empty.

    >>> iou(np.array([True, True, False]), np.array([True, False, False]))
    0.5
    """
    either = int((predicted | true).sum())
    return int((predicted & true).sum()) / either if either else float("nan")


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    """Returns the Dice coefficient of two bool masks; NaN where both are empty.

    >>> round(dice(np.array([True, True, False]), np.array([True, False, False])), 3)
    0.667
    """
    both = int(predicted.sum()) + int(true.sum())
    return 2 * int((predicted & true).sum()) / both if both else float("nan")


def add_arguments(arguments: argparse.ArgumentParser, name: str, package: str) -> None:
    """Adds the arguments that the commands on masks share.

    Args:
      arguments: the command's parser.
      name: the command, and what it finds: "roads".
      package: the package whose wheel has the data.
    """
    source = arguments.add_mutually_exclusive_group()
    source.add_argument("--data", type=Path, help=f"{package}'s wheel, or a folder; default: the installed package")
    source.add_argument("--folder", type=Path, help="images/ and masks/ with files of the same names, to train on")
    arguments.add_argument("--image", type=Path, nargs="+", default=[], help=f"images to find {name} in, of any sizes")
    arguments.add_argument("--weights", type=Path, metavar="FILE", help="of an earlier run: --image without training")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of weights, batches and augmentation")
    arguments.add_argument("--out", type=Path, default=Path("runs") / name, help="a folder for the results")
    arguments.add_argument("--resume", action="store_true", help="continue the training in --out")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")


def chosen(options: argparse.Namespace, package: str, files: tuple[str, str], install: str) -> list[Pair]:
    """Returns the pairs that --folder or --data names; other arguments as in `from_package`."""
    if options.folder is not None:
        return from_folder(options.folder)
    return [from_package(package, files, install, options.data)]
