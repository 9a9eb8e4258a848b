"""The table of the networks that torchvision has too: ``python -m experiments.docs.zoo`` writes docs/models.md.

The values that torchvision publishes are in docs/torchvision.json, written by ``tests/record_torchvision.py``; all
other values are computed from the networks.
"""

import functools
import json
from typing import Any

import jaxconv as jc
from experiments.docs import DOCS

PAGE = DOCS / "models.md"
HEAD = """# Models and their counts

These networks of `jaxconv.models` are in torchvision too, under the same names: `jc.weights.from_torch(net, file)`
loads torchvision's files. The first column is the call in `jaxconv.models`. `jc.summary` computes parameters and
multiply-adds from the network; the columns "published" are the values that torchvision publishes with its weights.
Multiply-adds are for one image, in billions (1e9). Published values have two decimals, so that 0.04 of the smallest
network is any value from 0.035 to 0.045, and its difference has little meaning.

Auxiliary heads: torchvision's files of GoogLeNet, Inception v3 and the networks for segmentation contain them, so
`googlenet()`, `inception_v3()` and `fcn_resnet50(aux_loss=True)` load these files. To omit a head, pass `from_torch` a
`rename` that drops it: `rename={"aux1.": None, "aux2.": None}` with `googlenet(aux_logits=False)`.

`transform_input`: the published weights of GoogLeNet and Inception v3 need images normalized by 0.5 and 0.5. For these
weights torchvision sets `transform_input=True`: the network then takes images normalized by ImageNet's mean and
standard deviation, like all other networks, and converts them. The default is False in both libraries: for these two
files write `googlenet(transform_input=True)` and `inception_v3(transform_input=True)`, or normalize by 0.5 and 0.5
yourself.

| call | file | input | parameters | published | multiply-adds | published | difference |
|---|---|---|---:|---:|---:|---:|---:|
"""
# The published counts of GoogLeNet exclude auxiliary heads; those of all other networks include them.
OPTIONS: dict[str, dict[str, Any]] = {"googlenet": {"aux_logits": False}}
# The published parameters include heads that run in training only; the published multiply-adds do not.
TRAINING_ONLY = ("AuxLogits",)


@functools.cache
def published() -> dict[str, dict[str, Any]]:
    """Returns the values that torchvision publishes, by network."""
    return json.loads((DOCS / "torchvision.json").read_text())


def options(name: str) -> dict[str, Any]:
    """Returns the arguments of the network with the published counts."""
    return {**published()[name]["options"], **OPTIONS.get(name, {})}


def counts(name: str) -> tuple[int, float]:
    """Returns parameters, and billions (1e9) of multiply-adds of a forward pass in evaluation."""
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
