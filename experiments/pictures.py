"""Shared parts of experiments on images: reading and resizing photographs, a progress bar, writing PNGs."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import jaxconv as jc
from experiments import report
from experiments.images import read_image
from experiments.optional import Image, tqdm
from experiments.pretrained import packaged
from jaxconv.data.images import ENDINGS

PACKAGES = (
    ("skimage", "data", "scikit-image"),
    ("sklearn", "datasets/images", "scikit-learn"),
    ("matplotlib", "mpl-data/sample_data", "matplotlib"),
)
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "cell.png",
    "chelsea.png",
    "china.jpg",
    "coffee.png",
    "coins.png",
    "flower.jpg",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)


def photograph_path(source: str) -> Path:
    """Returns the path of an image file, or of the photograph of scikit-image or scikit-learn with that name.

    Raises:
      FileNotFoundError: there is neither a file nor a photograph of that name.
    """
    if Path(source).exists():
        return Path(source)
    for module, folder, install in PACKAGES:
        with contextlib.suppress(FileNotFoundError):
            return packaged(module, f"{folder}/{source}", install)
    packages = " nor ".join(install for *_, install in PACKAGES)
    raise FileNotFoundError(
        f"{source} is no file, and neither {packages} has a photograph of that name installed: pip install scikit-image"
    )


def photograph(source: str) -> np.ndarray:
    """Returns the image at `photograph_path` as uint8 RGB.

    Raises:
      FileNotFoundError: there is neither a file nor a photograph of that name.
    """
    return read_image(photograph_path(source))


def pictures(sources: Sequence[str], folder: str | None = None) -> dict[str, np.ndarray]:
    """Returns images as uint8 RGB by name: of files or packaged photographs, and all images below a folder.

    Raises:
      FileNotFoundError: a file or the folder does not exist.
      ValueError: a file is not an image, or the folder has none.
    """
    found = {source: photograph(source) for source in sources}
    if folder is not None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"--folder must be a folder, got {folder}")
        paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in ENDINGS)
        if not paths:
            raise ValueError(f"--folder must have at least one image, got {folder}")
        found |= {str(path): read_image(path) for path in paths}
    return found


def stems(sources: Iterable[str | Path], argument: str = "--image") -> list[str]:
    """Returns the names of files without folders and endings, which name the results.

    Raises:
      ValueError: two files have the same name.

    >>> stems(["photographs/cat.jpg", "coffee.png"])
    ['cat', 'coffee']
    """
    names = [Path(source).stem for source in sources]
    if len(set(names)) < len(names):
        raise ValueError(f"{argument} must have files of different names, got {', '.join(names)}")
    return names


def texts_of(found: Mapping[str, np.ndarray], classes: Sequence[str]) -> list[str]:
    """Returns for each object of a detector, its labels and scores, the class and the score.

    >>> texts_of({"labels": np.array([1]), "scores": np.array([0.875])}, ["cat", "dog"])
    ['dog 0.88']
    """
    return [f"{classes[i]} {score:.2f}" for i, score in zip(found["labels"], found["scores"], strict=True)]


def sized(image: np.ndarray, side: int) -> np.ndarray:
    """Returns an image as a batch of floats in [0, 1], its shorter side resized to ``side``.

    >>> sized(np.full((40, 60, 3), 255, np.uint8), 20).shape
    (1, 20, 30, 3)
    """
    scale = side / min(image.shape[:2])
    height, width = (max(1, round(n * scale)) for n in image.shape[:2])
    resized = jc.resize(jnp.asarray(image[None], jnp.float32) / 255, (height, width), method="bicubic", antialias=True)
    return np.clip(resized, 0, 1)


def write_png(path: Path, image: ArrayLike) -> None:
    """Writes an image ``(height, width, 3)`` of floats in [0, 1], atomically."""
    buffer = io.BytesIO()
    Image.fromarray(np.round(np.asarray(image) * 255).astype(np.uint8)).save(buffer, format="png")
    report.write(path, buffer.getvalue())


@contextlib.contextmanager
def progress(
    what: str, steps: int, quiet: bool, shown: Callable[[int, float], str] = lambda _, loss: f"loss {loss:.4g}"
) -> Iterator[Callable[[int, float], None]]:
    """Shows a progress bar, and yields its ``on_step`` function; ``shown`` returns the text for a step."""
    with tqdm(total=steps, desc=what, unit="step", dynamic_ncols=True, disable=quiet) as bar:

        def on_step(step: int, loss: float) -> None:
            bar.set_postfix_str(shown(step, loss), refresh=False)
            bar.update(step - bar.n)

        yield on_step
