"""What a run's folder holds, and how one checkpoint in it is written, read, verified and removed.

    3/            the checkpoint of epoch 3: arrays/ and record/, by Orbax
    3.120/        that of the 120th step after it
    4/            that of epoch 4
    2.damaged/    what epoch 2 left, set aside when a later run wrote an epoch 2 that is whole
    run.json      the configuration and the history, by `fit`, with curves.png at the end: `jaxconv.train.summaries`
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
RUN_BEGINS = '{\n  "program": "jaxconv.train.fit"'

_PARTIAL = ".partial-"
# By `fit`, beside its checkpoints.
RUN, CURVES = "run.json", "curves.png"

_NAME = re.compile(r"(0|[1-9][0-9]*)(?:\.([1-9][0-9]*))?")
# What tells a checkpoint from another folder that is named by a number. Any one is enough: copies are cut short.
_PARTS = {"arrays", "record", "_CHECKPOINT_METADATA"}


class DamagedError(ValueError):
    """A checkpoint that isn't whole. The message is one sentence."""


def checkpoints(path: Path) -> list[str]:
    """The names of all checkpoints, in order; whole or not. Empty folders are none."""
    entries = path.iterdir() if path.is_dir() else ()
    return sorted((e.name for e in entries if _NAME.fullmatch(e.name) and _PARTS & _names(e)), key=position)


def epochs(path: Path) -> list[int]:
    """The epochs with a checkpoint of their end, in order."""
    return [int(name) for name in checkpoints(path) if not position(name)[1]]


def position(name: str | int) -> tuple[int, int]:
    """The epochs and the steps after them of a checkpoint's name.

    >>> position("3.120"), position(4)
    ((3, 120), (4, 0))
    """
    found = _NAME.fullmatch(str(name))
    assert found is not None
    return int(found[1]), int(found[2] or 0)


def name_of(epoch: int, step: int = 0) -> str:
    """The name of the checkpoint of ``step`` steps after ``epoch`` epochs.

    >>> name_of(3, 120), name_of(4)
    ('3.120', '4')
    """
    return f"{epoch}.{step}" if step else str(epoch)


def foreign(path: Path) -> str | None:
    """The first name in a folder that is neither a run's nor a system's leftover, if there is one."""
    ours = is_run_file(path / RUN)
    for name in sorted(_names(path)):
        entry = path / name
        if ours and name in (RUN, CURVES):
            continue
        is_run = _NAME.fullmatch(name.removesuffix(DAMAGED)) and entry.is_dir()
        if not is_run:
            return name
        if (inside := _names(entry)) and not inside & _PARTS:
            return f"{name}/{min(inside)}"
    return None


def is_run_file(path: Path) -> bool:
    """Whether a file is what `fit` writes as run.json."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError):
        return False
    return text.startswith(RUN_BEGINS)


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its checksum. Raises TypeError for what JSON has no form for."""
    return {"record": record, "checksum": _checksum(record)}


def write(path: Path, name: str, arrays: dict[str, Any], sealed: dict[str, Any]) -> None:
    """Writes a checkpoint under a temporary name of this call's own, then gives it its number.

    Raises what Orbax raises. What is half written then stays until the next call: a thread of Orbax may still be
    writing to it.
    """
    first = jax.process_index() == 0
    if first:
        for leftover in path.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    partial = path / f"{_PARTIAL}{name}-{_token()}"
    with _checkpointer() as checkpointer:
        args = {"arrays": ocp.args.StandardSave(leaves.nest(arrays)), "record": ocp.args.JsonSave(sealed)}
        checkpointer.save(partial, args=ocp.args.Composite(**args))
    if first:
        final = path / name
        if final.is_dir() and not _names(final):
            shutil.rmtree(final)
        # Fails where another checkpoint is there: a rename replaces no folder that holds something.
        partial.rename(final)
    _wait_for_all()


def remove(path: Path, name: str) -> None:
    """Removes a checkpoint. It loses its number first, so that a kill leaves none that is half there."""
    # One process removes, so no other is asked for the name.
    partial = path / f"{_PARTIAL}{name}-{os.urandom(8).hex()}"
    (path / name).rename(partial)
    # On NFS a file that someone still reads keeps its folder: the next write tries again.
    shutil.rmtree(partial, ignore_errors=True)


def set_aside(path: Path, name: str) -> None:
    """Renames a damaged checkpoint, so that its number is free; one that was set aside before is removed."""
    aside = path / f"{name}{DAMAGED}"
    shutil.rmtree(aside, ignore_errors=True)
    (path / name).rename(aside)


def read_record(path: Path, name: str) -> dict[str, Any]:
    """A checkpoint's record. Raises DamagedError, or ValueError where it is whole but not of this format."""
    sealed = _read(path, name, record=ocp.args.JsonRestore())
    record = sealed.get("record") if isinstance(sealed, dict) else None
    other = f"{path / name}: expected a checkpoint of jaxconv.train, format {FORMAT}, got another"
    if not isinstance(record, dict):
        raise DamagedError(other)
    if (checksum := sealed.get("checksum")) != _checksum(record):
        raise DamagedError(f"{path / name}: expected checksum {checksum} of the record, got another")
    if record.get("format") != FORMAT:
        raise ValueError(other)
    return record


def read_arrays(path: Path, name: str, record: dict[str, Any], places: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's arrays by path, each on its sharding of ``places``; where that is None, NumPy's."""
    shapes = {leaf: (tuple(shape), jnp.dtype(dtype)) for leaf, (dtype, shape, _) in record["arrays"].items()}
    # Orbax refuses arrays without elements, so they aren't stored.
    targets = {
        leaf: np.empty(*spec) if places[leaf] is None else jax.ShapeDtypeStruct(*spec, sharding=places[leaf])
        for leaf, spec in shapes.items()
        if 0 not in spec[0]
    }
    nested = _read(path, name, arrays=ocp.args.StandardRestore(leaves.nest(targets)))
    arrays = {
        leaf: leaves.at(nested, leaf) if leaf in targets else (np.zeros if places[leaf] is None else jnp.zeros)(*spec)
        for leaf, spec in shapes.items()
    }
    checksums = leaves.checksums(arrays)
    for leaf, (*_, checksum) in record["arrays"].items():
        if checksums[leaf] != checksum:
            raise DamagedError(f"{path / name}: expected checksum {checksum} of {leaf}, got another")
    return arrays


def verify(path: Path, name: str) -> dict[str, Any]:
    """The record of a checkpoint all of which was read, into memory and not to a device. Raises DamagedError."""
    record = read_record(path, name)
    read_arrays(path, name, record, dict.fromkeys(record["arrays"]))
    return record


def brief(error: BaseException) -> str:
    """The first line of an error's message, which may have hundreds, shortened."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= 120 else f"{line[:120]}..."


def _read(path: Path, name: str, **items: Any) -> Any:
    [(item, _)] = items.items()
    place = path / name
    # Files that this user may not read are not damaged: the system's own error says so.
    for file in (place / item).rglob("*"):
        if file.is_file():
            file.open("rb").close()
    try:
        with _checkpointer() as checkpointer:
            return checkpointer.restore(place, args=ocp.args.Composite(**items))[item]
    except MemoryError:
        raise
    except Exception as error:
        raise DamagedError(
            f"{place}: expected a whole checkpoint, got a {item} that can't be read ({brief(error)})"
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
