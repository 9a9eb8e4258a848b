"""Recognizes motion in videos: R(2+1)D and MC3, one frame for comparison, and two streams of images and optical flow.

    python -m experiments.video --out runs/video
    python -m experiments.video --folder my_videos --frames 16 --stride 2 --size 112
    python -m experiments.video --folder my_videos --frames 16 --size 112 --models mc3 --weights mc3_18-a90a0ba3.pth

The data are generated (`experiments.moving`): clips of 8 frames of 24x24 pixels, in which a shape moves to one of four
sides at one of two speeds, and a single frame does not show which. Trained on 2,048 clips in 10 epochs, with 8 filters
in the first stage, the accuracy on 512 other clips and the processor time of training, compilation included, on two
cores of an AMD EPYC (AVX-512) with jaxlib 0.12.0.1 and seed 0 are:

    R(2+1)D-18 (Tran et al., 2018)                          98.0%    147 s
    MC3-18                                                  99.8%     91 s
    R(2+1)D-18 of the frame in the middle                   10.7%     42 s    (chance: 12.5%)
    two streams (Simonyan and Zisserman, 2014)              93.2%      9 s    (1,024 clips)
      one frame                                             11.1%      5 s
      optical flow by scikit-image's optical_flow_ilk       94.5%      4 s

The command needs 316 s of processor time, the optical flow included, whose time is not in the table. With --folder the
videos are the user's own, in a subfolder for each class, and --weights begins with torchvision's weights of
Kinetics-400; the tests run this with small networks on generated files only. Writes metrics.json with the loss and the
accuracy of each epoch, a strip of Grad-CAM over time, learning curves and report.html under --out. With generated
clips, the accuracy after each epoch is that on 256 clips that are neither trained nor tested on.
"""

import argparse
import functools
import importlib.util
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.classify import Help, positive
from experiments.moving import CLASSES, moving_scenes, write_videos
from experiments.optional import figures, jaxconv_train, needed, optax, tqdm
from jaxconv.extras import not_installed

# Of the clips of Kinetics-400, with which torchvision's weights were trained.
MEAN, STD = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)
MODELS: dict[str, Callable[..., jc.Layer]] = {
    "r2plus1d": jc.models.r2plus1d_18,
    "mc3": jc.models.mc3_18,
    "r3d": jc.models.r3d_18,
}
STREAM = functools.partial(jc.models.convnet, widths=(16, 32, 64))
TEST_SHARE = 0.2
# Grad-CAM is drawn at a layer that has all frames of a clip.
CAM_LAYER = "layer1"
SHOWN = 3
# The entries of a history that metrics.json has.
RECORDED = ("epoch", "loss", "accuracy", "validation_loss", "validation_accuracy")


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.video", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    arguments.add_argument("--models", nargs="+", choices=MODELS, default=["r2plus1d", "mc3"], help="the networks")
    arguments.add_argument("--clips", type=positive(int), default=2048, help="generated clips to train on")
    arguments.add_argument("--test-clips", type=positive(int), default=512, help="generated clips to test on")
    arguments.add_argument("--flow-clips", type=positive(int), default=1024, help="of these, clips of the two streams")
    arguments.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the generated clips as MP4 files, and end"
    )
    arguments.add_argument("--folder", type=Path, help="a subfolder of videos for each class, to train on instead")
    arguments.add_argument("--frames", type=positive(int), default=8, help="the frames of a clip")
    arguments.add_argument("--stride", type=positive(int), default=1, help="with --folder: take every n-th frame")
    arguments.add_argument("--size", type=positive(int), default=24, help="the side of the frames")
    arguments.add_argument("--flip", action="store_true", help="with --folder: exchange left and right at random")
    arguments.add_argument("--views", type=positive(int), default=5, help="with --folder: clips of a test video")
    arguments.add_argument(
        "--width", type=positive(int), help="filters of the first stage; default: 8, 64 with --weights"
    )
    arguments.add_argument("--weights", type=Path, metavar="PATH", help="torchvision's weights of the only --models")
    arguments.add_argument("--epochs", type=positive(int), default=10, help="passes over the clips")
    arguments.add_argument("--batch", type=positive(int), default=16, help="clips in each step")
    arguments.add_argument("--lr", type=positive(float), default=5e-3, help="the peak learning rate")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of clips, weights and order")
    arguments.add_argument("--out", type=Path, default=Path("runs/video"), help="a folder for the report")
    arguments.add_argument("--quiet", action="store_true", help="no progress bars")
    return arguments


# --- Data -------------------------------------------------------------------------------------------------------------


def whole(clips: jax.Array) -> jax.Array:
    return jc.data.normalize(clips, MEAN, STD)


def one_frame(clips: jax.Array) -> jax.Array:
    """Returns the frame in the middle of each clip, as a clip of one frame."""
    middle = clips.shape[1] // 2
    return whole(clips[:, middle : middle + 1])


