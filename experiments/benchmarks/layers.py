"""Measures every layer of `cases` in jaxconv, plain lax and torch: time, compilation and memory.

    python -m experiments.benchmarks.layers             # measures every layer, writes results/layers.json
    python -m experiments.benchmarks.layers --missing   # measures the layers that the file lacks
    python -m experiments.benchmarks.layers --only '^depthwise.* k7'    # measures these again; matches "family: case"
    python -m experiments.benchmarks.layers --table --figure layers.png # prints and draws the file, measures nothing

One process, candidates in turn A B A B: the forward pass, and the forward pass with the gradients of x and kernel.
Ratios are medians of paired rounds with their 95 % bootstrap interval; above 1 is faster. The base is lax under plain
`jax.jit`. Run it on an otherwise idle machine.

A sample is 4 ms of successive calls of one program after one call that is not timed, or one call that takes longer.
``lax, options`` is lax under the faster set of compiler options of `experiments.benchmarks.options`, whose name is in
the row; ``jaxconv`` is the op under plain `jax.jit`; ``torch`` uses channels-last memory, and on a GPU cuDNN's search
for the fastest algorithm. A candidate that takes over a second a call is measured three times. For an accelerator
multiply the batch with ``--scale 16``, and write to another file with ``--out``.
"""

import argparse
import functools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks import clock
from experiments.benchmarks.cases import CASES, GROWTH, Case, noise
from experiments.benchmarks.jit import ratios
from experiments.benchmarks.options import option_sets
from experiments.report import environment, png, write, write_results
from jaxconv.compiler import helpful_options

RESULTS = Path(__file__).parent / "results" / "layers.json"
PASSES = ("forward", "gradients")
OURS = ("jaxconv", "jaxconv.jit")
# What `jaxconv.jit` is compared with beside plain lax, and its name in tables.
BASES = {"lax, options": "lax with options", "torch": "torch"}
STEPS = 4  # of a scan
MEGA = 1e6

Calls = dict[str, Callable[[], Any]]
Found = dict[str, Any]


def timed(calls: Calls, seconds: float, rounds: int) -> dict[str, np.ndarray]:
    """Times all in turn, for at least 5 rounds (3 of a slow one), until the seconds or the rounds are used up."""
    first = {name: clock.seconds(call) for name, call in calls.items()}
    # The first call of torch on a GPU looks for the fastest program.
    slow = {name for name, taken in first.items() if taken > 1 and clock.seconds(calls[name]) > 1}
    many = {name: clock.repeats(clock.sample(call, 1)) for name, call in calls.items() if name not in slow}

    def once(name: str) -> float:
        taken = clock.seconds(calls[name]) if name in slow else clock.sample(calls[name], many[name])
        if name == "torch" and clock.platform() == "cpu":
            time.sleep(0.01)  # Its threads spin for some milliseconds on the cores that the next candidate needs.
        return taken

    least = 3 if len(slow) == len(calls) else 5
    times: dict[str, list[float]] = {name: [] for name in calls}
    start = time.perf_counter()
    for i in range(rounds):
        if i >= least and time.perf_counter() - start > seconds:
            break
        for name in calls:
            if i < 3 or name not in slow:
                times[name].append(once(name))
    return {name: np.array(values) for name, values in times.items()}


