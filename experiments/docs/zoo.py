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
its files. The first column is the call in `jaxconv.models` that gives the row. Parameters and multiply-adds are
computed by `jc.summary` from the network itself; beside them stands what torchvision publishes with its weights.
Multiply-adds are for one image, in thousands of millions; published are two decimals, so the smallest network's 0.04
stands for anything from 0.035 to 0.045, and its difference says little.

Auxiliary heads: torchvision's files of GoogLeNet, Inception v3 and the networks for segmentation hold them, so
`googlenet()`, `inception_v3()` and `fcn_resnet50(aux_loss=True)` take those files; to leave a head out, give
`from_torch` a `rename` that drops it, `rename={"aux1.": None, "aux2.": None}` with `googlenet(aux_logits=False)`.

`transform_input`: the published weights of GoogLeNet and Inception v3 want images normalized by 0.5 and 0.5. With them
torchvision sets `transform_input=True`: the network then takes images normalized by ImageNet's mean and deviation, as
all others do, and begins by normalizing them again. It is off by default, here as there: for these two files write
`googlenet(transform_input=True)` and `inception_v3(transform_input=True)`, or normalize by 0.5 and 0.5 yourself.

| call | file | input | parameters | published | multiply-adds | published | difference |
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


def options(name: str) -> dict[str, Any]:
    """Returns the arguments that give the network with the published counts."""
    return {**published()[name]["options"], **OPTIONS.get(name, {})}


def counts(name: str) -> tuple[int, float]:
    """Returns parameters, and thousands of millions of multiply-adds of a prediction."""
    net = getattr(jc.models, name)(**options(name))
    table = jc.summary(net, tuple(published()[name]["input"]))
    macs = sum(row.macs or 0 for row in table.rows if not row.path.startswith(TRAINING_ONLY))
    return table.parameters, macs / 1e9


def row(name: str) -> str:
    """Returns the network's line of the table."""
    known = published()[name]
    parameters, macs = counts(name)
    size = "x".join(map(str, known["input"][1:]))
    cells = (
        f"`{name}({', '.join(f'{argument}={value!r}' for argument, value in options(name).items())})`",
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
