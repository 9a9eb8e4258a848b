"""Resizing and adaptive averages compared with torch and `jax.image.resize`, forward and gradient, on CPU.

    python -m experiments.benchmarks.resize           # writes results/resize.json

One process, candidates in turn, medians of the rounds in ms; float32, channels last, two threads of torch. The
cotangent is an argument, so that the compiler folds no constants. Run it on an otherwise idle machine.
"""

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks.clock import seconds
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "resize.json"
ROUNDS = 7
# Name: op, shape of x, size.
CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {
    "linear 132,300 to 144,000, 1 channel": ("resize", (1, 132_300, 1), (144_000,)),
    "bilinear 8x256 to 512, 3 channels": ("resize", (8, 256, 256, 3), (512, 512)),
    "bilinear 8x512 to 300, 3 channels": ("resize", (8, 512, 512, 3), (300, 300)),
    "bilinear 1x1024 to 2048, 3 channels": ("resize", (1, 1024, 1024, 3), (2048, 2048)),
    "adaptive mean 8x224 to 7, 64 channels": ("adaptive", (8, 224, 224, 64), (7, 7)),
    "adaptive mean 8x30 to 7, 256 channels": ("adaptive", (8, 30, 30, 256), (7, 7)),
}


def with_gradient(f: Any) -> Any:
    return jax.jit(lambda x, y: jax.vjp(f, x)[1](y))


def candidates(op: str, shape: tuple[int, ...], size: tuple[int, ...]) -> dict[str, Any]:
    """Returns a call for each library and direction."""
    import torch

    rank = len(size)
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    y = rng.normal(size=(shape[0], *size, shape[-1])).astype(np.float32)
    xj, yj = jnp.asarray(x), jnp.asarray(y)
    xt, yt = (torch.tensor(a).movedim(-1, 1) for a in (x, y))
    xg = xt.clone().requires_grad_()
    ours = functools.partial(jc.resize if op == "resize" else jc.adaptive_avg_pool, size=size, rank=rank)
    theirs: Any
    if op == "resize":
        theirs = functools.partial(torch.nn.functional.interpolate, size=size, mode=("linear", "bilinear")[rank - 1])
    else:
        pool: Any = torch.nn.functional.adaptive_avg_pool2d
        theirs = functools.partial(pool, output_size=size)
    found = {
        "ours": functools.partial(jax.jit(ours), xj),
        "torch": functools.partial(theirs, xt),
        "ours gradient": functools.partial(with_gradient(ours), xj, yj),
        "torch gradient": lambda: torch.autograd.grad(theirs(xg), xg, yt),
    }
    # A dense matrix of a long signal does not fit into memory.
    if op == "resize" and max(shape) < 100_000:
        image = functools.partial(jax.image.resize, shape=y.shape, method="bilinear", antialias=False)
        found["jax.image"] = functools.partial(jax.jit(image), xj)
        found["jax.image gradient"] = functools.partial(with_gradient(image), xj, yj)
    return found


def measure(name: str) -> dict[str, float]:
    calls = candidates(*CASES[name])
    times: dict[str, list[float]] = {key: [] for key in calls}
    for round_ in range(ROUNDS + 1):
        for key, call in calls.items():
            took = seconds(call)
            if round_:
                times[key].append(took * 1e3)
    return {key: round(statistics.median(took), 3) for key, took in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out = parser.parse_args().out
    import torch

    torch.set_num_threads(2)
    rows = {}
    for name in CASES:
        rows[name] = measure(name)
        print(name, rows[name], flush=True)
    write_results(out, {**environment(), "torch": torch.__version__, "rounds": ROUNDS, "median_ms": rows})


if __name__ == "__main__":
    main()