def against(times: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Returns the ratio over the rounds that both have, and the median of ``times``."""
    paired = min(len(times), len(base))
    return ratios(times[:paired], base[:paired]) | {"median_ms": float(np.median(times) * 1e3)}


def with_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its vector-Jacobian product, as a function of the cotangent and the arrays."""

    def call(cotangent: Any, *arrays: Any) -> Any:
        y, back = jax.vjp(function, *arrays)
        return y, *back(cotangent)

    return call


def built(jitted: Any, shapes: tuple[Any, ...]) -> tuple[Any, Found]:
    """Compiles ahead of time; returns the program, its compile time and its memory."""
    start = time.perf_counter()
    program = jitted.lower(*shapes).compile()
    taken = time.perf_counter() - start
    memory = program.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    temporary = memory.temp_size_in_bytes
    return program, {"compile_s": taken, "memory_mb": (held + temporary) / MEGA, "temporaries_mb": temporary / MEGA}


def compiled(jitted: Any, arguments: tuple[Any, ...]) -> tuple[Callable[[], Any], Found]:
    """Returns the call with these arguments, and the facts of `built`."""
    program, facts = built(jitted, arguments)
    return functools.partial(program, *arguments), facts


def prepare(case: Case, dtype: str) -> dict[str, dict[str, tuple[Any, Found]]]:
    """Compiles the programs of the case, by pass and candidate; without options both jits are the same."""
    ours, theirs, shapes = case.jaxconv()[0], case.lax()[0], case.shapes(dtype)
    found = {}
    for what in PASSES:
        call, reference, arguments = ours, theirs, shapes
        if what == "gradients":
            call, reference = with_gradients(ours), with_gradients(theirs)
            arguments = (jax.eval_shape(theirs, *shapes), *shapes)
        jitted: dict[str, Any] = {"lax": jax.jit(reference)}
        for name, options in option_sets().items():
            jitted[f"lax, {name}"] = jax.jit(reference, compiler_options=options)
        jitted["jaxconv"] = jax.jit(call)
        if helpful_options():
            jitted["jaxconv.jit"] = jc.jit(call)
        found[what] = {name: built(function, arguments) for name, function in jitted.items()}
    return found


def all_prepared(cases: Sequence[Case], dtype: str, threads: int, until: float) -> Iterator[tuple[Case, Any]]:
    """Yields each case with its programs: ``threads`` cases are compiled in parallel, and none during a measurement.

    On an accelerator a case that does not compile is yielded with the error instead of the programs.
    """

    def attempt(case: Case) -> Any:
        try:
            return prepare(case, dtype)
        except jax.errors.JaxRuntimeError as error:
            if clock.platform() == "cpu":
                raise
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(cases), threads):
            if time.perf_counter() > until:
                return
            some = cases[first : first + threads]
            yield from zip(some, pool.map(attempt, some), strict=True)


def torch_calls(case: Case, dtype: str, cotangent: Any) -> Calls:
    """Returns torch's forward pass, the same with gradients, and the gradients of the first and of the last array."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cudnn.benchmark = True
    function, tensors = case.torch(dtype)
    format = {2: torch.channels_last, 3: torch.channels_last_3d}.get(case.rank, torch.contiguous_format)
    weight = torch.from_dlpack(cotangent).clone().movedim(-1, 1).contiguous(memory_format=format)
    leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in tensors)

    def forward() -> Any:
        with torch.no_grad():
            return function(*tensors)

    def gradients() -> Any:
        y = function(*leaves)
        return y.detach(), *torch.autograd.grad(y, leaves, weight)

    graph = function(*leaves)

    def one(leaf: Any) -> Any:
        return lambda: torch.autograd.grad(graph, leaf, weight, retain_graph=True)

    return {"forward": forward, "gradients": gradients, "input": one(leaves[0]), "kernel": one(leaves[-1])}


def difference(ours: Any, theirs: Any) -> float:
    """Returns the largest difference of two results, relative to the largest element."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(_difference(a, b)) for a, b in pairs)


@jax.jit
def _difference(a: Any, b: Any) -> Any:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    return jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))


def measure(case: Case, prepared: Any, dtype: str, seconds: float, rounds: int, peak: float, with_torch: bool) -> Found:
    """Returns the measurements of one case; ``peak`` is the rate of a matrix product in GFLOP/s."""
    arrays = case.arrays(dtype)
    cotangent = noise(jax.eval_shape(case.lax()[0], *arrays).shape, 1, dtype)
    peer = torch_calls(case, dtype, cotangent) if with_torch else {}
    found: Found = {"case": case.name, "family": case.family, "source": case.source, "gflop": 2e-9 * case.macs}
    for what, programs in prepared.items():
        gradients = what == "gradients"
        arguments = (cotangent, *arrays) if gradients else arrays
        calls: Calls = {name: functools.partial(program, *arguments) for name, (program, _) in programs.items()}
        calls |= {"torch": peer[what]} if peer else {}
        expected = calls["lax"]()
        found[f"{what} difference"] = max(difference(calls[name](), expected) for name in OURS if name in calls)
        times = timed(calls, seconds / len(PASSES), rounds)
        found[what] = {}
        optional = {name: np.median(times[f"lax, {name}"]) for name in option_sets()}
        best = min(optional, key=lambda name: optional[name], default="")
        for name, taken in times.items():
            row = {
                **against(taken, times["lax"]),
                "rounds": len(taken),
                **(programs[name][1] if name != "torch" else {}),
            }
            if peer and name in OURS:
                ratio = against(taken, times["torch"])
                row["torch"] = {key: ratio[key] for key in ("speedup", "low", "high")}
            if optional and name in OURS:
                ratio = against(taken, times[f"lax, {best}"])
                row["lax, options"] = {key: ratio[key] for key in ("speedup", "low", "high")}
            if case.macs and case.groups == 1:
                row["gflops"] = found["gflop"] * (3 if gradients else 1) / row["median_ms"] * 1e3
                row["share"] = row["gflops"] / peak
            found[what][name] = row
        if optional:
            rows = {name: found[what].pop(f"lax, {name}") for name in optional}
            found[what]["lax, options"] = {"options": best, **rows[best]}
        else:
            found[what]["lax, options"] = found[what]["lax"]
        if "jaxconv.jit" not in programs:
            found[what]["jaxconv.jit"] = found[what]["jaxconv"]
    if case.scanned:
        found["scan"] = scan(case, dtype, seconds, rounds)
    return found


