"""Numerical accuracy: every convolution of `cases` in its three roles, compared with float64.

    python -m experiments.benchmarks.digits             # writes results/digits.json
    python -m experiments.benchmarks.digits --table     # prints the table of the file, measures nothing

An error is the largest difference from float64, as a multiple of float32's epsilon (1.2e-7) times the sum of the
magnitudes of the terms. The elements are drawn from a normal distribution, whose sums cancel as those of gradients do,
or uniformly from 0 to 1, or are all 0.1, where every addition rounds in the same direction. The candidates are lax,
jaxconv and torch.
"""

import argparse
import functools
import itertools
import json
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.cases import CASES
from experiments.benchmarks.forms import problems
from experiments.report import environment, write_results
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.cpu import CPU
from jaxconv.ops.lowering.problem import Problem, others
from jaxconv.ops.lowering.table import Solver
from jaxconv.ops.lowering.target import Target

RESULTS = Path(__file__).parent / "results" / "digits.json"
DRAWN: dict[str, Callable[[np.random.Generator, Any], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape, np.float32),
    "positive": lambda rng, shape: rng.random(shape, np.float32),
    "all the same": lambda rng, shape: np.full(shape, 0.1, np.float32),
}
Found = dict[str, Any]


def computed(mode: str, p: Problem) -> Callable[..., Any]:
    """Returns the function that computes the problem in a mode of `jaxconv.lowering`, compiled once."""
    calls = mode == "auto" and onednn.callable_here() and onednn.computes(p.dtype, p.geometry.rank)
    return jax.jit(functools.partial(Solver(Target(CPU, onednn=calls), mode), p))


def exactly(p: Problem) -> Callable[..., np.ndarray]:
    """Returns the function that computes the problem in float64."""
    run = computed("portable", replace(p, dtype=jnp.dtype(jnp.float64)))

    def wide(*arrays: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(run(*map(np.float64, arrays)))

    return wide


def by_torch(p: Problem, first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
    """Returns torch's result, or None where torch has no such padding."""
    import torch

    g = p.geometry
    if any(low != high for low, high in g.padding):
        return None
    arrays = dict(zip(others(p.role), (first, second), strict=True))
    front, last = (0, g.rank + 1, *range(1, g.rank + 1)), (0, *range(2, g.rank + 2), 1)
    kernel_front, kernel_last = (g.rank + 1, g.rank, *range(g.rank)), (*range(2, g.rank + 2), 1, 0)

    def given(name: str) -> Any:
        turn = kernel_front if name == "kernel" else front
        return torch.from_numpy(arrays.get(name, np.zeros(p.shape(name), np.float32)).transpose(turn))

    pads = [low for low, _ in g.padding]
    if p.role == "output":
        y = torch.convolution(
            given("input"), given("kernel"), None, g.stride, pads, g.dilation, False, [0] * g.rank, g.groups
        )
        return y.permute(last).numpy()
    wanted = [p.role == "input", p.role == "kernel", False]
    x, k, _ = torch.ops.aten.convolution_backward(
        *map(given, ("output", "input", "kernel")),
        None,
        g.stride,
        pads,
        g.dilation,
        False,
        [0] * g.rank,
        g.groups,
        wanted,
    )
    return (x.permute(last) if p.role == "input" else k.permute(kernel_last)).numpy()


def measure(p: Problem) -> Found:
    """Returns the errors of each candidate, by the distribution of the elements."""
    found: Found = {}
    exact, by_lax, by_jaxconv = exactly(p), computed("xla", p), computed("auto", p)
    for distribution, draw in DRAWN.items():
        arrays = [draw(np.random.default_rng(i), p.shape(name)) for i, name in enumerate(others(p.role))]
        want = exact(*arrays)
        size = exact(*map(np.abs, arrays))
        got = {"lax": by_lax(*arrays), "jaxconv": by_jaxconv(*arrays), "torch": by_torch(p, *arrays)}
        step = np.finfo(np.float32).eps * np.maximum(size, np.finfo(np.float32).tiny)
        found[distribution] = {
            n: float(f"{np.max(np.abs(y - want) / step):.4g}") for n, y in got.items() if y is not None
        }
    return found


def table(found: Found) -> str:
    """Returns the errors in Markdown: the median and the maximum over the layers that the candidate computes."""
    names = ("lax", "jaxconv", "torch")
    lines = [
        "| computed | elements | " + " | ".join(f"{name}, median | worst" for name in names) + " |",
        "|---|---|" + "---|" * 2 * len(names),
    ]
    titles = {"output": "output", "input": "gradient of the input", "kernel": "gradient of the kernel"}
    for (role, text), distribution in itertools.product(titles.items(), DRAWN):
        cells = []
        for name in names:
            values = [e[name] for case in found["cases"] if name in (e := case[role][distribution])]
            cells += [f"{summary(values):.2g}" if values else "" for summary in (statistics.median, max)]
        lines.append(f"| {text} | {distribution} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", type=re.compile, help="regular expression of the cases to measure again; the others are kept"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the file, measure nothing")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(args.out.read_text())))
        return
    import torch

    head = environment()
    head["versions"]["torch"] = torch.__version__
    before = json.loads(args.out.read_text())["cases"] if args.only and args.out.exists() else []
    found = {case["case"]: case for case in before}
    for case in CASES:
        if case.op.startswith("conv") and (args.only is None or args.only.search(case.name)):
            found[case.name] = {"case": case.name} | {role: measure(p) for role, p in problems(case).items()}
            write_results(args.out, head | {"cases": list(found.values())})
            print(found[case.name], flush=True)


if __name__ == "__main__":
    main()
