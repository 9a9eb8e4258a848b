"""Training steps on eight devices, against one: run by test_mesh.py in a process that has eight.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.train.mesh_cases

prints a line of JSON for each case.
"""

import collections
import json
import re

import jax
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

import jaxconv as jc
from jaxconv.train import TrainState, train_step
from tests.quick import quick_compilation

COLLECTIVES = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
NET = jc.serial(
    jc.Conv(8, stride=2),
    jc.BatchNorm(),
    jax.nn.relu,
    jc.MaxPool(2),
    jc.Conv(16, groups=8, bias=False),
    jc.Dropout(0.2),
    jc.GlobalAvgPool(),
    jc.Dense(4),
)
X = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
Y = (np.arange(16) % 4).astype(np.int32)
STEPS = 3


def by_path(path, shape):
    """The last axis over both axes of the mesh, where they divide it."""
    return PartitionSpec(*[None] * (len(shape) - 1), ("model", "data")) if shape[-1] % 8 == 0 else PartitionSpec()


def noise(key, x):
    return x + 0.1 * jax.random.normal(key, x.shape)


compiled: list[str] = []


def trained(optimizer, **options):
    """The train state and the metrics of a few steps; the step; how many programs were compiled after the first."""
    step = train_step(NET, optax.softmax_cross_entropy_with_integer_labels, optimizer, augment=noise, **options)
    train_state = TrainState.create(NET, optimizer, 0, X)
    for _ in range(STEPS):
        train_state, metrics = step(train_state, X, Y)
        if train_state.step == 1:
            compiled.clear()
    return train_state, metrics, step, len(compiled)


def off(got, want):
    """The largest difference, relative to the largest value of the array."""
    got, want = (jax.tree.leaves((t.params, t.state, t.opt_state, m)) for t, m in (got, want))
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(got, want, strict=True)]
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)) for a, b in pairs)


def main():
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))
    want = trained(optimizer)[:2]
    for kind, shape, sharding in [
        (AxisType.Auto, (8,), None),
        (AxisType.Auto, (8,), "data"),
        (AxisType.Auto, (2, 4), by_path),
        (AxisType.Explicit, (8,), None),
        (AxisType.Explicit, (4, 2), "model"),
        (AxisType.Explicit, (2, 4), by_path),
    ]:
        names = ("data", "model")[: len(shape)]
        mesh = jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))
        train_state, metrics, step, again = trained(optimizer, mesh=mesh, shard_params=sharding)
        # What is sent for others is for XLA to choose.
        known = sharding in (None, "data")
        text = step.lower(train_state, X, Y).compile().as_text() if known else ""
        kernels = [train_state.params["4"]["kernel"], train_state.opt_state[1][0].trace["4"]["kernel"]]
        row = {
            "kind": kind.name,
            "mesh": dict(zip(names, shape, strict=True)),
            "shard_params": sharding if isinstance(sharding, str | None) else "by_path",
            "off": off((train_state, metrics), want),
            "compiled_again": again,
            "specs": [str(leaf.sharding.spec) for leaf in kernels],
            "kinds": sorted({axis.name for leaf in kernels for axis in leaf.sharding.mesh.axis_types}),
            "sent": collections.Counter(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text)),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    with quick_compilation():
        main()
