"""Explanations of EfficientNet-Lite0's classes: attributions and tests of them, a concept, caricatures, an atlas.

    python -m experiments.explanations --out runs/explanations

`experiments.visualize` shows the same figures on its page. The photographs are those of scikit-image and scikit-learn.

Writes a JPEG for each of --show under --out.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import pretrained, report
from experiments.classify import Help, positive
from experiments.images import central_crop
from experiments.optional import Figure, Image, figures, needed, optax
from experiments.pictures import photograph

# Photographs with the class that the network sees in them: an Egyptian cat, an espresso.
SUBJECTS = {"chelsea.png": 285, "coffee.png": 967}
SIDE = 224
STEM, SCORES = "_conv_stem", "_fc"
# After layers whose output has both signs, only "z_plus" of the rules for convolutions shares positive contributions.
RULES = {"": "z_plus", STEM: "z_box", SCORES: "epsilon"}
LAYERS = ("_blocks.2", "_blocks.5", "_blocks.10", "_blocks.15")
ATLAS = "_blocks.14"


class Subject:
    """The network, and what its figures are about.

    Args:
      model: the network.
      squares: photographs, floats in [0, 1], ``(count, side, side, 3)``: baselines, other images of the concept, and
        the data set of the atlas.
      quick: a factor of steps and sizes, below 1 for a quick look.
    """

    def __init__(self, model: pretrained.Pretrained, squares: np.ndarray, quick: float = 1.0):
        self.model, self.squares, self.quick = model, squares, quick
        side = max(16, round(SIDE * min(1, quick)))
        self.images = np.stack([central_crop(photograph(name), side) for name in SUBJECTS])
        self.x = model.preprocess(self.images)
        self.targets = jnp.array(list(SUBJECTS.values()))

    def steps(self, n: int) -> int:
        """Returns n times the factor."""
        return max(2, round(n * self.quick))

    def compiled(self, method: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """Returns ``explain(net, params, state, x)`` for the targets, compiled."""
        net, targets = self.model.net, self.targets
        run = jax.jit(lambda params, state, x: method(net, params, state, x, targets[: len(x)], **options))
        return lambda _, params, state, x: run(params, state, x)


def _resized(squares: np.ndarray, side: int) -> np.ndarray:
    return np.clip(jc.resize(jnp.asarray(squares), (side, side), antialias=True), 0, 1)


def attributions(subject: Subject) -> Figure:
    """Draws the attributions of five methods; red is for the class, blue against it."""
    model, side = subject.model, subject.x.shape[1]
    low, high = model.preprocess(jnp.zeros(())), model.preprocess(jnp.ones(()))
    baselines = model.preprocess(_resized(subject.squares[:: max(1, len(subject.squares) // 16)], side))
    methods: dict[str, Callable[..., Any]] = {
        "saliency": subject.compiled(jc.inspect.saliency),
        "integrated gradients": subject.compiled(jc.inspect.integrated_gradients, steps=subject.steps(32)),
        "expected gradients": subject.compiled(
            jc.inspect.expected_gradients, baselines=baselines, key=0, samples=subject.steps(32)
        ),
        "DeepLIFT": subject.compiled(jc.inspect.deep_lift),
        "LRP": subject.compiled(jc.inspect.lrp, rules=RULES, low=low, high=high),
    }
    images, maps, titles = [], [], []
    found = {name: np.asarray(explain(*model[:3], subject.x)) for name, explain in methods.items()}
    for i in range(len(subject.images)):
        for name, a in found.items():
            images.append(subject.images[i])
            maps.append(_smoothed(a[i].sum(-1)))
            titles.append(name)
    return figures.heat_maps(np.stack(images), np.stack(maps), titles, columns=len(methods))


def _smoothed(a: np.ndarray) -> np.ndarray:
    """Returns the means of blocks of 4x4 pixels: single pixels are too small to see."""
    rows, columns = (n // 4 for n in a.shape)
    return a[: 4 * rows, : 4 * columns].reshape(rows, 4, columns, 4).mean((1, 3))


def checks(subject: Subject) -> Figure:
    """Draws how attributions change as weights become random, last layer first; an edge filter does not change."""
    model = subject.model
    methods = {
        "saliency": subject.compiled(jc.inspect.saliency),
        "DeepLIFT": subject.compiled(jc.inspect.deep_lift),
        "guided backpropagation": subject.compiled(jc.inspect.guided_backprop),
        "LRP": subject.compiled(jc.inspect.lrp, rules={"": "z_plus", SCORES: "epsilon"}),
        "edges of the image": lambda net, params, state, x: jnp.abs(jnp.diff(x, axis=2)),
    }
    fig = Figure(figsize=(7, 3.2), layout="constrained")
    ax = fig.subplots()
    for name, explain in methods.items():
        found = jc.inspect.sanity_check(*model[:3], subject.x[:1], explain, key=0)
        label = f"{name}: flagged" if found.flagged else name
        ax.plot(np.arange(1, len(found.paths) + 1), found.similarities.mean(1), label=label)
    ax.set(xlabel="layers with random weights, from the last", ylabel="rank correlation", ylim=(-0.25, 1.05))
    ax.legend(fontsize=7)
    return fig


def gratings(count: int, side: int, seed: int = 0) -> np.ndarray:
    """Returns images of stripes with random directions, widths and colors."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.linspace(-1, 1, side)] * 2, indexing="ij"))
    waves = []
    for _ in range(count):
        angle, width = rng.uniform(0, np.pi), rng.uniform(4, 14)
        wave = 0.5 + 0.5 * np.sin(np.pi * width * (at[0] * np.cos(angle) + at[1] * np.sin(angle)) + rng.uniform(0, 6))
        colors = rng.uniform(0, 1, (2, 3))
        waves.append(wave[..., None] * colors[0] + (1 - wave[..., None]) * colors[1])
    return np.stack(waves).astype(np.float32)


