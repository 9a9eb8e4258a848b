"""Finds faces, classifies patches as face or not, and compares faces.

    python -m experiments.faces
    python -m experiments.faces --image party.jpg --folder photographs --out runs/party

Detection: MTCNN (Zhang et al., 2016) with the weights of PyPI's facenet-pytorch, on a photograph of scikit-image and
on a group composed of it and of small faces of `lfw_subset`, or on the images given. If torchvision and facenet-pytorch
can be imported, prints the largest difference to facenet-pytorch's result.

Face or not: a small ConvNet on scikit-image's `lfw_subset`, 100 faces of Labeled Faces in the Wild and 100 other
patches of 25x25 pixels, trained on one half and tested on the other, both ways. Real images.

Same or different: dlib's descriptors with the weights of npm's @vladmandic/face-api, if they are installed. No package
has several photographs of many persons, so "the same" are simulated: views of one photograph that are rotated,
mirrored, darkened and blurred. "Different" are real: the photograph and the faces of `lfw_subset`, some of which are of
one person.

The first command takes 15 s of processor time on two cores of an AMD EPYC (AVX-512). It finds the 11 faces of its two
pictures, the first picture in 1.0 s and the second in 0.08 s. The small ConvNet classifies 98% and 100% of the held-out
halves correctly. dlib's threshold of 0.6 is correct for all pairs of views of one face, for 99% of the pairs of the
photograph and another person, and for 75% of the pairs of different faces of 25x25 pixels, which are too small to
compare.

Writes metrics.json, the figures and report.html under --out.
"""

import argparse
import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments import pretrained, report
from experiments.classify import Help, positive
from experiments.optional import Image, ImageFilter, figures, jaxconv_train, needed, optax
from experiments.pictures import photograph, pictures, stems
from jaxconv.detect import Faces, find_faces

# What dlib's author recommends: a greater distance means two persons.
SAME = 0.6
# The rectangle of the head in astronaut.png.
HEAD = (140, 10, 310, 240)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.faces", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    arguments.add_argument("--image", nargs="+", default=[], help="files, or names of packaged photographs")
    arguments.add_argument("--folder", type=Path, help="a folder of images")
    arguments.add_argument("--min-size", type=positive(float), default=20, help="the side of the smallest faces")
    arguments.add_argument("--mtcnn", metavar="DIR", help="pnet.pt, rnet.pt, onet.pt; default: those of the package")
    arguments.add_argument("--weights", metavar="DIR", help="of face-api; default: ./node_modules/@vladmandic/face-api")
    arguments.add_argument("--epochs", type=positive(int), default=40, help="of the small ConvNet on lfw_subset")
    arguments.add_argument("--seed", type=int, default=0, help="the seed of halves, training and views")
    arguments.add_argument("--out", type=Path, default=Path("runs/faces"), help="a folder for the report")
    arguments.add_argument("--quiet", action="store_true", help="no progress bar")
    return arguments


def lfw() -> np.ndarray:
    """Returns lfw_subset as uint8 ``(200, 25, 25, 1)``: 100 faces, then 100 other patches."""
    path = pretrained.packaged("skimage", "data/lfw_subset.npy", "scikit-image")
    return np.round(np.load(path) * 255).astype(np.uint8)[..., None]


def colored(face: np.ndarray, side: int) -> np.ndarray:
    """Returns a gray face as RGB with ``side`` pixels."""
    return np.repeat(np.asarray(Image.fromarray(face[..., 0]).resize((side, side)))[..., None], 3, -1)


