"""Shared parts of `experiments.signs` and `experiments.galaxies`: a classifier, its test and report, your own pictures.

AdamW (Loshchilov and Hutter, 2019) on a one-cycle schedule (Smith and Topin, 2018), with smoothed labels (Szegedy et
al., 2016), as in `experiments.classify`. The test images are used once, at the end.
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.classify import Help, mistakes, optimizer, positive, smoothed_loss
from experiments.images import central_crop
from experiments.optional import figures
from jaxconv.data import Dataset
from jaxconv.models.blocks import conv_norm_act

Part = tuple[str, str, Any]


class Recognizer(NamedTuple):
    """A trained classifier of images of ``size`` pixels a side."""

    net: jc.Layer
    params: Any
    state: Any
    classes: tuple[str, ...]
    size: int

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class, ``(count, classes)``."""
        logits = jc.train.predict(self.net, self.params, self.state, images, preprocess=scaled)
        return np.asarray(jax.nn.softmax(logits))


def scaled(images: Any) -> jax.Array:
    """Returns uint8 images as floats in [0, 1], as augmentations of colors take them."""
    return jc.data.normalize(images, 0.0, 1.0)


def centered(x: jax.Array) -> jax.Array:
    return (x - 0.5) / 0.25


def network(classes: int, width: int = 24, stem_stride: int = 1) -> jc.Layer:
    """Returns a small ConvNet on images in [0, 1]: its last feature maps, "maps", are averaged.

    >>> jc.inspect.trace(network(5, 8), (1, 32, 32, 3))[-1].output.shape
    (1, 5)
    """

    def stage(features: int, stride: int) -> jc.Layer:
        return conv_norm_act(features, stride=stride)

    return jc.serial(
        center=centered,
        stem=stage(width, stem_stride),
        middle=jc.serial(stage(2 * width, 2), stage(2 * width, 1)),
        maps=jc.serial(stage(4 * width, 2), stage(4 * width, 1)),
        pool=jc.GlobalAvgPool(),
        dropout=jc.Dropout(0.2),
        scores=jc.Dense(classes),
    )


def parser(name: str, doc: str, **defaults: Any) -> argparse.ArgumentParser:
    """Returns the arguments that both commands have; ``defaults`` has images, test_images, epochs and lr."""
    arguments = argparse.ArgumentParser(
        f"python -m experiments.{name}", description=doc.split("\n\n", 1)[0], formatter_class=Help
    )
    arguments.add_argument("--image", nargs="+", default=[], metavar="FILE", help="your own pictures to classify")
    arguments.add_argument("--folder", metavar="DIR", help="a folder of such pictures")
    arguments.add_argument("--weights", type=Path, metavar="FILE", help="of an earlier run: skip the training")
    arguments.add_argument("--images", type=positive(int), help="simulated images to train on")
    arguments.add_argument("--test-images", type=positive(int), help="simulated images to test on")
    arguments.add_argument("--epochs", type=positive(int), help="passes over the training images")
    arguments.add_argument("--batch", type=positive(int), default=64, help="images in each step")
    arguments.add_argument("--lr", type=positive(float), help="the peak learning rate of the schedule")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of images, weights, order and augmentation")
    arguments.add_argument("--out", type=Path, default=Path("runs") / name, help="a folder for the report")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments.set_defaults(**defaults)
    return arguments


def loaded(options: argparse.Namespace, net: jc.Layer) -> tuple[Any, Any] | None:
    """Returns the parameters and the state of --weights, if they are given."""
    return jc.weights.load(options.weights, net) if options.weights else None


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Returns counts, a row for each label, a column for each prediction.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    array([[1, 0],
           [1, 1]])
    """
    counts = np.zeros((classes, classes), int)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def examples(data: Dataset, name: str, count: int = 24) -> Part:
    """Returns the part of a report with test images drawn at random, and their classes."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.test_labels))[:count])
    titles = [data.classes[i] for i in data.test_labels[chosen]]
    return (name, "Test images", figures.images(data.test_images[chosen], titles))


def run(
    title: str,
    net: jc.Layer,
    data: Dataset,
    options: argparse.Namespace,
    augment: Callable[[jax.Array, jax.Array], jax.Array],
    mine: Mapping[str, np.ndarray],
    more: Callable[[Recognizer], Sequence[Part]] = lambda model: (),
    known: tuple[Any, Any] | None = None,
) -> dict[str, Any]:
    """Trains and tests a classifier, and writes metrics.json, the weights, the figures and report.html.

    Args:
      title: the report's.
      net: the classifier.
      data: its images.
      options: the parsed arguments of `parser`.
      augment: ``augment(key, images)``, in training.
      mine: pictures to classify, by name; their central squares are used.
      more: further parts of the report.
      known: its parameters and state, for no training.
    """
    start, began = time.perf_counter(), time.process_time()
    options.out.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    if known:
        params, state = known
    else:
        fitted = jc.train.fit(
            net,
            data.train_images,
            data.train_labels,
            optimizer(options.lr),
            loss=smoothed_loss,
            epochs=options.epochs,
            batch_size=min(options.batch, len(data.train_images)),
            key=options.seed,
            augment=augment,
            preprocess=scaled,
            metrics={"accuracy": jc.metrics.accuracy},
            progress=not options.quiet,
        )
        params, state = fitted.params, fitted.state
        jc.weights.save(options.out / "weights.safetensors", net, params, state)
        parts.append(("learning_curves", "Learning curves", figures.learning_curves(fitted.history)))
    model = Recognizer(net, params, state, data.classes, data.test_images.shape[1])
    probabilities = model.probabilities(data.test_images)
    predicted = probabilities.argmax(1)
    counts = confusion(data.test_labels, predicted, len(data.classes))
    parts += [
        ("confusion", "Confusion matrix of the test images", figures.confusion_matrix(counts, data.classes)),
        ("mistakes", "The most confident mistakes", mistakes(data, probabilities)),
        *more(model),
    ]
    accuracy = float((predicted == data.test_labels).mean())
    print(f"test accuracy {accuracy:.2%} of {len(predicted):,} images")
    guesses = {}
    if mine:
        squares = np.stack([central_crop(image, model.size, 1.0) for image in mine.values()])
        for name, row in zip(mine, model.probabilities(squares), strict=True):
            guesses[name] = {data.classes[i]: float(row[i]) for i in np.argsort(-row)[:3]}
            print(f"{name}: {', '.join(f'{label} {p:.0%}' for label, p in guesses[name].items())}")
        titles = ["{} {:.0%}".format(*next(iter(guess.items()))) for guess in guesses.values()]
        parts.append(("pictures", "Your own pictures", figures.images(squares, titles)))
    metrics = {
        "test_accuracy": accuracy,
        "images": [len(data.train_images), len(data.test_images)],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(time.process_time() - began, 1),
        **({"pictures": guesses} if guesses else {}),
        **report.environment(),
        "arguments": report.arguments(options),
    }
    report.write_json(options.out / "metrics.json", metrics)
    facts = {
        "test accuracy": f"{accuracy:.2%}",
        "images": f"{len(data.train_images):,} to train on, {len(data.test_images):,} to test on",
        "parameters": f"{metrics['parameters']:,}",
        "time": f"{metrics['seconds']} s, {metrics['processor_seconds']} s of processor time",
        "device": metrics["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in metrics["versions"].items()),
    }
    page = report.write_report(options.out, title, facts, [part for part in parts if part[2] is not None])
    print(f"open {page}")
    return metrics
