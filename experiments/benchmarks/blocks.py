"""Blocks of one size for all programs, beside the sizes that `jaxconv.jit` derives from the arrays of each program.

    python -m experiments.benchmarks.blocks

Measures training steps in turns. A ratio is the time with a constant size divided by that of `jaxconv.jit`; above 1,
the constant size is slower. Writes results/blocks.json.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from experiments.benchmarks.clock import seconds
from experiments.benchmarks.networks import NETWORKS
from experiments.benchmarks.networks.with_jaxconv import jaxconv_network
from experiments.benchmarks.training_candidates import CASES, data, jax_candidate, jaxconv_program
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "blocks.json"
OPTION = "xla_multiheap_size_constraint_per_heap"
SIZES = {"jaxconv.jit": None, "16 MB": 2**24, "24 MB": 24 * 2**20, "one block": 2**31 - 1}
ROUNDS = 12


def measure(name: str) -> dict[str, Any]:
    """Returns the median milliseconds and temporaries of a case for each size, and the median ratios of rounds."""
    case = CASES[name]
    x, y = data(case)
    plan = NETWORKS[case.network]()
    members = [jaxconv_network(plan).init(jax.random.key(0), (1, *case.shape))]
    made = {}
    for size, limit in SIZES.items():
        options = {} if limit is None else {OPTION: limit}
        program = jaxconv_program(case, plan, members)
        made[size] = jax_candidate(case, program, x, y, functools.partial(jc.jit, compiler_options=options))
    times: dict[str, list[float]] = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size, candidate in made.items():
            seconds(candidate.call)
            times[size].append(seconds(candidate.call, 2))
    ours = np.array(times["jaxconv.jit"])
    return {
        "case": name,
        "ms": {size: round(float(np.median(t)) * 1e3, 2) for size, t in times.items()},
        "ratio": {size: round(float(np.median(np.array(t) / ours)), 3) for size, t in times.items()},
        "temporaries_mb": {size: round(c.memory["temporaries"] / 1e6, 1) for size, c in made.items() if c.memory},
    }


def main() -> None:
    cases = [measure(name) for name in ("lenet", "mobilenetv2", "unet", "resnet18")]
    write_results(RESULTS, environment() | {"cases": cases})
    for case in cases:
        print(case)


if __name__ == "__main__":
    main()
