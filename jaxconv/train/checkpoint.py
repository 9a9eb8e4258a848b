"""Checkpoints of a run in one folder, through Orbax: the best epoch's, the last one's and the one before.

A checkpoint is a sub-folder named by its number of finished epochs, and of steps after them if there are some. Orbax
writes it under a temporary name, it is renamed when it is complete, and older ones are removed only after that. So a
save that is killed, or finds the disk full, leaves the previous checkpoints as they were. One process at a time writes
to a folder: `jaxconv.train.lock`. `python -m jaxconv.train.check FOLDER` says which checkpoints are whole.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.train import layout, leaves, lock
from jaxconv.train.layout import DamagedError
from jaxconv.train.lock import only_writer
from jaxconv.train.state import TrainState

T = TypeVar("T")


def save(
    folder: str | os.PathLike[str],
    train_state: TrainState,
    history: Sequence[dict[str, Any]],
    *,
    best_epoch: int | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint of epoch ``len(history)``, then removes all but it, the one before and the best epoch's.

    `fit` does the same; call this from a custom training loop. Returns when the checkpoint is complete on disk.

    Args:
      folder: the run's folder; made where absent. It is locked for the time of the call.
      train_state: what to save.
      history: one dict of numbers and strings for each finished epoch.
      best_epoch: the epoch whose checkpoint is kept beside the last two; by default this one.
      run: more to keep with it, as JSON.

    Raises:
      ValueError: where the folder has a whole checkpoint of this epoch or a later one already, or none of
        ``best_epoch``. A damaged one of this epoch or later is set aside under the name ``N.damaged``.
      OSError: where writing fails, or another process writes to the folder. The previous checkpoints are untouched.

    Example:
      >>> import dataclasses, jax.numpy as jnp, optax, tempfile
      >>> train_state = TrainState.create(None, optax.adam(1e-3), 0, init=({"kernel": jnp.ones(3)}, {}))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(folder, train_state, [{"loss": 0.5}])
      ...     restore(folder, "last", like=train_state).params
      {'kernel': Array([1., 1., 1.], dtype=float32)}
    """
    path = Path(folder).absolute()
    # Of the processes of one run, which write one checkpoint together, the first holds the lock.
    with only_writer(path) if jax.process_index() == 0 else contextlib.nullcontext():
        save_locked(path, train_state, history, best_epoch=best_epoch, run=run)


def save_locked(
    path: Path,
    train_state: TrainState,
    history: Sequence[dict[str, Any]],
    *,
    best_epoch: int | None = None,
    run: dict[str, Any] | None = None,
    within: dict[str, Any] | None = None,
) -> None:
    """`save` for one who holds the folder's lock.

    ``within`` is what is kept of an epoch that is not finished, as JSON. Its "step" is the number of steps taken after
    those of ``history``. ``best_epoch`` may be 0 there, where no epoch is finished.
    """
    epoch, step, found = len(history), within["step"] if within else 0, layout.checkpoints(path)
    name = layout.name_of(epoch, step)
    best_epoch = epoch if best_epoch is None else best_epoch
    if jax.process_index() == 0 and not (path / lock.NAME).exists():
        raise OSError(f"{path}: epoch {name} could not be saved, for the folder was removed or moved during the run")
    earlier = [e for e in found if layout.position(e) < (epoch, step)]
    later = [e for e in found if layout.position(e) >= (epoch, step)]
    known = [name, *earlier] if history else [name, "0"]
    if layout.name_of(best_epoch) not in known:
        raise ValueError(f"best_epoch: expected {epoch} or an epoch whose checkpoint is in {path}, got {best_epoch}")
    flat = leaves.flatten(train_state)
    checksums = leaves.checksums(flat)
    record = {
        "format": layout.FORMAT,
        "history": list(history),
        "best_epoch": best_epoch,
        "run": run or {},
        "within": within,
        "keys": leaves.key_kinds(train_state),
        "arrays": {name: [*spec, checksums[name]] for name, spec in leaves.specs(flat).items()},
    }
    sealed = layout.seal(record)
    for other in later:
        try:
            layout.verify(path, other)
        except DamagedError:
            if jax.process_index() == 0:
                layout.set_aside(path, other)
        else:
            raise ValueError(f"history: expected more than the {other} epochs that {path} holds, got {name}")
    try:
        layout.write(path, name, {path: leaf for path, leaf in flat.items() if leaf.size}, sealed)
    except Exception as error:
        kept = f"the checkpoint of epoch {earlier[-1]} is untouched" if earlier else "no checkpoint is there yet"
        raise OSError(f"{path}: epoch {name} could not be saved, {kept}: {layout.brief(error)}") from error
    if jax.process_index() == 0:
        for other in earlier[:-1]:
            if other != layout.name_of(best_epoch):
                layout.remove(path, other)


