"""Keeps the figures of the commands that train on images, each as one run wrote them.

    python -m experiments.nuclei
    python -m experiments.benchmarks.applications runs/nuclei     # adds its entry to results/applications.json

An entry is the metrics.json of a command's folder: its metrics, versions, device, commit and arguments, without paths.
The pages quote these figures: tests/test_readme.py. A run of experiments.video whose history docs/video.md draws is in
a separate file, by --out results/video.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.report import write_results

RESULTS = Path(__file__).parent / "results" / "applications.json"


def entry(folder: Path) -> dict[str, Any]:
    """Returns what a command wrote, without arguments that are paths."""
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    if "arguments" in found:
        found["arguments"] = {
            name: value for name, value in found["arguments"].items() if not (isinstance(value, str) and "/" in value)
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.applications")
    parser.add_argument("folders", nargs="+", type=Path, help="folders that commands wrote, with their names")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the file of results")
    options = parser.parse_args()
    kept = json.loads(options.out.read_text()) if options.out.exists() else {}
    kept |= {folder.name: entry(folder) for folder in options.folders}
    write_results(options.out, dict(sorted(kept.items())))


if __name__ == "__main__":
    main()