def group() -> np.ndarray:
    """Returns a picture of 400x600 composed of four views of an astronaut's head and of six faces of lfw_subset."""
    canvas = Image.fromarray(photograph("coffee.png"))
    head = Image.fromarray(photograph("astronaut.png")).crop(HEAD)
    left = 8
    for i, width in enumerate((170, 130, 100, 70)):
        view = head.resize((width, width * head.height // head.width))
        canvas.paste(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 2 else view, (left, 10 + 12 * i))
        left += width + 24
    for i, face in enumerate(lfw()[[2, 4, 27, 41, 47, 56]]):
        canvas.paste(Image.fromarray(colored(face, 88)), (8 + 98 * i, 300))
    return np.asarray(canvas)


def by_facenet_pytorch(image: np.ndarray, min_size: float = 20) -> Faces:
    """Returns the result of `jaxconv.detect.find_faces`, computed by facenet-pytorch, as a reference."""
    from facenet_pytorch.models.mtcnn import MTCNN

    boxes, scores, points = MTCNN(keep_all=True, min_face_size=min_size).detect(image, landmarks=True)
    if boxes is None:
        return Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
    return Faces(*(np.stack(list(part)).astype(np.float32) for part in (boxes, scores, points)))


def difference(found: Faces, wanted: Faces) -> float:
    """Returns the largest difference of boxes and points in pixels, or infinity if other faces are found."""
    if len(found.boxes) != len(wanted.boxes):
        return float("inf")
    pairs = ((found.boxes, wanted.boxes), (found.points, wanted.points))
    return max(float(np.abs(ours - theirs).max(initial=0)) for ours, theirs in pairs)


def drawn(images: Sequence[np.ndarray], found: Sequence[Faces], names: Sequence[str]) -> Any:
    """Draws the faces' boxes with their scores, and the five points."""
    texts = [[f"{score:.2f}" for score in faces.scores] for faces in found]
    fig = figures.boxes(images, [faces.boxes for faces in found], texts, names, columns=2)
    for ax, faces in zip(fig.axes, found, strict=False):
        ax.plot(*faces.points.reshape(-1, 2).T - 0.5, ".", color="yellow", markersize=3)
    return fig


def inputs(options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Returns the images by name.

    Raises:
      FileNotFoundError, ValueError: as `pictures`, or two images have the same name.
    """
    if not options.image and options.folder is None:
        return {"astronaut": photograph("astronaut.png"), "group": group()}
    stems(options.image)
    found = pictures(options.image, options.folder)
    return dict(zip(stems(found, "--image and --folder"), found.values(), strict=True))


def detect(networks: Any, images: dict[str, np.ndarray], options: argparse.Namespace) -> tuple[list[Faces], dict]:
    """Finds the faces in each image and prints them; returns them and what was measured."""
    found, seconds, worst = [], [], None
    compare = all(map(importlib.util.find_spec, ("torch", "torchvision", "facenet_pytorch")))
    for name, image in images.items():
        start = time.process_time()
        faces = find_faces(networks, image, min_size=options.min_size)
        seconds.append(time.process_time() - start)
        found.append(faces)
        print(f"{name}: {report.counted(len(faces.boxes), 'face')} in {seconds[-1]:.2f} s of processor time")
        for box, score in zip(faces.boxes, faces.scores, strict=True):
            print(f"  {score:.3f}  " + " ".join(f"{v:.1f}" for v in box))
        if compare:
            apart = difference(faces, by_facenet_pytorch(image, options.min_size))
            worst = apart if worst is None else max(worst, apart)
            print(f"  differs from facenet-pytorch by at most {apart:.1e} pixels")
    return found, {
        "faces": {name: len(faces.boxes) for name, faces in zip(images, found, strict=True)},
        "processor_seconds": [round(s, 2) for s in seconds],
        "difference_to_facenet_pytorch": worst,
    }


def face_or_not(options: argparse.Namespace) -> tuple[dict[str, float], Any]:
    """Trains a small ConvNet on each half of lfw_subset; returns the accuracies on the other halves, and a figure."""
    images, labels = lfw(), np.repeat(np.array([1, 0], np.int32), 100)
    x = images.astype(np.float32) / 255
    order = np.random.default_rng(options.seed).permutation(200)
    probability, accuracy = np.zeros(200), {}
    net = jc.models.convnet(2, widths=(16, 32), dropout=0.2)
    for name, train in (("first", order[:100]), ("second", order[100:])):
        test = np.setdiff1d(order, train)
        mean, std = x[train].mean(), x[train].std()
        fitted = jc.train.fit(
            net,
            (x[train] - mean) / std,
            labels[train],
            lambda steps: optax.adamw(optax.cosine_onecycle_schedule(steps, 5e-3), weight_decay=0.05),
            loss=optax.softmax_cross_entropy_with_integer_labels,
            epochs=options.epochs,
            batch_size=50,
            key=options.seed,
            augment=_mirrored_or_shifted,
            progress=not options.quiet,
        )
        logits = jc.train.predict(net, fitted.params, fitted.state, (x[test] - mean) / std)
        probability[test] = np.asarray(jax.nn.softmax(logits))[:, 1]
        accuracy[name] = float(((probability[test] > 0.5) == labels[test]).mean())
    doubtful = np.argsort(np.abs(probability - 0.5))[:16]
    fig = figures.images(images[doubtful], [f"{probability[i]:.0%} a face" for i in doubtful])
    return accuracy, fig


def _mirrored_or_shifted(key: jax.Array, x: jax.Array) -> jax.Array:
    first, second = jax.random.split(key)
    return jc.data.random_flip(first, jc.data.random_shift(second, x, 2, pad_mode="edge"))


def cut(image: np.ndarray, corner: np.ndarray, side: float, size: int) -> np.ndarray:
    """Returns a square of an image, resized to ``size``; black outside of the image."""
    left, top = np.floor(corner)
    box = (int(left), int(top), int(left + max(side, 1)), int(top + max(side, 1)))
    return np.asarray(Image.fromarray(image).crop(box).resize((size, size)))


def aligned(image: np.ndarray, points: np.ndarray, size: int = 150) -> np.ndarray:
    """Returns the square about a face's five points in which dlib's descriptor expects the face."""
    left_eye, right_eye, _, *corners = points
    mouth = np.mean(corners, 0)
    side = np.floor((np.linalg.norm(mouth - left_eye) + np.linalg.norm(mouth - right_eye)) / 2 / 0.45)
    return cut(image, np.mean([left_eye, right_eye, mouth], 0) - np.array([0.5, 0.43]) * side, side, size)


def boxed(image: np.ndarray, box: np.ndarray, size: int = 112) -> np.ndarray:
    """Returns the square about a face's box."""
    side = float(max(box[2:] - box[:2]))
    return cut(image, (box[:2] + box[2:]) / 2 - side / 2, side, size)


def views(image: np.ndarray, count: int, random: np.random.Generator) -> list[np.ndarray]:
    """Returns an image rotated by up to 12 degrees, scaled, mirrored, darker or brighter, and blurred, at random."""
    made = []
    for i in range(count):
        view = Image.fromarray(image).rotate(float(random.uniform(-12, 12)), Image.Resampling.BICUBIC)
        scale = float(random.uniform(0.5, 1.0))
        view = view.resize([round(n * scale) for n in view.size])
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if i % 2 else view
        view = view.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))
        made.append(np.clip(np.asarray(view) * float(random.uniform(0.6, 1.3)), 0, 255).astype(np.uint8))
    return made


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def same_or_different(networks: Any, options: argparse.Namespace) -> tuple[dict[str, Any], list[tuple[str, str, Any]]]:
    """Compares descriptors of faces; returns accuracies and figures.

    Raises:
      FileNotFoundError: face-api's weights are not installed.
    """
    model, points = pretrained.face_descriptor(options.weights), pretrained.face_landmarks(options.weights)
    random = np.random.default_rng(options.seed)
    image = photograph("astronaut.png")
    crops = []
    for view in views(np.ascontiguousarray(image[:300, 60:380]), 12, random):
        faces = find_faces(networks, view)
        crops += [aligned(view, faces.points[0])] if len(faces.boxes) else []
    others = [views(colored(face, 150), 2, random) for face in lfw()[:100]]
    others_ = [[np.asarray(Image.fromarray(view).resize((150, 150))) for view in pair] for pair in others]
    x = np.stack([*crops, *(pair[0] for pair in others_), *(pair[1] for pair in others_)])
    found = jc.train.predict(model.net, model.params, model.state, x, preprocess=model.preprocess, batch_size=53)
    mine, first, second = np.split(np.asarray(found), [len(crops), len(crops) + 100])
    upper = np.triu_indices(len(mine), 1)
    rows = {
        "one person, views of a photograph": (True, distances(mine, mine)[upper]),
        "one person, views of 25x25 pixels": (True, np.linalg.norm(first - second, axis=-1)),
        "the photograph and other persons": (False, distances(mine, first).ravel()),
        "others among each other, 25x25 pixels": (False, distances(first, first)[np.triu_indices(100, 1)]),
    }
    right = {name: float(np.mean((values < SAME) == same)) for name, (same, values) in rows.items()}
    fig = figures.canvas.new_figure(7, 3)
    ax = fig.subplots()
    for name, (_, values) in rows.items():
        ax.hist(values, bins=56, range=(0, 1.4), density=True, alpha=0.55, label=name)
    ax.axvline(SAME, color="black", linewidth=1)
    ax.set(xlabel="distance of descriptors", yticks=[])
    ax.legend(fontsize=7)

    face = find_faces(networks, image)
    square = boxed(image, face.boxes[0])
    marks = jc.train.predict(points.net, points.params, points.state, square[None], preprocess=points.preprocess)
    landmarks = figures.poses([square], [np.asarray(marks).reshape(1, 68, 2) * 112], titles=["68 landmarks"])
    parts = [
        ("views", "Views of one photograph, found and aligned", figures.images(np.stack(crops))),
        ("distances", f"Distances of descriptors; {SAME} is dlib's threshold", fig),
        ("landmarks", "Landmarks by face-api's network", landmarks),
    ]
    return right, parts


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    start = time.process_time()
    demonstration = not options.image and options.folder is None
    needed(Image, figures, *([jaxconv_train] if demonstration else []))
    networks = pretrained.mtcnn(options.mtcnn)
    if options.weights:
        pretrained.face_descriptor(options.weights)
    images = inputs(options)
    options.out.mkdir(parents=True, exist_ok=True)
    found, metrics = detect(networks, images, options)
    parts = [("faces", "Faces, their scores and five points", drawn([*images.values()], found, [*images]))]
    if demonstration:
        accuracy, doubtful = face_or_not(options)
        metrics["face_or_not"] = accuracy
        print(f"face or not, accuracy on held-out halves: {', '.join(f'{v:.0%}' for v in accuracy.values())}")
        parts.append(("face_or_not", "The patches that the small ConvNet is least sure of", doubtful))
        try:
            metrics["same_or_different"], more = same_or_different(networks, options)
        except FileNotFoundError as error:
            print(f"no descriptors: {error}")
        else:
            parts += more
            for name, value in metrics["same_or_different"].items():
                print(f"right at a distance of {SAME}, {name}: {value:.0%}")
    metrics |= {"total_processor_seconds": round(time.process_time() - start, 1), **report.environment()}
    metrics["arguments"] = report.arguments(options)
    report.write_json(options.out / "metrics.json", metrics)
    facts = {
        "faces": metrics["faces"],
        "difference to facenet-pytorch": "not compared",
        **{f"face or not, {half} half": f"{share:.0%}" for half, share in metrics.get("face_or_not", {}).items()},
        **{f"right, {name}": f"{share:.0%}" for name, share in metrics.get("same_or_different", {}).items()},
        "processor time": f"{metrics['total_processor_seconds']} s",
        "device": metrics["device"],
        "versions": metrics["versions"],
    }
    if metrics["difference_to_facenet_pytorch"] is not None:
        facts["difference to facenet-pytorch"] = f"{metrics['difference_to_facenet_pytorch']:.1e} pixels"
    print(f"open {report.write_report(options.out, 'Faces', facts, parts)}")
    return metrics


if __name__ == "__main__":
    report.run(main)