def moved(key: jax.Array, clips: jax.Array) -> jax.Array:
    """Shifts all frames of a clip alike; what leaves the picture on one side enters it on the other."""
    return jc.data.random_shift(key, clips, clips.shape[-2] // 2, pad_mode="circular")


def optical_flow(clips: np.ndarray, *, quiet: bool = False) -> np.ndarray:
    """Returns the optical flow between the frames of clips, by scikit-image's iterative Lucas-Kanade method.

    Args:
      clips: `(N, T, H, W, 3)` uint8.
      quiet: whether to show no progress bar.

    Returns:
      `(N, H, W, 2 (T - 1))` float32: for each pair of frames the motion of each pixel down and to the right.
    """
    from skimage.registration import optical_flow_ilk

    gray = (clips @ np.array([0.299, 0.587, 0.114])).astype(np.float32) / 255
    flow = np.empty((*clips.shape[:1], *clips.shape[2:4], 2 * (clips.shape[1] - 1)), np.float32)
    for i, clip in enumerate(tqdm(gray, "optical flow", disable=quiet)):
        pairs = [optical_flow_ilk(a, b, radius=3, num_warp=5, prefilter=True) for a, b in itertools.pairwise(clip)]
        flow[i] = np.concatenate(pairs).transpose(1, 2, 0)
    return flow


class Data(NamedTuple):
    """Clips to train on and to test on.

    Args:
      classes: the classes' names.
      inputs, targets: what `jaxconv.train.fit` takes: arrays, or batches and None.
      test_inputs: clips, or batches of them: ``views`` clips of each video.
      test_labels: the class of each test video.
      views: the clips of a test video.
      pictured: a clip of each of the first test videos, uint8.
      augment: None, or what ``fit`` takes.
      validation: None, or clips and labels for the accuracy after each epoch, neither trained nor tested on.
    """

    classes: Sequence[str]
    inputs: Any
    targets: Any
    test_inputs: Any
    test_labels: np.ndarray
    views: int
    pictured: np.ndarray
    augment: Any
    validation: Any = None


def generated(options: argparse.Namespace) -> Data:
    """Returns generated clips: those for training, testing and validation have different seeds."""
    (clips, labels), (test_clips, test_labels), validation = (
        moving_scenes(count, 3 * options.seed + i, frames=options.frames, size=options.size)
        for i, count in enumerate((options.clips, options.test_clips, max(1, options.test_clips // 2)))
    )
    return Data(CLASSES, clips, labels, test_clips, test_labels, 1, test_clips[:SHOWN], moved, validation)


def divided(labels: np.ndarray, classes: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of videos to train on, and of those to test on: of each class a fifth, at least one.

    Raises:
      ValueError: a class has less than two videos.

    >>> [part.tolist() for part in divided(np.array([0, 0, 1, 1, 1]), ["wave", "clap"], 0)]
    [[1, 3, 4], [0, 2]]
    """
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        few = f"{counts.min()} of {classes[int(counts.argmin())]}"
        raise ValueError(f"--folder must have at least 2 videos of each class, one of them to test on, got {few}")
    order = np.random.default_rng(seed).permutation(len(labels))
    tested = [order[labels[order] == i][: max(1, round(TEST_SHARE * n))] for i, n in enumerate(counts)]
    held_out = np.sort(np.concatenate(tested))
    return np.setdiff1d(order, held_out), held_out


def from_folder(options: argparse.Namespace) -> Data:
    """Returns the videos of --folder: one clip of each in an epoch of training, several of each for testing."""
    source = jc.data.video_folder(options.folder, options.frames, stride=options.stride)
    kept, held_out = divided(source.targets, source.classes, options.seed)
    training, testing = source.take(kept), source.take(held_out).evenly(options.views)
    crop = jc.data.RandomResizedCrop(options.size, scale=(0.25, 1.0), flip=options.flip)
    middle = jc.data.CenterCrop(options.size, 1.0)
    batch_size = min(options.batch, len(training))
    inputs = jc.data.batches(training, batch_size, key=options.seed, crop=crop, remainder="drop")
    test_inputs = jc.data.batches(testing, options.batch, crop=middle)
    labels = source.targets[held_out]
    pictured = np.stack([testing.load(i * options.views, middle)[0] for i in range(min(SHOWN, len(labels)))])
    return Data(source.classes, inputs, None, test_inputs, labels, options.views, pictured, None)


# --- Training ---------------------------------------------------------------------------------------------------------


def fitted(net: jc.Layer, data: Data, options: argparse.Namespace, **more: Any) -> Any:
    """Trains a network, and returns the result and the seconds of processor time."""
    began = time.process_time()
    result = jc.train.fit(
        net,
        data.inputs,
        data.targets,
        lambda steps: optax.adamw(optax.cosine_onecycle_schedule(steps, options.lr), weight_decay=0.01),
        loss=optax.softmax_cross_entropy_with_integer_labels,
        epochs=options.epochs,
        batch_size=options.batch,
        key=options.seed,
        augment=data.augment,
        validation=data.validation,
        progress=not options.quiet,
        **more,
    )
    return result, round(time.process_time() - began, 1)


def probabilities(net: jc.Layer, result: Any, inputs: Any, views: int = 1, preprocess: Any = None) -> np.ndarray:
    """Returns the probabilities of the classes, `(videos, classes)`, averaged over the clips of a video."""
    arrays = result.params, result.state
    logits = jc.train.predict(net, *arrays, inputs, batch_size=64, preprocess=preprocess)
    found = np.asarray(jax.nn.softmax(logits))
    return found.reshape(-1, views, found.shape[-1]).mean(axis=1)


def with_weights(options: argparse.Namespace, model: str, classes: int) -> tuple[Any, Any]:
    """Returns torchvision's weights of a network, with fresh scores."""
    shape = (1, options.frames, options.size, options.size, 3)
    arrays = jc.weights.read(options.weights)
    published = MODELS[model](len(arrays.get("fc.bias", range(400))), width=options.width)
    params, state = jc.weights.from_torch(published, arrays, shape)
    net = MODELS[model](classes, width=options.width)
    fresh, _ = jax.jit(lambda key: net.init(key, shape))(jax.random.key(options.seed))
    return {**params, "fc": fresh["fc"]}, state


Runs = dict[str, tuple[np.ndarray, float]]


def two_streams(data: Data, options: argparse.Namespace) -> tuple[Runs, np.ndarray]:
    """Trains a network on one frame and one on the optical flow; returns their probabilities, and the test flow."""
    clips, labels = data.inputs[: options.flow_clips], data.targets[: options.flow_clips]
    flow, test_flow = (optical_flow(c, quiet=options.quiet) for c in (clips, data.test_inputs))
    middle = options.frames // 2
    streams = {
        "spatial stream (one frame)": (clips[:, middle], data.test_inputs[:, middle], whole),
        "temporal stream (flow)": (flow, test_flow, None),
    }
    found: Runs = {}
    for name, (inputs, test_inputs, preprocess) in streams.items():
        net = STREAM(len(data.classes))
        part = data._replace(inputs=inputs, targets=labels, augment=None, validation=None)
        result, seconds = fitted(net, part, options, preprocess=preprocess)
        found[name] = probabilities(net, result, test_inputs, preprocess=preprocess), seconds
    both = np.mean([p for p, _ in found.values()], axis=0)
    return {**found, "two streams": (both, round(sum(seconds for _, seconds in found.values()), 1))}, test_flow


# --- Figures ----------------------------------------------------------------------------------------------------------


def flow_colors(flow: np.ndarray) -> np.ndarray:
    """Returns the motion of each pixel as a color: the hue is its direction, the strength its speed.

    Args:
      flow: `(H, W, 2 (T - 1))`, the result of `optical_flow` for one clip.

    Returns:
      `(T - 1, H, W, 3)` floats in [0, 1].
    """
    from matplotlib.colors import hsv_to_rgb

    down, right = flow.transpose(2, 0, 1)[0::2], flow.transpose(2, 0, 1)[1::2]
    speed = np.hypot(down, right)
    strength = np.clip(speed / (np.percentile(speed, 99) or 1), 0, 1)
    hue = np.arctan2(down, right) / (2 * np.pi) % 1
    return hsv_to_rgb(np.stack([hue, strength, np.ones_like(hue)], -1))


def heat_over(clip: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns the frames of a clip in gray, `(T, H, W, 3)`, with a map `(T, H, W)` over them in color."""
    from matplotlib import colormaps

    gray = (clip @ np.array([0.299, 0.587, 0.114]))[..., None] / 255 * 0.5
    share = np.clip(heat / (np.percentile(heat, 99.5) or 1), 0, 1)
    return gray * (1 - share[..., None]) + share[..., None] * colormaps["inferno"](0.3 + 0.7 * share)[..., :3]


def strip(clips: np.ndarray, maps: np.ndarray, names: Sequence[str], flow: np.ndarray | None = None) -> Any:
    """Draws rows of frames for each clip: the frames, the optical flow if given, and Grad-CAM."""
    rows, labels = [], []
    for i, name in enumerate(names):
        rows.append(list(clips[i]))
        labels.append(name)
        if flow is not None:
            rows.append(list(flow_colors(flow[i])))
            labels.append("optical flow")
        rows.append(list(heat_over(clips[i], maps[i])))
        labels.append("Grad-CAM")
    return figures.mosaic(rows, labels, cell=72)


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, float]]], chance: float) -> Any:
    """Draws the loss and the accuracy of several networks by epoch: training dashed, validation solid."""
    from jaxconv.inspect.figures.canvas import new_figure

    figure = new_figure(8.5, 3.2)
    for axes, key in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for i, (name, history) in enumerate(histories.items()):
            for drawn, line in ((key, "--"), (f"validation_{key}", "-")):
                if drawn in history[0]:
                    points = zip(*((row["epoch"], row[drawn]) for row in history), strict=True)
                    axes.plot(*points, line, color=f"C{i}", label=f"{name}: {drawn.replace('_', ' ')}")
        axes.set(xlabel="epoch", ylabel=key)
        axes.grid(alpha=0.3)
    axes.axhline(chance, color="gray", linestyle=":", label="chance")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=7)
    return figure


def maps_of(net: jc.Layer, result: Any, clips: np.ndarray) -> np.ndarray:
    """Returns Grad-CAM of the predicted classes in all frames, `(N, T, H, W)`."""
    arrays = result.params, result.state
    cam = jax.jit(lambda x: jc.inspect.grad_cam(net, *arrays, x, path=CAM_LAYER, resize=True))
    return np.asarray(cam(whole(jnp.asarray(clips))))


# --- The command ------------------------------------------------------------------------------------------------------


def checked(options: argparse.Namespace) -> argparse.Namespace:
    if options.weights is not None and len(options.models) > 1:
        raise ValueError(f"--models must be the one network of --weights, got {' '.join(options.models)}")
    if options.weights is not None and options.folder is None:
        raise ValueError("--weights must come with --folder, got no folder")
    if options.write is not None and options.folder is not None:
        raise ValueError("--write must come without --folder, which has videos already")
    if options.folder is None and importlib.util.find_spec("skimage") is None:
        raise not_installed("the optical flow of generated clips", ["skimage"], "detection")
    needed(jaxconv_train, figures)
    options.width = options.width or (64 if options.weights else 8)
    return options


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = checked(parser().parse_args(argv))
    began = time.process_time()
    data = from_folder(options) if options.folder else generated(options)
    if options.write is not None:
        write_videos(options.write, data.inputs, data.targets)
        print(f"wrote {report.counted(len(data.inputs), 'video')} to {options.write}")
        return {}

    first = options.models[0]
    runs: Runs = {}
    histories: dict[str, Any] = {}
    maps, flow = None, None
    networks = [*((name, name, whole) for name in options.models), (f"{first}, one frame", first, one_frame)]
    for name, model, preprocess in networks:
        net = MODELS[model](len(data.classes), width=options.width)
        init = with_weights(options, model, len(data.classes)) if options.weights else None
        result, seconds = fitted(net, data, options, preprocess=preprocess, init=init)
        runs[name] = probabilities(net, result, data.test_inputs, data.views, preprocess), seconds
        histories[name] = [{key: row[key] for key in RECORDED if key in row} for row in result.history]
        maps = maps_of(net, result, data.pictured) if maps is None else maps
    if options.folder is None:
        streams, flow = two_streams(data, options)
        runs |= streams

    labels = data.test_labels
    results = {
        name: {"test_accuracy": float((found.argmax(axis=1) == labels).mean()), "processor_seconds": seconds}
        for name, (found, seconds) in runs.items()
    }
    for name, entry in results.items():
        print(f"{name}: test accuracy {entry['test_accuracy']:.1%}, {entry['processor_seconds']} s of processor time")
    metrics = report.rounded({
        "classes": list(data.classes),
        "test_videos": len(labels),
        "chance": float(np.bincount(labels).max() / len(labels)),
        "runs": results,
        "processor_seconds": round(time.process_time() - began, 1),
        **report.environment(),
        "arguments": report.arguments(options),
        "history": histories,
    })  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_json(options.out / "metrics.json", metrics)

    assert maps is not None
    names = [data.classes[label] for label in labels[: len(data.pictured)]]
    caption = f"Test clips, and where {first} sees their motion (Grad-CAM at {CAM_LAYER})"
    parts = [
        ("strip", caption, strip(data.pictured, maps, names, flow)),
        ("curves", "Learning curves", learning_curves(histories, metrics["chance"])),
    ]
    facts = {
        "clips": f"{options.frames} frames of {options.size}x{options.size}",
        "chance, by the most frequent class": f"{metrics['chance']:.1%}",
        **{name: f"{entry['test_accuracy']:.2%} of {len(labels):,} videos" for name, entry in results.items()},
        "processor time": f"{metrics['processor_seconds']} s",
        "device": metrics["device"],
    }
    print(f"open {report.write_report(options.out, 'Motion in videos', facts, parts)}")
    return metrics


if __name__ == "__main__":
    report.run(main)
