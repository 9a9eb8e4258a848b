"""Collects the learning curves of runs in one committed file, and draws it for the documentation.

python -m experiments.atari.results runs/atari-breakout-pqn runs/atari-breakout-dqn ...
python -m experiments.atari.results           # only draws experiments/benchmarks/results/atari.json again
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.atari.command import PUBLISHED
from jaxconv.inspect.figures.canvas import new_figure

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "atari.json"
PICTURE = Path(__file__).parents[2] / "docs" / "play_curves.png"
POINTS = 50


def compact(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns a run with at most ``POINTS`` points in its curves, each the mean of the points before it."""
    returns = np.array(metrics["returns"], float)
    each = -(-returns.shape[1] // POINTS)
    starts = range(0, returns.shape[1] - each + 1, each)
    kept = [[float(f"{np.nanmean(row[i : i + each]):.3g}") for i in starts] for row in returns]
    arguments = {name: value for name, value in metrics["arguments"].items() if name not in ("out", "quiet")}
    metrics = metrics | {"arguments": arguments}
    return metrics | {"frames": [metrics["frames"][i + each - 1] for i in starts], "returns": kept}


def draw(runs: dict[str, Any]) -> Any:
    """Draws a panel for each game: seeds as thin lines, their mean as a thick one, published returns dashed."""
    games = sorted({run["game"] for run in runs.values()})
    figure = new_figure(4.6 * len(games), 3.4)
    for axes, game in zip(np.atleast_1d(figure.subplots(1, len(games))), games, strict=True):
        for i, run in enumerate(run for run in runs.values() if run["game"] == game):
            frames, returns = np.array(run["frames"]), np.array(run["returns"], float)
            axes.plot(frames, returns.T, color=f"C{i}", alpha=0.35, linewidth=0.8)
            label = f"{run['agent'].upper()}, {len(returns)} seeds"
            axes.plot(frames, np.nanmean(returns, axis=0), color=f"C{i}", linewidth=2, label=label)
        if game in PUBLISHED:
            label = "PPO, gymnax's table (no sticky actions)"
            axes.axhline(PUBLISHED[game], color="gray", linestyle="--", linewidth=1, label=label)
        axes.set(title=game.replace("_", " "), xlabel="frames", ylabel="mean return")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of experiments.atari")
    folders = parser.parse_args().folders
    if folders:
        found = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
        runs = {f"{run['game']}, {run['agent']}": compact(run) for run in found}
        report.write_results(RESULTS, runs)
    report.write(PICTURE, report.png(draw(json.loads(RESULTS.read_text()))))


if __name__ == "__main__":
    main()
