"""Fine-tunes a network from an ONNX file: PP-OCR's classifier of text lines, which learns to see mirrored text.

    python -m experiments.finetune_onnx --out runs/finetune_onnx

The published network tells a line of text from one that is upside down (PP-OCR, Du et al., 2020; its file is in PyPI's
rapidocr-onnxruntime). Here it learns, from 200 generated lines, to tell a line from its mirror image. All of it is
trained, batch norm included. Writes metrics.json, the figures and report.html under --out: how far each layer's weights
moved, and where the network looks before and after (Grad-CAM).

Takes about a minute on two CPU cores: test accuracy goes from 88 % to 99 %.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import report
from experiments.classify import Help, positive
from experiments.optional import Image, figures, jaxconv_train, needed, optax
from experiments.pretrained import packaged

SIZE = (48, 192)
LETTERS = "abcdefghkmnpqrstuyzABCDEFGHJKLNPQRSZ234567"


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.finetune_onnx", description=(__doc__ or "").split("\n\n", 1)[0], formatter_class=Help
    )
    arguments.add_argument("--file", type=Path, help="default: the classifier in the package rapidocr-onnxruntime")
    arguments.add_argument("--images", type=positive(int), default=200, help="how many lines to train on")
    arguments.add_argument("--test-images", type=positive(int), default=200, help="how many lines to test on")
    arguments.add_argument("--epochs", type=positive(int), default=8, help="passes over the training images")
    arguments.add_argument("--batch", type=positive(int), default=20, help="images in a step")
    arguments.add_argument("--lr", type=positive(float), default=1e-3, help="AdamW's peak rate")
    arguments.add_argument("--seed", type=int, default=0, help="of the images and their order")
    arguments.add_argument("--out", type=Path, default=Path("runs/finetune_onnx"), help="a folder for the report")
    return arguments


def lines(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of words, ``(count, 48, 192, 3)`` from -1 to 1, and which are mirrored: every other one."""
    from PIL import Image, ImageDraw, ImageFont

    random = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        word = "".join(random.choice(list(LETTERS), random.integers(6, 10)))
        paper, ink = random.integers(150, 256), random.integers(0, 90)
        picture = Image.new("L", SIZE[::-1], int(paper))
        font = ImageFont.load_default(int(random.integers(24, 34)))
        ImageDraw.Draw(picture).text(
            (int(random.integers(2, 14)), int(random.integers(0, 12))), word, fill=int(ink), font=font
        )
        noisy = np.asarray(picture, np.float32) + random.normal(0, 6, SIZE)
        images.append(np.repeat(np.clip(noisy, 0, 255)[..., None], 3, -1) / 127.5 - 1)
    mirrored = np.arange(count) % 2
    stacked = np.stack(images).astype(np.float32)
    stacked[mirrored == 1] = stacked[mirrored == 1, :, ::-1]
    return stacked, mirrored.astype(np.int32)


def scores_path(net: Any) -> str:
    """Returns the path of what the last softmax receives."""
    steps = [step for step in net.steps if step.child]
    made = {name: step.child for step in steps for name in step.node.outputs}
    softmax = next(step for step in reversed(steps) if step.node.op == "Softmax")
    return made[softmax.node.inputs[0]]


def moved(before: Any, after: Any) -> dict[str, float]:
    """Returns for each layer how far its weights moved, relative to their size."""

    def norm(tree: Any) -> float:
        return float(optax.tree.norm(tree))

    changes = jax.tree.map(lambda a, b: b - a, before, after)
    return {name: norm(changes[name]) / max(norm(before[name]), 1e-12) for name in before}


def moved_figure(changes: dict[str, float]) -> Any:
    """Draws how far each layer moved, in the order of the graph."""
    from jaxconv.inspect.figures.canvas import new_figure

    figure = new_figure(8.0, 0.14 * len(changes) + 1)
    axes = figure.add_subplot()
    axes.barh(range(len(changes)), list(changes.values()), color="tab:blue")
    axes.set_yticks(range(len(changes)), list(changes), fontsize=5)
    axes.invert_yaxis()
    axes.set_xlabel("change of the weights, relative to their norm")
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    options = parser().parse_args(argv)
    needed(Image, jaxconv_train, figures)
    path = options.file or packaged("rapidocr_onnxruntime", "models/*cls_infer.onnx", "rapidocr-onnxruntime==1.4.4")
    whole, params, state = jc.interop.onnx.from_onnx(path)
    net = jc.backbone(whole, {scores_path(whole): "scores"})
    images, labels = lines(options.images, options.seed)
    test_images, test_labels = lines(options.test_images, options.seed + 1)

    def accuracy(params: Any, state: Any) -> float:
        scores = jc.train.predict(net, params, state, test_images)["scores"]
        return float((np.asarray(scores).argmax(1) == test_labels).mean())

    def loss(outputs: Any, targets: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(outputs["scores"], targets)

    before = accuracy(params, state)
    began = time.perf_counter()
    fitted = jc.train.fit(
        net,
        images,
        labels,
        lambda steps: optax.adamw(optax.cosine_onecycle_schedule(steps, options.lr)),
        loss=loss,
        epochs=options.epochs,
        batch_size=min(options.batch, len(images)),
        key=options.seed,
        init=(params, state),
        progress=False,
    )
    seconds = time.perf_counter() - began
    tuned = fitted.params, fitted.state
    after = accuracy(*tuned)
    changes = moved(params, tuned[0])
    print(f"test accuracy {before:.1%} before, {after:.1%} after, {seconds:.0f} s")

    last = [path for path, row in rows(net, test_images[:1]).items() if row[1] > 1][-1]
    shown = jnp.asarray(test_images[:4])
    heats = [
        jc.inspect.grad_cam(net, weights, layer_state, shown, lambda y: y["scores"].max(1), path=last, resize=True)
        for weights, layer_state in ((params, state), tuned)
    ]
    pictures = (np.asarray(shown) + 1) / 2
    overlaid = {when: figures.heat_maps(pictures, heat) for when, heat in zip(("before", "after"), heats, strict=True)}
    metrics = {
        "file": path.name,
        "train_images": len(images),
        "test_images": len(test_images),
        "test_accuracy_before": before,
        "test_accuracy": after,
        "seconds": round(seconds, 1),
        "moved": {name: float(f"{value:.3g}") for name, value in changes.items()},
        **report.environment(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    report.write_json(options.out / "metrics.json", metrics)
    facts = {
        "network": f"{path.name}: {len(net.children)} layers",
        "test accuracy": f"{before:.1%} before, {after:.1%} after",
        "training images": len(images),
        "epochs": options.epochs,
        "time": f"{seconds:.0f} s",
        "device": metrics["device"],
    }
    parts = [("moved", "How far each layer's weights moved", moved_figure(changes))]
    parts += [(f"cam_{when}", f"Grad-CAM at {last}, {when}", figure) for when, figure in overlaid.items()]
    print(f"open {report.write_report(options.out, 'Fine-tuning a network from an ONNX file', facts, parts)}")
    return metrics


def rows(net: jc.Layer, x: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each layer's output that is a map."""
    found = {row.path: row.output for row in jc.summary(net, x).rows}
    return {path: out.shape for path, out in found.items() if len(getattr(out, "shape", ())) == 4}


if __name__ == "__main__":
    report.run(main)
