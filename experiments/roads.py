"""Finds roads in aerial images of any size with D-LinkNet, trained and tested here.

    python -m experiments.roads --data solaris-0.4.0-py3-none-any.whl
    python -m experiments.roads --weights runs/roads/weights.safetensors --image mine.tif         # without training
    python -m experiments.roads --folder my_town                      # trained on my_town/images and my_town/masks

Network: Zhou, Zhang and Wu, "D-LinkNet: LinkNet with pretrained encoder and dilated convolution", 2018, here on a
ResNet-18 of a quarter of the width, from random weights. The data are real: the satellite image of 1300 x 1300 pixels
in PyPI's solaris, in gray, with the mask of its roads. The left half is trained on, the right half is tested on; two
of the roads cross both halves, and the defaults were chosen with test results of a few runs in view. In the baseline,
pixels are roads if their gray value, maybe smoothed, is between two thresholds. The thresholds and the smoothing have
the highest IoU on the training half, and so has the probability above which the network's pixels are roads.

Writes weights.safetensors, metrics.json, checkpoint/, the figures and report.html under --out, and for each --image
NAME_roads.png, the probability of a road at each pixel, and NAME_overlay.png. On the tested half the IoU is 0.341 by
D-LinkNet and 0.115 by thresholds, after 1600 steps: 113 s of processor time on two cores of an AMD EPYC (AVX-512), jax
0.12.0.1, one run.
"""

import argparse
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import masks, report
from experiments.classify import Help, positive
from experiments.optional import Image, figures, jaxconv_train, needed, optax
from experiments.pictures import write_png
from jaxconv.models.resnet import basic, resnet

FILES = ("data/road_mask_input.tif", "data/sample_road_raster_mask.tif")
INSTALL = (
    "newer versions of pip refuse its metadata, so python -m venv old, old/bin/pip install 'pip<24.1', "
    "old/bin/pip download --no-deps solaris==0.4.0, then --data solaris-0.4.0-py3-none-any.whl"
)
# Colors of the overlay, as labels of `masks.painted`: true positives, false negatives, false positives.
FOUND, MISSED, WRONG = 2, 3, 1
IGNORED = -1


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.roads", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    masks.add_arguments(arguments, "roads", "solaris")
    arguments.add_argument("--tiles", type=positive(int), default=240, help="random tiles of the training part")
    arguments.add_argument("--epochs", type=positive(int), default=40, help="passes over the tiles")
    arguments.add_argument("--batch", type=positive(int), default=6, help="tiles in each step")
    arguments.add_argument("--tile", type=positive(int), default=128, help="the side of tiles, a multiple of 64")
    arguments.add_argument(
        "--scale", type=positive(int), default=4, help="images are reduced by this factor, and scores enlarged"
    )
    arguments.add_argument("--width", type=positive(int), default=16, help="filters of the first stage")
    arguments.add_argument("--lr", type=positive(float), default=3e-3, help="the peak learning rate of the schedule")
    return arguments


def network(width: int) -> jc.Layer:
    return jc.models.dlinknet(resnet(basic, (2, 2, 2, 2), width=width), width=width)


# --- Data -------------------------------------------------------------------------------------------------------------


