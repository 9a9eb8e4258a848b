"""Image retrieval: finds the images of a database that are most similar to each query, by a network's features.

    python -m experiments.retrieve --out runs/retrieve
    python -m experiments.retrieve --image mine/*.jpg
    python -m experiments.retrieve --folder PHOTOS --query mine/*.jpg
    python -m experiments.retrieve --data fashion_mnist --siamese --triplet --seeds 3
    python -m experiments.retrieve --crops 20000

For photographs, the database has patches of their left halves and the queries are patches of their right halves. The
network is EfficientNet-Lite0 with its ImageNet weights (see `experiments.pretrained`), which was not trained on these
photographs. A patch is relevant if it is from the same photograph. With --folder the command searches your images by an
index that it keeps: see `experiments.photo_index`. With --crops the collection has small images, real and generated,
among them altered copies of the queries: see `experiments.duplicates`.

With --data the network of `experiments.classify` is first trained on the training images for an epoch, the queries are
the test images, and images with the same label are relevant. With --siamese and --triplet this network is then trained
for another epoch as a network of descriptors, by pairs (Hadsell, Chopra and LeCun, 2006) or by hard triplets (Hermans
et al., 2017), and for comparison another epoch to classify: see `experiments.descriptor_training`.

docs/retrieval.md has the measured figures.
Prints the fraction of relevant images among the ten nearest: by learned features, by features of the untrained network,
and by raw pixels, all by cosine distance. Writes metrics.json, the figures (sheets of neighbors, the embeddings along
their principal components) and report.html under --out.
"""

import argparse
import functools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import duplicates, photo_index, pretrained, report
from experiments.classify import RECIPES, Help, load, positive
from experiments.descriptor_training import FURTHER, GROUP, Network, further, learned_now
from experiments.optional import Image, figures, jaxconv_train, needed, tqdm
from experiments.pictures import PHOTOGRAPHS, photograph, photograph_path, sized
from jaxconv.data import Dataset
from jaxconv.inspect import embed, nearest, pca, precision_at_k

K = 10
SHEET = 12
SHEETS = {
    "learned": "learned features",
    "siamese": "descriptors trained by pairs",
    "triplets": "descriptors trained by triplets",
    "pixels": "raw pixels",
}
PIECE = 96
# The number of patches of each photograph's left half, and of its right half.
PIECES = (60, 20)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.retrieve",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    source = arguments.add_mutually_exclusive_group()
    source.add_argument("--image", nargs="+", default=[*PHOTOGRAPHS], help="files, or names of packaged photographs")
    source.add_argument("--data", choices=RECIPES, help="a data set in place of photographs")
    source.add_argument("--crops", type=positive(int), metavar="N", help="a collection of N small images, with copies")
    arguments.add_argument("--triplet", action="store_true", help="with --data: also train descriptors by triplets")
    arguments.add_argument("--siamese", action="store_true", help="with --data: also train descriptors by pairs")
    arguments.add_argument("--seeds", type=positive(int), default=1, help="with --data: the number of seeds")
    arguments.add_argument("--weights", metavar="PATH", help="for photographs; default: those of the package")
    arguments.add_argument(
        "--folder", metavar="PATH", help="your images, for --query; with --data: the files of fashion_mnist or cifar10"
    )
    arguments.add_argument("--query", nargs="+", metavar="FILE", help="images whose nearest in --folder are shown")
    arguments.add_argument(
        "--download", action="store_true", help="download fashion_mnist or cifar10, verified by checksum"
    )
    arguments.add_argument("--epochs", type=positive(int), help="with --data; default: 6 for mnist5k, 1 for the others")
    arguments.add_argument("--queries", type=positive(int), default=3000, help="the largest number of queries")
    arguments.add_argument("--batch", type=positive(int), default=128, help="images in each call of the network")
    arguments.add_argument("--lr", type=positive(float), default=5e-3, help="the peak learning rate, with --data")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of patches, untrained weights and training")
    arguments.add_argument(
        "--out", type=Path, help="a folder for the report; default: runs/retrieve, or runs/retrieve- and the collection"
    )
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


# The collections that an argument belongs to.
BELONGS = {
    "image": ("image",),
    "weights": ("image", "crops", "folder"),
    "folder": ("data", "folder"),
    "query": ("folder",),
    "queries": ("image", "data"),
    **dict.fromkeys(("triplet", "siamese", "seeds", "download", "epochs", "lr"), ("data",)),
}


