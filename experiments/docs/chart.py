"""The chart at the top of the README, drawn from the committed measurements.

Run ``python -m experiments.docs.chart`` to write docs/speed.png.
"""

import json
from typing import Any

from matplotlib.figure import Figure

from experiments.docs import DOCS, ROOT
from experiments.report import png, write

RESULTS = ROOT / "experiments" / "benchmarks" / "results"
LAYER = "conv 8x56x56x96->96 k7 g96"
COLORS = {"jax.lax": "#9aa0a6", "jaxconv": "#1a73e8", "torch": "#ee8a3c"}


def times() -> dict[str, dict[str, float]]:
    """Returns, for each of three programs, the milliseconds of lax, jaxconv (under `jaxconv.jit`) and torch."""
    layers = {case["case"]: case for case in json.loads((RESULTS / "layers.json").read_text())["cases"]}
    steps = {case["case"]: case["candidates"] for case in json.loads((RESULTS / "training.json").read_text())}
    gradient = {"jax.lax": "lax", "jaxconv": "jaxconv.jit", "torch": "torch"}
    step = gradient | {"jax.lax": "flax"}
    return {
        "7x7 depthwise layer,\nwith its gradients": {
            k: layers[LAYER]["gradients"][v]["median_ms"] for k, v in gradient.items()
        },
        "gradient of 8 networks\nunder vmap": {k: steps["ensemble of 8"][v]["median_ms"] for k, v in step.items()},
        "training step,\nMobileNetV2": {k: steps["mobilenetv2"][v]["median_ms"] for k, v in step.items()},
    }


def chart() -> Any:
    """Draws one panel for each of the three programs."""
    figure = Figure(figsize=(9, 2.3), layout="constrained")
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
