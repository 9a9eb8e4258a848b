"""Seconds from the start of a process to the end of its first training step, beside Flax and torch.

    python -m experiments.benchmarks.first_step        # writes results/first_step.json

Each measurement is a process that imports one framework, draws the weights of a network, and takes two training steps
(softmax cross-entropy, SGD with momentum) on a batch of noise, as a user of the framework would write them. ``import``
is the time from the start of the process until the framework is imported, ``init`` that of the weights, ``first`` that
of the first step, in which JAX traces and compiles, ``second`` that of the second. In ``linen, jit`` Flax's ``init`` is
jitted; ``jaxconv`` uses `jaxconv.jit`, the others `jax.jit`. No process has a compilation cache. Processes in turn, and
medians. A network that is measured again replaces its entry in the file.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.networks import NETWORKS, Plan

RESULTS = Path(__file__).parent / "results" / "first_step.json"
STAGES = ("import", "init", "first", "second")
CASES: dict[str, tuple[int, tuple[int, ...]]] = {
    "lenet": (128, (28, 28, 1)),
    "resnet18": (32, (32, 32, 3)),
    "mobilenetv2": (16, (64, 64, 3)),
    "resnet50": (2, (64, 64, 3)),
}
Run = Callable[[], Any]
RATE, MOMENTUM = 0.01, 0.9


def jax_step(forward: Callable[..., Any], params: Any, state: Any, x: Any, y: Any, jit: Callable[..., Any]) -> Run:
    """Returns a training step of ``forward(params, state, x) -> (logits, state)``."""
    import jax
    import optax

    optimizer = optax.sgd(RATE, momentum=MOMENTUM)
    carry = (params, state, optimizer.init(params))

    @jit
    def step(carry: Any, x: Any, y: Any) -> Any:
        params, state, moments = carry

        def loss(params: Any) -> Any:
            logits, new = forward(params, state, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

        (value, state), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(grads, moments)
        return value, (optax.apply_updates(params, updates), state, moments)

    def run() -> float:
        nonlocal carry
        value, carry = jax.block_until_ready(step(carry, x, y))
        return float(value)

    return run


def in_jaxconv() -> Callable[..., Run]:
    import jax
    import optax  # noqa: F401  so that it counts as an import

    import jaxconv as jc
    from experiments.benchmarks.networks.with_jaxconv import jaxconv_network

    def built(plan: Plan, x: Any, y: Any) -> Run:
        net = jaxconv_network(plan)
        params, state = jax.block_until_ready(net.init(0, x.shape))
        return jax_step(lambda p, s, x: net.apply(p, s, x, train=True), params, state, x, y, jc.jit)

    return built


def in_linen(*, jitted: bool = False) -> Callable[..., Run]:
    import jax
    import optax  # noqa: F401  so that it counts as an import

    from experiments.benchmarks.networks.with_flax import Linen

    def built(plan: Plan, x: Any, y: Any) -> Run:
        model = Linen(plan)
        init = jax.jit(model.init) if jitted else model.init
        variables = jax.block_until_ready(init(jax.random.key(0), x))

        def forward(params: Any, state: Any, x: Any) -> Any:
            logits, new = model.apply({"params": params, "batch_stats": state}, x, mutable=["batch_stats"])
            return logits, new.get("batch_stats", {})

        return jax_step(forward, variables["params"], variables.get("batch_stats", {}), x, y, jax.jit)

    return built


def in_nnx() -> Callable[..., Run]:
    import jax
    import optax
    from flax import nnx

    from experiments.benchmarks.networks.with_flax import nnx_network

    def built(plan: Plan, x: Any, y: Any) -> Run:
        model = nnx_network(plan, nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(RATE, momentum=MOMENTUM), wrt=nnx.Param)
        jax.block_until_ready(nnx.state(model))

        @nnx.jit
        def step(model: Any, optimizer: Any, x: Any, y: Any) -> Any:
            def loss(model: Any) -> Any:
                return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()

            value, grads = nnx.value_and_grad(loss)(model)
            optimizer.update(model, grads)
            return value

        return lambda: float(jax.block_until_ready(step(model, optimizer, x, y)))

    return built


def in_torch(*, compiled: bool = False) -> Callable[..., Run]:
    import torch

    from experiments.benchmarks.networks.with_torch import torch_network

    def built(plan: Plan, x: Any, y: Any) -> Run:
        model = torch_network(plan)
        optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
        forward = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
        images, labels = torch.tensor(x).movedim(-1, 1), torch.tensor(y, dtype=torch.int64)

        def run() -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            return loss.item()

        return run

    return built


FRAMEWORKS: dict[str, Callable[[], Callable[..., Run]]] = {
    "jaxconv": in_jaxconv,
    "linen": in_linen,
    "linen, jit": lambda: in_linen(jitted=True),
    "nnx": in_nnx,
    "torch": in_torch,
    "torch.compile": lambda: in_torch(compiled=True),
}


def child(framework: str, network: str, start: float) -> dict[str, float]:
    """Returns the seconds of each stage in this process, which was started at ``start``."""
    times = [start]

    def lap() -> None:
        times.append(time.time())

    built = FRAMEWORKS[framework]()
    lap()
    batch, shape = CASES[network]
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((batch, *shape), np.float32), draw.integers(10, size=batch).astype(np.int32)
    run = built(NETWORKS[network](), x, y)
    lap()
    for _ in range(2):
        if not np.isfinite(run()):
            raise SystemExit(f"{framework}, {network}: the loss is not finite")
        lap()
    return dict(zip(STAGES, np.diff(times).tolist(), strict=True))


def measure(network: str, frameworks: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Returns the median seconds by framework and stage; ``total`` is up to the end of the first step."""
    runs: dict[str, list[dict[str, float]]] = {framework: [] for framework in frameworks}
    for _ in range(rounds):
        for framework in frameworks:
            command = [sys.executable, "-m", __spec__.name, "--child", framework, network, repr(time.time())]
            runs[framework].append(json.loads(subprocess.check_output(command).splitlines()[-1]))
    return {
        framework: {stage: statistics.median(run[stage] for run in of) for stage in STAGES}
        | {"total": statistics.median(sum(run[stage] for stage in STAGES[:3]) for run in of), "rounds": len(of)}
        for framework, of in runs.items()
    }


def table(found: dict[str, Any]) -> str:
    """Returns the seconds as a Markdown table."""
    lines = [
        "| network | framework | import | init | first step | total | second step |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, frameworks in found.items():
        for framework, seconds in frameworks.items():
            shown = " | ".join(f"{seconds[stage]:.2f}" for stage in ("import", "init", "first", "total", "second"))
            lines.append(f"| {network} | {framework} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--frameworks", nargs="+", choices=FRAMEWORKS, default=list(FRAMEWORKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--child", nargs=3, metavar=("FRAMEWORK", "NETWORK", "START"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        framework, network, start = arguments.child
        print(json.dumps(child(framework, network, float(start))))
        return
    from experiments.report import environment, write_results

    for network in arguments.networks:
        found = json.loads(arguments.out.read_text())["seconds"] if arguments.out.exists() else {}
        found[network] = measure(network, arguments.frameworks, arguments.rounds)
        print(table({network: found[network]}), flush=True)
        write_results(arguments.out, {"environment": environment(), "seconds": found})


if __name__ == "__main__":
    main()
