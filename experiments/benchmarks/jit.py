"""The effect of the compiler options of `jaxconv.jit`, compared with plain `jax.jit`.

    python -m experiments.benchmarks.jit                  # writes results/jit.json
    python -m experiments.benchmarks.jit --clock wall     # of an otherwise idle machine

One process, candidates in turn A B C A B C, medians of the ratios to plain `jax.jit` of the same round with their 95 %
bootstrap interval. By default the clock is the CPU time of the process, over all threads, which other programs on the
machine disturb little. The candidates are the types of computation that XLA:CPU passes to the library YNNPACK, and the
options that make it call oneDNN (`experiments.benchmarks.options`), alone and beside those of `jaxconv.jit`.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks.options import ONEDNN, SETS
from experiments.report import environment, write_results
from jaxconv.compiler import _known
from jaxconv.ops.lowering.cpu import YNNPACK as OPTION

RESULTS = Path(__file__).parent / "results" / "jit.json"
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
STEPS = 20
TYPES = ("DOT", "INDIVIDUAL_DOT", "REDUCE", "ELTWISE")
CANDIDATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "none": {OPTION: ""},
    "reduce": {OPTION: "LIBRARY_FUSION_TYPE_REDUCE"},
    "dot and reduce": {OPTION: ",".join(f"LIBRARY_FUSION_TYPE_{name}" for name in TYPES[:3])},
    "all but convolution": {OPTION: ",".join(f"LIBRARY_FUSION_TYPE_{name}" for name in TYPES)},
    "oneDNN": SETS["oneDNN"],
    "jaxconv.jit, oneDNN": SETS["jaxconv.jit"] | {ONEDNN: True},
}
# The network of a DQN on small images: its loop has many small steps.
SCANNED = f"{STEPS} steps of a small network in a scan"
CASES: dict[str, tuple[jc.Layer, tuple[int, ...]]] = {
    "conv 3x3, 64 filters": (jc.Conv(64), (8, 56, 56, 64)),
    "batch norm, relu, pool": (jc.serial(jc.BatchNorm(), jax.nn.relu, jc.MaxPool(2)), (128, 28, 28, 32)),
    "dense 256": (jc.Dense(256), (128, 3136)),
    "convnet of the demo": (jc.models.convnet(), (128, 28, 28, 1)),
    "LeNet-5": (jc.models.lenet5(), (128, 28, 28, 1)),
    SCANNED: (
        jc.serial(jc.Conv(16, padding="VALID"), jax.nn.relu, jc.Flatten(), jc.Dense(128), jax.nn.relu, jc.Dense(6)),
        (32, 10, 10, 4),
    ),
}


def gradient(net: jc.Layer, shape: tuple[int, ...]) -> tuple[Callable[..., Any], Any, Any]:
    """Returns a training gradient as a function of params and x, and its arguments."""
    x = jax.random.normal(jax.random.key(0), shape)
    params, state = net.init(jax.random.key(1), x)

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(net.apply(params, state, x, train=True)[0] ** 2)

    return jax.value_and_grad(loss), params, x


def steps(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns gradient descent by a function that returns a loss and its gradient, as a scan."""

    def run(params: Any, x: Any) -> Any:
        def step(params: Any, _: Any) -> Any:
            loss, grads = function(params, x)
            return jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), loss

        return jax.lax.scan(step, params, length=STEPS)

    return run


def ratios(times: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Returns the median of paired ratios and its 95 % bootstrap interval; above 1 is faster than the base."""
    pairs = base / times
    draws = np.random.default_rng(0).choice(pairs, (2000, len(pairs)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median_ms": float(np.median(times) * 1e3), "speedup": float(np.median(pairs)), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.jit")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--clock", choices=CLOCKS, default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rounds, clock = args.rounds, CLOCKS[args.clock]
    found = []
    for name, (net, shape) in CASES.items():
        function, params, x = gradient(net, shape)
        if name == SCANNED:
            function = steps(function)
        compiled = {
            candidate: jax.jit(function, compiler_options=options or None)
            for candidate, options in CANDIDATES.items()
            if all(map(_known, options, options.values()))
        }
        times: dict[str, list[float]] = {candidate: [] for candidate in compiled}
        for i in range(rounds + 2):
            for candidate, call in compiled.items():
                start = clock()
                jax.block_until_ready(call(params, x))
                if i >= 2:
                    times[candidate].append(clock() - start)
        base = np.array(times["plain"])
        result = {candidate: ratios(np.array(t), base) for candidate, t in times.items()}
        found.append({"case": name, "shape": shape, "dtype": "float32", "what": "loss and gradient", "times": result})
        print(name, {k: f"{v['median_ms']:.1f} ms, {v['speedup']:.2f}x" for k, v in result.items()}, flush=True)
    head = {**environment(), "options": CANDIDATES, "clock": args.clock, "rounds": rounds}
    write_results(args.out, {**head, "cases": found})


if __name__ == "__main__":
    main()
