"""Compares the programs that XLA compiles for a GPU from lax and from jaxconv, on a machine without a GPU.

    pip install '.[cuda]'
    JAX_PLATFORMS=cpu python -m experiments.benchmarks.programs     # writes results/programs_cuda.json

Compiles every convolution of `cases`, at 16 times the batch, for an NVIDIA H100, which need not be present, without
XLA's searches for the fastest algorithm. Where jaxconv chooses lax's convolution in each role, the calls of cuDNN must
be equal to lax's, character by character: then the speed is equal, too. Otherwise the chosen algorithms are listed.
Memory is the memory of arguments, results and temporaries, as a multiple of lax's.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

import jaxconv as jc
from experiments.benchmarks import layers
from experiments.benchmarks.cases import CASES, Case
from experiments.benchmarks.forms import needs
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "programs_cuda.json"
SCALE = 16
# The facts about a GPU that XLA needs.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Products go to cuBLAS, since without a card XLA cannot try its own.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
# Of a line of the program: the result's type, then these of its attributes.
CALL = re.compile(r"= \(?(\w+\[[\d,]*\]).* custom-call\(")
FACTS = re.compile(r'(?:window=\{[^}]*\}|dim_labels=\w+->\w+|feature_group_count=\d+|custom_call_target="[^"]*")')


def calls(text: str) -> list[str]:
    """Returns the calls of libraries in a compiled program, sorted."""
    found = ((CALL.search(line), line) for line in text.splitlines())
    return sorted(" ".join([match[1], *FACTS.findall(line)]) for match, line in found if match)


def compared(case: Case, dtype: str, device: Any) -> list[dict[str, Any]]:
    """Returns what is found of the case: forward, and with the gradients."""
    shapes, ours, theirs = case.shapes(dtype), case.jaxconv()[0], case.lax()[0]
    y = jax.eval_shape(theirs, *shapes)
    rows = jc.explain(layers.with_gradients(ours), y, *shapes, platform="cuda")
    held = jax.sharding.SingleDeviceSharding(device)
    found = []
    for what in layers.PASSES:
        forms = [row.form for row in rows][: 1 if what == "forward" else None]
        texts, bytes_held = [], []
        for function in (theirs, ours):
            call, arrays = (function, shapes) if what == "forward" else (layers.with_gradients(function), (y, *shapes))
            arrays = tuple(jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=held) for a in arrays)
            lowered = jax.jit(call, compiler_options=OPTIONS).trace(*arrays).lower(lowering_platforms=("cuda",))
            program = lowered.compile()
            texts.append(calls(program.as_text()))
            bytes_held.append(needs(program))
        memory = bytes_held[1] / bytes_held[0]
        entry = {"case": case.name, "dtype": dtype, "what": what, "forms": forms, "memory": memory}
        found.append(entry | ({"same": texts[0] == texts[1]} if set(forms) == {"xla"} else {}))
    return found


def key(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["case"], entry["dtype"], entry["what"]


def summary(cases: list[dict[str, Any]]) -> str:
    """Returns what the comparison comes to."""
    own = [c for c in cases if "same" in c]
    other = [f"{c['case']}, {c['dtype']}, {c['what']}" for c in own if not c["same"]]
    most = max(cases, key=lambda c: c["memory"])
    lines = [
        f"{len(cases)} programs, {len(own)} by lax's own convolutions, {len(own) - len(other)} of them the same calls.",
        f"Most memory: {most['memory']:.2f} of lax's, {most['case']}, {most['dtype']}, {most['what']}.",
        "Other calls than lax's:",
    ]
    return "\n- ".join(["\n".join(lines), *other])


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.programs")
    parser.add_argument("--only", type=re.compile, default=re.compile(""), help="those cases again, the others kept")
    parser.add_argument("--table", action="store_true", help="print what the file says, compile nothing")
    args = parser.parse_args()
    if args.table:
        print(summary(json.loads(RESULTS.read_text())["cases"]))
        return
    topology = topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100)
    head = environment() | {"device": "none; compiled for NVIDIA H100 80GB HBM3", "scale": SCALE, "options": OPTIONS}
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    if args.only.pattern and RESULTS.exists():
        found = {key(entry): entry for entry in json.loads(RESULTS.read_text())["cases"]}
    for dtype in ("float32", "bfloat16"):
        for case in CASES:
            if case.kernel is not None and args.only.search(case.name):
                some = compared(case.scaled(SCALE), dtype, topology.devices[0])
                found |= {key(entry): entry for entry in some}
                print(*some, sep="\n", flush=True)
    write_results(RESULTS, {**head, "cases": list(found.values())})
    print(summary(list(found.values())))


if __name__ == "__main__":
    main()
