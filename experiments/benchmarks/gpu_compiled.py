"""The training programs of `experiments.benchmarks.gpu`, compiled for an NVIDIA H100 that need not be present.

    pip install '.[cuda]'
    JAX_PLATFORMS=cpu python -m experiments.benchmarks.gpu_compiled    # writes results/gpu_compiled.json

The same steps from jaxconv and from Flax; their memory, calls of libraries and kernels are counted.
"""

import argparse
import collections
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from experiments import speedrun as script
from experiments.benchmarks.gpu import BATCH, FOLDER, NETWORKS, SIZE, Found, jax_step, plan_of
from experiments.benchmarks.programs import H100, OPTIONS
from experiments.benchmarks.training_candidates import Case
from experiments.report import environment, write_results

PROGRAMS = (*NETWORKS, "speedrun")
DEVICE = "none; compiled for NVIDIA H100 80GB HBM3"


def h100() -> Any:
    """Returns a card that need not be present."""
    return topologies.get_topology_desc(platform="cuda", topology="1x1x1", target_config=H100).devices[0]


def counted(program: Any) -> Found:
    """Returns the memory of a compiled program, its calls of libraries by name, and its kernels."""
    text = program.as_text()
    stats = program.memory_analysis()
    calls = collections.Counter(re.findall(r'custom_call_target="([^"]+)"', text))
    return {
        "arguments_megabytes": stats.argument_size_in_bytes / 1e6,
        "temporaries_megabytes": stats.temp_size_in_bytes / 1e6,
        "fusions": len(re.findall(r" fusion\(", text)),
        "calls": dict(sorted(calls.items())),
    }


def for_card(
    device: Any,
    function: Callable[..., Any],
    *arguments: Any,
    donate: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple[Any, Found]:
    """Compiles a function of arrays, given by their shapes, for a card that need not be present.

    Returns:
      The program, and the seconds in which it was lowered and compiled.
    """
    held = jax.sharding.SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=held), arguments)
    start = time.perf_counter()
    given = OPTIONS | dict(options or {})
    jitted = jax.jit(function, compiler_options=given, donate_argnums=() if donate is None else donate)
    platform = "cpu" if device.platform == "cpu" else "cuda"
    lowered = jitted.trace(*shapes).lower(lowering_platforms=(platform,))
    middle = time.perf_counter()
    program = lowered.compile()
    seconds = {"lower_seconds": middle - start, "compile_seconds": time.perf_counter() - middle}
    return program, seconds


def training_program(name: str, by: str, device: Any, small: bool) -> Found:
    """Returns what is counted in a network's training step."""
    batch, size = (4, 32) if small else (BATCH, SIZE)
    step, begin = jax_step(by, plan_of(name, small), Case(name, batch, (size, size, 3)))
    x, y = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    program, seconds = for_card(device, step, jax.eval_shape(begin, jax.random.key(0)), x, y, donate=0)
    facts = {"program": name, "by": by, "batch": batch, "size": size, "dtype": "bfloat16"}
    return facts | counted(program) | seconds


def speedrun_program(device: Any, small: bool) -> Found:
    """Returns what is counted in the one program of the speedrun on Fashion-MNIST."""
    recipe = script.RECIPES["fashion_mnist"]
    recipe = recipe._replace(epochs=1, widths=(4, 6), batch=16) if small else recipe
    train, test = (96, 48) if small else (60_000, 10_000)
    net = script.network(recipe, 1, 10)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params, state = jax.eval_shape(lambda key: net.init(key, (1, 28, 28, 1)), key)
    images = [jax.ShapeDtypeStruct((n, 28, 28, 1), jnp.uint8) for n in (train, test)]
    labels = [jax.ShapeDtypeStruct((n,), jnp.int32) for n in (train, test)]
    statistics = np.full(1, 0.5, np.float32), np.full(1, 0.5, np.float32)
    whole = script.whole(net, recipe, statistics, 16 if small else 250)
    program, seconds = for_card(device, whole, params, state, images[0], labels[0], images[1], labels[1], key)
    facts = {"program": "speedrun", "by": "jaxconv", "batch": recipe.batch, "epochs": recipe.epochs}
    return facts | counted(program) | seconds


def compile_all(out: Path, names: Sequence[str], small: bool, device: Any = None) -> Found:
    """Compiles the programs of training for an H100, and writes what is counted in them after each."""
    device = device or h100()
    result: Found = json.loads(out.read_text()) if out.exists() else {"programs": []}
    result |= environment() | {"device": DEVICE, "options": OPTIONS}
    for name in names:
        for by in ("jaxconv", "flax") if name in NETWORKS else ("jaxconv",):
            row = training_program(name, by, device, small) if name in NETWORKS else speedrun_program(device, small)
            print(row, flush=True)
            kept = [one for one in result["programs"] if (one["program"], one["by"]) != (name, by)]
            result["programs"] = [*kept, row]
            write_results(out, result)
    return result


def table(found: Found) -> str:
    """Returns a Markdown table of the compiled programs."""
    lines = [
        "| program | batch | by | temporaries, MB | fusions | calls of cuDNN | of cuBLAS |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["programs"]:
        names = ("cudnn", "cublas")
        calls = [sum(n for target, n in row["calls"].items() if name in target) for name in names]
        cells = [
            row["program"],
            row["batch"],
            row["by"],
            f"{row['temporaries_megabytes']:,.0f}",
            row["fusions"],
            *calls,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("python", "jax", "jaxlib"))
    return "\n".join([*lines, "", f"{found['device']}; {versions}."])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.benchmarks.gpu_compiled", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", nargs="*", choices=PROGRAMS, default=list(PROGRAMS), help="these programs")
    parser.add_argument("--small", action="store_true", help="small networks, for a test")
    parser.add_argument("--table", action="store_true", help="print what the file says, compile nothing")
    parser.add_argument("--out", type=Path, default=FOLDER / "gpu_compiled.json", help="the file of results")
    options = parser.parse_args(arguments)
    if not options.table:
        compile_all(options.out, options.only, options.small)
    print(table(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
