"""Times every algorithm for every convolution of `cases` in its three roles: the basis of the choice of an algorithm.

    python -m experiments.benchmarks.forms                     # writes results/forms.json
    python -m experiments.benchmarks.forms --only 'g96'        # measures these cases again, keeps the others
    python -m experiments.benchmarks.forms --scale 16 --dtype bfloat16 --out forms.json     # on a GPU

One process; the algorithms in turn A B C A B C, medians in ms, under plain `jax.jit` and under the options of
`jaxconv.jit`. An algorithm whose first calls take over three times the best time is not timed further; "auto" is the
one that jaxconv chooses. Run it on an otherwise idle machine. A sample is 4 ms of successive calls, after one call that
is not timed. On an accelerator an algorithm that does not compile, or needs more than twice lax's memory, is left out;
``--scale`` multiplies the batch.
"""

import argparse
import functools
import itertools
import json
import math
import re
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import clock
from experiments.benchmarks.cases import CASES, Case, noise, parse
from experiments.report import environment, write_results
from jaxconv.compiler import helpful_options
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.primitive import problem_of
from jaxconv.ops.lowering.problem import ROLES, Problem, others
from jaxconv.ops.lowering.table import PLATFORMS, Solver, named
from jaxconv.ops.lowering.target import Target

RESULTS = Path(__file__).parent / "results" / "forms.json"
# An outer algorithm, and the inner one that computes the smaller problems of the outer one.
OUTER = ("", "depthwise_space_to_depth", "polyphase", "space_to_depth", "per_slice", "block_diagonal", "per_group")
INNER = (
    "xla",
    "onednn",
    "gemm",
    "gemm_per_tap",
    "split_im2col",
    "toeplitz_gemm",
    "shift_add",
    "tap_reduce",
    "xla_prelayout",
    "xla_extra_row",
)
# Cases that layers.py lacks, with the size of the ensemble: vmap over both arrays, as in per-example gradients.
MORE = {
    "conv 8x56x56x96->96 k7 s2 p3 g96": 0,
    "conv 8x14x14x384->384 k7 s2 p3 g384": 0,
    "conv 128x14x14x64->64 k7 s2 p3 g64": 0,
    "conv 32x28x28x1->6 k5": 8,
    "conv 32x14x14x6->16 k5 pvalid": 8,
    "conv 32x14x14x32->64 k3": 8,
    "conv 1x28x28x1->6 k5": 64,
    "conv 1x14x14x6->16 k5 pvalid": 64,
    "conv 1x14x14x32->64 k3": 64,
    "conv 1x14x14x64->256 k1": 64,
}


def problems(case: Case, dtype: str = "float32", ensemble: int = 0) -> dict[str, Problem]:
    """Returns the convolution of the case in each role."""
    function, _ = case.jaxconv()
    (eqn,) = (e for e in jax.make_jaxpr(function)(*case.shapes(dtype)).eqns if e.primitive.name == "jaxconv_conv")
    first, second = (v.aval for v in eqn.invars)
    p = replace(problem_of(first, second, eqn.params, PLATFORMS[clock.platform()]), ensemble=ensemble)
    return {role: replace(p, role=role) for role in ROLES}


def solver(p: Problem, mode: Any, ynnpack: bool) -> Solver:
    """Returns the function that computes the problem in a mode of `jaxconv.lowering` on this machine."""
    platform = PLATFORMS[clock.platform()]
    able = platform.onednn and onednn.computes(p.dtype, p.geometry.rank) and mode != "portable"
    return Solver(Target(platform, able and onednn.callable_here(), ynnpack), mode)


def candidates(p: Problem, ynnpack: bool) -> dict[str, Any]:
    """Returns the modes of `jaxconv.lowering` that give different programs."""
    found: dict[str, Any] = {}
    for outer, turn, inner in itertools.product(OUTER, ("", "flipped_conv"), INNER):
        mode = tuple(form for form in (outer, turn, inner) if form)
        found.setdefault(named(solver(p, mode, ynnpack).steps(p)), mode)
    return found | {"auto": "auto", "portable": "portable"}


