"""Trains ResNet-50 on ImageNet in 16 epochs, or any network on any folder of images by the same recipe.

    python -m experiments.imagenet_train --folder imagenet --out runs/imagenet --workers 16 --bfloat16

The folder has the subfolders train and val, each with a subfolder of images for each class. The recipe is that of
FFCV's ResNet-50 of 16 epochs (https://github.com/libffcv/ffcv-imagenet, 71.4 % there), with a moving average of the
weights: SGD with Nesterov's momentum, two epochs of linear warm-up and a linear decay, label smoothing of 0.1, weight
decay of kernels alone, random resized crops and flips. The images grow from 128 over 160 to 192 pixels; validation has
224. It was not run on ImageNet here: the test trains a small network on generated images.

All devices are used, in one or several processes (see `experiments.launch`). The run continues after an interruption if
it is started again. Prints images per second at each size; writes checkpoints and metrics.json under --out.
"""

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import jax

import jaxconv as jc
from experiments import report
from experiments.classify import Help, positive, smoothed_loss
from experiments.optional import Image, jaxconv_train, needed, optax

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The fraction of the epochs until which images have this fraction of the largest training size, 192.
GROWTH = ((3 / 8, 128 / 192), (6 / 8, 160 / 192), (1.0, 1.0))
# The peak learning rate for 256 images, and the weight decay, as in FFCV's recipe.
PEAK, DECAY, MOMENTUM = 0.5, 5e-5, 0.9
WARM_UP = 2 / 16
CHECKPOINT_EVERY = datetime.timedelta(minutes=10)
MODELS = {name: getattr(jc.models, name) for name in ("resnet18", "resnet34", "resnet50")}


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.imagenet_train",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--folder", type=Path, required=True, help="a folder with train and val, folders of classes")
    arguments.add_argument("--cache", type=Path, help="a folder for decoded images of 256 pixels, in place of JPEGs")
    arguments.add_argument("--model", choices=MODELS, default="resnet50", help="the network")
    arguments.add_argument("--epochs", type=positive(int), default=16, help="passes over the training images")
    arguments.add_argument("--size", type=positive(int), default=192, help="the largest training images")
    arguments.add_argument("--validation-size", type=positive(int), default=224, help="the validation images")
    arguments.add_argument("--batch-size", type=positive(int), default=1024, help="images in each step, of all devices")
    arguments.add_argument(
        "--average", type=float, default=0.999, help="the decay of the moving average of the weights"
    )
    arguments.add_argument("--workers", type=positive(int), default=8, help="threads that decode, in each process")
    arguments.add_argument("--bfloat16", action="store_true", help="compute in bfloat16")
    arguments.add_argument("--skip-broken", action="store_true", help="skip images that cannot be read")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of weights, order and crops")
    arguments.add_argument(
        "--out", type=Path, default=Path("runs/imagenet"), help="a folder for checkpoints and figures"
    )
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def stages(epochs: int, size: int) -> list[tuple[int, int]]:
    """Returns the epochs until which images have a size, with the sizes, multiples of 32 where they can be.

    >>> stages(16, 192)
    [(6, 128), (12, 160), (16, 192)]
    >>> stages(1, 32)
    [(1, 32)]
    """
    found: dict[int, int] = {}
    for until, fraction in GROWTH:
        if last := round(until * epochs):
            found[last] = max(32, round(fraction * size / 32) * 32) if fraction < 1 else size
    return list(found.items())


def optimizer(batch_size: int, steps: int) -> "optax.GradientTransformation":
    """Returns the recipe's optimizer of a run of some steps."""
    peak, warm = PEAK * batch_size / 256, max(1, round(WARM_UP * steps))
    rate = optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warm), optax.linear_schedule(peak, 0.0, max(1, steps - warm))], [warm]
    )
    kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    return optax.chain(optax.add_decayed_weights(DECAY, kernels), optax.sgd(rate, MOMENTUM, nesterov=True))


def preprocess(images: jax.Array) -> jax.Array:
    return jc.data.normalize(images, MEAN, STD)


def sources(options: argparse.Namespace) -> tuple[Any, Any]:
    """Returns the training and the validation images."""
    training = jc.data.image_folder(options.folder / "train")
    validation = jc.data.image_folder(options.folder / "val", classes=training.classes)
    if options.cache is None:
        return training, validation
    options.cache.mkdir(parents=True, exist_ok=True)
    broken = "skip" if options.skip_broken else "raise"
    training, validation = (
        jc.data.image_cache(source, options.cache / f"{name}.pixels", broken=broken, workers=options.workers)
        for name, source in (("train", training), ("val", validation))
    )
    return training, validation


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Trains, and returns the figures of the last epoch."""
    training, validation = sources(options)
    net = MODELS[options.model](len(training.classes))
    net = jc.mixed_precision(net) if options.bfloat16 else net
    mesh = jax.make_mesh((jax.device_count(),), ("data",)) if jax.device_count() > 1 else None
    shared = {"workers": options.workers, "broken": "skip" if options.skip_broken else "raise"}

    def loader(size: int) -> jc.data.Batches:
        crop = jc.data.RandomResizedCrop(size)
        shard = None if mesh is None else jc.train.data_shard(mesh)
        return jc.data.batches(
            training, options.batch_size, key=options.seed, crop=crop, remainder="drop", shard=shard, **shared
        )

    # Each process validates on all images.
    held = jc.data.batches(validation, options.batch_size, crop=jc.data.CenterCrop(options.validation_size), **shared)
    made = optimizer(options.batch_size, options.epochs * len(loader(options.size)))
    result, skipped = None, dict[str, str]()
    for until, size in stages(options.epochs, options.size):
        read = loader(size)
        # The next size resumes the run of the one before.
        result = jc.train.fit(
            net,
            read,
            None,
            made,
            loss=smoothed_loss,
            epochs=until,
            key=options.seed,
            preprocess=preprocess,
            validation=held,
            metrics={"accuracy": jc.metrics.accuracy, "top5": jc.metrics.top_k(min(5, len(training.classes)))},
            monitor="validation_accuracy",
            average=options.average,
            checkpoint_every=CHECKPOINT_EVERY,
            mesh=mesh,
            folder=options.out / "checkpoints",
            resume=True,
            progress=not options.quiet,
        )
        skipped |= read.skipped
        if jax.process_index() == 0:
            rate = result.history[-1]["images_per_second"]
            print(
                f"{until} epochs, {size} pixels: {rate:.0f} images/s, {json.dumps(report.rounded(result.history[-1]))}"
            )
    assert result is not None
    figures = {"history": result.history, "skipped": skipped | held.skipped, **report.environment()}
    if jax.process_index() == 0:
        report.write_results(options.out / "metrics.json", figures)
    return figures


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        needed(Image, jaxconv_train)
        run(options)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"imagenet_train: {error}")


if __name__ == "__main__":
    main()
