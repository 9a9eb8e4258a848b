"""Altered copies in a collection of small images, and how well descriptors find them: `retrieve --crops N`.

The collection has pieces of photographs that do not overlap, generated pictures of shapes and stripes, and altered
copies of both: rotated, mirrored, cropped, darker or brighter, blurred, compressed. A query is an original, which is
not in the collection; only its copies are relevant.

The rows of the comparison, by TITLES, replace one part after another. The last feature map of images of 64 pixels has
four positions, and was trained to tell types of things, not one picture of stripes from another; inner layers are
better. Whitening helps all of them. Neither pixels nor the network ignore a rotation or a crop, and pixels cannot find
a mirrored copy: so a query is described several times, and its nearest view counts. docs/retrieval.md has the measured
figures.
"""

import argparse
import functools
import io
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import pretrained, report
from experiments.descriptors import LAYERS, VIEWS, learn_whitening, nearest_views, pooled, views
from experiments.optional import Image, ImageDraw, ImageFilter, figures
from experiments.pictures import PHOTOGRAPHS, photograph
from jaxconv.extras import need
from jaxconv.inspect import mean_average_precision, nearest, whiten

SIDE = 64
COPIES = 4
# The smallest collection.
LEAST = 200
LAST = "_relu1"
SCALE = 2**0.5
K = 100


class Collection(NamedTuple):
    """Images and labels: a copy has the label of its original, each other image a different label."""

    images: np.ndarray
    labels: np.ndarray
    queries: np.ndarray
    query_labels: np.ndarray
    real: int