def needs(program: Any) -> int:
    """Returns the bytes of a compiled program's arguments, results and temporaries."""
    memory = program.memory_analysis()
    return memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes


def measure(
    p: Problem, ynnpack: bool, options: dict[str, Any], rounds: int, chosen: dict[str, Any]
) -> dict[str, float]:
    """Returns the median milliseconds of each algorithm."""
    dtype = p.dtype if p.half and clock.platform() != "cpu" else jnp.float32
    lead = (p.ensemble,) if p.ensemble else ()
    a, b = (noise((*lead, *p.shape(role)), i, jnp.dtype(dtype).name) for i, role in enumerate(others(p.role)))

    def compiled(mode: Any) -> Any:
        function = jax.jit(functools.partial(solver(p, mode, ynnpack), p), compiler_options=options)
        try:
            return function.lower(a, b).compile()
        except jax.errors.JaxRuntimeError:
            if clock.platform() == "cpu":
                raise
            return None

    with ThreadPoolExecutor(1 if clock.platform() == "cpu" else None) as pool:
        programs = dict(zip(chosen, pool.map(compiled, chosen.values()), strict=True))
    if clock.platform() != "cpu":
        most = 2 * needs(programs["xla"])
        programs = {label: program for label, program in programs.items() if program and needs(program) <= most}
    calls = {label: functools.partial(program, a, b) for label, program in programs.items()}
    first: dict[str, float] = {}
    for label, call in calls.items():
        clock.seconds(call)  # oneDNN generates its code in the first call
        once = clock.seconds(call)
        slow = once > 3 * min(first.values(), default=once)
        first[label] = once if slow and clock.platform() == "cpu" else min(once, clock.seconds(call))
    best = min(first.values())
    times = {label: [t] for label, t in first.items()}
    running = {label: clock.repeats(t) for label, t in first.items() if t < 3 * best}
    for _ in range(rounds):
        for label, many in running.items():
            times[label].append(clock.sample(calls[label], many))
    return {label: statistics.median(t[1:] or t) * 1e3 for label, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.forms")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--roles", nargs="*", default=list(ROLES))
    parser.add_argument("--forms", default="", help="time those whose names match, and lax's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--jit", nargs="*", default=["jax.jit", "jaxconv.jit"])
    parser.add_argument("--scale", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--option", nargs="*", default=[], help="compiler options, name=value")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds after which no further case is begun")
    options = parser.parse_args()
    before = json.loads(options.out.read_text())["cases"] if options.only and options.out.exists() else []
    entries = {(entry["case"], entry["role"]): entry for entry in before}
    start = time.perf_counter()
    todo = [(case.scaled(options.scale), 0) for case in CASES if case.kernel is not None]
    for case, ensemble in [*todo, *((parse(name), many) for name, many in MORE.items())]:
        title = f"{ensemble} of {case.name}" if ensemble else case.name
        if not re.search(options.only, title):
            continue
        if time.perf_counter() - start > options.until:
            break
        for role in options.roles:
            p = problems(case, options.dtype, ensemble)[role]
            entry: dict[str, Any] = {"case": title, "role": role, "times": {}}
            for jit in options.jit:
                compiler = helpful_options() if jit == "jaxconv.jit" else {}
                ynnpack = not compiler
                compiler |= dict(text.split("=", 1) for text in options.option)
                found = candidates(p, ynnpack).items()
                chosen = {k: v for k, v in found if k == "xla" or re.fullmatch(options.forms or ".*", k)}
                times = measure(p, ynnpack, compiler, options.rounds, chosen)
                entry["times"][jit] = times
                best = sorted(times.items(), key=lambda item: item[1])[:5]
                shown = "  ".join(f"{k} {v:.2f}" for k, v in [*best, ("| xla", times["xla"])])
                print(f"{title:42} {role:7} {jit:12}{shown}", flush=True)
            entries[title, role] = entry
            head = {**environment(), "rounds": options.rounds, "dtype": options.dtype, "scale": options.scale}
            write_results(options.out, {**head, "cases": list(entries.values())})


if __name__ == "__main__":
    main()