def scan(case: Case, dtype: str, seconds: float, rounds: int) -> Found:
    """Returns the time of the gradient in a compiled loop over inputs, compared with the same loop unrolled."""
    calls: Calls = {}
    for name, (function, _) in {"lax": case.lax(), "jaxconv": case.jaxconv()}.items():

        def loss(looped: bool, xs: Any, *kernel: Any, function: Callable[..., Any] = function) -> Any:
            def step(total: Any, x: Any) -> Any:
                return total + jnp.sum(function(x, *kernel) ** 2, dtype=jnp.float32), None

            total = jnp.zeros(())
            if looped:
                return jax.lax.scan(step, total, xs)[0]
            for x in xs:
                total, _ = step(total, x)
            return total

        x, *kernel = case.arrays(dtype)
        arguments = (jnp.stack([x] * STEPS), *kernel)
        for looped in (True, False):
            gradient = jax.jit(jax.grad(lambda *a, l=looped, f=loss: f(l, *a), tuple(range(len(arguments)))))
            calls[f"{name}, {'scan' if looped else 'unrolled'}"], _ = compiled(gradient, arguments)
    times = timed(calls, seconds, rounds)
    return {
        name: against(times[f"{name}, scan"], times[f"{name}, unrolled"])
        | {"unrolled_ms": float(np.median(times[f"{name}, unrolled"]) * 1e3)}
        for name in ("lax", "jaxconv")
    }


def matrix_product(dtype: str, size: int = 2048) -> float:
    """Returns the rate of a matrix product on this machine, in GFLOP/s, under the faster of both jits."""
    a = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32), dtype)
    jitted: dict[str, Any] = {"jax.jit": jax.jit(jnp.matmul), "jaxconv.jit": jc.jit(jnp.matmul)}
    calls = {name: compiled(function, (a, a))[0] for name, function in jitted.items()}
    best = min(float(np.median(t)) for t in timed(calls, 1.0, 7).values())
    return 2e-9 * size**3 / best


def mean(values: Sequence[float]) -> str:
    """Returns the geometric mean for a table."""
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.2f}" if values else "-"


def over(members: Sequence[Found], what: str, base: str) -> list[float]:
    """Returns the speedups of `jaxconv.jit` over "torch" or "lax, options", of the cases that have them."""
    rows = [member[what]["jaxconv.jit"] for member in members]
    return [row[base]["speedup"] for row in rows if base in row]


def by_family(found: Found) -> dict[str, list[Found]]:
    """Returns the cases of each family."""
    families: dict[str, list[Found]] = {}
    for case in sorted(found["cases"], key=lambda case: case["family"]):
        families.setdefault(case["family"], []).append(case)
    return families


def _bases(found: Found) -> list[str]:
    """Returns the programs that the file compares with, besides lax."""
    compared = [case[what]["jaxconv.jit"] for case in found["cases"] for what in PASSES]
    return [base for base in BASES if any(base in row for row in compared)]


