"""Reading images for training: decoding, a random crop, a flip, and batches of 128, in images per second.

    python -m experiments.benchmarks.input --make                 # 5,000 JPEGs of 500x375 in runs/input
    python -m experiments.benchmarks.input jaxconv cache decoders step
    python -m experiments.benchmarks.input torch tensorflow       # where torchvision and TensorFlow are installed

Each name adds its rows to results/input.json, so that peers can be measured in environments of their own. All read the
same files, in the page cache, with two workers: a random resized crop of 224, a flip, and batches of uint8. torchvision
resizes with antialiasing, as jaxconv does; TensorFlow does so only where asked. Of all epochs but the first, and of all
runs that write to the same file, the fastest counts. On a machine that others use, run the peers in turn, several
times, and compare the processor time.
"""

import argparse
import importlib.metadata
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments.optional import Image, optax
from experiments.pictures import PHOTOGRAPHS, photograph
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "input.json"
IMAGES = Path("runs/input")
COUNT, HEIGHT, WIDTH, CLASSES = 5000, 375, 500, 10
BATCH, SIZE, WORKERS, ROUNDS = 128, 224, 2, 2
STEP_BATCH, STEPS = 32, 12
PEERS = {
    "jaxconv": ("grain", "simplejpeg", "cykooz-resizer"),
    "torch": ("torch", "torchvision", "pillow"),
    "tensorflow": ("tensorflow-cpu",),
    "decoders": ("simplejpeg", "pillow"),
}
# Photographs, without drawings, textures and text.
SOURCES = [
    name for name in PHOTOGRAPHS if name not in ("brick.png", "coins.png", "grass.png", "gravel.png", "page.png")
]

Row = dict[str, Any]


