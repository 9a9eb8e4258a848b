"""The table of the networks that torchvision has too: ``python -m experiments.docs.zoo`` writes docs/models.md.

What torchvision publishes is in docs/torchvision.json, written by ``tests/record_torchvision.py``; all else is computed
from the networks.
"""

import functools
import json
from typing import Any

import jaxconv as jc
from experiments.docs import DOCS

PAGE = DOCS / "models.md"
HEAD = """# Models and their counts

The networks that `jaxconv.models` shares with torchvision, under its names: `jc.weights.from_torch(net, file)` takes
its files. Parameters and multiply-adds are computed by `jc.summary` from the network itself; beside them stands what
torchvision publishes with its weights, with auxiliary heads where its weights have them. Multiply-adds are for one
image, in thousands of millions.

| network | file | input | parameters | published | multiply-adds | published | difference |
|---|---|---|---:|---:|---:|---:|---:|
"""
# What the published numbers count: GoogLeNet's come without its auxiliary heads, all others' with.
OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"aux_logits": False}}
# Heads that run in training only are in the parameters and not in the published multiply-adds.
TRAINING_ONLY = ("AuxLogits",)


@functools.cache
def published() -> dict[str, dict[str, Any]]:
    """Returns what torchvision publishes, by network."""
    return json.loads((DOCS / "torchvision.json").read_text())


def counts(name: str) -> tuple[int, float]:
    """Returns parameters, and thousands of millions of multiply-adds of a prediction."""
    net = getattr(jc.models, name)(**published()[name]["options"], **OPTIONS.get(name, {}))
    table = jc.summary(net, tuple(published()[name]["input"]))
    macs = sum(row.macs or 0 for row in table.rows if not row.path.startswith(TRAINING_ONLY))
    return table.parameters, macs / 1e9


def row(name: str) -> str:
    """Returns the network's line of the table."""
    known = published()[name]
    parameters, macs = counts(name)
    size = "x".join(map(str, known["input"][1:]))
    cells = (
        f"`{name}`",
        f"`models/{known['file']}.py`",
        size,
        f"{parameters:,}",
        f"{known['parameters']:,}",
        f"{macs:.3f}",
        f"{known['gmacs']:.3f}",
        f"{macs / known['gmacs'] - 1:+.1%}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    PAGE.write_text(HEAD + "\n".join(map(row, published())) + "\n")


if __name__ == "__main__":
    main()
