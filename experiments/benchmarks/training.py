"""Training steps of whole networks in jaxconv, Flax, Equinox and torch.

    python -m experiments.benchmarks.training                   # writes results/training.json
    python -m experiments.benchmarks.training --only unet       # measures one network again, keeps the other results
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python -m experiments.benchmarks.training     # training_huge_pages.json
    python -m experiments.benchmarks.training --table           # prints the tables of the file, measures nothing

Requires flax, equinox and torch. A step is the forward pass, softmax cross-entropy (of each pixel for the U-Net), the
gradient, and SGD with momentum; batch norm in training mode; no donation. All candidates start from the same weights,
and the run stops if parameter counts or losses disagree. One process, candidates in turn A B C A B C, medians of paired
ratios with their 95 % bootstrap interval, float32. Run it on an otherwise idle machine.

"over flax, options" is the speedup over the fastest of Flax under `jax.jit`, `jaxconv.jit`, and `jaxconv.jit` with the
options that make XLA call oneDNN (`experiments.benchmarks.options`).
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import clock
from experiments.benchmarks.jit import ratios
from experiments.benchmarks.training_candidates import CASES, Candidate, Case, candidates, data
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "training.json"
HUGE_PAGES = RESULTS.with_stem("training_huge_pages")
BASES = ("flax", "equinox", "torch")
# Flax with the compiler options that a user can set. The fastest of them is a base, too.
OPTIONAL = ("flax", "flax, jaxconv.jit", "flax, oneDNN")
FASTEST = "flax, options"
NAMES = (
    "jaxconv",
    "jaxconv.jit",
    "jaxconv (xla)",
    "flax",
    "flax, jaxconv.jit",
    "flax, oneDNN",
    "flax + drop-in",
    "equinox",
    "torch",
    "torch.compile",
)
LEAST_ROUNDS = 5
BLOCK = 0.1


class OutOfTime(BaseException):
    """Not an Exception, since the compiler catches exceptions."""


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime after ``seconds``."""

    def over(*_: Any) -> None:
        raise OutOfTime(f"not compiled in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    # Raised again each second, in case a callback or a destructor swallows it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forget_torch_compile() -> None:
    """Stops the compile workers of torch.compile, so that they do not run during a measurement."""
    import torch
    from torch._inductor.async_compile import AsyncCompile, shutdown_compile_workers

    if AsyncCompile.pool.cache_info().currsize:
        AsyncCompile.pool().shutdown(cancel_futures=True)
        AsyncCompile.pool.cache_clear()
    shutdown_compile_workers()
    torch.compiler.reset()


def check(case: Case, candidate: Candidate) -> dict[str, float]:
    """Runs twice; returns the loss before and after the first step, or the loss and the norm of all gradients.

    If compilation was not timed, its time is the difference between the first and the second run.
    """
    times = [time.perf_counter()]
    losses = []
    for _ in range(2):
        loss, grads = candidate.call()
        times.append(time.perf_counter())
        losses.append(float(np.mean(np.asarray(loss))))
    if candidate.compile_seconds is None:
        candidate.compile_seconds = max(0.0, (times[1] - times[0]) - (times[2] - times[1]))
    if case.what == "step":
        return {"loss": losses[0], "loss_after_a_step": losses[1]}
    norm = math.sqrt(sum(float(np.sum(np.square(np.asarray(leaf)))) for leaf in jax.tree.leaves(grads)))
    return {"loss": losses[0], "gradient_norm": norm}


def prepare(case: Case, compile_limit: float) -> tuple[dict[str, Candidate], dict[str, Any], dict[str, str]]:
    """Returns the compiled candidates, their losses, and the reason for each candidate that is left out."""
    from experiments.benchmarks.networks import NETWORKS

    ready, checks, left_out = {}, {}, {}
    x, y = data(case)
    for name, build in candidates(case, NETWORKS[case.network](), x, y):
        if name != "torch.compile":
            ready[name] = build()
            checks[name] = check(case, ready[name])
        elif compile_limit > 0:
            try:
                with limit(compile_limit):
                    candidate = build()
                    checks[name] = check(case, candidate)
                ready[name] = candidate
            except (Exception, OutOfTime) as error:
                left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
                forget_torch_compile()
    return ready, checks, left_out


def agree(ready: dict[str, Candidate], checks: dict[str, Any]) -> None:
    """Stops the run if the candidates are not the same network."""
    for name, candidate in ready.items():
        if candidate.parameters != ready["jaxconv"].parameters:
            raise SystemExit(f"{name} has {candidate.parameters} parameters, jaxconv {ready['jaxconv'].parameters}")
        got, wanted = (np.array([*checks[which].values()]) for which in (name, "jaxconv"))
        # The first value tests the forward pass, the difference after a step tests the gradient.
        if not (np.isclose(got[0], wanted[0], 1e-3) and np.isclose(got[1] - got[0], wanted[1] - wanted[0], 0.1, 1e-5)):
            raise SystemExit(f"{name} computes {checks[name]}, jaxconv {checks['jaxconv']}")


def measure(
    ready: dict[str, Candidate], rounds: int, seconds: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the seconds of a call in each round, and its page faults; the first round is not counted.

    A round has `BLOCK` seconds of successive calls of one program, as training steps follow each other, or one call
    that takes longer, after one call that is not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in ready}
    faults: dict[str, list[float]] = {name: [] for name in ready}
    begin = time.perf_counter()
    for i in range(rounds + 1):
        if i > LEAST_ROUNDS and time.perf_counter() - begin > seconds:
            break
        for name, candidate in ready.items():
            # The idle threads of a framework spin for some milliseconds before they release the cores.
            time.sleep(0.02)
            many = max(1, math.ceil(BLOCK / clock.seconds(candidate.call)))
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            taken = clock.seconds(candidate.call, many)
            if i:
                times[name].append(taken)
                faults[name].append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / many)
    return {name: np.array(t) for name, t in times.items()}, {name: np.array(f) for name, f in faults.items()}


