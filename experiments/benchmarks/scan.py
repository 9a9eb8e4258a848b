"""Gradients of convolutions in a compiled loop, compared with the same steps without a loop.

    python -m experiments.benchmarks.scan              # writes results/scan.json

`jaxconv.repeat` is unrolled on CPU, and `jaxconv.train.fit` runs an epoch there as a loop over a jitted step.
One process, the two forms in turn, medians of paired ratios with their 95 % bootstrap interval, under `jaxconv.jit`.
Run it on an otherwise idle machine.
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
from experiments.benchmarks.jit import ratios
from experiments.optional import optax
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "scan.json"
LAYERS, STEPS = 8, 3


def repeated() -> tuple[str, dict[str, Callable[[], Any]]]:
    """Returns the gradient of a stack of equal convolutions, as a scan and unrolled."""
    x = jax.random.normal(jax.random.key(0), (8, 28, 28, 64))
    params, _ = jc.repeat(jc.Conv(64), LAYERS).init(jax.random.key(1), x)

    def loss(params: Any, unroll: int) -> Any:
        step = lambda x, p: (jc.conv(x, p["kernel"], p["bias"]), None)  # noqa: E731
        return jnp.mean(jax.lax.scan(step, x, params, unroll=unroll)[0] ** 2)

    scanned = jc.jit(jax.grad(lambda p: loss(p, 1)))
    unrolled = jc.jit(jax.grad(lambda p: loss(p, LAYERS)))
    what = f"gradient of {LAYERS} convolutions 3x3, 64 to 64 channels, 8x28x28"
    return what, {"scan": lambda: scanned(params), "without": lambda: unrolled(params)}


def epoch() -> tuple[str, dict[str, Callable[[], Any]]]:
    """Returns a few training steps of the demo's network, as one compiled scan and as a loop over a jitted step."""
    net, optimizer = jc.models.convnet(), optax.adamw(1e-3)
    x = jax.random.normal(jax.random.key(0), (STEPS, 128, 28, 28, 1))
    labels = jax.random.randint(jax.random.key(1), (STEPS, 128), 0, 10)
    loss = optax.softmax_cross_entropy_with_integer_labels
    start = jc.train.TrainState.create(net, optimizer, 0, x[0])
    step = jc.train.train_step(net, loss, optimizer, donate=False)
    scanned = jc.jit(lambda s, x, y: jax.lax.scan(lambda s, batch: (step(s, *batch)[0], None), s, (x, y))[0])

    def loop() -> Any:
        state = start
        for images, targets in zip(x, labels, strict=True):
            state, _ = step(state, images, targets)
        return state

    what = f"{STEPS} training steps of the demo's convnet, batch 128 of 28x28x1"
    return what, {"scan": lambda: scanned(start, x, labels), "without": loop}


def main() -> None:
    parser = argparse.ArgumentParser("python -m experiments.benchmarks.scan")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = []
    for what, forms in (repeated(), epoch()):
        times: dict[str, list[float]] = {name: [] for name in forms}
        for i in range(rounds + 1):
            for name, call in forms.items():
                begin = time.perf_counter()
                jax.block_until_ready(call())
                if i:
                    times[name].append(time.perf_counter() - begin)
        result = {name: ratios(np.array(t), np.array(times["scan"])) for name, t in times.items()}
        found.append({"case": what, "dtype": "float32", "times": result})
        print(what, {k: f"{v['median_ms']:.0f} ms, {v['speedup']:.2f}x" for k, v in result.items()}, flush=True)
    write_results(RESULTS, {**environment(), "rounds": rounds, "cases": found})


if __name__ == "__main__":
    main()
