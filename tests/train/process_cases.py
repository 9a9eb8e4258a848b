"""A run of `fit` by several processes, started by test_processes.py:

    python -m experiments.launch --processes 2 --devices 2 -- python -m tests.train.process_cases FOLDER [EPOCH]

With EPOCH the last process is killed at its end; then, and without, the run is resumed.
"""

import os
import signal
import sys

import jax
import optax

from jaxconv.train import data_shard, fit, initialize_distributed
from tests.train.toys import Centered, cross_entropy, data

TRAIN, HELD = data(48, classes=4), data(21, classes=4, seed=1)


def part(pair, index, count):
    """A process's part of a batch."""
    return tuple(leaf[len(leaf) * index // count : len(leaf) * (index + 1) // count] for leaf in pair)


def batches(arrays, size):
    return [tuple(leaf[i : i + size] for leaf in arrays) for i in range(0, len(arrays[0]), size)]


def run(mesh, *, shard=(0, 1), epochs=3, **options):
    """On batches by their parts, with validation, parameters and optimizer divided over all devices."""
    return fit(
        Centered(4),
        [part(pair, *shard) for pair in batches(TRAIN, 16)],
        None,
        optax.adam(0.05),
        loss=cross_entropy,
        epochs=epochs,
        validation=batches(HELD, 6),
        mesh=mesh,
        shard_params="data",
        progress=False,
        **options,
    )


def main(folder, last=0):
    initialize_distributed(heartbeat_seconds=10)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def die(record, train_state):
        if record["epoch"] == int(last) and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def log(record):
        print(f"epoch {record['epoch']}", flush=True)

    run(mesh, shard=data_shard(mesh), folder=folder, resume=True, on_epoch=die, log=log)
    # Arrays too: each process gives all of them.
    fit(Centered(4), *TRAIN, optax.sgd(0.1), loss=cross_entropy, epochs=1, batch_size=16, validation=HELD, mesh=mesh)
    print(f"process {jax.process_index()} of {jax.process_count()} is done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