def run(name: str, rounds: int, seconds: float, compile_limit: float) -> dict[str, Any]:
    """Returns the result of a case."""
    case = CASES[name]
    ready, checks, left_out = prepare(case, compile_limit)
    agree(ready, checks)
    times, faults = measure(ready, rounds, seconds)
    found = {}
    fastest = min((n for n in OPTIONAL if n in times), key=lambda n: np.median(times[n]))
    bases = {base: times[base] for base in BASES if base in times} | {FASTEST: times[fastest]}
    for candidate, t in times.items():
        over = {base: ratios(t, other) for base, other in bases.items()}
        found[candidate] = {
            "median_ms": float(np.median(t) * 1e3),
            "speedup_over": {base: {k: r[k] for k in ("speedup", "low", "high")} for base, r in over.items()},
            "page_faults": float(np.median(faults[candidate])),
            "compile_seconds": ready[candidate].compile_seconds,
            "memory": ready[candidate].memory,
            "check": checks[candidate],
        }
        print(f"{name}: {candidate} {found[candidate]['median_ms']:.1f} ms", flush=True)
    facts = environment()
    facts["versions"] |= {package: importlib.metadata.version(package) for package in BASES}
    shape = (case.batch, *case.shape)
    what = {"case": name, "what": case.what, "network": case.network, "shape": shape, "dtype": "float32"}
    size = {"parameters": ready["jaxconv"].parameters, "rounds": len(times["jaxconv"])}
    return {**what, **size, **facts, FASTEST: fastest, "candidates": found, "left_out": left_out}


def speedup(case: dict[str, Any], candidate: str, base: str) -> float | None:
    """Returns the speedup of a candidate over a base, or None if one of them was not run."""
    found = case["candidates"].get(candidate, {}).get("speedup_over", {}).get(base)
    return found and found["speedup"]


def table(cases: list[dict[str, Any]]) -> str:
    """Returns the Markdown table: milliseconds, and the speed-up of jaxconv under plain `jax.jit`; means of both."""
    shown = [name for name in NAMES if any(name in case["candidates"] for case in cases)]
    bases = [base for base in (*BASES, FASTEST) if any(speedup(case, "jaxconv", base) for case in cases)]
    header = ["network", "input", *(f"{name}, ms" for name in shown), *(f"over {base}" for base in bases)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for case in cases:
        row = [case["case"], "x".join(map(str, case["shape"]))]
        times = [case["candidates"].get(n, {}).get("median_ms") for n in shown]
        row += ["" if ms is None else f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}" for ms in times]
        row += ["" if gain is None else f"{gain:.2f}" for gain in (speedup(case, "jaxconv", base) for base in bases)]
        lines.append("| " + " | ".join(row) + " |")
    for ours in ("jaxconv", "jaxconv.jit"):
        gains = ([speedup(case, ours, base) for case in cases] for base in bases)
        known = [[gain for gain in some if gain] for some in gains]
        means = [f"{statistics.geometric_mean(some):.2f}" if some else "" for some in known]
        lines.append("| " + " | ".join([f"geometric mean, {ours}", "", *("" for _ in shown), *means]) + " |")
    notes: dict[str, list[str]] = {}
    for case in cases:
        versions = ", ".join(f"{k} {case['versions'][k]}" for k in ("python", "jax", "jaxlib", *BASES))
        notes.setdefault(f"{case['dtype']}, {case['device']}; {versions}.", []).append(case["case"])
    remarks = [note if len(notes) == 1 else f"{', '.join(which)}: {note}" for note, which in notes.items()]
    return "\n".join([*lines, "", *remarks])


def faults_table(cases: list[dict[str, Any]]) -> str:
    """Returns the Markdown table of the page faults of a call, medians of the rounds."""
    shown = ("jaxconv", "jaxconv.jit", "flax", "flax, jaxconv.jit", "torch")
    lines = [f"| network | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for case in cases:
        counts = [f"{case['candidates'][name]['page_faults']:,.0f}" for name in shown]
        lines.append(f"| {case['case']} | {' | '.join(counts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.training")
    parser.add_argument("--only", choices=CASES, help="run this case and keep the others' results")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=180, help=f"of rounds a case, after {LEAST_ROUNDS} of them")
    parser.add_argument(
        "--torch-compile", type=float, default=90, metavar="SECONDS", help="limit for each compilation; 0 leaves it out"
    )
    parser.add_argument("--table", action="store_true", help="print the tables of the file, measure nothing")
    parser.add_argument("--out", type=Path, help="the file of results")
    options = parser.parse_args()
    asked = "malloc.hugetlb=1" in os.environ.get("GLIBC_TUNABLES", "")
    if asked and "[madvise]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        raise SystemExit("GLIBC_TUNABLES asks for huge pages, which this system gives to all or to none")
    results = options.out or (HUGE_PAGES if asked else RESULTS)
    found = json.loads(results.read_text()) if results.exists() else []
    if not options.table:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        order = list(CASES)
        with tempfile.TemporaryDirectory() as folder:
            # torch.compile starts without a cache, as XLA does.
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            for name in [options.only] if options.only else order:
                result = run(name, options.rounds, options.seconds, options.torch_compile)
                found = sorted([c for c in found if c["case"] != name] + [result], key=lambda c: order.index(c["case"]))
                write_results(results, found)
        found = json.loads(results.read_text())
    print(table(found), faults_table(found), sep="\n\n")


if __name__ == "__main__":
    main()
