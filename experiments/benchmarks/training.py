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
import copy
import functools
import importlib.metadata
import json
import math
import os
import resource
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks import clock
from experiments.benchmarks.jit import ratios
from experiments.benchmarks.options import option_sets
from experiments.optional import optax
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
CLASSES, MEMBERS = 10, 8
RATE, MOMENTUM = 1e-3, 0.9


@dataclass(frozen=True)
class Case:
    """A program: ``what`` is a training step, the gradient of each example, or the gradients of an ensemble."""

    network: str
    batch: int
    shape: tuple[int, ...]
    what: str = "step"


CASES = {
    "lenet": Case("lenet", 128, (28, 28, 1)),
    "resnet18": Case("resnet18", 64, (32, 32, 3)),
    "mobilenetv2": Case("mobilenetv2", 16, (64, 64, 3)),
    "unet": Case("unet", 8, (64, 64, 3)),
    "conv1d": Case("conv1d", 32, (4096, 1)),
    "conv3d": Case("conv3d", 8, (16, 32, 32, 1)),
    "per-example gradients": Case("lenet", 64, (28, 28, 1), "per example"),
    f"ensemble of {MEMBERS}": Case("lenet", 32, (28, 28, 1), "ensemble"),
}


@dataclass
class Candidate:
    """A compiled program: ``call`` runs it and returns the loss, and the gradients unless it is a step."""

    call: Callable[[], tuple[Any, Any]]
    parameters: int
    compile_seconds: float | None = None
    memory: dict[str, int] | None = None


def data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Returns a batch of noise and labels, with a leading axis for an ensemble."""
    draw = np.random.default_rng(0)
    leading = (MEMBERS, case.batch) if case.what == "ensemble" else (case.batch,)
    pixels = case.shape[:-1] if case.network == "unet" else ()
    x = draw.standard_normal((*leading, *case.shape), np.float32)
    return x, draw.integers(CLASSES, size=(*leading, *pixels))


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def functional(case: Case, forward: Callable[..., Any], params: Any, state: Any) -> tuple[Callable[..., Any], Any]:
    """Returns ``(carry, x, y) -> (loss, new carry or gradients)`` of ``forward(params, state, x)``, and the carry."""
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)

    def loss(params: Any, state: Any, x: Any, y: Any) -> Any:
        logits, state = forward(params, state, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    def step(carry: Any, x: Any, y: Any) -> Any:
        params, state, moments = carry
        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params, state, x, y)
        updates, moments = optimizer.update(grads, moments)
        return value, (optax.apply_updates(params, updates), state, moments)

    def gradient(params: Any, x: Any, y: Any) -> Any:
        return jax.value_and_grad(lambda params: loss(params, {}, x, y)[0])(params)

    def per_example(params: Any, x: Any, y: Any) -> Any:
        return jax.vmap(lambda x, y: gradient(params, x[None], y[None]))(x, y)

    if case.what == "step":
        return step, (params, state, optimizer.init(params))
    return (per_example if case.what == "per example" else jax.vmap(gradient)), params


def jaxconv_program(case: Case, plan: Any, members: list[Any]) -> tuple[Callable[..., Any], Any, int]:
    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network

    net = jaxconv_network(plan)
    params, state = stack(members) if case.what == "ensemble" else members[0]
    function, carry = functional(case, lambda p, s, x: net.apply(p, s, x, train=True), params, state)
    return function, carry, count(params)


def flax_program(case: Case, plan: Any, members: list[Any], **options: Any) -> tuple[Callable[..., Any], Any, int]:
    from experiments.benchmarks.networks.with_flax import Linen, flax_tree

    model = Linen(plan, **options)
    trees = [tuple(flax_tree(plan, tree) for tree in member) for member in members]
    params, state = stack(trees) if case.what == "ensemble" else trees[0]

    def forward(params: Any, state: Any, x: Any) -> Any:
        logits, new = model.apply({"params": params, "batch_stats": state}, x, mutable=["batch_stats"])
        return logits, new.get("batch_stats", {})

    function, carry = functional(case, forward, params, state)
    return function, carry, count(params)


def equinox_program(plan: Any, params: Any) -> tuple[Callable[..., Any], Any, int]:
    import equinox as eqx

    from experiments.benchmarks.networks.with_equinox import equinox_network

    model, state = equinox_network(plan, params)
    optimizer = optax.sgd(RATE, momentum=MOMENTUM)

    def loss(model: Any, state: Any, x: Any, y: Any) -> Any:
        logits, state = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)
        logits = jnp.moveaxis(logits, 1, -1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

    def step(carry: Any, x: Any, y: Any) -> Any:
        model, state, moments = carry
        (value, state), grads = eqx.filter_value_and_grad(loss, has_aux=True)(model, state, x, y)
        updates, moments = optimizer.update(grads, moments)
        return value, (eqx.apply_updates(model, updates), state, moments)

    params = eqx.filter(model, eqx.is_inexact_array)
    return step, (model, state, optimizer.init(params)), count(params)


def jax_candidate(
    case: Case,
    program: tuple[Callable[..., Any], Any, int],
    x: Any,
    y: Any,
    jit: Callable[..., Any] = jax.jit,
    within: Callable[[], Any] = contextlib.nullcontext,
) -> Candidate:
    """Compiles a program twice with ``jit``, inside the context manager ``within``, and reports the shorter time.

    The first compilation also traces JAX's own functions, unless an earlier candidate has traced them.
    """
    function, carry, parameters = program
    x, y = jnp.asarray(x), jnp.asarray(y)
    seconds = math.inf
    for _ in range(2):
        jitted = jit(lambda carry, x, y: function(carry, x, y))
        with within():
            start = time.perf_counter()
            compiled = jitted.lower(carry, x, y).compile()
            seconds = min(seconds, time.perf_counter() - start)
    # Equinox wraps the compiled program.
    found = getattr(compiled, "compiled", compiled).memory_analysis()
    memory = {
        "arguments": found.argument_size_in_bytes,
        "outputs": found.output_size_in_bytes,
        "temporaries": found.temp_size_in_bytes,
    }

    def call() -> tuple[Any, Any]:
        nonlocal carry
        with within():
            value, tree = jax.block_until_ready(jitted(carry, x, y))
        if case.what == "step":
            carry, tree = tree, {}
        return value, tree

    return Candidate(call, parameters, seconds, memory)


def torch_candidate(case: Case, plan: Any, members: list[Any], x: Any, y: Any, *, compiled: bool = False) -> Candidate:
    """Builds a step in torch, or gradients by `torch.func`; `torch.compile` compiles the model or all of it."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    from experiments.benchmarks.networks.with_torch import torch_network

    # A full graph is required: otherwise a program that falls back to eager code would count as compiled.
    compile = functools.partial(torch.compile, fullgraph=True, dynamic=False) if compiled else lambda function: function
    if compiled:
        torch.compiler.reset()
    models = [torch_network(plan, params) for params, _ in members]
    model = models[0]
    # The channels become the first axis; in memory they remain the last.
    images, labels = torch.tensor(x).movedim(-1, -len(case.shape)), torch.tensor(y)
    entropy = torch.nn.functional.cross_entropy
    parameters = sum(p.numel() for p in model.parameters())

    if case.what == "step":
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
        forward = compile(model)

        def step() -> tuple[Any, Any]:
            optimizer.zero_grad()
            loss = entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            return loss.detach(), {}

        return Candidate(step, parameters)

    if case.what == "ensemble":
        found, _ = stack_module_state(models)  # type: ignore[arg-type]
        model, parameters, axis = copy.deepcopy(model).to("meta"), parameters * len(models), 0
    else:
        found, axis = dict(model.named_parameters()), None  # type: ignore[assignment]
        images, labels = images[:, None], labels[:, None]
    weights = {name: value.detach() for name, value in found.items()}

    def loss(weights: Any, x: Any, y: Any) -> Any:
        return entropy(functional_call(model, weights, (x,)), y)

    @compile
    def mapped(weights: Any, x: Any, y: Any) -> Any:
        return vmap(grad_and_value(loss), in_dims=(axis, 0, 0))(weights, x, y)

    def gradients() -> tuple[Any, Any]:
        grads, value = mapped(weights, images, labels)
        return value, grads

    return Candidate(gradients, parameters)


