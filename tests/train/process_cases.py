"""A run of `fit` by several processes, started by test_processes.py:

    python -m experiments.launch --processes 2 --devices 2 -- python -m tests.train.process_cases FOLDER [SIGNAL BATCH]

With SIGNAL the last process sends it to itself when it reads that batch of the run. A run that was ended is resumed.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

import jaxconv as jc
from jaxconv.metrics import Metric
from jaxconv.train import data_shard, evaluate, fit, initialize_distributed, predict
from tests.quick import quick_process
from tests.train.toys import Centered, cross_entropy, data

TRAIN, HELD = data(48, classes=4), data(21, classes=4, seed=1)
# An array with an entry for each example, in their order.
SCORES = {"scores": Metric(lambda y, t: y, lambda one, other: np.concatenate([one, other]), np.sum)}


def part(pair, index, count):
    """A process's part of a batch."""
    return tuple(leaf[len(leaf) * index // count : len(leaf) * (index + 1) // count] for leaf in pair)


def batches(arrays, size):
    return [tuple(leaf[i : i + size] for leaf in arrays) for i in range(0, len(arrays[0]), size)]


def held(index, count):
    """A process's part of the validation: the first one has a batch more than the others."""
    *full, last = batches(HELD, 6)
    return [*(part(pair, index, count) for pair in full), *([last] if index == 0 else [])]


def loader(arrays, size, mesh, **options):
    return jc.data.batches(list(zip(*arrays, strict=True)), size, shard=data_shard(mesh), **options)


def evaluated(mesh, count=21):
    """What `evaluate` and `predict` say of some of the held-out examples, by their parts and as arrays."""
    params, state = Centered(4).init(jax.random.key(2), HELD[0])
    some = tuple(leaf[:count] for leaf in HELD)
    for given in ((loader(some, 8, mesh, remainder="pad"),), some):
        found = evaluate(Centered(4), params, state, *given, loss=cross_entropy, metrics=SCORES, mesh=mesh)
        scores = predict(Centered(4), params, state, given[0], mesh=mesh)
        yield {**found, "predicted": scores.tolist()}


def run(mesh, *, shard=(0, 1), epochs=3, on_batch=lambda batch: None, **options):
    """On batches by their parts, with validation, parameters and optimizer divided over all devices."""

    def source(epoch):
        for i, pair in enumerate(batches(TRAIN, 16)):
            on_batch(3 * epoch + i)
            yield part(pair, *shard)

    return fit(
        Centered(4),
        source,
        None,
        optax.adam(0.05),
        loss=cross_entropy,
        epochs=epochs,
        validation=held(*shard),
        mesh=mesh,
        shard_params="data",
        progress=False,
        **options,
    )


def main(folder, name="", number=0):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def die(batch):
        if name and batch == int(number) and jax.process_index() == jax.process_count() - 1:
            print(f"ends at {time.time()}", flush=True)
            os.kill(os.getpid(), signal.Signals[name])
            time.sleep(4)  # JAX needs a second or more until all processes know.

    def log(record):
        print(f"epoch {record['epoch']}", flush=True)

    run(mesh, shard=data_shard(mesh), folder=folder, resume=True, checkpoint_every=2, on_batch=die, log=log)
    said = {"evaluated": [found for count in (21, 3) for found in evaluated(mesh, count)]}
    try:
        fit(
            Centered(4),
            loader(HELD, 8, mesh, remainder="pad"),
            None,
            optax.sgd(0.1),
            loss=cross_entropy,
            epochs=1,
            mesh=mesh,
        )
    except ValueError as error:
        said["refused"] = str(error)
    Path(f"{folder}.{jax.process_index()}.json").write_text(json.dumps(said))
    # Arrays too: each process gives all of them.
    options = {"loss": cross_entropy, "epochs": 1, "batch_size": 16, "validation": HELD, "progress": False}
    fit(Centered(4), *TRAIN, optax.sgd(0.1), mesh=mesh, **options)
    print(f"process {jax.process_index()} of {jax.process_count()} is done", flush=True)


if __name__ == "__main__":
    initialize_distributed(heartbeat_seconds=10)
    with quick_process():
        main(*sys.argv[1:])