def make(folder: Path, count: int) -> None:
    """Writes JPEGs of parts of photographs, flipped and of various sizes, in a folder of classes."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(photograph(name)) for name in SOURCES]
    for number in range(count):
        image = photographs[number % len(photographs)]
        side = rng.uniform(0.5, 1) * min(image.width / WIDTH, image.height / HEIGHT)
        left, top = rng.uniform(0, image.width - side * WIDTH), rng.uniform(0, image.height - side * HEIGHT)
        part = image.resize(
            (WIDTH, HEIGHT), Image.Resampling.BICUBIC, (left, top, left + side * WIDTH, top + side * HEIGHT)
        )
        path = folder / f"{number % CLASSES}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part).save(path, quality=95)


def cpu_seconds() -> float:
    """Returns the processor time of this process and its workers."""
    import psutil

    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def rate(epochs: Iterable[Iterable[Any]]) -> Row:
    """Measures epochs, after a first one; the fastest, which other programs on the machine delay least."""
    rows = []
    for batches in epochs:
        start, used, count = time.perf_counter(), cpu_seconds(), 0
        for images, _ in batches:
            assert images.shape[-3:] in ((SIZE, SIZE, 3), (3, SIZE, SIZE)), images.shape
            count += len(images)
        rows.append((count / (time.perf_counter() - start), 1e3 * (cpu_seconds() - used) / count))
    fastest, least = max(row[0] for row in rows[1:]), min(row[1] for row in rows[1:])
    return {"images_per_second": fastest, "cpu_ms_per_image": least}


def jaxconv(folder: Path) -> Iterator[tuple[str, Row]]:
    source = jc.data.image_folder(folder)
    crop = jc.data.RandomResizedCrop(SIZE)
    loader = jc.data.batches(source, BATCH, key=0, crop=crop, workers=WORKERS)
    yield "jaxconv", rate([loader] * (ROUNDS + 1))


def cache(folder: Path) -> Iterator[tuple[str, Row]]:
    source = jc.data.image_folder(folder)
    path = folder.with_name(folder.name + ".pixels")
    path.unlink(missing_ok=True)
    start = time.perf_counter()
    cached = jc.data.image_cache(source, path, workers=WORKERS)
    yield "jaxconv, writing a cache", {"images_per_second": len(source) / (time.perf_counter() - start)}
    crop = jc.data.RandomResizedCrop(SIZE)
    loader = jc.data.batches(cached, BATCH, key=0, crop=crop, workers=WORKERS)
    yield "jaxconv, from a cache", rate([loader] * (ROUNDS + 1))
    path.unlink()


def step(folder: Path) -> Iterator[tuple[str, Row]]:
    """Training ResNet-18: steps on batches that are read, steps on one batch in memory, and the time spent waiting."""
    net, optimizer = jc.models.resnet18(CLASSES), optax.sgd(0.1, momentum=0.9)
    crop = jc.data.RandomResizedCrop(SIZE)
    source = jc.data.image_folder(folder)
    loader = jc.data.batches(source, STEP_BATCH, key=0, crop=crop, remainder="drop", workers=WORKERS)

    def train(params: Any, state: Any, opt_state: Any, images: Any, labels: Any) -> Any:
        def objective(params: Any) -> Any:
            logits, after = net.apply(params, state, jc.data.normalize(images, 0.45, 0.25), train=True, key=None)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), after

        (_, after), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), after, opt_state

    run = jc.jit(train)
    params, state = net.init(jax.random.key(0), (STEP_BATCH, SIZE, SIZE, 3))
    carry = params, state, optimizer.init(params)
    iterator = loader.epoch(0)
    batch = next(iterator)
    carry = jax.block_until_ready(run(*carry, *batch))
    start = time.perf_counter()
    for _ in range(STEPS):
        carry = jax.block_until_ready(run(*carry, *batch))
    alone = time.perf_counter() - start
    waited, start = 0.0, time.perf_counter()
    for _ in range(STEPS):
        before = time.perf_counter()
        batch = next(iterator)
        waited += time.perf_counter() - before
        carry = jax.block_until_ready(run(*carry, *batch))
    both = time.perf_counter() - start
    iterator.close()
    yield "ResNet-18 training, one batch in memory", {"images_per_second": STEPS * STEP_BATCH / alone}
    share = {"percent_waiting_for_input": 100 * waited / both}
    yield "ResNet-18 training, batches that are read", {"images_per_second": STEPS * STEP_BATCH / both, **share}


def torch(folder: Path) -> Iterator[tuple[str, Row]]:
    import torch
    from torchvision import datasets, io
    from torchvision.transforms import v2

    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    forms: dict[str, tuple[Any, Any]] = {
        "torch, Pillow": (datasets.folder.pil_loader, [*crop, v2.PILToTensor()]),
        "torch, Pillow, then tensors": (datasets.folder.pil_loader, [v2.PILToTensor(), *crop]),
        "torch, torchvision.io and tensors": (lambda path: io.decode_image(path, mode="RGB"), crop),
    }
    for name, (loader, transforms) in forms.items():
        data = datasets.ImageFolder(str(folder), v2.Compose(transforms), loader=loader)
        # The workers of all epochs are started once.
        batches = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
        yield name, rate([batches] * (ROUNDS + 1))


def tensorflow(folder: Path) -> Iterator[tuple[str, Row]]:
    import tensorflow as tf

    def window(shape: Any) -> tuple[Any, Any]:
        at, size, _ = tf.image.sample_distorted_bounding_box(
            shape, tf.zeros((0, 0, 4)), area_range=(0.08, 1), aspect_ratio_range=(3 / 4, 4 / 3), min_object_covered=0,
            use_image_if_no_bounding_boxes=True,
        )  # fmt: skip
        return at, size

    def whole(content: Any, antialias: bool) -> Any:
        image = tf.io.decode_jpeg(content, 3)
        at, size = window(tf.shape(image))
        return tf.image.resize(tf.slice(image, at, size), (SIZE, SIZE), antialias=antialias)

    def rows_alone(content: Any, antialias: bool) -> Any:
        at, size = window(tf.io.extract_jpeg_shape(content))
        image = tf.io.decode_and_crop_jpeg(content, tf.concat([at[:2], size[:2]], 0), 3)
        return tf.image.resize(image, (SIZE, SIZE), antialias=antialias)

    files = sorted(str(path) for path in folder.rglob("*.jpg"))
    labels = [int(Path(path).parent.name) for path in files]
    for form, decode in {"": whole, ", decode_and_crop_jpeg": rows_alone}.items():
        for antialias in (True, False):

            def load(path: Any, label: Any, decode: Any = decode, antialias: bool = antialias) -> tuple[Any, Any]:
                image = tf.image.random_flip_left_right(decode(tf.io.read_file(path), antialias))
                return tf.cast(tf.round(image), tf.uint8), label

            data = tf.data.Dataset.from_tensor_slices((files, labels)).shuffle(len(files))
            data = data.map(load, num_parallel_calls=WORKERS).batch(BATCH).prefetch(2)
            options = tf.data.Options()
            options.threading.private_threadpool_size = WORKERS
            data = data.with_options(options)
            name = f"tensorflow{form}{'' if antialias else ', without antialiasing'}"
            yield name, rate([data] * (ROUNDS + 1))


def decoders(folder: Path) -> Iterator[tuple[str, Row]]:
    """Decoding alone, in one thread."""
    import simplejpeg

    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:200]]
    decoders: dict[str, Callable[[bytes], Any]] = {
        "simplejpeg": simplejpeg.decode_jpeg,
        "Pillow": lambda content: np.asarray(Image.open(io.BytesIO(content))),
    }
    best = dict.fromkeys(decoders, 0.0)
    for _ in range(3 * ROUNDS):
        for name, decode in decoders.items():
            start = time.perf_counter()
            for content in contents:
                decode(content)
            best[name] = max(best[name], len(contents) / (time.perf_counter() - start))
    for name, value in best.items():
        yield f"decoding alone, one thread: {name}", {"images_per_second": value}


def main() -> None:
    kinds = {f.__name__: f for f in (jaxconv, cache, decoders, step, torch, tensorflow)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", nargs="*", choices=kinds, help="what to measure")
    parser.add_argument("--make", action="store_true", help="write the JPEGs")
    parser.add_argument("--images", type=Path, default=IMAGES, help="their folder")
    parser.add_argument("--count", type=int, default=COUNT, help="how many")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.make:
        make(options.images, options.count)
    if not options.measure:
        return
    rows: dict[str, Row] = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
    for name in options.measure:
        for row, value in kinds[name](options.images):
            print(row, value, flush=True)
            before = rows.get(row, {})
            # The processor time of the run that had least of it, and all else of the fastest run.
            least = min(found.get("cpu_ms_per_image", float("inf")) for found in (value, before))
            fastest = max(value, before, key=lambda found: found.get("images_per_second", 0.0))
            rows[row] = fastest | ({"cpu_ms_per_image": least} if least < float("inf") else {})
            rows[row] |= {peer: importlib.metadata.version(peer) for peer in PEERS.get(name, ())}
    files = list(options.images.rglob("*.jpg"))
    about = {"images": len(files), "bytes_per_image": sum(f.stat().st_size for f in files) // len(files)}
    about |= {"size": [HEIGHT, WIDTH], "batch": BATCH, "workers": WORKERS, "rounds": ROUNDS}
    about["load_average"] = os.getloadavg()[2]
    write_results(options.out, {**environment(), **about, "rows": rows})


if __name__ == "__main__":
    main()