def candidates(case: Case, plan: Any, x: np.ndarray, y: np.ndarray) -> Iterator[tuple[str, Callable[[], Candidate]]]:
    """Yields the name of each candidate and the function that builds it; all use the weights that jaxconv draws."""
    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network

    net, shape = jaxconv_network(plan), (1, *case.shape)
    members = [net.init(jax.random.key(i), shape) for i in range(MEMBERS if case.what == "ensemble" else 1)]
    ours = lambda **how: jax_candidate(case, jaxconv_program(case, plan, members), x, y, **how)  # noqa: E731
    linen = lambda jit=jax.jit, **options: jax_candidate(  # noqa: E731
        case, flax_program(case, plan, members, **options), x, y, jit=jit
    )
    yield "jaxconv", ours
    yield "jaxconv.jit", lambda: ours(jit=jc.jit)
    if callable(getattr(jc, "lowering", None)):
        yield "jaxconv (xla)", lambda: ours(within=lambda: jc.lowering("xla"))
    yield "flax", linen
    yield "flax, jaxconv.jit", lambda: linen(jit=jc.jit)
    if "oneDNN" in option_sets():
        yield "flax, oneDNN", lambda: linen(jit=jc.jit(compiler_options=option_sets()["oneDNN"]))
    yield "flax + drop-in", lambda: linen(conv_general_dilated=jc.conv_general_dilated)
    if case.what == "step":
        import equinox as eqx

        first = np.moveaxis(x, -1, 1)
        yield "equinox", lambda: jax_candidate(case, equinox_program(plan, members[0][0]), first, y, jit=eqx.filter_jit)
    yield "torch", lambda: torch_candidate(case, plan, members, x, y)
    yield "torch.compile", lambda: torch_candidate(case, plan, members, x, y, compiled=True)


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
