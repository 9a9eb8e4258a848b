"""Checkpoints of a run: when one is due, and their writing in the background."""

import copy
import dataclasses
import datetime
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxconv.train import checkpoint
from jaxconv.train.leaves import is_key
from jaxconv.train.result import FitResult
from jaxconv.train.state import TrainState


@dataclasses.dataclass
class Due:
    """When a checkpoint within an epoch is due.

    Args:
      every: after that many steps of the run, or that much time since the last one; None for never.
    """

    every: int | datetime.timedelta | None

    def __post_init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, step: int) -> bool:
        """Whether one is due after ``step`` steps of the run."""
        if self.every is None:
            return False
        if isinstance(self.every, datetime.timedelta):
            return time.monotonic() - self._last >= self.every.total_seconds()
        return step % self.every == 0

    def saved(self) -> None:
        """Takes note of a checkpoint."""
        self._last = time.monotonic()


class Saver:
    """Writes checkpoints, one at a time, in a thread.

    The arrays are copied to the host first, for the next step takes their buffers. Arrays that are spread over several
    devices are written from there, while the run waits.

    Args:
      path: the run's folder, whose lock is held.
      run: what a resumed run must have in common with this one.
    """

    def __init__(self, path: Path, run: dict[str, Any]):
        self._path, self._run = path, run
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="jaxconv.train.saver")
        self._writing: Future[None] | None = None
        self.position: tuple[int, int] | None = None  # of the last one: its epochs and the steps after them

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        """Waits, whatever happened: the folder's lock goes next."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def save(self, result: FitResult, train_state: TrainState, within: dict[str, Any] | None = None) -> None:
        """Writes a checkpoint, after the one before is complete. Raises OSError where that one could not be written."""
        self.wait()
        options: dict[str, Any] = {"best_epoch": result.best_epoch, "run": self._run, "within": within}
        history = copy.deepcopy(result.history)
        self.position = len(history), within["step"] if within else 0
        if any(len(leaf.sharding.device_set) > 1 for leaf in jax.tree.leaves(train_state)):
            checkpoint.save_locked(self._path, train_state, history, **options)
            return
        held = jax.tree.map(_on_host, train_state)
        self._writing = self._thread.submit(checkpoint.save_locked, self._path, held, history, **options)

    def wait(self) -> None:
        """Returns when the last checkpoint is complete. Raises OSError where it could not be written."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def _on_host(leaf: jax.Array) -> Any:
    # A key stays an array of JAX; np.array copies, where np.asarray would show the device's own buffer.
    return jax.random.clone(leaf) if is_key(leaf) else np.array(leaf)
