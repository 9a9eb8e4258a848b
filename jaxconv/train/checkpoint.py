"""Checkpoints of a run in one folder, through Orbax: the best epoch's and the last one's.

A checkpoint is a sub-folder named by its number of finished epochs. Orbax writes it under a temporary name and renames
it when it is complete, and older ones are removed only after that. So a save that is killed, or finds the disk full,
leaves the previous checkpoint as it was.
"""

import contextlib
import dataclasses
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxconv.train import leaves
from jaxconv.train.state import TrainState

_FORMAT = 1


def save(
    folder: str | os.PathLike[str],
    train_state: TrainState,
    history: Sequence[dict[str, Any]],
    *,
    best_epoch: int | None = None,
    run: dict[str, Any] | None = None,
) -> None:
    """Writes a checkpoint of epoch ``len(history)``, then removes all but it and the best epoch's.

    `fit` calls this; call it from a training loop of your own. Returns when the checkpoint is complete on disk.

    Args:
      folder: the run's folder; made where absent.
      train_state: what to save.
      history: one dict of numbers and strings for each finished epoch.
      best_epoch: the epoch whose checkpoint is kept beside this one; by default this one.
      run: more to keep with it, as JSON.

    Raises:
      ValueError: where the folder holds this epoch or a later one already, or not that of ``best_epoch``.
      OSError: where writing fails. The previous checkpoints are untouched.

    Example:
      >>> import dataclasses, jax.numpy as jnp, optax, tempfile
      >>> train_state = TrainState.create(None, optax.adam(1e-3), 0, init=({"kernel": jnp.ones(3)}, {}))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(folder, train_state, [{"loss": 0.5}])
      ...     restore(folder, "last", like=train_state).params
      {'kernel': Array([1., 1., 1.], dtype=float32)}
    """
    path, epoch = Path(folder).absolute(), len(history)
    best_epoch = epoch if best_epoch is None else best_epoch
    if (last := last_epoch(path)) is not None and last >= epoch:
        raise ValueError(f"history: expected more than the {last} epochs that {path} holds, got {epoch}")
    if best_epoch != epoch and not (path / str(best_epoch)).is_dir():
        raise ValueError(f"best_epoch: expected {epoch} or an epoch whose checkpoint is in {path}, got {best_epoch}")
    flat = leaves.flatten(train_state)
    record = {
        "format": _FORMAT,
        "history": list(history),
        "best_epoch": best_epoch,
        "run": run or {},
        "keys": leaves.key_kinds(train_state),
        "arrays": {name: [*spec, leaves.checksum(flat[name])] for name, spec in leaves.specs(flat).items()},
    }
    sealed = {"record": record, "checksum": _checksum(record)}
    # Orbax refuses arrays without elements; their shape is enough to make them again.
    arrays = leaves.nest({name: leaf for name, leaf in flat.items() if leaf.size})
    try:
        with _manager(path, keep=(best_epoch, epoch)) as manager:
            manager.save(
                epoch, args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(sealed))
            )
    except Exception as error:
        # What was half written stays until the next save: a thread of Orbax may still be writing to it.
        kept = "no checkpoint is there yet" if last is None else f"the checkpoint of epoch {last} is untouched"
        raise OSError(f"{path}: epoch {epoch} could not be saved, {kept}: {error}") from error


def restore(folder: str | os.PathLike[str], which: str = "best", *, like: TrainState | None = None) -> TrainState:
    """Reads a checkpoint that `save` or `fit` wrote.

    Args:
      folder: the run's folder.
      which: "best" or "last".
      like: a train state of the same network and optimizer, or its ``jax.eval_shape``. It gives the form of the
        result and the devices to put it on. Without it parameters and state come as nested dicts on the default
        device, and the optimizer's state as nested dicts of names: enough to evaluate, not to train on.

    Returns:
      The `TrainState`.

    Raises:
      FileNotFoundError: where the folder holds no checkpoint.
      ValueError: where ``like`` has another structure, shape or element type: it names the first path that differs.
        Where the checkpoint is damaged.

    Example: see `save`.
    """
    return load(folder, which, like=like)[0]


