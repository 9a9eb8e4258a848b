"""Training steps on eight devices, against one: run by test_mesh.py in a process that has eight.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.train.mesh_cases

prints a line of JSON for each case.
"""

import collections
import functools
import json
import re

import jax
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

import jaxconv as jc
from jaxconv.metrics import Metric, add
from jaxconv.train import TrainState, evaluate, predict, train_step
from jaxconv.train.mesh import Placement, _draws
from jaxconv.train.state import _drawn
from tests.quick import quick_process

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


def relative(got, want):
    """The largest difference of two trees, relative to the largest value of the array."""
    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(*(jax.tree.leaves(t, is_leaf=lambda n: isinstance(n, list)) for t in (got, want)), strict=True)
    ]
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)) for a, b in pairs)


def off(got, want):
    """The largest difference, relative to the largest value of the array."""
    return relative(*((t.params, t.state, t.opt_state, m) for t, m in (got, want)))


HELD = np.random.default_rng(1).normal(size=(21, 8, 8, 3)).astype(np.float32)
LABELS = (np.arange(21) % 4).astype(np.int32)
# Sums, an array for each example, and one that is divided as the outputs are.
METRICS = {
    "confusion": Metric(lambda y, t: jax.nn.one_hot(t, 4).T @ jax.nn.one_hot(y.argmax(-1), 4), add, lambda m: m),
    "scores": Metric(lambda y, t: y, lambda one, other: np.concatenate([one, other]), lambda y: y),
    "hit": lambda y, t: y.argmax(-1) == t,
}


def evaluations():
    """Evaluation and prediction, of arrays and of batches of which the last are smaller, against one device."""
    params, state = NET.init(jax.random.key(1), X)
    batches = [(HELD[i : i + 6], LABELS[i : i + 6]) for i in range(0, 21, 6)]
    options = {"loss": optax.softmax_cross_entropy_with_integer_labels, "metrics": METRICS}
    want = evaluate(NET, params, state, HELD, LABELS, **options), predict(NET, params, state, HELD)
    for kind, sharding in [(AxisType.Auto, None), (AxisType.Explicit, "data")]:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        train_state = Placement(mesh, sharding).put(TrainState.create(NET, optax.identity(), 0, init=(params, state)))
        params, state = train_state.params, train_state.state
        for what, batch_size in [("arrays", 16), ("few", 24), ("batches", 6)]:
            given = (HELD, LABELS) if what != "batches" else (batches,)
            got = (
                evaluate(NET, params, state, *given, **options, batch_size=batch_size, mesh=mesh),
                predict(
                    NET, params, state, iter(batches) if what == "batches" else HELD, batch_size=batch_size, mesh=mesh
                ),
            )
            row = {"evaluated": what, "kind": kind.name, "count": got[0]["count"], "off": relative(got, want)}
            print(json.dumps(row), flush=True)


def creations():
    """A train state whose parts are made where they belong, against one that is made on one device and divided."""
    net = jc.serial(jc.Conv(64), jc.BatchNorm(), jc.GlobalAvgPool(), *[jc.Dense(64) for _ in range(3)])
    optimizer = optax.adam(1e-3)
    whole = TrainState.create(net, optimizer, 0, X, average=0.9)
    for kind, given in [(AxisType.Auto, False), (AxisType.Explicit, False), (AxisType.Auto, True)]:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
        placement = Placement(mesh, "data")
        init = (whole.params, whole.state) if given else None
        options = {"init": init, "average": 0.9, "mesh": mesh, "shard_params": "data"}
        made = TrainState.create(net, optimizer, 0, X, **options)
        compiled.clear()
        TrainState.create(net, optimizer, 0, X, **options)
        again, divided = len(compiled), placement.put(whole)
        pairs = list(zip(jax.tree.leaves(made), jax.tree.leaves(divided), strict=True))
        places = tuple(leaf.sharding for leaf in jax.tree.leaves((made.params, made.state)))
        programs = () if given else _draws(functools.partial(_drawn, net, X), jax.eval_shape(lambda: whole.key), places)
        needed = [program.lower(whole.key).compile().memory_analysis() for program in programs]
        row = {
            "created": "from weights" if given else "from a key",
            "kind": kind.name,
            "off": relative(
                *((jax.random.key_data(t.key), t.params, t.state, t.opt_state, t.average) for t in (made, whole))
            ),
            "sharded_alike": all(one.sharding == other.sharding for one, other in pairs),
            "divided": sum(not one.sharding.is_fully_replicated for one, _ in pairs),
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves((whole.params, whole.opt_state, whole.average))),
            "bytes_a_device": sum(
                leaf.addressable_shards[0].data.nbytes
                for leaf in jax.tree.leaves((made.params, made.opt_state, made.average))
            ),
            "temporaries": max([found.temp_size_in_bytes for found in needed], default=0),
            "compiled_again": again,
        }
        print(json.dumps(row), flush=True)


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
    evaluations()
    creations()


if __name__ == "__main__":
    with quick_process():
        main()
