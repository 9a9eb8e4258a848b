"""An ensemble under vmap compared with a loop over its members: six small networks, forward and with gradients.

    python -m experiments.benchmarks.ensembles        # writes results/ensembles.json

``loop`` calls one jitted function for each member, ``unrolled`` is one jitted function of all members, ``vmap`` maps
over the stacked parameters; all under `jaxconv.jit`, all on the same images. Candidates in turn, medians; a ratio is
the median of the ratios of the rounds.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.benchmarks import clock
from experiments.report import environment, write_results

RESULTS = Path(__file__).parent / "results" / "ensembles.json"
MEMBERS = 6
relu = jax.nn.relu
NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "two convolutions": (
        jc.serial(jc.Conv(8), relu, jc.MaxPool(2), jc.Conv(16), relu, jc.MaxPool(2), jc.Flatten(), jc.Dense(10)),
        (32, 28, 28, 1),
    ),
    "LeNet-5": (jc.models.lenet5(), (32, 28, 28, 1)),
    "batch norm": (
        jc.serial(
            jc.Conv(16, bias=False), jc.BatchNorm(), relu, jc.MaxPool(2), jc.Conv(32, bias=False), jc.BatchNorm(), relu,
            jc.GlobalAvgPool(), jc.Dense(10),
        ),
        (16, 16, 16, 3),
    ),
    "depthwise": (
        jc.serial(
            jc.Conv(16, stride=2), relu, jc.Conv(16, groups=16), jc.Conv(32, 1), relu, jc.Conv(32, groups=32, stride=2),
            jc.Conv(32, 1), jc.GlobalAvgPool(), jc.Dense(10),
        ),
        (16, 32, 32, 3),
    ),
    "DQN": (jc.serial(jc.Conv(16, padding=0), relu, jc.Flatten(), jc.Dense(128), relu, jc.Dense(6)), (32, 10, 10, 4)),
    "1-D": (
        jc.serial(jc.Conv(16, (9,), stride=4), relu, jc.Conv(32, (9,)), relu, jc.GlobalAvgPool(rank=1), jc.Dense(10)),
        (16, 512, 1),
    ),
}  # fmt: skip


def calls(net: Any, shape: tuple[int, ...], gradients: bool) -> dict[str, Callable[[], Any]]:
    """Returns the candidates."""
    made = [net.init(jax.random.key(i), shape) for i in range(MEMBERS)]
    members, state = [params for params, _ in made], made[0][1]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def forward(params: Any, x: Any) -> Any:
        return net.apply(params, state, x, train=gradients)[0]

    f = jax.grad(lambda params, x: jnp.sum(jnp.sin(forward(params, x)))) if gradients else forward
    one, mapped = jc.jit(f), jc.jit(jax.vmap(f, (0, None)))
    unrolled = jc.jit(lambda members, x: [f(params, x) for params in members])
    return {
        "loop": lambda: [one(params, x) for params in members],
        "unrolled": lambda: unrolled(members, x),
        "vmap": lambda: mapped(stacked, x),
    }


def measure(candidates: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Returns the medians in ms, and the ratios of vmap to the others."""
    many = {name: clock.repeats(clock.sample(call, 1)) for name, call in candidates.items()}
    times = {name: np.empty(rounds) for name in candidates}
    for i in range(rounds):
        for name, call in candidates.items():
            times[name][i] = clock.sample(call, many[name])
    found = {f"{name}_ms": float(np.median(t) * 1e3) for name, t in times.items()}
    ratios = {name: float(np.median(times["vmap"] / times[name])) for name in ("loop", "unrolled")}
    return found | {f"vmap over {name}": ratio for name, ratio in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = []
    for name, (net, shape) in NETWORKS.items():
        for what in ("forward", "gradients"):
            row = {"network": name, "shape": shape, "what": what}
            rows.append(row | measure(calls(net, shape, what == "gradients"), args.rounds))
            print(rows[-1], flush=True)
    write_results(args.out, environment() | {"members": MEMBERS, "rounds": args.rounds, "rows": rows})


if __name__ == "__main__":
    main()
