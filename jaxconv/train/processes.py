"""Several processes that train as one: on one machine, or one or more on each of several."""

import os
import sys
import traceback
from types import TracebackType

import jax

# What JAX communicates by, as its errors name it.
_CHANNELS = ("Gloo", "NCCL", "coordination service", "CoordinationService", "heartbeat")


def initialize_distributed(*, heartbeat_seconds: int = 30) -> None:
    """Joins this process to the others of its run; call it before anything else of JAX.

    It is `jax.distributed.initialize` for training. The address of process 0, the number of processes and this one's
    number come from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, as `python -m experiments.launch`
    sets them; without these from the cluster's own variables, where JAX knows it (SLURM, Open MPI, GKE, Cloud TPU).
    On CPU the processes communicate by gloo.

    Where one process ends, the others end too. If it raises an exception it exits at once, without waiting for them.
    They notice when they communicate with it, and exit with one line that says so; or, also if a machine does not
    answer, within ``heartbeat_seconds``, with JAX's "Terminating process because the JAX distributed service detected
    fatal errors". Start the run again with ``resume=True``.

    Args:
      heartbeat_seconds: after how long a process that does not answer counts as dead.

    Raises:
      ValueError: where neither the environment nor a cluster says how many processes there are.
    """
    # Has an effect on CPU only.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    given = {name: os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")}
    count, index = (None if value is None else int(value) for value in given.values())
    jax.distributed.initialize(num_processes=count, process_id=index, heartbeat_timeout_seconds=heartbeat_seconds)
    if jax.process_count() > 1:
        sys.excepthook = _end_at_once


def _end_at_once(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an exception that nobody caught and exits. JAX's own exit would first wait for the other processes, which
    wait for this one in the middle of a step.
    """
    if of_another_process(error):
        print(
            f"process {jax.process_index()} of {jax.process_count()} stops, because another process of this run ended: "
            f"{str(error).splitlines()[0]}. To continue, start the run again with resume=True.",
            file=sys.stderr,
        )
    else:
        traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def of_another_process(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, is that a message to or from another process failed."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) and any(name in str(error) for name in _CHANNELS):
            return True
        error = error.__cause__ or error.__context__
    return False


__all__ = ["initialize_distributed"]