def restore(folder: str | os.PathLike[str], which: str | int = "best", *, like: TrainState | None = None) -> TrainState:
    """Reads a checkpoint that `save` or `fit` wrote.

    Args:
      folder: the run's folder.
      which: "best", "last" or the number of an epoch. Where the last checkpoint is damaged, "last" is the newest whole
        one; a warning names the damaged one.
      like: a train state of the same network and optimizer, or its ``jax.eval_shape``. It gives the form of the
        result and the devices to put it on. Without it parameters and state come as nested dicts on the default
        device, and the optimizer's state as nested dicts of names: enough to evaluate, not to train on.

    Returns:
      The `TrainState`.

    Raises:
      FileNotFoundError: where the folder holds no checkpoint, or none of that epoch.
      ValueError: where ``like`` has another structure, shape or element type: it names the first path that differs.
        Where the checkpoint that is wanted is damaged, or for "last" all of them.

    Example: see `save`.
    """
    return load(folder, which, like=like)[0]


def load(
    folder: str | os.PathLike[str], which: str | int = "last", *, like: TrainState | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """`restore`, and beside it the record: history, best_epoch, run."""
    is_epoch = isinstance(which, int | np.integer) and not isinstance(which, bool)
    if which not in ("best", "last") and not is_epoch:
        raise ValueError(f"which: expected 'best', 'last' or an epoch, got {which!r}")
    path = Path(folder).absolute()
    found = layout.checkpoints(path)
    if not found:
        raise FileNotFoundError(f"{path} holds no checkpoint")
    try:
        if which == "last":
            return _newest_whole(path, found, lambda name: _load(path, name, like))
        if which == "best":
            which = _newest_whole(path, found, lambda name: layout.read_record(path, name))["best_epoch"]
            if not which:
                raise FileNotFoundError(f"{path} holds no checkpoint of a finished epoch, but of {found[-1]}: the last")
        name = layout.name_of(int(which))
        if name not in found:
            raise FileNotFoundError(f"{path} holds no checkpoint of epoch {name}, but of {', '.join(found)}")
        return _load(path, name, like)
    except (DamagedError, FileNotFoundError):
        # A run that is still going on may have removed what was being read, and written a newer one.
        if layout.checkpoints(path) == found:
            raise
        return load(folder, which, like=like)


def _newest_whole(path: Path, found: list[str], read: Callable[[str], T]) -> T:
    """What ``read(name)`` returns for the newest checkpoint that isn't damaged."""
    damaged: list[DamagedError] = []
    for name in reversed(found):
        try:
            result = read(name)
        except DamagedError as error:
            damaged.append(error)
            continue
        for error in damaged:
            warnings.warn(f"{error}; the checkpoint of epoch {name} is used in its place", stacklevel=4)
        return result
    raise damaged[0]


def _load(path: Path, name: str, like: TrainState | None) -> tuple[TrainState, dict[str, Any]]:
    record = layout.read_record(path, name)
    wanted = {} if like is None else leaves.flatten(like)
    if like is not None:
        saved = {leaf: spec for leaf, (*spec, _) in record["arrays"].items()}
        leaves.check_same(saved, leaves.specs(wanted), place=path)
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = {leaf: getattr(wanted.get(leaf), "sharding", None) or default for leaf in record["arrays"]}
    try:
        arrays = layout.read_arrays(path, name, record, places)
    except DamagedError as error:
        # Where the files can be read into memory, something else failed, such as a device without room.
        layout.verify(path, name)
        raise error.__cause__ or error from None
    # What Orbax reads is committed to its devices. A leaf that wasn't would make each jitted function compile again.
    arrays = {
        leaf: array if _is_placed(wanted.get(leaf)) else jnp.array(np.asarray(array)) for leaf, array in arrays.items()
    }
    arrays |= {leaf: jax.random.wrap_key_data(arrays[leaf], impl=kind) for leaf, kind in record["keys"].items()}
    if like is not None:
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[leaf] for leaf in wanted]), record
    return TrainState(**{"params": {}, "state": {}, "opt_state": {}, **leaves.nest(arrays)}), record


def _is_placed(leaf: Any) -> bool:
    """Whether an array, or the shape of one, is bound to its devices."""
    return getattr(leaf, "committed", getattr(leaf, "sharding", None) is not None)
