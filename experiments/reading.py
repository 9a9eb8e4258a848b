"""Reads the text in pictures with PP-OCR, whose networks are ONNX files.

    python -m experiments.reading --image page.png --out runs/reading

Networks: PP-OCRv4 (Du et al., 2020) of PyPI's rapidocr-onnxruntime 1.4.4, read by `jaxconv.interop.onnx.from_onnx`: one
that finds text (Liao et al., 2020) and one that reads lines of it, by connectionist temporal classification (Graves et
al., 2006). Its 6,623 characters are those of Chinese and English. Weights and photographs are real. Lines are
rotated to be horizontal, if they slope by less than 45 degrees.

Prints the lines from top to bottom, and, if onnxruntime is installed, the largest difference between its outputs and
those of the two networks: at most 1e-4 on scikit-image's page.png, which takes 5 s of processor time on two cores of an
AMD EPYC (AVX-512). Writes NAME_text.png, the picture with the boxes of its lines and their text, and NAME.txt.
"""

import argparse
import functools
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.optional import Image, figures, needed
from experiments.pictures import pictures, stems
from experiments.pretrained import packaged

INSTALL = "rapidocr-onnxruntime==1.4.4"
# The settings of rapidocr-onnxruntime: thresholds of pixels, of boxes and of lines, and how much boxes grow.
PIXEL, BOX, LINE, GROWTH = 0.3, 0.5, 0.5, 1.6
SHORTER, DIVISOR, LONGEST = 736, 32, 2016
HEIGHT, WIDTH, AT_ONCE = 48, 320, 4


class Model(NamedTuple):
    """A network of an ONNX file."""

    net: jc.Layer
    params: Any
    state: Any
    path: Path

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(_applied(self.net, self.params, self.state, x))

    def by_onnxruntime(self, x: np.ndarray) -> np.ndarray:
        """Returns what onnxruntime computes for the same input, as a reference."""
        import onnxruntime

        session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
        return y.transpose(0, 2, 3, 1) if y.ndim == 4 else y


@functools.partial(jax.jit, static_argnums=0)
def _applied(net: jc.Layer, params: Any, state: Any, x: jax.Array) -> jax.Array:
    return net.apply(params, state, x)[0]


class Reader(NamedTuple):
    """The network that finds text, the one that reads a line, and the characters of its outputs."""

    finds: Model
    reads: Model
    characters: tuple[str, ...]


class Line(NamedTuple):
    """A line of text: its four corners in pixels, the text, and the mean probability of its characters."""

    corners: np.ndarray
    text: str
    probability: float


def reader(folder: Path | None = None) -> Reader:
    """Returns PP-OCR's networks, of a folder with ``*det*.onnx`` and ``*rec*.onnx``, or of the installed package.

    Raises:
      FileNotFoundError: a file is missing, or the package is not installed.
    """
    from jaxconv.interop.onnx import from_onnx  # Its error says how to install onnx.

    onnx = importlib.import_module("onnx")

    paths = []
    for part in ("det", "rec"):
        found = (
            sorted(folder.glob(f"*{part}*.onnx"))
            if folder
            else [packaged("rapidocr_onnxruntime", f"models/*{part}_infer.onnx", INSTALL)]
        )
        if not found:
            raise FileNotFoundError(f"{folder} must have a file *{part}*.onnx of PP-OCR")
        paths.append(found[0])
    finds, reads = (Model(*from_onnx(path), path) for path in paths)
    metadata = {entry.key: entry.value for entry in onnx.load(paths[1], load_external_data=False).metadata_props}
    if "character" not in metadata:
        raise ValueError(
            f"{paths[1]} must have its list of characters in the metadata 'character', got {list(metadata)}"
        )
    # The first output is the blank of CTC, the last a space.
    return Reader(finds, reads, ("", *metadata["character"].splitlines(), " "))


def scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns an image as the networks take it, ``(height, width, 3)`` from -1 to 1, blue first."""
    x = jc.resize(jnp.asarray(image[..., ::-1], jnp.float32), (height, width), method="bilinear")
    return np.asarray(x) / 127.5 - 1


def text_map(model: Reader, image: np.ndarray, shorter: int = SHORTER) -> tuple[np.ndarray, np.ndarray]:
    """Returns the network's input ``(1, height, width, 3)``, and the probability of text ``(height, width)``."""
    factor = min(max(1.0, shorter / min(image.shape[:2])), LONGEST / max(image.shape[:2]))
    height, width = (max(DIVISOR, round(n * factor / DIVISOR) * DIVISOR) for n in image.shape[:2])
    x = scaled(image, height, width)[None]
    return x, model.finds(x)[0, ..., 0]


def corners_of(probability: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Returns the corners of lines, ``(n, 4, 2)``, from top to bottom, in pixels of the image of this height and width.

    The corners of a line are its left upper, right upper, right lower and left lower one, x and y. A connected part of
    the probable pixels is the shrunken middle of a line: the rectangle around it grows by its area divided by its
    perimeter, times `GROWTH`, to all sides.
    """
    parts = jc.instances.connected_components(probability > PIXEL, connectivity=2)
    found = []
    for number in range(1, parts.max() + 1):
        rows, columns = np.nonzero(parts == number)
        if probability[rows, columns].mean() < BOX:
            continue
        points = np.stack([columns, rows], -1) + 0.5
        low, high, axes = min((_rectangle(points, angle) for angle in (0.0, _slant(points))), key=_area)
        if (high - low).min() < 3:
            continue
        growth = np.prod(high - low) * GROWTH / (2 * (high - low).sum())
        low, high = low - growth, high + growth
        found.append(np.array([low, (high[0], low[1]), high, (low[0], high[1])]) @ axes)
    scale = np.array(size[::-1]) / probability.shape[::-1]
    corners = sorted((quad * scale for quad in found), key=lambda quad: quad[:, 1].mean())
    # Lines whose middles differ by less than half of their height are beside each other.
    lines: list[list[np.ndarray]] = []
    for quad in corners:
        if lines and quad[:, 1].mean() - lines[-1][0][:, 1].mean() < 0.5 * np.linalg.norm(quad[3] - quad[0]):
            lines[-1].append(quad)
        else:
            lines.append([quad])
    ordered = [quad for line in lines for quad in sorted(line, key=lambda quad: quad[:, 0].mean())]
    return np.array(ordered).reshape(-1, 4, 2)


def _slant(points: np.ndarray) -> float:
    """Returns the angle of a line's direction, at most 45 degrees."""
    (x, xy), (_, y) = np.cov(points.T) if len(points) > 1 else np.eye(2)
    return float(np.clip(0.5 * np.arctan2(2 * xy, x - y), -np.pi / 4, np.pi / 4))


def _rectangle(points: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rectangle around pixels: its limits along two axes, and the axes."""
    axes = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    along = points @ axes.T
    return along.min(0) - 0.5, along.max(0) + 0.5, axes


def _area(rectangle: tuple[np.ndarray, np.ndarray, np.ndarray]) -> float:
    return float(np.prod(rectangle[1] - rectangle[0]))


def line_input(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Returns the input of the reading network for a line: horizontal, 48 pixels high, padded with zeros on the right.

    The width is a multiple of 320, so that few programs are compiled.
    """
    width, height = (max(1, round(float(np.linalg.norm(corners[i] - corners[0])))) for i in (1, 3))
    (a, d), (b, e) = (corners[1] - corners[0]) / width, (corners[3] - corners[0]) / height
    matrix = (a, b, corners[0, 0], d, e, corners[0, 1])
    horizontal = Image.fromarray(image).transform(
        (width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    wide = max(1, round(HEIGHT * width / height))
    x = np.zeros((HEIGHT, -(-wide // WIDTH) * WIDTH, 3), np.float32)
    x[:, :wide] = scaled(np.asarray(horizontal), HEIGHT, wide)
    return x


def decoded(probabilities: np.ndarray, characters: Sequence[str]) -> tuple[str, float]:
    """Returns the text of ``(steps, characters)`` and its mean probability: repetitions and blanks are dropped.

    >>> decoded(np.eye(3)[[1, 1, 0, 1, 2]], ("", "a", "b"))
    ('aab', 1.0)
    """
    best = probabilities.argmax(-1)
    kept = (best > 0) & (best != np.concatenate([[-1], best[:-1]]))
    text = "".join(characters[i] for i in best[kept])
    return text, float(probabilities.max(-1)[kept].mean()) if kept.any() else 0.0


def read(model: Reader, image: np.ndarray, shorter: int = SHORTER) -> tuple[list[Line], dict[str, np.ndarray]]:
    """Returns the lines of text in an image, from top to bottom, and the networks' last inputs by "finds", "reads".

    Args:
      model: the networks.
      image: ``(height, width, 3)`` uint8. An image without text has no lines.
      shorter: the shorter side is enlarged to this for the first network.
    """
    x, probability = text_map(model, image, shorter)
    inputs = {"finds": x}
    quads = corners_of(probability, image.shape[:2])
    crops = [line_input(image, quad) for quad in quads]
    texts: dict[int, tuple[str, float]] = {}
    for width in sorted({crop.shape[1] for crop in crops}):
        chosen = [i for i, crop in enumerate(crops) if crop.shape[1] == width]
        for start in range(0, len(chosen), AT_ONCE):
            some = chosen[start : start + AT_ONCE]
            batch = np.zeros((AT_ONCE, HEIGHT, width, 3), np.float32)
            batch[: len(some)] = [crops[i] for i in some]
            inputs["reads"] = batch
            texts |= {i: decoded(y, model.characters) for i, y in zip(some, model.reads(batch), strict=False)}
    lines = [Line(quad, *texts[i]) for i, quad in enumerate(quads)]
    return [line for line in lines if line.probability >= LINE], inputs


def figure(image: np.ndarray, lines: Sequence[Line]) -> Any:
    """Draws the outlines of the lines on the image, and their text beside it at the same positions."""
    from matplotlib.patches import Polygon

    height, width = image.shape[:2]
    fig = figures.images([image, np.full_like(image, 255)], columns=2)
    fig.set_size_inches(14, 7 * height / width)
    for i, line in enumerate(lines):
        outline = Polygon(line.corners - 0.5, fill=False, edgecolor=f"C{i % 10}", linewidth=1.6)
        fig.axes[0].add_patch(outline)
        # As high as the line: a font of n points is n / 72 inches high.
        tall = float(np.linalg.norm(line.corners[3] - line.corners[0]))
        # The fonts of figures have no Chinese characters.
        text = "".join(c if c.isascii() else "?" for c in line.text).replace("$", r"\$")
        size = min(0.5 * 72 * 7 / width * tall, 14)
        x, y = line.corners[[0, 3]].mean(0).tolist()
        fig.axes[1].text(x, y, text, color=f"C{i % 10}", fontsize=size, va="center")
    return fig


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser("python -m experiments.reading", description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument(
        "--image",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files, or names of packaged photographs; default: page.png",
    )
    arguments.add_argument("--folder", metavar="DIR", help="a folder of pictures")
    arguments.add_argument("--weights", type=Path, metavar="DIR", help="default: those of the installed package")
    arguments.add_argument(
        "--out",
        type=Path,
        default=Path("runs/reading"),
        metavar="DIR",
        help="a folder for the PNGs; default: runs/reading",
    )
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, list[str]]:
    options = parser().parse_args(argv)
    needed(Image, figures)
    images = pictures(options.image or ([] if options.folder else ["page.png"]), options.folder)
    names = stems(images, "--image and --folder")
    model = reader(options.weights)
    options.out.mkdir(parents=True, exist_ok=True)
    texts = {}
    for name, image in zip(names, images.values(), strict=True):
        lines, inputs = read(model, image)
        texts[name] = [line.text for line in lines]
        picture = options.out / f"{name}_text.png"
        report.write(picture, report.png(figure(image, lines)))
        report.write(options.out / f"{name}.txt", "".join(f"{text}\n" for text in texts[name]).encode())
        print(picture)
        print("\n".join(f"  {line.probability:.0%}  {line.text}" for line in lines) or "  no text found")
        if importlib.util.find_spec("onnxruntime"):
            differences = [
                np.abs(part(x) - part.by_onnxruntime(x)).max()
                for part, x in ((getattr(model, key), x) for key, x in inputs.items())
            ]
            print(f"  differs from onnxruntime by at most {max(differences):.1e}")
        else:
            print("  not compared with onnxruntime, which is not installed")
    return texts


if __name__ == "__main__":
    report.run(main)
