"""Trains each network of `experiments.classify` from several seeds and prints a table of the results.

    python -m experiments.benchmarks.accuracy                 # runs, writes results/accuracy.json
    python -m experiments.benchmarks.accuracy --table         # prints the table of the file, runs nothing

Each run is a separate process; run it on an otherwise idle machine. Training seconds include compilation and exclude
validation, checkpoints and figures.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.report import write_results

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
CASES = (("mnist5k", "convnet"), ("fashion_mnist", "convnet"))
KEPT = ("test_accuracy", "train_seconds", "images_per_second", "seed")


def run(data: str, model: str, seeds: int) -> dict[str, Any]:
    """Returns the runs of the case, and the facts that they share."""
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "experiments.classify", "--quiet", "--out", folder]
            subprocess.run([*command, "--data", data, "--model", model, "--seed", str(seed)], check=True)
            metrics = json.loads((Path(folder) / "metrics.json").read_text())
        runs.append({name: metrics[name] for name in KEPT})
        print(data, model, runs[-1], flush=True)
    arguments = {k: v for k, v in metrics["arguments"].items() if k in ("epochs", "batch", "lr")}
    shared = {k: metrics[k] for k in ("parameters", "versions", "device")}
    return {"data": data, "model": model, "arguments": arguments, **shared, "runs": runs}


def table(cases: list[dict[str, Any]]) -> str:
    """Returns the Markdown table."""
    lines = [
        "| data | network | parameters | epochs | test accuracy, mean and range | training, median |",
        "|---|---|---|---|---|---|",
    ]
    for case in cases:
        accuracies = [run["test_accuracy"] for run in case["runs"]]
        seconds = statistics.median(run["train_seconds"] for run in case["runs"])
        spread = f"{statistics.mean(accuracies):.2%} ({min(accuracies):.2%} to {max(accuracies):.2%})"
        lines.append(
            f"| {case['data']} | {case['model']} | {case['parameters']:,} | {case['arguments']['epochs']} | {spread} "
            f"| {seconds:.0f} s |"
        )
    notes: dict[str, list[str]] = {}
    for case in cases:
        versions = ", ".join(f"{name} {case['versions'][name]}" for name in ("python", "jax", "jaxlib", "optax"))
        note = f"{len(case['runs'])} seeds each, float32, {case['device']}; {versions}."
        notes.setdefault(note, []).append(f"{case['model']} on {case['data']}")
    remarks = [note if len(notes) == 1 else f"{', '.join(which)}: {note}" for note, which in notes.items()]
    return "\n".join([*lines, "", *remarks])


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.accuracy")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only", choices=sorted({data for data, _ in CASES}), help="run this data set and keep the others' runs"
    )
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    if not options.table:
        for data, model in CASES:
            if options.only in (None, data):
                case = run(data, model, options.seeds)
                found = [c for c in found if (c["data"], c["model"]) != (data, model)] + [case]
                write_results(RESULTS, sorted(found, key=lambda c: CASES.index((c["data"], c["model"]))))
        found = json.loads(RESULTS.read_text())
    print(table(found))


if __name__ == "__main__":
    main()
