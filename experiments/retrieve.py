"""Trains a ConvNet for an epoch, and finds for each test image those training images that it takes for most alike.

    python -m experiments.retrieve --out runs/retrieve

The network is the one of `experiments.classify`, the embedding what its last layer reads: the maps of the third block,
flattened. Prints which part of the ten nearest training images have the label of the test image: by learned features,
by those of the same network before training, and by raw pixels, all by cosine. Writes metrics.json, the figures (sheets
of neighbours, the embeddings along their principal components) and report.html under --out.
"""

import argparse
import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.classify import MODELS, RECIPES, augmentation, load, optimizer, positive, smoothed_loss
from jaxconv.data import channel_statistics, normalize
from jaxconv.inspect import embed, figures, nearest, pca, precision_at_k

K = 10
SHEET = 12
PATH = "flatten"


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.retrieve",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    arguments.add_argument("--data", choices=RECIPES, default="fashion_mnist")
    arguments.add_argument("--folder", help="where the files of fashion_mnist or cifar10 lie")
    arguments.add_argument("--download", action="store_true", help="fetch fashion_mnist or cifar10, checksum verified")
    arguments.add_argument("--epochs", type=positive(int), help="default: 6 for mnist5k, 1 for the others")
    arguments.add_argument("--queries", type=positive(int), default=3000, help="test images to find neighbours for")
    arguments.add_argument("--batch", type=positive(int), default=128)
    arguments.add_argument("--lr", type=positive(float), default=5e-3, help="the peak of the schedule")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--out", type=Path, help="default: runs/retrieve-DATA")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    options.epochs = options.epochs or (6 if options.data == "mnist5k" else 1)
    options.out = options.out or Path("runs") / f"retrieve-{options.data}"
    start = time.perf_counter()
    data = load(options)
    asked, labels = data.test_images[: options.queries], data.test_labels[: options.queries]
    net = MODELS["convnet"](len(data.classes))
    mean, std = channel_statistics(data.train_images)
    preprocess = functools.partial(normalize, mean=mean, std=std)
    fitted = jc.train.fit(
        net,
        data.train_images,
        data.train_labels,
        optimizer(options.lr),
        loss=smoothed_loss,
        epochs=options.epochs,
        batch=options.batch,
        key=options.seed,
        augment=augmentation(RECIPES[options.data]),
        preprocess=preprocess,
        progress=not options.quiet,
    )

    first = preprocess(data.train_images[:1])
    weights = {"learned": (fitted.params, fitted.state), "untrained": net.init(jax.random.key(options.seed), first)}
    images = data.train_images, asked
    rows = {
        name: [embed(net, params, state, some, PATH, preprocess=preprocess) for some in images]
        for name, (params, state) in weights.items()
    }
    rows["pixels"] = [np.asarray(preprocess(some)).reshape(len(some), -1) for some in images]
    indices, precision = {}, {}
    for name, (database, queries) in rows.items():
        indices[name] = nearest(queries, database, K).indices
        precision[name] = precision_at_k(indices[name], data.train_labels, labels)
        print(f"precision at {K}, {name:>9}: {precision[name]:.2%}")
    seconds = time.perf_counter() - start

    options.out.mkdir(parents=True, exist_ok=True)
    metrics = {
        "precision_at_10": precision,
        "queries": len(asked),
        "database": len(data.train_images),
        "train_seconds": round(fitted.train_seconds, 1),
        "seconds": round(seconds, 1),
        **report.environment(),
        "seed": options.seed,
        "arguments": {name: str(v) if isinstance(v, Path) else v for name, v in vars(options).items()},
    }
    report.write_json(options.out / "metrics.json", metrics)
    some = slice(SHEET)
    sheets = [
        (
            f"neighbours_{name}",
            f"The {K} nearest training images of some test images, by {what}",
            figures.neighbours(
                asked[some],
                data.train_images,
                indices[name][some],
                query_labels=labels[some],
                labels=data.train_labels,
                classes=data.classes,
            ),
        )
        for name, what in (("learned", "learned features"), ("pixels", "raw pixels"))
    ]
    found = pca(rows["learned"][1])
    caption = f"Test images along the first two principal components, {np.sum(found.explained):.0%} of the variance"
    plane = figures.scatter(found.points, labels, data.classes)
    facts = {
        **{f"precision at {K}, {name}": f"{value:.2%}" for name, value in precision.items()},
        "queries and database": f"{len(asked):,} test images in {len(data.train_images):,} training images",
        "training": f"{options.epochs} epochs, {metrics['train_seconds']} s",
        "device": metrics["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in metrics["versions"].items()),
    }
    page = report.write_report(options.out, f"Retrieval on {options.data}", facts, [*sheets, ("map", caption, plane)])
    print(f"open {page}")
    return metrics


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