def concept(subject: Subject) -> Figure:
    """Draws whether the score of the striped cat increases toward stripes, by layer, beside random directions."""
    model, side = subject.model, subject.squares.shape[1]
    cat = photograph(next(iter(SUBJECTS)))
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(subject.steps(24)):
        n = int(min(cat.shape[:2]) * rng.uniform(0.7, 1))
        top, left = (int(rng.integers(0, size - n + 1)) for size in cat.shape[:2])
        crops.append(central_crop(cat[top : top + n, left : left + n], side, share=1))
    count = max(3, min(subject.steps(30), len(subject.squares) // 3))
    fig = Figure(figsize=(7, 2.6), layout="constrained")
    ax = fig.subplots()
    for i, path in enumerate(LAYERS):
        found = jc.inspect.tcav(
            *model[:3],
            np.stack(crops) / np.float32(255),
            next(iter(SUBJECTS.values())),
            concept=gratings(count, side),
            others=subject.squares,
            path=path,
            runs=subject.steps(12),
            batch_size=16,
            preprocess=model.preprocess,
        )
        for shift, scores, color in ((-0.18, found.scores, "C3"), (0.18, found.chance, "0.6")):
            ax.bar(i + shift, scores.mean(), 0.32, yerr=scores.std(), color=color, capsize=3)
        ax.text(i, 1.06, f"p = {found.p_value:.1g}", ha="center", fontsize=8)
    ax.set(xticks=range(len(LAYERS)), xticklabels=LAYERS, ylim=(0, 1.2), ylabel="TCAV score")
    ax.bar([0], [0], color="C3", label="stripes")
    ax.bar([0], [0], color="0.6", label="random directions")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return fig


def caricatures(subject: Subject) -> Figure:
    """Draws the first photograph, and its caricatures for layers from early to late."""
    model = subject.model
    side = max(16, round(160 * min(1, subject.quick)))
    given = central_crop(photograph(next(iter(SUBJECTS))), side)[None]
    made = [given[0] / np.float32(255)]
    for path in LAYERS:
        images, _ = jc.inspect.caricature(
            *model[:3], given, path, steps=subject.steps(128), preprocess=model.preprocess
        )
        made.append(np.asarray(images[0]))
    return figures.images(np.stack(made), ["photograph", *LAYERS], columns=len(made))


def atlas(subject: Subject) -> Figure:
    """Draws an activation atlas of a late layer on the photographs."""
    model = subject.model
    found = jc.inspect.activation_atlas(
        *model[:3],
        subject.squares,
        ATLAS,
        grid=max(2, subject.steps(8)),
        least=2,
        positions=max(1, 800 // len(subject.squares)),
        size=max(16, round(64 * min(1, subject.quick))),
        steps=subject.steps(96),
        preprocess=model.preprocess,
    )
    fig = Figure(figsize=(7, 7), layout="constrained")
    ax = fig.subplots()
    ax.imshow(found.picture())
    ax.set_axis_off()
    return fig


FIGURES = {
    "attributions": (attributions, "attributions for the class that the network sees"),
    "checks": (checks, "tests of attributions: weights become random"),
    "concept": (concept, "does the score of the striped cat depend on stripes"),
    "caricatures": (caricatures, "caricatures of a photograph"),
    "atlas": (atlas, f"activation atlas of {ATLAS}"),
}


def parts(subject: Subject, show: Sequence[str]) -> list[tuple[str, str, Any]]:
    """Returns (file name, caption, figure) of the figures named in ``show``, for `experiments.report.write_report`."""
    return [(name, FIGURES[name][1], FIGURES[name][0](subject)) for name in show]


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        "python -m experiments.explanations",
        description=(__doc__ or "").split("\n\n", 1)[0],
        formatter_class=Help,
    )
    arguments.add_argument("--show", nargs="+", choices=FIGURES, default=list(FIGURES), help="the figures")
    arguments.add_argument(
        "--quick", type=positive(float), default=1.0, help="a factor of steps and sizes, below 1 for a look"
    )
    arguments.add_argument("--weights", metavar="PATH", help="default: those of the installed package")
    arguments.add_argument("--out", type=Path, default=Path("runs/explanations"), help="a folder for the JPEGs")
    return arguments


def main(argv: Sequence[str] | None = None) -> list[Path]:
    from experiments.visualize import PHOTOGRAPHS, pieces

    options = parser().parse_args(argv)
    needed(Image, figures, optax)
    subject = Subject(pretrained.efficientnet_lite0(options.weights), pieces(PHOTOGRAPHS), options.quick)
    options.out.mkdir(parents=True, exist_ok=True)
    written = []
    for name in options.show:
        buffer = io.BytesIO()
        FIGURES[name][0](subject).savefig(buffer, format="jpeg", dpi=130, pil_kwargs={"quality": 85})
        written.append(options.out / f"{name}.jpg")
        report.write(written[-1], buffer.getvalue())
        print(written[-1], flush=True)
    return written


if __name__ == "__main__":
    report.run(main)