def check(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Ends the command if arguments do not fit each other, before anything is read.

    Returns:
      The collection: "crops", "data", "folder" or "image".
    """
    kind = next((name for name in ("crops", "data", "folder") if getattr(options, name)), "image")
    for name, kinds in BELONGS.items():
        if kind not in kinds and getattr(options, name) != arguments.get_default(name):
            wrong = f"--{name} must not be given with --{kind}"
            arguments.error(wrong if kind != "image" else f"--{name} needs --{' or --'.join(kinds)}")
    if kind == "folder" and not options.query:
        arguments.error("--folder needs --query, or --data")
    if (options.triplet or options.siamese) and options.batch < GROUP:
        arguments.error(f"--batch must be at least {GROUP} with --triplet or --siamese, got {options.batch}")
    if not 0 <= options.seed <= 2**32 - options.seeds:
        arguments.error(f"--seed must be from 0 to {2**32 - options.seeds}, got {options.seed}")
    if options.crops and options.crops < duplicates.LEAST:
        arguments.error(f"--crops must be at least {duplicates.LEAST}, got {options.crops}")
    if options.weights and not Path(options.weights).is_file():
        arguments.error(f"--weights must be a file, got {options.weights}")
    if kind == "folder" and not Path(options.folder).is_dir():
        arguments.error(f"--folder must be a folder, got {options.folder}")
    last = {"image": None, "folder": Path(options.folder or "").resolve().name}.get(kind, options.data or kind)
    options.out = options.out or Path("runs") / "-".join(filter(None, ("retrieve", last)))
    there = next(path for path in (options.out, *options.out.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        arguments.error(f"--out must be a folder that can be written, got {options.out}")
    return kind


def classes_of(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of photographs without their folders and endings.

    Raises:
      ValueError: there are fewer than two photographs, or two have the same name.
    """
    classes = tuple(Path(name).stem for name in names)
    if len(set(classes)) < max(2, len(classes)):
        raise ValueError(f"--image must name at least two photographs, each once, got {', '.join(names)}")
    return classes


def halves(names: Sequence[str], seed: int, *, quiet: bool = False) -> Dataset:
    """Returns patches of photographs: left halves as the database, right halves as the queries.

    Raises:
      ValueError: as of `classes_of`.
    """
    classes = classes_of(names)
    random = np.random.default_rng(seed)
    found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for name in tqdm(names, "reading", disable=quiet):
        image = np.round(sized(photograph(name), 2 * PIECE)[0] * 255).astype(np.uint8)
        middle = image.shape[1] // 2
        for half, count, pieces in zip((image[:, :middle], image[:, -middle:]), PIECES, found, strict=True):
            for _ in range(count):
                top, left = (int(random.integers(0, n - PIECE + 1)) for n in half.shape[:2])
                pieces.append(half[top : top + PIECE, left : left + PIECE])
    labels = [np.repeat(np.arange(len(names), dtype=np.int32), count) for count in PIECES]
    (left_images, right_images), (left_labels, right_labels) = map(np.stack, found), labels
    return Dataset("photographs", left_images, left_labels, right_images, right_labels, classes)


def learned_before(options: argparse.Namespace) -> Network:
    """Returns EfficientNet-Lite0, with pretrained and with random weights."""
    net, params, state, preprocess = pretrained.efficientnet_lite0(options.weights)
    untrained = net.init(jax.random.key(options.seed), (1, PIECE, PIECE, 3))
    weights = {"learned": (params, state), "untrained": untrained}
    return Network(net, weights, preprocess, "_relu1", {"network": "EfficientNet-Lite0, ImageNet"})


def descriptors(
    network: Network, data: Dataset, images: Sequence[np.ndarray], options: argparse.Namespace, seed: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yields the descriptors of images by the network, by networks that are trained further, and by pixels."""
    run = functools.partial(embed, batch_size=options.batch, preprocess=network.preprocess)
    for name, arrays in network.weights.items():
        yield name, [run(network.net, *arrays, some, network.path) for some in images]
    chosen = {"siamese": options.siamese, "triplets": options.triplet}
    for name in FURTHER:
        if chosen.get(name, any(chosen.values())):
            net, params, state, path = further(network, data, options, seed, name)
            yield name, [run(net, params, state, some, path) for some in images]
    if seed == options.seed:
        yield "pixels", [np.asarray(network.preprocess(some)).reshape(len(some), -1) for some in images]


def summary(values: Sequence[float]) -> str:
    """Returns the mean of seeds in percent, and their range.

    >>> summary([0.8625]), summary([0.86, 0.88])
    ('86.25%', '87.00% (86.00% to 88.00%)')
    """
    spread = f" ({min(values):.2%} to {max(values):.2%})" if len(values) > 1 else ""
    return f"{np.mean(values):.2%}{spread}"


NAMES = {
    "pixels": "pixels",
    "untrained": "random weights",
    "learned": "classification, one epoch",
    "classification": "classification, two epochs",
    "siamese": "classification, then pairs",
    "triplets": "classification, then triplets",
}


def table(metrics: dict[str, Any]) -> str:
    """Returns the table of a page in Markdown."""
    rows = [f"| {title} | {summary(metrics['of_each_seed'][name])} |" for name, title in NAMES.items()]
    return "\n".join([f"| descriptor | precision at {K} |", "|---|---|", *rows])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    arguments = parser()
    options = arguments.parse_args(argv)
    kind = check(arguments, options)
    needed(figures, tqdm, jaxconv_train if kind == "data" else Image)
    if kind in ("crops", "folder"):
        return (duplicates if kind == "crops" else photo_index).run(options)
    start = time.perf_counter(), time.process_time()
    if kind == "image":
        classes_of(options.image)
        for name in options.image:
            photograph_path(name)
    before = None if options.data else learned_before(options)
    data = load(options) if options.data else halves(options.image, options.seed, quiet=options.quiet)
    options.out.mkdir(parents=True, exist_ok=True)
    asked, labels = data.test_images[: options.queries], data.test_labels[: options.queries]
    found: dict[str, list[float]] = {}
    indices, points = {}, np.empty(0)
    for seed in range(options.seed, options.seed + options.seeds):
        network = before or learned_now(data, options, seed)
        for name, (database, queries) in descriptors(network, data, (data.train_images, asked), options, seed):
            near = nearest(queries, database, K).indices
            found.setdefault(name, []).append(precision_at_k(near, data.train_labels, labels))
            print(f"precision at {K}, {name:>14}, seed {seed}: {found[name][-1]:.2%}", flush=True)
            if seed == options.seed:
                indices[name] = near
                points = queries if name == "learned" else points
        metrics = {
            "precision_at_10": {name: float(np.mean(values)) for name, values in found.items()},
            "of_each_seed": found,
            "queries": len(asked),
            "database": len(data.train_images),
            "seconds": round(time.perf_counter() - start[0], 1),
            "processor_seconds": round(time.process_time() - start[1], 1),
            **network.facts,
            **report.environment(),
            "seeds": [*range(options.seed, seed + 1)],
            "arguments": report.arguments(options),
        }
        # After each seed: a run of several takes long.
        report.write_json(options.out / "metrics.json", metrics)
    titles = [name if len(name) < 14 else f"{name[:12]}…" for name in data.classes]
    # Evenly spaced, since patches are sorted by photograph.
    some = np.arange(SHEET) * len(asked) // SHEET
    sheets = [
        (
            f"neighbors_{name}",
            f"Some queries and the {K} nearest images of the database, by {what}",
            figures.neighbors(
                asked[some],
                data.train_images,
                indices[name][some],
                query_labels=labels[some],
                labels=data.train_labels,
                classes=titles,
            ),
        )
        for name, what in SHEETS.items()
        if name in indices
    ]
    plane = pca(points)
    caption = f"The queries along the first two principal components, {np.sum(plane.explained):.0%} of the variance"
    facts = {
        **{f"precision at {K}, {name}": summary(values) for name, values in found.items()},
        "queries and database": f"{len(asked):,} images in {len(data.train_images):,}",
        **network.facts,
        "device": metrics["device"],
        "versions": ", ".join(f"{k} {v}" for k, v in metrics["versions"].items()),
    }
    parts = [*sheets, ("map", caption, figures.scatter(plane.points, labels, data.classes))]
    print(f"open {report.write_report(options.out, f'Retrieval on {data.name}', facts, parts)}")
    return metrics


if __name__ == "__main__":
    report.run(main)