def tiles(pairs: Sequence[masks.Pair], count: int, side: int, scale: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns tiles of the images at random positions, ``(count, side, side, channels)``, and their roads.

    Every second tile has a road in its middle third, if there is one. Images that are smaller than a tile are
    padded; the padding does not count.
    """
    random = np.random.default_rng(seed)
    sources = []
    for pair in pairs:
        image = masks.smaller(masks.standardized(pair.image), scale)
        road = masks.smaller((pair.mask > 0)[..., None].astype(np.float32), scale)[..., 0] >= 0.5
        pads = [(0, max(0, side - n)) for n in road.shape]
        image = np.pad(image, [*pads, (0, 0)], mode="edge")
        sources.append((image, np.pad(road.astype(np.int8), pads, constant_values=IGNORED), np.argwhere(road)))
    areas = np.array([road.size for _, road, _ in sources], float)
    images, roads = [], []
    for i in range(count):
        image, road, where = sources[random.choice(len(sources), p=areas / areas.sum())]
        corner = np.array([random.integers(0, n - side + 1) for n in road.shape])
        if i % 2 and len(where):
            middle = where[random.integers(len(where))] - side // 2 + random.integers(-side // 6, side // 6 + 1, 2)
            corner = np.clip(middle, 0, np.array(road.shape) - side)
        top, left = corner
        images.append(image[top : top + side, left : left + side])
        roads.append(road[top : top + side, left : left + side])
    return np.stack(images), np.stack(roads)


def augment(key: jax.Array, images: jax.Array, roads: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rotates, mirrors, scales and shifts tiles and their roads alike, and changes the contrast of tiles."""
    where, contrast = jax.random.split(key)
    draws = jc.data.draw_affine(where, images.shape, rotate=180, scale=0.25, shift=0.15, flip=True)
    factor, light = jax.random.uniform(contrast, (2, len(images), 1, 1, 1), minval=-0.3, maxval=0.3)
    return jc.data.warp(images, draws) * (1 + factor) + light / 2, jc.data.warp_masks(roads, draws, value=IGNORED)


def loss(scores: jax.Array, roads: jax.Array) -> jax.Array:
    """Returns the cross-entropy and the Dice loss of each tile, over the pixels that are in the image."""
    known = (roads != IGNORED)[..., None]
    true = (roads > 0)[..., None].astype(jnp.float32)
    entropy = jnp.where(known, optax.sigmoid_binary_cross_entropy(scores, true), 0).mean((1, 2, 3))
    overlap = jc.losses.dice_loss(jnp.where(known, jax.nn.sigmoid(scores), 0), true)[:, 0]
    return entropy + overlap


def optimizer(lr: float, steps: int) -> "optax.GradientTransformation":
    return optax.adamw(optax.cosine_onecycle_schedule(steps, lr), weight_decay=1e-4)


def probabilities(net: jc.Layer, params: Any, state: Any, image: np.ndarray, side: int, scale: int) -> np.ndarray:
    """Returns the probability of a road at each pixel, ``(height, width)``, for an image of any size."""
    reduced = masks.smaller(masks.standardized(image), scale)
    scores = jc.train.predict_tiled(
        net, params, state, reduced, tile=2 * side, overlap=side, blend=side // 2, batch_size=2
    )
    height, width = image.shape[:2]
    whole = jc.resize(scores, (scores.shape[0] * scale, scores.shape[1] * scale))
    return np.asarray(jax.nn.sigmoid(whole))[:height, :width, 0]


def best_level(probabilities: Sequence[np.ndarray], pairs: Sequence[masks.Pair]) -> float:
    """Returns the threshold of the probability of a road that gives the highest IoU over all pixels."""
    found = np.concatenate([p.ravel() for p in probabilities])
    true = np.concatenate([(pair.mask > 0).ravel() for pair in pairs])
    levels = np.linspace(0.05, 0.95, 19)
    return float(levels[np.nan_to_num([masks.iou(found >= level, true) for level in levels]).argmax()])


# --- The baseline -----------------------------------------------------------------------------------------------------


class Thresholds(NamedTuple):
    """Roads are the pixels whose value, smoothed with this standard deviation, is from ``low`` to ``high``."""

    smoothing: float
    low: float
    high: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        values = smoothed(image, self.smoothing)
        return (values >= self.low) & (values <= self.high)


def smoothed(image: np.ndarray, smoothing: float) -> np.ndarray:
    from scipy import ndimage

    values = masks.standardized(masks.gray(image))[..., 0]
    return ndimage.gaussian_filter(values, smoothing) if smoothing else values


def best_thresholds(pairs: Sequence[masks.Pair], levels: int = 128) -> Thresholds:
    """Returns the thresholds with the highest IoU over all pixels of the images, of all pairs of ``levels`` values."""
    best, found = -1.0, Thresholds(0.0, 0.0, 0.0)
    true = np.concatenate([(pair.mask > 0).ravel() for pair in pairs])
    for smoothing in (0.0, 1.0, 2.0, 4.0, 8.0):
        values = np.concatenate([smoothed(pair.image, smoothing).ravel() for pair in pairs])
        edges = np.unique(np.quantile(values, np.linspace(0, 1, levels + 1)))
        bins = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
        # Pixels, and pixels of roads, below each edge: those between two edges are differences.
        pixels, roads = (
            np.append(0, np.cumsum(np.bincount(bins[which], minlength=len(edges) - 1))) for which in (slice(None), true)
        )
        hits = roads[None, :] - roads[:, None]
        either = pixels[None, :] - pixels[:, None] + true.sum() - hits
        scores = np.where(either > 0, hits / np.maximum(either, 1), 0)
        low, high = np.unravel_index(scores.argmax(), scores.shape)
        if scores[low, high] > best:
            best, found = scores[low, high], Thresholds(smoothing, float(edges[low]), float(edges[high]))
    return found


def compared(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Returns a label for each pixel: `FOUND`, `MISSED`, `WRONG` (a false positive), or 0."""
    return np.select([predicted & true, true, predicted], [FOUND, MISSED, WRONG], 0)


def draw_roads(
    find: Callable[[np.ndarray], np.ndarray], level: float, images: dict[Path, np.ndarray], out: Path
) -> Any:
    """Writes the roads of each image, where ``find`` is at least ``level``, and returns their shares of the pixels."""
    shares = {}
    for path, image in images.items():
        name, found = path.stem, find(image)
        write_png(out / f"{name}_roads.png", np.broadcast_to(found[..., None], (*found.shape, 3)))
        overlay = masks.painted(masks.in_color(masks.standardized(image)), (found >= level) * FOUND, borders=False)
        written = out / f"{name}_overlay.png"
        write_png(written, overlay / 255)
        shares[name] = float((found >= level).mean())
        print(f"{path}: {shares[name]:.1%} of the pixels are roads, {written}")
    return shares


def check_channels(images: Mapping[Any, np.ndarray], channels: int, other: str) -> None:
    for name, image in images.items():
        if image.shape[-1] != channels:
            wanted = report.counted(channels, "channel")
            raise ValueError(f"{name} must have {wanted}, as {other} has, got {image.shape[-1]}")


def used(options: argparse.Namespace, own: dict[Path, np.ndarray]) -> dict[str, Any]:
    """Finds the roads of images with the weights of an earlier run."""
    before = report.metrics_of(options.weights, "width", "tile", "scale", "channels", "level")
    check_channels(own, before["channels"], "the training of --weights")
    net = network(before["width"])
    params, state = jc.weights.load(options.weights, net)
    find = functools.partial(probabilities, net, params, state, side=before["tile"], scale=before["scale"])
    options.out.mkdir(parents=True, exist_ok=True)
    return {"roads": draw_roads(find, before["level"], own, options.out)}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    if options.tile % 64:
        raise ValueError(f"--tile must be a multiple of 64, got {options.tile}")
    if options.weights:
        masks.check_use(options)
    elif (options.out / "checkpoint").exists() and not options.resume:
        raise ValueError(f"--out must be a new folder, got {options.out}, which has a run: use --resume")
    needed(Image, jaxconv_train, figures)
    own = masks.read_rasters(options.image)
    if options.weights:
        return used(options, own)
    pairs = masks.chosen(options, "solaris", FILES, INSTALL)
    channels = pairs[0].image.shape[-1]
    check_channels({**{p.name: p.image for p in pairs}, **own}, channels, pairs[0].name)
    training, testing = masks.divided(pairs)
    net = network(options.width)
    images, roads = tiles(training, options.tiles, options.tile, options.scale, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    fitted = jc.train.fit(
        net,
        images,
        roads,
        functools.partial(optimizer, options.lr),
        loss=loss,
        epochs=options.epochs,
        batch_size=min(options.batch, len(images)),
        key=options.seed,
        augment=augment,
        folder=options.out / "checkpoint",
        resume=options.resume,
        progress=not options.quiet,
    )
    arrays = net, fitted.params, fitted.state
    jc.weights.save(options.out / "weights.safetensors", *arrays)
    find = functools.partial(probabilities, *arrays, side=options.tile, scale=options.scale)
    level = best_level([find(pair.image) for pair in training], training)
    thresholds = best_thresholds(training)
    true = [pair.mask > 0 for pair in testing]
    results = {
        "D-LinkNet": [find(pair.image) >= level for pair in testing],
        "thresholds": [thresholds(pair.image) for pair in testing],
    }
    together = np.concatenate([mask.ravel() for mask in true])
    metrics = {
        "data": [pair.name for pair in pairs],
        "iou": {
            name: masks.iou(np.concatenate([m.ravel() for m in found]), together) for name, found in results.items()
        },
        "level": level,
        "channels": channels,
        "thresholds": thresholds._asdict(),
        "train_tiles": len(images),
        "train_seconds": round(fitted.train_seconds, 1),
        "parameters": jc.summary(net, (1, *images.shape[1:])).parameters,
        **report.environment(),
        "arguments": report.arguments(options),
    }
    report.write_json(options.out / "metrics.json", metrics)

    picture = masks.in_color(masks.standardized(testing[0].image))
    shown = [picture] + [
        masks.painted(picture, compared(found[0], true[0]), opacity=0.6, borders=False) for found in results.values()
    ]
    titles = ["tested part", *(f"{name}: IoU {metrics['iou'][name]:.2f}" for name in results)]
    parts = [
        (
            "roads",
            "Roads of the tested part: found (green), missed (blue), wrongly taken for a road (red)",
            figures.images(shown, titles, columns=3),
        ),
        ("network", "The network", jc.summary(net, (1, *images.shape[1:]))),
    ]
    facts = {
        **{f"IoU, {name}": f"{value:.3f}" for name, value in metrics["iou"].items()},
        "training tiles": len(images),
        "epochs": options.epochs,
        "training time": f"{metrics['train_seconds']} s",
        "device": metrics["device"],
    }
    page = report.write_report(options.out, "Roads", facts, parts)
    draw_roads(find, level, own, options.out)
    print("IoU on the tested part: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics["iou"].items()))
    print(f"open {page}")
    return metrics


if __name__ == "__main__":
    report.run(main)
