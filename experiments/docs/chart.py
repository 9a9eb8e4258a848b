"""The chart at the top of the README, drawn from the committed measurements.

Run ``python -m experiments.docs.chart`` to write docs/speed.png.
"""

import json
from typing import Any

from matplotlib.figure import Figure

from experiments.benchmarks.training import OPTIONAL
from experiments.docs import DOCS, ROOT
from experiments.report import png, write

RESULTS = ROOT / "experiments" / "benchmarks" / "results"
LAYER = "conv 8x56x56x96->96 k7 g96"
COLORS = {"jax.lax": "#9aa0a6", "jax.lax, options": "#5f6368", "jaxconv": "#1a73e8", "torch": "#ee8a3c"}


def times() -> dict[str, dict[str, float]]:
    """Returns the milliseconds of three programs in lax, lax under its best options, jaxconv.jit and torch."""
    layers = {case["case"]: case for case in json.loads((RESULTS / "layers.json").read_text())["cases"]}
    steps = {case["case"]: case["candidates"] for case in json.loads((RESULTS / "training.json").read_text())}
    layer = layers[LAYER]["gradients"]

    def step(case: str) -> dict[str, float]:
        times = {name: row["median_ms"] for name, row in steps[case].items()}
        fastest = min(times[name] for name in OPTIONAL if name in times)
        return dict(zip(COLORS, (times["flax"], fastest, times["jaxconv.jit"], times["torch"]), strict=True))

    names = ("lax", "lax, options", "jaxconv.jit", "torch")
    return {
        "7x7 depthwise layer,\nwith its gradients": {
            label: layer[name]["median_ms"] for label, name in zip(COLORS, names, strict=True)
        },
        "gradient of 8 networks\nunder vmap": step("ensemble of 8"),
        "training step,\nMobileNetV2": step("mobilenetv2"),
    }


def chart() -> Any:
    """Draws one panel for each of the three programs."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, (title, bars) in zip(figure.subplots(1, 3), times().items(), strict=True):
        names = list(bars)[::-1]
        drawn = axes.barh(names, [bars[name] for name in names], color=[COLORS[name] for name in names])
        axes.bar_label(drawn, labels=[f"{bars[name]:.3g} ms" for name in names], padding=3, fontsize=9)
        axes.set_title(title, fontsize=10)
        axes.set_xlim(0, max(bars.values()) * 1.3)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure


if __name__ == "__main__":
    write(DOCS / "speed.png", png(chart()))
