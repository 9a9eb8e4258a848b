"""Reading images for training: decoding, a random crop, a flip, and batches of 128, in images per second.

    python -m experiments.benchmarks.input --make                 # 5,000 JPEGs of 500x375 in runs/input
    python -m experiments.benchmarks.input jaxconv cache decoders step
    python -m experiments.benchmarks.input torch tensorflow       # where torchvision and TensorFlow are installed

Each name adds its rows to results/input.json, so that peers can be measured in environments of their own. All read the
same files with two workers: `RandomResizedCrop(224)` with antialiasing, a flip, uint8. torchvision's own JPEG decoder
and TensorFlow's decoding of the cropped rows alone are measured beside the usual forms. Run it on an idle machine.
"""

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import jaxconv as jc
from experiments.pictures import PHOTOGRAPHS, photograph
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "input.json"
IMAGES = Path("runs/input")
COUNT, HEIGHT, WIDTH, CLASSES = 5000, 375, 500, 10
BATCH, SIZE, WORKERS, ROUNDS = 128, 224, 2, 3
# Photographs, without drawings, textures and text.
SOURCES = [name for name in PHOTOGRAPHS if name not in ("brick.png", "coins.png", "grass.png", "gravel.png", "page.png")]


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


def rate(epoch: Callable[[int], Iterable[Any]]) -> float:
    """Returns images per second of an epoch, the median of rounds after a first one."""
    rates = []
    for number in range(ROUNDS + 1):
        start, count = time.perf_counter(), 0
        for images, _ in epoch(number):
            assert images.shape[-3:] in ((SIZE, SIZE, 3), (3, SIZE, SIZE)), images.shape
            count += len(images)
        rates.append(count / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def jaxconv(folder: Path) -> Iterator[tuple[str, float]]:
    source = jc.data.image_folder(folder)
    crop = jc.data.RandomResizedCrop(SIZE)
    yield "jaxconv", rate(jc.data.batches(source, BATCH, key=0, crop=crop, workers=WORKERS).epoch)


def torch(folder: Path) -> Iterator[tuple[str, float]]:
    import simplejpeg
    import torch
    from torchvision import datasets
    from torchvision.transforms import v2

    def as_torchvision_decodes(path: str) -> Any:
        # torchvision.io.decode_jpeg is libjpeg-turbo too.
        return torch.from_numpy(simplejpeg.decode_jpeg(Path(path).read_bytes())).permute(2, 0, 1)

    crop = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    forms: dict[str, tuple[Any, Any]] = {
        "torch, Pillow": (datasets.folder.pil_loader, [*crop, v2.PILToTensor()]),
        "torch, Pillow and tensors": (datasets.folder.pil_loader, [v2.PILToTensor(), *crop]),
        "torch, libjpeg-turbo and tensors": (as_torchvision_decodes, crop),
    }
    for name, (loader, transforms) in forms.items():
        data = datasets.ImageFolder(str(folder), v2.Compose(transforms), loader=loader)
        # The workers of all epochs are started once.
        batches = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True)
        yield name, rate(lambda _, batches=batches: batches)


def tensorflow(folder: Path) -> Iterator[tuple[str, float]]:
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
            yield name, rate(lambda _, data=data: data)


def decoders(folder: Path) -> Iterator[tuple[str, float]]:
    """Decoding alone, in one thread."""
    import simplejpeg

    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))[:300]]
    for name, decode in {
        "decode alone, one thread: simplejpeg": simplejpeg.decode_jpeg,
        "decode alone, one thread: Pillow": lambda content: np.asarray(Image.open(io.BytesIO(content))),
    }.items():
        rates = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for content in contents:
                decode(content)
            rates.append(len(contents) / (time.perf_counter() - start))
        yield name, statistics.median(rates)


def main() -> None:
    kinds = {f.__name__: f for f in (jaxconv, torch, tensorflow, decoders)}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measure", nargs="*", choices=kinds, help="what to measure")
    parser.add_argument("--make", action="store_true", help="write the JPEGs")
    parser.add_argument("--images", type=Path, default=IMAGES, help="their folder")
    parser.add_argument("--count", type=int, default=COUNT, help="how many")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.make:
        make(options.images, options.count)
    for name in options.measure:
        for row, value in kinds[name](options.images):
            print(f"{row}: {value:.0f} images/s", flush=True)


if __name__ == "__main__":
    main()
