"""Collects the learning curves of runs in one committed file, and makes the figures and tables of docs/play.md from it.

    python -m experiments.atari.results runs/atari-breakout-pqn runs/atari-breakout-dqn ...
    python -m experiments.atari.results           # only from experiments/benchmarks/results/atari.json

A run replaces that of the same game, agent and options; other runs of the file are kept.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import report
from experiments.atari.command import FRAMES, PUBLISHED, agent_name
from experiments.atari.drawing import learning_curves
from jaxconv.inspect.figures.canvas import new_figure

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "atari.json"
DOCS = Path(__file__).parents[2] / "docs"
# The frames of each seed between two points of a curve, where a run has more points.
SPACING = 20_000
# The variants are compared by the episodes that end in this number of frames.
WINDOW = 100_000
Runs = dict[str, dict[str, Any]]


def compact(metrics: dict[str, Any]) -> dict[str, Any]:
    """Returns a run with a point of its curves every ``SPACING`` frames, each the mean of the points before it."""
    returns = np.array(metrics["returns"], float)
    each = max(1, SPACING // metrics["frames"][0])
    starts = range(0, returns.shape[1] - each + 1, each)
    kept = [[float(f"{np.nanmean(row[i : i + each]):.3g}") for i in starts] for row in returns]
    arguments = {name: value for name, value in metrics["arguments"].items() if name not in ("out", "quiet")}
    metrics = metrics | {"arguments": arguments}
    return metrics | {"frames": [metrics["frames"][i + each - 1] for i in starts], "returns": kept}


def merged(runs: Runs, found: Iterable[dict[str, Any]]) -> Runs:
    """Returns the runs of the file with those found, under their game and agent with its options."""
    return runs | {f"{run['game']}, {agent_name(run['arguments']).lower()}": compact(run) for run in found}


def plain(runs: Runs) -> Runs:
    """Returns the runs of agents without options."""
    return {name: run for name, run in runs.items() if not (run["arguments"]["double"] or run["arguments"]["dueling"])}


def variants(runs: Runs, game: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns (frames, returns) of DQN and its variants on a game, up to the frames of the shortest run."""
    found = {agent_name(run["arguments"]): run for run in runs.values() if (run["game"], run["agent"]) == (game, "dqn")}
    curves = {name: (np.array(run["frames"]), np.array(run["returns"], float)) for name, run in found.items()}
    least = min(frames[-1] for frames, _ in curves.values())
    return {name: (frames[frames <= least], returns[:, frames <= least]) for name, (frames, returns) in curves.items()}


def spread(values: Any) -> str:
    """Returns the mean and the standard deviation of seeds, and their range.

    >>> spread([1.0, 2.0, 6.0])
    '3 ± 2.6, 1 to 6'
    """
    values = np.asarray(values, float)
    return f"{values.mean():.3g} ± {values.std(ddof=1):.2g}, {values.min():.3g} to {values.max():.3g}"


def table(runs: Runs) -> str:
    """Returns the runs of agents without options as a table in Markdown."""
    lines = [
        "| game | agent | frames of each seed | return of the best actions: mean ± standard deviation, range "
        "| processor time of all seeds | published |",
        "|---|---|---:|---|---:|---:|",
    ]
    for run in plain(runs).values():
        agent, frames = agent_name(run["arguments"]), run["arguments"]["frames"] or FRAMES[run["agent"]]
        cells = (
            run["game"].replace("_", " ").title(), agent, f"{frames:,}", spread(run["greedy_return"]),
            f"{run['processor_seconds']:,.0f} s", f"{PUBLISHED[run['game']]:g}" if run["game"] in PUBLISHED else "",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def variants_table(runs: Runs, game: str) -> str:
    """Returns DQN and its variants at equal frames as a table in Markdown: the last ``WINDOW`` frames of each."""
    lines = ["| agent | return while learning: mean ± standard deviation, range |", "|---|---|"]
    for name, (frames, returns) in variants(runs, game).items():
        last = np.nanmean(returns[:, frames > frames[-1] - WINDOW], axis=1)
        lines.append(f"| {name} | {spread(last)} |")
    return "\n".join(lines)


def with_table(page: str, table: str) -> str:
    """Returns a page whose table with the same header is replaced.

    >>> with_table("Text.\\n\\n| a |\\n|---|\\n| 1 |\\n\\nText.", "| a |\\n|---|\\n| 2 |")
    'Text.\\n\\n| a |\\n|---|\\n| 2 |\\n\\nText.'
    """
    return re.sub(re.escape(table.splitlines()[0]) + r"(\n\|.*)*", lambda _: table, page)


def draw(runs: Runs) -> Any:
    """Draws a panel for each game, of agents without options, with published returns."""
    games = sorted({run["game"] for run in runs.values()})
    figure = new_figure(4.6 * len(games), 3.4)
    for axes, game in zip(np.atleast_1d(figure.subplots(1, len(games))), games, strict=True):
        of_game = [run for run in plain(runs).values() if run["game"] == game]
        curves = {
            f"{agent_name(run['arguments'])}, {len(run['returns'])} seeds": (run["frames"], run["returns"])
            for run in of_game
        }
        published = {"PPO, gymnax's table (no sticky actions)": PUBLISHED[game]} if game in PUBLISHED else {}
        learning_curves(curves, levels=published, axes=axes)
        axes.set(title=game.replace("_", " "), ylabel="mean return")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders of experiments.atari")
    folders = parser.parse_args().folders
    runs = json.loads(RESULTS.read_text())
    if folders:
        runs = merged(runs, (json.loads((folder / "metrics.json").read_text()) for folder in folders))
        report.write_results(RESULTS, runs)
    report.write(DOCS / "play_curves.png", report.png(draw(runs)))
    report.write(DOCS / "play_variants.png", report.png(learning_curves(variants(runs, "breakout"))))
    page = DOCS / "play.md"
    text = with_table(with_table(page.read_text(), table(runs)), variants_table(runs, "breakout"))
    report.write(page, text.encode())


if __name__ == "__main__":
    main()
