"""Predictions compiled for an NVIDIA H100 that need not be present: what each call of a library computes.

    pip install '.[cuda]'
    JAX_PLATFORMS=cpu python -m experiments.benchmarks.gpu_predictions    # writes results/gpu_predictions.json

Networks with folded batch norms, under `jax.jit` and by `jaxconv.predictor`, which rewrites each layer and what follows
it. Of the compiled text are counted the convolutions and matrix products, by what they compute too, and the kernels.
"""

import argparse
import collections
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import jaxconv as jc
from experiments.benchmarks.gpu import FOLDER, Found
from experiments.benchmarks.gpu_compiled import DEVICE, for_card, h100
from experiments.benchmarks.inference import NETWORKS, weights
from experiments.benchmarks.programs import OPTIONS
from experiments.report import environment, write_results

WAYS = ("jax.jit", "jaxconv.predictor")
TYPES = ("float32", "bfloat16")
BATCH = 8
# The operands and the target of a call, and what it computes after a convolution or a matrix product.
CALL = re.compile(r'custom-call\(([^)]*)\).*custom_call_target="([^"]+)"')
THEN = re.compile(r'"(?:activation_mode|epilogue)":"k?(\w+)"')
NAMES = {
    "__cudnn$convForward": ("conv",),
    "__cudnn$convBiasActivationForward": ("conv", "bias"),
    "__cublas$lt$matmul": ("matmul",),
    "__cublas$gemm": ("matmul",),
}


def counted(text: str) -> Found:
    """Returns the calls of a compiled program by what they compute, and the number of its kernels."""
    found: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        for operands, target in CALL.findall(line):
            # The fourth operand of a convolution is the array that is added.
            added = ("add",) if target in NAMES and "cudnn" in target and operands.count("%") == 4 else ()
            then = (part for name in THEN.findall(line) for part in name.lower().split("_"))
            parts = (*NAMES.get(target, (target,)), *added, *then)
            found[" + ".join(part for part in parts if part not in ("none", "default"))] += 1
    return {"calls": dict(sorted(found.items())), "kernels": len(re.findall(r" fusion\(", text))}


def prediction(name: str, dtype: str, by: str, device: Any, batch: int = BATCH, size: int = 224) -> Found:
    """Returns what is counted in a network's prediction."""
    net, shape = getattr(jc.models, name)(), (batch, size, size, 3)
    params, state = weights(net, shape)
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    folded, *arrays = jc.fold(net, params, state)

    def plain(weights: Any, x: Any) -> Any:
        params, state = weights
        return folded.apply(params, state, x)[0]

    function = plain if by == "jax.jit" else jc.predictor(net, params, state).function
    program, _ = for_card(device, function, tuple(arrays), jax.ShapeDtypeStruct(shape, dtype))
    return {"program": name, "dtype": dtype, "by": by, "batch": batch, "size": size, **counted(program.as_text())}


def table(found: Found) -> str:
    """Returns a Markdown table of the predictions."""
    lines = ["| network | dtype | by | calls | kernels of XLA |", "|---|---|---|---|---|"]
    for row in found["predictions"]:
        calls = ", ".join(f"{count} {name}" for name, count in row["calls"].items())
        lines.append(f"| {row['program']} | {row['dtype']} | `{row['by']}` | {calls} | {row['kernels']} |")
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("python", "jax", "jaxlib"))
    return "\n".join([*lines, "", f"{found['device']}; {versions}."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.gpu_predictions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--table", action="store_true", help="print what the file says, compile nothing")
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu_predictions.json", help="the file of results")
    options = parser.parse_args(arguments)
    if not options.table:
        device, rows = h100(), []
        for name, dtype, by in itertools.product(NETWORKS, TYPES, WAYS):
            rows.append(prediction(name, dtype, by, device))
            print(json.dumps(rows[-1]), flush=True)
        facts = {"device": DEVICE, "options": OPTIONS, "predictions": rows}
        write_results(options.out, environment() | facts)
    print(table(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
