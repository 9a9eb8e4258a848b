"""Several processes that train as one: on one machine, or one or more on each of several."""

import os
import sys
import traceback
from types import TracebackType

import jax


def initialize_distributed(*, heartbeat_seconds: int = 30) -> None:
    """Joins this process to the others of its run; call it before anything else of JAX.

    It is `jax.distributed.initialize` for training. The address of process 0, the number of processes and this one's
    number come from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, as `python -m experiments.launch`
    sets them; without these from the cluster's own variables, where JAX knows it (SLURM, Open MPI, GKE, Cloud TPU).
    On CPU the processes communicate by gloo.

    Where one process ends, the others end too: if it raises an exception it exits at once, without waiting for them;
    they notice within ``heartbeat_seconds``, also that a machine does not answer, and exit with an error that
    begins "Terminating process because the JAX distributed service detected fatal errors". Start the run again with
    ``resume=True``.

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
    traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


__all__ = ["initialize_distributed"]