def pieces() -> np.ndarray:
    """Returns the squares into which the packaged photographs can be cut."""
    found = []
    for name in PHOTOGRAPHS:
        image = photograph(name)
        rows, columns = (n // SIDE for n in image.shape[:2])
        cut = image[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3).swapaxes(1, 2)
        found.append(cut.reshape(-1, SIDE, SIDE, 3))
    squares = np.concatenate(found)
    # Black sky has no copies that could be told apart.
    return squares[squares.std((1, 2, 3)) > 12]


def generated(random: np.random.Generator) -> np.ndarray:
    """Returns a picture of stripes of two colors, with shapes on it."""
    colors = random.integers(0, 256, (8, 3))
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, length = random.uniform(0, np.pi), random.uniform(6, 40)
    wave = (np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / length) + 1)[..., None] / 2
    image = Image.fromarray((colors[0] * wave + colors[1] * (1 - wave)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for color in colors[2 : 3 + random.integers(1, 6)]:
        corners = random.uniform(-8, SIDE + 8, (random.integers(2, 6), 2))
        if len(corners) == 2:
            draw.ellipse([*corners.min(0), *(corners.max(0) + 4)], tuple(color))
        else:
            draw.polygon([tuple(corner) for corner in corners], tuple(color))
    return np.asarray(image)


def altered(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns an image rotated, cropped and resized, perhaps mirrored, brighter or darker, blurred, compressed."""
    picture = Image.fromarray(image).rotate(float(random.uniform(-15, 15)), Image.Resampling.BILINEAR)
    side = float(random.uniform(0.6, 0.9)) * SIDE
    left, top = random.uniform(0, SIDE - side, 2)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))
    light = np.clip(np.asarray(picture) * random.uniform(0.6, 1.4) * random.uniform(0.9, 1.1, 3), 0, 255)
    buffer = io.BytesIO()
    Image.fromarray(light.astype(np.uint8)).save(buffer, "jpeg", quality=int(random.integers(15, 60)))
    return np.asarray(Image.open(buffer))


def collection(count: int, seed: int) -> Collection:
    """Returns a collection of ``count`` images, and ``count // 40`` queries that are not in it.

    Half of the queries are pieces of photographs, half are generated.

    Raises:
      ValueError: the count is below LEAST.
    """
    if count < LEAST:
        raise ValueError(f"--crops must be at least {LEAST}, got {count}")
    random = np.random.default_rng(seed)
    queries = count // 40
    originals = count - queries * (COPIES - 1)
    real = pieces()
    real = real[random.permutation(len(real))[: originals // 2]]
    made = [generated(random) for _ in range(originals - len(real))]
    # The first of each are the queries.
    half = queries // 2
    asked = [*real[:half], *made[: queries - half]]
    copies = [altered(image, random) for image in asked for _ in range(COPIES)]
    others = [*real[half:], *made[queries - half :]]
    labels = np.concatenate([np.repeat(np.arange(queries), COPIES), queries + np.arange(len(others))])
    return Collection(np.stack([*copies, *others]), labels, np.stack(asked), np.arange(queries), len(real))


def descriptors(
    network: pretrained.Pretrained, data: Collection, batch: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields the descriptors of the collection and of the queries' views, by the names of TITLES.

    The shapes are ``(images, features)`` and ``(queries, views, features)``; most have one view.
    """
    asked = np.concatenate([views(image) for image in data.queries])
    split = (len(data.queries), -1)

    def pixels(images: np.ndarray) -> np.ndarray:
        small = images.reshape(len(images), SIDE // 4, 4, SIDE // 4, 4, 3).mean((2, 4)).reshape(len(images), -1)
        return small - small.mean(1, keepdims=True)

    database, mirrored = pixels(data.images), pixels(asked[:, :, ::-1])
    each = np.concatenate([array.reshape(*split, database.shape[1]) for array in (pixels(asked), mirrored)], 1)
    yield "pixels", database, each[:, :1]
    yield "pixel_views", database, each

    run = functools.partial(pooled, network, batch=batch)
    of_images, of_views = (run(images, (*LAYERS, LAST)) for images in (data.images, asked))
    yield "gem", of_images[LAST], of_views[LAST].reshape(*split, of_images[LAST].shape[1])[:, :1]
    larger = round(SCALE * SIDE)
    scales, of_queries = (
        one + run(images, (LAST,), side=larger)[LAST]
        for one, images in ((of_images[LAST], data.images), (of_views[LAST][:: len(VIEWS)], data.queries))
    )
    yield "scales", scales, of_queries[:, None]
    yield "whitened", *whitened(scales, of_queries[:, None])
    inner, of_asked = (np.concatenate([found[path] for path in LAYERS], 1) for found in (of_images, of_views))
    of_asked = of_asked.reshape(*split, inner.shape[1])
    yield "layers", inner, of_asked[:, :1]
    inner, of_asked = whitened(inner, of_asked)
    yield "layers_whitened", inner, of_asked[:, :1]
    yield "views", inner, of_asked


def whitened(rows: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both after the whitening that is learned from the rows, without the queries."""
    whitening = learn_whitening(rows)
    return np.asarray(whiten(rows, whitening)), np.asarray(whiten(queries, whitening))


TITLES = {
    "pixels": "pixels at 16x16",
    "pixel_views": f"pixels, {2 * len(VIEWS)} views of each query",
    "gem": "last layer, GeM",
    "scales": "last layer, GeM, 2 scales",
    "whitened": "last layer, GeM, 2 scales, PCA whitening",
    "layers": "2 inner layers, GeM",
    "layers_whitened": "2 inner layers, GeM, PCA whitening",
    "views": f"2 inner layers, GeM, PCA whitening, {len(VIEWS)} views of each query",
}


def indexed(rows: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    """Returns a function that searches rows of norm 1 through a graph of neighbors (Malkov and Yashunin, 2018).

    Raises:
      ImportError: faiss is not installed.
    """
    faiss = need("faiss", "an index", "retrieval")
    index = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, 128
    index.add(np.ascontiguousarray(rows, np.float32))
    return lambda queries, k: index.search(np.ascontiguousarray(queries, np.float32), k)[1]


def measure_index(rows: np.ndarray, queries: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Returns the seconds of building an index, those of a query with and without it, and the part that it finds."""
    nearest(queries, rows, 10)  # Compiles.
    start = time.perf_counter()
    search = indexed(rows)
    built = time.perf_counter()
    found = search(queries, 10)
    through = time.perf_counter()
    nearest(queries, rows, 10)
    end = time.perf_counter()
    agree = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(found, exact[:, :10], strict=True)])
    return {
        "index_seconds": built - start,
        "query_milliseconds": 1e3 * (through - built) / len(queries),
        "exact_query_milliseconds": 1e3 * (end - through) / len(queries),
        "recall_at_10": float(agree),
    }


def table(metrics: dict[str, Any]) -> str:
    """Returns the table of a page in Markdown."""
    parts = metrics["photographs_and_generated"]
    rows = [
        f"| {TITLES[name]} | {value:.1%} | {parts[name][0]:.1%} | {parts[name][1]:.1%} |"
        for name, value in metrics["mean_average_precision"].items()
    ]
    return "\n".join(["| descriptor | mAP | photographs | generated |", "|---|---|---|---|", *rows])


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the collection, compares the descriptors, and writes the report; returns the metrics."""
    start = time.process_time()
    network = pretrained.efficientnet_lite0(options.weights)
    data = collection(options.crops, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        f"{len(data.images):,} images of {SIDE}x{SIDE}, copies included; {data.real:,} pieces of photographs, "
        f"queries included; {len(data.queries):,} queries"
    )
    real = np.arange(len(data.queries)) < len(data.queries) // 2
    precision, of_parts, indices = {}, {}, {}
    for name, database, queries in descriptors(network, data, options.batch):
        indices[name] = nearest_views(queries, database, K).indices
        average = functools.partial(mean_average_precision, labels=data.labels)
        precision[name] = average(indices[name], query_labels=data.query_labels)
        of_parts[name] = [average(indices[name][part], query_labels=data.query_labels[part]) for part in (real, ~real)]
        shown = "photographs {:.1%}, generated {:.1%}".format(*of_parts[name])
        print(f"mAP {precision[name]:.1%} ({shown}), {TITLES[name]}", flush=True)
    metrics: dict[str, Any] = {"mean_average_precision": precision, "photographs_and_generated": of_parts}
    try:
        # The last descriptors, by the first view.
        metrics["index"] = measure_index(database, queries[:, 0], indices["layers_whitened"])
    except ImportError as error:
        print(error)
    else:
        print(
            "a query takes {query_milliseconds:.3f} ms by the index, {exact_query_milliseconds:.3f} ms by all "
            "distances; the index finds {recall_at_10:.1%} of the 10 nearest".format(**metrics["index"])
        )
    metrics |= {
        "images": len(data.images),
        "real": data.real,
        "queries": len(data.queries),
        "processor_seconds": round(time.process_time() - start, 1),
        **report.environment(),
        "arguments": report.arguments(options),
    }
    report.write_json(options.out / "metrics.json", metrics)
    some = np.linspace(0, len(data.queries) - 1, 8).astype(int)
    parts = [
        (
            f"copies_{name}",
            f"Some queries and the 8 nearest images by {TITLES[name]}",
            figures.neighbors(
                data.queries[some],
                data.images,
                indices[name][some, :8],
                query_labels=data.query_labels[some],
                labels=data.labels,
            ),
        )
        for name in ("views", "pixels")
    ]
    facts = {f"mAP, {TITLES[name]}": f"{value:.1%}" for name, value in precision.items()}
    facts |= {name: metrics[name] for name in ("images", "real", "queries", "index", "device") if name in metrics}
    print(f"open {report.write_report(options.out, 'Altered copies', facts, parts)}")
    return metrics
