"""Functions of a record for the ``log`` argument of `jaxconv.train.fit`, and early stopping for ``on_epoch``.

Any function of a record will do: a dict of numbers. A run that is killed after an epoch was logged and before its
checkpoint was complete trains that epoch again and logs it again. These writers replace it.
"""

import csv
import io
import json
import os
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jaxconv.extras import need
from jaxconv.train.result import Record

Log = Callable[[Record], None]


def json_lines(path: str | os.PathLike[str]) -> Log:
    """A log that writes a line of JSON for each epoch.

    Args:
      path: the file. Lines of this epoch and later ones, of a run that was killed, are replaced.

    Returns:
      A function of a record.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     log = json_lines(Path(folder) / "log.jsonl")
      ...     for record in ({"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}, {"epoch": 2, "loss": 0.125}):
      ...         log(record)
      ...     print((Path(folder) / "log.jsonl").read_text(), end="")
      {"epoch": 1, "loss": 0.5}
      {"epoch": 2, "loss": 0.125}
    """
    file = Path(path)

    def write(record: Record) -> None:
        _replace(file, [line for line in _lines(file) if json.loads(line)["epoch"] < record["epoch"]])
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    return write


def csv_file(path: str | os.PathLike[str]) -> Log:
    """A log that writes a table: a header with the names, and a row for each epoch.

    Args:
      path: the file. Rows of this epoch and later ones, of a run that was killed, are replaced.

    Returns:
      A function of a record. Its names are those of the first record.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     csv_file(Path(folder) / "log.csv")({"epoch": 1, "loss": 0.5})
      ...     print((Path(folder) / "log.csv").read_text(), end="")
      epoch,loss
      1,0.5
    """
    file = Path(path)

    def write(record: Record) -> None:
        lines = _lines(file) or [_row(record)]
        names = next(csv.reader(lines[:1]))
        at = names.index("epoch")
        kept = [line for line in lines[1:] if int(next(csv.reader([line]))[at]) < record["epoch"]]
        _replace(file, [lines[0], *kept])
        with file.open("a", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, names, extrasaction="ignore", lineterminator="\n").writerow(record)

    return write


def tensorboard(folder: str | os.PathLike[str]) -> Log:
    """A log that writes scalars for TensorBoard, by tensorboardX: training and validation of a value in one chart.

    Args:
      folder: where the event files are written.

    Returns:
      A function of a record. The steps of the charts are those of the run.

    Raises:
      ModuleNotFoundError: tensorboardX, of the extra ``train``, is not installed.

    Example:
      >>> import tempfile
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     tensorboard(folder)({"epoch": 1, "step": 10, "loss": 0.5, "validation_loss": 0.75})
      ...     [path.name.split(".")[0] for path in Path(folder).iterdir()]
      ['events']
    """
    need("tensorboardX", "tensorboard", "train")
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.summary import scalar

    writers: list[Any] = []

    def write(record: Record) -> None:
        # Not SummaryWriter: it writes in a thread, so that a run that is killed would lose its last epochs.
        if not writers:
            Path(folder).mkdir(parents=True, exist_ok=True)
            writers.append(EventsWriter(os.path.join(folder, "events")))
            weakref.finalize(write, writers[0].close)
            # What an earlier process wrote from this step on is hidden.
            log = SessionLog(status=SessionLog.START)
            writers[0].write_event(Event(step=record["step"], wall_time=time.time(), session_log=log))
        for name, value in record.items():
            if name not in ("epoch", "step") and isinstance(value, int | float):
                prefix, _, rest = name.rpartition("validation_")
                tag = f"{rest}/{prefix}validation" if "validation_" in name else f"{name}/training"
                writers[0].write_event(Event(step=record["step"], wall_time=time.time(), summary=scalar(tag, value)))
        writers[0].flush()

    return write


def early_stopping(patience: int) -> Callable[[Record, Any], bool]:
    """A function for ``on_epoch`` that stops a run when the monitored value has not improved for some epochs.

    Args:
      patience: the number of epochs.

    Returns:
      A function of a record and a train state. It keeps nothing, so a resumed run stops where the whole one does.

    Raises:
      ValueError: ``patience`` is not positive.

    Example:
      >>> early_stopping(2)({"epoch": 7, "best_epoch": 5}, None)
      True
    """
    if patience < 1:
        raise ValueError(f"patience must be an int of 1 or more, got {patience!r}")
    return lambda record, train_state: record["epoch"] - record["best_epoch"] >= patience


def _row(values: Iterable[str]) -> str:
    """A line of CSV, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _lines(file: Path) -> list[str]:
    """The whole lines of a file: a process that was killed may have left a part of one."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return [line for line in text[: text.rfind("\n") + 1].splitlines() if line]


def _replace(file: Path, lines: list[str]) -> None:
    """Writes lines to a file, unless it has these."""
    text = "".join(f"{line}\n" for line in lines)
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