def table(found: Found) -> str:
    """Returns a table in Markdown: geometric means of the speedup over lax under `jax.jit`, and over lax with options.

    Without options both jits are the same and have one column; columns of torch need a measurement of torch.
    """
    cases, families = found["cases"], by_family(found)
    jits = {"jaxconv": "jax.jit", "jaxconv.jit": "jaxconv.jit"} if found["options"] else {"jaxconv": "jax.jit"}
    bases = _bases(found)
    heads = [f"{what}, `{jit}`" for what in PASSES for jit in jits.values()]
    heads += [f"{what}, over {BASES[base]}" for base in bases for what in PASSES]
    lines = [f"| layers | | {' | '.join(heads)} | slowest against lax |", "|" + "---|" * (len(heads) + 3)]
    for family, members in {**families, "all": cases}.items():
        rows = {(w, c): [(m[w][c]["speedup"], m["case"]) for m in members] for w in PASSES for c in jits}
        cells = [mean([speedup for speedup, _ in row]) for row in rows.values()]
        cells += [mean(over(members, what, base)) for base in bases for what in PASSES]
        (speedup, name), (what, candidate) = min((min(row), key) for key, row in rows.items())
        cells.append(f"{speedup:.2f} {name}, {what}" + (f", {jits[candidate]}" if len(jits) > 1 else ""))
        lines.append(f"| {family} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _measured(found)])


def short_table(found: Found) -> str:
    """Returns the README's table: geometric means under `jaxconv.jit`, over lax, lax with options, and torch."""
    bases = _bases(found)
    names = ["lax", *(BASES[base] for base in bases)]
    heads = [f"{what}, over {name}" for name in names for what in PASSES]
    lines = [f"| layers | number | {' | '.join(heads)} |", "|" + "---|" * (len(heads) + 2)]
    for family, members in {**by_family(found), "all": found["cases"]}.items():
        cells = [mean([member[what]["jaxconv.jit"]["speedup"] for member in members]) for what in PASSES]
        cells += [mean(over(members, what, base)) for base in bases for what in PASSES]
        lines.append(f"| {family} | {len(members)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _measured(found)])


def _measured(found: Found) -> str:
    """Returns the device and the versions of a measurement."""
    named = (name for name in ("python", "jax", "jaxlib", "torch") if name in found["versions"])
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in named)
    product = f"a matrix product runs at {found['matrix_product_gflops']:.0f} GFLOP/s"
    return f"{found['dtype']}, {found['device']}; {product}; {versions}."


def notes(found: Found) -> str:
    """Returns lists beside the table: slower layers, loops, growth, and extremes of memory, compile time and error."""
    families = by_family(found)
    both = [(case, what) for case in found["cases"] for what in PASSES]
    rows = [(f"{c['case']}: {w}, {n}, {c[w][n]['median_ms']:.2f} ms", c[w][n]) for c, w in both for n in OURS]
    interval = lambda r: f"{r['speedup']:.2f} ({r['low']:.2f} to {r['high']:.2f})"  # noqa: E731
    lost = [f"{name}: {interval(r)}" for name, r in rows if r["high"] < 0.95]
    optional = [(name, r["lax, options"]) for name, r in rows if "lax, options" in r and name.count("jaxconv.jit")]
    slower = [f"{name}: {interval(r)}" for name, r in optional if r["high"] < 0.95]
    behind = [(name, row["torch"]["speedup"]) for name, row in rows if "torch" in row]
    loops = [
        f"{case['case']}: "
        + ", ".join(f"{k} {v['median_ms']:.0f} ms, unrolled {v['unrolled_ms']:.0f} ms" for k, v in case["scan"].items())
        for case in found["cases"]
        if "scan" in case
    ]
    grown = {case["case"]: case for case in found["growth"]}
    growth = [
        f"{axis}: {case.name}, {grown[case.name]['gflop']:.2f} GFLOP forward: {what} "
        + ", ".join(f"{name} {grown[case.name][what][name]['median_ms']:.2f} ms" for name in ("lax", *OURS))
        for axis, members in GROWTH.items()
        for what in PASSES
        for case in (case.scaled(found.get("scale", 1)) for case in members)
        if case.name in grown
    ]
    needs = sorted((c[w]["jaxconv"]["memory_mb"] / c[w]["lax"]["memory_mb"], c["case"], w) for c, w in both)
    takes = sorted((c[w]["jaxconv"]["compile_s"], c["case"], w) for c, w in both)
    apart = sorted((c[f"{w} difference"], c["case"], w) for c, w in both)
    dense = {family: [m for m in members if "share" in m["forward"]["lax"]] for family, members in families.items()}
    share = lambda members, what: mean([m[what]["jaxconv.jit"]["share"] for m in members])  # noqa: E731
    rates = [f"{name}: {', '.join(f'{w} {share(m, w)}' for w in PASSES)}" for name, m in dense.items() if m]
    sections = {
        "slower than plain lax, the whole interval below 0.95": lost,
        **({"jaxconv.jit slower than lax with options, the whole interval below 0.95": slower} if optional else {}),
        "under half of torch's speed": [f"{name}: {speed:.2f}" for name, speed in behind if speed < 0.5],
        "gradient in a compiled loop": loops,
        "growth": growth,
        "share of a matrix product's rate, ungrouped convolutions under jaxconv.jit": rates,
        "most memory, as a multiple of lax's": [f"{m:.2f} {name}, {what}" for m, name, what in needs[:-6:-1]],
        "longest to compile, s": [f"{s:.2f} {name}, {what}" for s, name, what in takes[:-6:-1]],
        "largest differences from lax": [f"{d:.1e} {name}, {what}" for d, name, what in apart[:-4:-1]],
    }
    return "\n".join(f"\n{title}:\n- " + "\n- ".join(items or ["none"]) for title, items in sections.items())


def figure(found: Found) -> Any:
    """Draws the speedup of each layer over plain lax, sorted, with torch's."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10, 4), layout="constrained")
    panels = picture.subplots(1, 2, sharey=True)
    for axes, what, title in zip(panels, PASSES, ("forward", "forward and gradients"), strict=True):
        cases = sorted(found["cases"], key=lambda case: case[what]["jaxconv.jit"]["speedup"])
        for name, color, size in ("torch", "0.75", 3), ("jaxconv", "tab:blue", 4), ("jaxconv.jit", "tab:orange", 4):
            points = [(i, c[what][name]["speedup"]) for i, c in enumerate(cases) if name in c[what]]
            label = {"jaxconv": "jaxconv under jax.jit", "jaxconv.jit": "jaxconv under jaxconv.jit"}.get(name, name)
            if points:
                axes.plot(*zip(*points, strict=True), "o", color=color, markersize=size, label=label)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(yscale="log", title=title, xlabel="layers, sorted")
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("speed, plain lax under jax.jit = 1")
    panels[0].legend(loc="upper left", frameon=False)
    return picture


def title(section: str, case: Case) -> str:
    return f"{case.family if section == 'cases' else section}: {case.name}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.layers")
    parser.add_argument("--rounds", type=int, default=40, help="at most")
    parser.add_argument("--seconds", type=float, default=2.5, help="for a case, without compiling")
    parser.add_argument("--only", type=re.compile, help='regular expression to be found in "family: case"')
    parser.add_argument("--missing", action="store_true", help="only what the file lacks")
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--scale", type=int, default=1, help="multiplies the batch")
    parser.add_argument("--threads", type=int, default=1, help="cases that are compiled in parallel")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds after which no case is started")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the file's table, measure nothing")
    parser.add_argument("--figure", type=Path, help="draw the file's figure, measure nothing")
    args = parser.parse_args()
    if args.table or args.figure:
        found = json.loads(args.out.read_text())
        if args.table:
            print(f"{table(found)}\n{notes(found)}")
        if args.figure:
            write(args.figure, png(figure(found)))
        return
    with_torch = not args.no_torch and clock.platform() in ("cpu", "cuda")
    head = {
        **environment(),
        "dtype": args.dtype,
        "options": helpful_options(),
        "lax_options": option_sets(),
        "scale": args.scale,
        "threads": args.threads,
    }
    if with_torch:
        import torch

        head["versions"]["torch"] = torch.__version__
    sections: dict[str, dict[str, Found]] = {"cases": {}, "growth": {}}
    rate = 0.0
    if (args.only or args.missing) and args.out.exists():
        before = json.loads(args.out.read_text())
        rate = before["matrix_product_gflops"]
        if any(before.get(key, 1) != head[key] for key in head if key not in ("threads", "commit")):
            raise SystemExit(f"{args.out} is of another machine, version or type: give another --out")
        sections = {name: {case["case"]: case for case in before[name]} for name in sections}
    todo = {"cases": CASES, "growth": list(dict.fromkeys(case for cases in GROWTH.values() for case in cases))}
    scaled = [title(section, c.scaled(args.scale)) for section, cases in todo.items() for c in cases]
    if args.only and not any(map(args.only.search, scaled)):
        raise SystemExit(f"no case has {args.only.pattern!r}: there are {', '.join(scaled[:3])}, ...")
    start = time.perf_counter()
    peak = matrix_product(args.dtype, 2048 if clock.platform() == "cpu" else 8192)
    # The rate of the run of all layers; the share of each layer refers to the rate in the run that measured it.
    head |= {"rounds": args.rounds, "seconds": args.seconds, "matrix_product_gflops": rate or peak}
    for section, cases in todo.items():
        wanted = []
        for case in (case.scaled(args.scale) for case in cases):
            known = args.missing and case.name in sections[section]
            if not known and (args.only is None or args.only.search(title(section, case))):
                wanted.append(case)
        for case, prepared in all_prepared(wanted, args.dtype, args.threads, start + args.until):
            if isinstance(prepared, str):
                print(f"{title(section, case)} does not compile: {prepared}", flush=True)
                continue
            result = measure(case, prepared, args.dtype, args.seconds, args.rounds, peak, with_torch)
            sections[section][case.name] = result
            write_results(args.out, head | {name: list(entries.values()) for name, entries in sections.items()})
            for what in PASSES:
                times = {
                    name: f"{row['median_ms']:.2f} ms, {row['speedup']:.2f}x" for name, row in result[what].items()
                }
                print(f"{title(section, case)}, {what}:", times, flush=True)


if __name__ == "__main__":
    main()
