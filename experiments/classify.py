"""Trains a ConvNet to classify small images, and draws its filters and activations.

    python -m experiments.classify --data mnist5k --model convnet --out runs/mnist5k

Networks: LeNet-5 (LeCun et al., 1998); the lecture's ``[CONV-RELU-POOL]*3-FC`` with batch norm (Ioffe and Szegedy,
2015). Trained by AdamW (Loshchilov and Hutter, 2019) on a one-cycle schedule (Smith and Topin, 2018) with smoothed
labels (Szegedy et al., 2016), on images shifted or flipped where that suits the data set. A twentieth of the training
images is held out for the curves and the checkpoint of the best epoch. The test images are used once, at the end, with
the weights of the last epoch.

Writes metrics.json, checkpoint/, the figures and report.html under --out.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.optional import figures, jaxconv_train, needed, optax
from jaxconv.data import Dataset, channel_statistics, normalize, random_flip, random_shift
from jaxconv.tree import walk

HELD_OUT = 0.05
SMOOTHING = 0.1
MODELS: dict[str, Callable[[int], jc.Layer]] = {
    "convnet": functools.partial(jc.models.convnet, widths=(32, 64, 128), dropout=0.2),
    "lenet5": jc.models.lenet5,
}


class Recipe(NamedTuple):
    """The loader and the hyperparameters of a data set."""

    load: Callable[..., Dataset]
    epochs: int
    shift: int
    flip: bool


RECIPES = {
    "mnist5k": Recipe(jc.data.mnist5k, 24, 2, False),
    "fashion_mnist": Recipe(jc.data.fashion_mnist, 10, 0, True),
    "cifar10": Recipe(jc.data.cifar10, 10, 4, True),
}


def positive(number: type) -> Callable[[str], Any]:
    """Returns an argparse type that accepts positive numbers."""

    def parse(text: str) -> Any:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be positive, got {text}")
        return value

    parse.__name__ = number.__name__
    return parse


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults as a user writes them, except those of switches, and those that the help text states."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default == []:
            return action.help
        if isinstance(default, list | tuple):
            return f"{action.help} (default: {' '.join(map(str, default))})"
        return super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.classify",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--data", choices=RECIPES, default="mnist5k", help="the data set")
    arguments.add_argument("--folder", help="the folder of the files of fashion_mnist or cifar10")
    arguments.add_argument(
        "--download", action="store_true", help="download fashion_mnist or cifar10, verified by checksum"
    )
    arguments.add_argument("--model", choices=MODELS, default="convnet", help="the network")
    arguments.add_argument("--epochs", type=positive(int), help="default: 24 for mnist5k, 10 for the others")
    arguments.add_argument("--batch", type=positive(int), default=128, help="images in each step")
    arguments.add_argument("--lr", type=positive(float), default=5e-3, help="the peak learning rate of the schedule")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of weights, order and augmentation")
    arguments.add_argument("--out", type=Path, help="a folder for the report; default: runs/DATA-MODEL")
    arguments.add_argument("--resume", action="store_true", help="continue the run in --out")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def load(options: argparse.Namespace) -> Dataset:
    """Returns the data set that the arguments name."""
    given = {"folder": options.folder, "download": options.download}
    if options.data == "mnist5k":
        if any(given.values()):
            raise ValueError("--folder and --download must not be given for mnist5k, which is part of a package")
        return jc.data.mnist5k()
    return RECIPES[options.data].load(**given)


def optimizer(lr: float) -> "Callable[[int], optax.GradientTransformation]":
    return lambda steps: optax.adamw(optax.cosine_onecycle_schedule(steps, lr), weight_decay=0.05)


def smoothed_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), SMOOTHING)
    return optax.softmax_cross_entropy(logits, targets)


def augmentation(recipe: Recipe) -> Callable[[jax.Array, jax.Array], jax.Array]:
    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        shift_key, flip_key = jax.random.split(key)
        x = random_shift(shift_key, x, recipe.shift, pad_mode="edge") if recipe.shift else x
        return random_flip(flip_key, x) if recipe.flip else x

    return augment


def mistakes(data: Dataset, probabilities: np.ndarray, most: int = 24) -> Any:
    """Draws the wrongly classified test images with the highest probabilities; None if there are none."""
    predicted = probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != data.test_labels)
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]])][:most]
    if not len(worst):
        return None
    titles = [
        f"{data.classes[predicted[i]]} {probabilities[i, predicted[i]]:.0%}\nnot {data.classes[data.test_labels[i]]}"
        for i in worst
    ]
    return figures.images(data.test_images[worst], titles)


def first_kernel(params: Any) -> np.ndarray:
    """Returns the kernel of the first convolution."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return np.asarray(next(leaf for _, leaf in leaves if leaf.ndim == 4))


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    recipe = RECIPES[options.data]
    options.epochs = options.epochs or recipe.epochs
    options.out = options.out or Path("runs") / f"{options.data}-{options.model}"
    if (options.out / "checkpoint").exists() and not options.resume:
        raise ValueError(f"--out must be a new folder, got {options.out}, which has a run: use --resume")
    needed(jaxconv_train, figures)
    data = load(options)
    net = MODELS[options.model](len(data.classes))
    summary = jc.summary(net, (1, *data.train_images.shape[1:]))
    print(summary)

    mean, std = channel_statistics(data.train_images)
    preprocess = functools.partial(normalize, mean=mean, std=std)
    options.out.mkdir(parents=True, exist_ok=True)
    fitted = jc.train.fit(
        net,
        data.train_images,
        data.train_labels,
        optimizer(options.lr),
        loss=smoothed_loss,
        epochs=options.epochs,
        batch_size=options.batch,
        key=options.seed,
        augment=augmentation(recipe),
        preprocess=preprocess,
        validation=HELD_OUT,
        metrics={"accuracy": jc.metrics.accuracy},
        folder=options.out / "checkpoint",
        resume=options.resume,
        progress=not options.quiet,
    )
    params, state = fitted.train_state.params, fitted.train_state.state
    logits = jc.train.predict(net, params, state, data.test_images, preprocess=preprocess)
    probabilities = np.asarray(jax.nn.softmax(logits))
    predicted = probabilities.argmax(axis=1)
    counts = np.zeros((len(data.classes),) * 2, int)
    np.add.at(counts, (data.test_labels, predicted), 1)

    metrics = {
        "weights": "last epoch",
        "test_accuracy": float((predicted == data.test_labels).mean()),
        "train_seconds": round(fitted.train_seconds, 1),
        "images_per_second": round(fitted.images_per_second, 1),
        "parameters": summary.parameters,
        **report.environment(),
        "seed": options.seed,
        "arguments": report.arguments(options),
    }
    report.write_json(options.out / "metrics.json", metrics)

    image = preprocess(data.test_images[:1])
    shown = [path for path, layer in walk(net) if isinstance(layer, jc.Fn | jc.MaxPool | jc.AvgPool)]
    _, found = jax.jit(lambda x: jc.inspect.activations(net, params, state, x, paths=shown))(image)
    maps = {path: found[path][0] for path in shown}
    parts = [
        ("learning_curves", "Learning curves", figures.learning_curves(fitted.history)),
        ("filters", "Filters of the first layer", figures.filters(first_kernel(params))),
        ("activations", "Activation maps of one test image", figures.activation_maps(maps)),
        ("confusion", "Confusion matrix of the test images", figures.confusion_matrix(counts, data.classes)),
        ("mistakes", "The most confident mistakes", mistakes(data, probabilities)),
        ("network", "The network", summary),
    ]
    held_out = round(HELD_OUT * len(data.train_images))
    facts = {
        "test accuracy": f"{metrics['test_accuracy']:.2%} of {len(predicted):,} images",
        "training": f"{len(data.train_images) - held_out:,} images, {held_out:,} held out",
        "epochs": options.epochs,
        "training time": f"{metrics['train_seconds']} s",
        "speed": f"{metrics['images_per_second']:,.0f} images per second",
        "device": metrics["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in metrics["versions"].items()),
    }
    page = report.write_report(
        options.out, f"{options.model} on {options.data}", facts, [part for part in parts if part[2] is not None]
    )
    print(f"\ntest accuracy {metrics['test_accuracy']:.2%} after {metrics['train_seconds']} s of training")
    print(f"open {page}")
    return metrics


if __name__ == "__main__":
    report.run(main)
