"""What a run's folder holds, and how one checkpoint in it is written, read, verified and removed.

    3/            the checkpoint of epoch 3: arrays/ and record/, by Orbax
    4/            that of epoch 4
    2.damaged/    what epoch 2 left, set aside when a later run wrote an epoch 2 that is whole
    .lock         see `jaxconv.train.lock`
    .partial-*/   a checkpoint that is being written, or removed; a leftover if nobody holds the lock

A checkpoint gets its number by a rename once it is complete, and loses it by a rename before it is removed.
"""

import json
import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxconv.leftovers import is_leftover
from jaxconv.train import leaves

FORMAT = 2
DAMAGED = ".damaged"

_PARTIAL = ".partial-"
_NUMBER = re.compile(r"0|[1-9][0-9]*")
# What tells a checkpoint from another folder that is named by a number. Any one is enough: copies are cut short.
_PARTS = {"arrays", "record", "_CHECKPOINT_METADATA"}


class DamagedError(ValueError):
    """A checkpoint that isn't whole. The message is one sentence."""


def epochs(path: Path) -> list[int]:
    """The epochs with a checkpoint, in order; whole or not. Empty folders are none."""
    entries = path.iterdir() if path.is_dir() else ()
    return sorted(int(entry.name) for entry in entries if _NUMBER.fullmatch(entry.name) and _PARTS & _names(entry))


def foreign(path: Path) -> str | None:
    """The first name in a folder that is neither a run's nor a system's leftover, if there is one."""
    for name in sorted(_names(path)):
        entry = path / name
        is_run = _NUMBER.fullmatch(name.removesuffix(DAMAGED)) and entry.is_dir()
        if not is_run:
            return name
        if (inside := _names(entry)) and not inside & _PARTS:
            return f"{name}/{min(inside)}"
    return None


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its checksum. Raises TypeError for what JSON has no form for."""
    return {"record": record, "checksum": _checksum(record)}


def write(path: Path, epoch: int, arrays: dict[str, Any], sealed: dict[str, Any]) -> None:
    """Writes a checkpoint under a temporary name of this call's own, then gives it its number.

    Raises what Orbax raises. What is half written then stays until the next call: a thread of Orbax may still be
    writing to it.
    """
    first = jax.process_index() == 0
    if first:
        for leftover in path.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = path / f"{_PARTIAL}{epoch}-{_token()}"
    with _checkpointer() as checkpointer:
        args = {"arrays": ocp.args.StandardSave(leaves.nest(arrays)), "record": ocp.args.JsonSave(sealed)}
        checkpointer.save(partial, args=ocp.args.Composite(**args))
    if first:
        final = path / str(epoch)
        if final.is_dir() and not _names(final):
            shutil.rmtree(final)
        # Fails where another checkpoint is there: a rename replaces no folder that holds something.
        partial.rename(final)
    _wait_for_all()


def remove(path: Path, epoch: int) -> None:
    """Removes a checkpoint. It loses its number first, so that a kill leaves none that is half there."""
    # One process removes, so no other is asked for the name.
    partial = path / f"{_PARTIAL}{epoch}-{os.urandom(8).hex()}"
    (path / str(epoch)).rename(partial)
    # On NFS a file that someone still reads keeps its folder: the next write tries again.
    shutil.rmtree(partial, ignore_errors=True)


def set_aside(path: Path, epoch: int) -> None:
    """Renames a damaged checkpoint, so that its number is free; one that was set aside before is removed."""
    aside = path / f"{epoch}{DAMAGED}"
    shutil.rmtree(aside, ignore_errors=True)
    (path / str(epoch)).rename(aside)


def read_record(path: Path, epoch: int) -> dict[str, Any]:
    """A checkpoint's record. Raises DamagedError, or ValueError where it is whole but not of this format."""
    sealed = _read(path, epoch, record=ocp.args.JsonRestore())
    record = sealed.get("record") if isinstance(sealed, dict) else None
    other = f"{path / str(epoch)}: expected a checkpoint of jaxconv.train, format {FORMAT}, got another"
    if not isinstance(record, dict):
        raise DamagedError(other)
    if (checksum := sealed.get("checksum")) != _checksum(record):
        raise DamagedError(f"{path / str(epoch)}: expected checksum {checksum} of the record, got another")
    if record.get("format") != FORMAT:
        raise ValueError(other)
    return record


def read_arrays(path: Path, epoch: int, record: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's arrays by path, each on its sharding of ``places``; where that is None, NumPy's."""
    shapes = {name: (tuple(shape), jnp.dtype(dtype)) for name, (dtype, shape, _) in record["arrays"].items()}
    # Orbax refuses arrays without elements, so they aren't stored.
    targets = {
        name: np.empty(*spec) if places[name] is None else jax.ShapeDtypeStruct(*spec, sharding=places[name])
        for name, spec in shapes.items()
        if 0 not in spec[0]
    }
    nested = _read(path, epoch, arrays=ocp.args.StandardRestore(leaves.nest(targets)))
    arrays = {
        name: leaves.at(nested, name) if name in targets else (np.zeros if places[name] is None else jnp.zeros)(*spec)
        for name, spec in shapes.items()
    }
    checksums = leaves.checksums(arrays)
    for name, (*_, checksum) in record["arrays"].items():
        if checksums[name] != checksum:
            raise DamagedError(f"{path / str(epoch)}: expected checksum {checksum} of {name}, got another")
    return arrays


def verify(path: Path, epoch: int) -> dict[str, Any]:
    """The record of a checkpoint all of which was read, into memory and not to a device. Raises DamagedError."""
    record = read_record(path, epoch)
    read_arrays(path, epoch, record, dict.fromkeys(record["arrays"]))
    return record


def brief(error: BaseException) -> str:
    """The first line of an error's message, which may have hundreds, shortened."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 120 else f"{line[:120]}..."


def _read(path: Path, epoch: int, **items: Any) -> Any:
    [(name, _)] = items.items()
    place = path / str(epoch)
    # Files that this user may not read are not damaged: the system's own error says so.
    for file in (place / name).rglob("*"):
        if file.is_file():
            file.open("rb").close()
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(place, args=ocp.args.Composite(**items))[name]
    except MemoryError:
        raise
    except Exception as error:
        raise DamagedError(
            f"{place}: expected a whole checkpoint, got a {name} that can't be read ({brief(error)})"
        ) from error


def _checkpointer() -> ocp.Checkpointer:
    # Saves are synchronous: on CPU a background save would read buffers that the next step reuses.
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler("arrays", "record"))


def _names(folder: Path) -> set[str]:
    """What is in a folder besides leftovers; nothing in what is no folder, or was removed meanwhile."""
    try:
        return {name for name in os.listdir(folder) if not is_leftover(name)}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def _token() -> str:
    """Bytes that no other call draws; the same in all processes of a run."""
    token = np.frombuffer(os.urandom(8), np.uint8)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        token = multihost_utils.broadcast_one_to_all(token)
    return bytes(token).hex()


def _wait_for_all() -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("jaxconv.train.layout.write")


def _checksum(record: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())