def load(
    folder: str | os.PathLike[str], which: str = "last", *, like: TrainState | None = None
) -> tuple[TrainState, dict[str, Any]]:
    """`restore`, and beside it the record: history, best_epoch, run."""
    if which not in ("best", "last"):
        raise ValueError(f"which: expected 'best' or 'last', got {which!r}")
    path = Path(folder).absolute()
    epoch = last_epoch(path)
    if epoch is None:
        raise FileNotFoundError(f"{path} holds no checkpoint")
    record = _record(path, epoch)
    if which == "best" and record["best_epoch"] != epoch:
        epoch = record["best_epoch"]
        record = _record(path, epoch)
    saved = {name: spec for name, (*spec, _) in record["arrays"].items()}
    wanted = {} if like is None else leaves.flatten(like)
    if like is not None:
        leaves.check_same(saved, leaves.specs(wanted), place=path)

    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    places = {name: getattr(wanted.get(name), "sharding", None) or default for name in saved}
    targets = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=places[name])
        for name, (dtype, shape) in saved.items()
    }
    stored = {name: target for name, target in targets.items() if target.size}
    nested = _read(path, epoch, arrays=ocp.args.StandardRestore(leaves.nest(stored)))
    arrays = {
        name: leaves.at(nested, name) if name in stored else jnp.zeros(target.shape, target.dtype)
        for name, target in targets.items()
    }
    # What Orbax reads is committed to its devices. A leaf that wasn't would make each jitted function compile again.
    arrays = {
        name: array if _is_placed(wanted.get(name)) else jnp.array(np.asarray(array)) for name, array in arrays.items()
    }
    for name, (*_, checksum) in record["arrays"].items():
        if checksum is not None and leaves.checksum(arrays[name]) != checksum:
            raise ValueError(f"{path / str(epoch)}: expected checksum {checksum} of {name}, got another")
    arrays |= {name: jax.random.wrap_key_data(arrays[name], impl=kind) for name, kind in record["keys"].items()}
    if like is not None:
        return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted]), record
    return TrainState(**{"params": {}, "state": {}, "opt_state": {}, **leaves.nest(arrays)}), record


def _is_placed(leaf: Any) -> bool:
    """Whether an array, or the shape of one, is bound to its devices."""
    return getattr(leaf, "committed", getattr(leaf, "sharding", None) is not None)


def last_epoch(path: Path) -> int | None:
    """The number of the latest complete checkpoint."""
    return max((int(entry.name) for entry in path.glob("*") if entry.name.isdigit()), default=None)


@dataclasses.dataclass(frozen=True)
class _Keep:
    """Orbax's preservation policy: the checkpoints of these epochs."""

    epochs: tuple[int, ...]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [checkpoint.step in self.epochs for checkpoint in checkpoints]


@contextlib.contextmanager
def _manager(path: Path, keep: tuple[int, ...] | None = None) -> Iterator[ocp.CheckpointManager]:
    # Saves are synchronous: on CPU a background save would read buffers that the next step reuses.
    options = ocp.CheckpointManagerOptions(
        preservation_policy=keep and _Keep(keep),
        create=keep is not None,
        cleanup_tmp_directories=keep is not None,
        enable_async_checkpointing=False,
    )
    with ocp.CheckpointManager(path, options=options, item_names=("arrays", "record")) as manager:
        yield manager


def _read(path: Path, epoch: int, **items: Any) -> Any:
    [(name, _)] = items.items()
    try:
        with _manager(path) as manager:
            return manager.restore(epoch, args=ocp.args.Composite(**items))[name]
    except Exception as error:
        raise ValueError(
            f"{path / str(epoch)}: expected a checkpoint's {name}, got what can't be read: {error}"
        ) from error


def _record(path: Path, epoch: int) -> dict[str, Any]:
    sealed = _read(path, epoch, record=ocp.args.JsonRestore())
    record = sealed.get("record") if isinstance(sealed, dict) else None
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise ValueError(f"{path / str(epoch)}: expected a checkpoint of jaxconv.train, format {_FORMAT}, got another")
    if sealed.get("checksum") != _checksum(record):
        raise ValueError(f"{path / str(epoch)}: expected checksum {sealed.get('checksum')} of the record, got another")
    return record


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
