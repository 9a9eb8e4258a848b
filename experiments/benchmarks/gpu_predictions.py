"""Predictions compiled for an NVIDIA H100, without a GPU: the library calls and XLA's fusions are counted.

    pip install '.[cuda]'
    JAX_PLATFORMS=cpu python -m experiments.benchmarks.gpu_predictions    # writes results/gpu_predictions.json

The networks have folded batch norms. Each is compiled under `jax.jit` and as the program of `jaxconv.predictor`.
Convolutions and matrix products are counted by the operations that their calls compute. Under "relu6" is one layer
with ReLU6, with and without an option of XLA.
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
import numpy as np

import jaxconv as jc
from experiments.benchmarks.gpu import FOLDER, Found
from experiments.benchmarks.gpu_compiled import DEVICE, for_card, h100
from experiments.benchmarks.inference import NETWORKS, weights
from experiments.benchmarks.programs import OPTIONS
from experiments.report import environment, write_results
from jaxconv.ops.lowering.table import platform_of
from jaxconv.packing import pack

METHODS = ("jax.jit", "jaxconv.predictor")
DTYPES = ("float32", "bfloat16")
BATCH = 8
# The operands and the target of a call, and what it computes after a convolution or a matrix product.
CALL = re.compile(r'custom-call\(([^)]*)\).*custom_call_target="([^"]+)"')
EPILOGUE = re.compile(r'"(?:activation_mode|epilogue)":"k?(\w+)"')
NAMES = {
    "__cudnn$convForward": ("conv",),
    "__cudnn$convBiasActivationForward": ("conv", "bias"),
    "__cublas$lt$matmul": ("matmul",),
    "__cublas$gemm": ("matmul",),
}


def counted(text: str) -> Found:
    """Returns the library calls of a compiled program by what they compute, and the numbers of XLA's fusions."""
    found: collections.Counter[str] = collections.Counter()
    for line in text.splitlines():
        for operands, target in CALL.findall(line):
            # The fourth operand is the array that is added.
            added = ("add",) if target == "__cudnn$convBiasActivationForward" and operands.count("%") == 4 else ()
            following = (part for name in EPILOGUE.findall(line) for part in name.lower().split("_"))
            parts = (*NAMES.get(target, (target,)), *added, *following)
            found[" + ".join(part for part in parts if part not in ("none", "default"))] += 1
    return {
        "calls": dict(sorted(found.items())),
        "fusions": len(re.findall(r" fusion\(", text)),
        "transposes": len(re.findall(r" fusion\(.*calls=%(?:wrapped|fused)_transpose", text)),
    }


def prediction(name: str, dtype: str, by: str, device: Any, batch: int = BATCH, size: int = 224) -> Found:
    """Returns what is counted in a network's prediction."""
    net, shape = getattr(jc.models, name)(), (batch, size, size, 3)
    params, state = weights(net, shape)
    params = jax.tree.map(lambda a: a.astype(dtype), params)
    folded, *arrays = jc.fold(net, params, state)

    def plain(weights: Any, x: Any) -> Any:
        params, state = weights
        return folded.apply(params, state, x)[0]

    function, given, x = plain, tuple(arrays), jax.ShapeDtypeStruct(shape, dtype)
    if by == "jaxconv.predictor":
        # What the predictor compiles where the GPU is present.
        traced = jax.jit(jc.predictor(net, params, state).function).trace(given, x)
        function, wanted = pack(traced, platform_of(device.platform))
        leaves = jax.tree.leaves(given)
        given = [stored.array(np.asarray(leaves[stored.leaf])) for stored in wanted]
    program, _ = for_card(device, function, given, x)
    return {"program": name, "dtype": dtype, "by": by, "batch": batch, "size": size, **counted(program.as_text())}


def relu6(device: Any, dtype: str, fused: bool) -> Found:
    """Returns what is counted in a convolution with a bias and ReLU6, with XLA's option for such activations or not."""
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((8, 56, 56, 64), (3, 3, 64, 64), (64,))]

    def layer(x: Any, kernel: Any, bias: Any) -> Any:
        return jax.nn.relu6(jc.conv(x, kernel) + bias)

    options = {"xla_gpu_use_runtime_fusion": True} if fused else {}
    program, _ = for_card(device, layer, *shapes, options=options)
    return {"dtype": dtype, "options": options, **counted(program.as_text())}


def table(found: Found) -> str:
    """Returns a Markdown table of the predictions."""
    rows = {(row["program"], row["dtype"], row["by"]): row for row in found["predictions"]}
    fusions = " | ".join(f"XLA's fusions, `{by}`" for by in METHODS)
    lines = [f"| network | dtype | library calls, `{METHODS[1]}` | {fusions} |", "|---" * 5 + "|"]
    for name, dtype in dict.fromkeys(key[:2] for key in rows):
        plain, ours = (rows[name, dtype, by] for by in METHODS)
        calls = ", ".join(f"{count} {call}" for call, count in ours["calls"].items())
        lines.append(f"| {name} | {dtype} | {calls} | {plain['fusions']} | {ours['fusions']} |")
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
        for name, dtype, by in itertools.product(NETWORKS, DTYPES, METHODS):
            rows.append(prediction(name, dtype, by, device))
            print(json.dumps(rows[-1]), flush=True)
        layers = [relu6(device, *each) for each in itertools.product(("bfloat16", "float16"), (False, True))]
        facts = {"device": DEVICE, "options": OPTIONS, "predictions": rows, "relu6": layers}
        write_results(options.out, environment() | facts)
    print(table(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
