"""The effect of the compiler options of `jaxconv.jit`, compared with plain `jax.jit`.

    python -m experiments.benchmarks.jit              # writes results/jit.json

One process, candidates in turn A B C A B C, medians of the ratios to plain `jax.jit` of the same round with their 95 %
bootstrap interval. Run it on an otherwise idle machine. The candidates are values of XLA:CPU's
``xla_cpu_experimental_ynn_fusion_type``: the types of computation that XLA passes to the YNNPACK library.
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
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "jit.json"
OPTION = "xla_cpu_experimental_ynn_fusion_type"
KINDS = ("DOT", "INDIVIDUAL_DOT", "REDUCE", "ELTWISE")
CANDIDATES: dict[str, str | None] = {
    "plain": None,
    "none": "",
    "reduce": "LIBRARY_FUSION_TYPE_REDUCE",
    "dot and reduce": ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in KINDS[:3]),
    "all but convolution": ",".join(f"LIBRARY_FUSION_TYPE_{kind}" for kind in KINDS),
}
CASES: dict[str, tuple[jc.Layer, tuple[int, ...]]] = {
    "conv 3x3, 64 filters": (jc.Conv(64), (8, 56, 56, 64)),
    "batch norm, relu, pool": (jc.serial(jc.BatchNorm(), jax.nn.relu, jc.MaxPool(2)), (128, 28, 28, 32)),
    "dense 256": (jc.Dense(256), (128, 3136)),
    "convnet of the demo": (jc.models.convnet(), (128, 28, 28, 1)),
}


def gradient(net: jc.Layer, shape: tuple[int, ...]) -> tuple[Callable[..., Any], Any, Any]:
    """Returns a training gradient as a function of params and x, and its arguments."""
    x = jax.random.normal(jax.random.key(0), shape)
    params, state = net.init(jax.random.key(1), x)

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(net.apply(params, state, x, train=True)[0] ** 2)

    return jax.value_and_grad(loss), params, x


def ratios(times: np.ndarray, base: np.ndarray) -> dict[str, float]:
    """Returns the median of paired ratios and its 95 % bootstrap interval; above 1 is faster than the base."""
    pairs = base / times
    draws = np.random.default_rng(0).choice(pairs, (2000, len(pairs)))
    low, high = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return {"median_ms": float(np.median(times) * 1e3), "speedup": float(np.median(pairs)), "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.jit")
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    found = []
    for name, (net, shape) in CASES.items():
        function, params, x = gradient(net, shape)
        compiled = {
            candidate: jax.jit(function, compiler_options=None if value is None else {OPTION: value})
            for candidate, value in CANDIDATES.items()
        }
        times: dict[str, list[float]] = {candidate: [] for candidate in compiled}
        for i in range(rounds + 2):
            for candidate, call in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(call(params, x))
                if i >= 2:
                    times[candidate].append(time.perf_counter() - start)
        base = np.array(times["plain"])
        result = {candidate: ratios(np.array(t), base) for candidate, t in times.items()}
        found.append({"case": name, "shape": shape, "dtype": "float32", "what": "loss and gradient", "times": result})
        print(name, {k: f"{v['median_ms']:.1f} ms, {v['speedup']:.2f}x" for k, v in result.items()}, flush=True)
    write_results(RESULTS, {**environment(), "option": OPTION, "values": CANDIDATES, "rounds": rounds, "cases": found})


if __name__ == "__main__":
    main()
