"""Times every form of every convolution of `cases`, in each of its three roles: what the table of choices stands on.

    python -m experiments.benchmarks.forms                     # writes results/forms.json
    python -m experiments.benchmarks.forms --only 'g96'        # those cases again, the others kept

One process; the forms of a problem in turn A B C A B C, medians in ms, under plain `jax.jit` and under the options
of `jaxconv.jit`. A form that is three times slower than the best at first sight is not timed further; "auto" is what
the table chooses. Run it on an otherwise idle machine.
"""

import argparse
import functools
import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.cases import CASES, Case
from experiments.report import environment, write_json
from jaxconv.compiler import helpful_options
from jaxconv.ops.lowering import table
from jaxconv.ops.lowering.primitive import problem_of
from jaxconv.ops.lowering.problem import ROLES, Problem, others

RESULTS = Path(__file__).parent / "results" / "forms.json"
# An outer form, and the inner one by which what it leaves is computed.
OUTER = ("", "phases", "shuffled", "slabs", "blocks", "apart")
INNER = ("xla", "product", "products", "patches", "crossed", "tiles", "shifts", "laid out", "uneven")


def problems(case: Case) -> dict[str, Problem]:
    """The case's convolution in each role."""
    function, arrays = case.jaxconv("float32")
    (eqn,) = (e for e in jax.make_jaxpr(function)(*arrays).eqns if e.primitive.name == "jaxconv_conv")
    first, second = (v.aval for v in eqn.invars)
    p = problem_of(first, second, eqn.params)
    return {role: replace(p, role=role) for role in ROLES}


def name(p: Problem, mode: Any) -> str:
    """The forms that are run, outermost first; a problem that none of the mode takes is lax's."""
    return " > ".join(dict.fromkeys(choice.form.name for _, choice in table.steps(p, "cpu", mode)))


def candidates(p: Problem) -> dict[str, Any]:
    """The modes of `jaxconv.lowering` that give different programs."""
    found: dict[str, Any] = {}
    for outer, turn, inner in itertools.product(OUTER, ("", "turned"), INNER):
        mode = tuple(form for form in (outer, turn, inner) if form)
        found.setdefault(name(p, mode), mode)
    return found | {"auto": "auto"}


def timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(call())
    return (time.perf_counter() - start) * 1e3


def measure(p: Problem, options: dict[str, Any] | None, rounds: int, chosen: dict[str, Any]) -> dict[str, float]:
    """Returns the median milliseconds of each form."""
    draw = np.random.default_rng(0)
    a, b = (jax.device_put(draw.standard_normal(p.shape(role)).astype(np.float32)) for role in others(p.role))
    calls: dict[str, Callable[[], Any]] = {}
    for label, mode in chosen.items():
        function = jax.jit(lambda a, b, mode=mode: table.solve("cpu", mode, p, a, b), compiler_options=options)
        compiled = function.lower(a, b).compile()
        calls[label] = functools.partial(compiled, a, b)
    first: dict[str, float] = {}
    for label, call in calls.items():
        once = timed(call)
        first[label] = once if once > 3 * min(first.values(), default=once) else min(once, timed(call))
    best = min(first.values())
    times = {label: [t] for label, t in first.items()}
    running = [label for label, t in first.items() if t < 3 * best]
    for _ in range(rounds):
        for label in running:
            times[label].append(timed(calls[label]))
    return {label: statistics.median(t[1:] or t) for label, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.forms")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument("--roles", nargs="*", default=list(ROLES))
    parser.add_argument("--forms", default="", help="time those whose names match, and lax's")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--jit", nargs="*", default=["jax.jit", "jaxconv.jit"])
    options = parser.parse_args()
    before = json.loads(options.out.read_text())["cases"] if options.only and options.out.exists() else []
    entries = {(entry["case"], entry["role"]): entry for entry in before}
    for case in CASES:
        if case.kernel is None or not re.search(options.only, case.name):
            continue
        for role in options.roles:
            p = problems(case)[role]
            entry: dict[str, Any] = {"case": case.name, "role": role, "times": {}}
            for jit in options.jit:
                compiler = helpful_options() if jit == "jaxconv.jit" else None
                p = replace(p, ynnpack=compiler is None)
                found = candidates(p).items()
                chosen = {k: v for k, v in found if k == "xla" or re.fullmatch(options.forms or ".*", k)}
                times = measure(p, compiler, options.rounds, chosen)
                entry["times"][jit] = times
                best = sorted(times.items(), key=lambda item: item[1])[:5]
                shown = "  ".join(f"{k} {v:.2f}" for k, v in [*best, ("| xla", times["xla"])])
                print(f"{case.name:42} {role:7} {jit:12}{shown}", flush=True)
            entries[case.name, role] = entry
            write_json(options.out, {**environment(), "rounds": options.rounds, "cases": list(entries.values())})


if __name__ == "__main__":
    main()
