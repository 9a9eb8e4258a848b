"""What a run returns, and which of its epochs is the best."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxconv.train.state import TrainState, copied

Record = dict[str, Any]
AVERAGE = "average_"


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Args:
      params: the best epoch's parameters; where ``monitor`` is a value of the average, its average.
      state: the best epoch's layer state.
      train_state: the last train state.
      history: a record for each epoch, of numbers: epoch; step, how many were taken; loss, the metrics and grad_norm,
        means over its examples; learning_rate where the optimizer's state has one; seconds; images_per_second;
        validation_loss and each metric's; those of the average; best_epoch so far.
      best_epoch: the epoch that ``params`` are from, counted from 1; 0 where none was finished.
      interrupted: whether Ctrl-C ended the run.
    """

    params: Any
    state: Any
    train_state: TrainState
    history: list[Record]
    best_epoch: int
    interrupted: bool = False

    def __repr__(self) -> str:
        best = self.history[self.best_epoch - 1] if self.history else {}
        values = "".join(f", {name}={best[name]:.4g}" for name in shown(best))
        return f"FitResult(best_epoch={self.best_epoch} of {len(self.history)}{values})"

    @property
    def train_seconds(self) -> float:
        """Seconds of training, compilation included, validation and checkpoints not; before a resume too."""
        return sum(record["seconds"] for record in self.history)

    @property
    def images_per_second(self) -> float:
        """Examples trained on a second of `train_seconds`; NaN where no epoch was finished."""
        if not self.history:
            return float("nan")
        return sum(record["seconds"] * record["images_per_second"] for record in self.history) / self.train_seconds


@dataclasses.dataclass(frozen=True)
class Monitor:
    """The value by which the best epoch is chosen; of equal ones the one with the lower loss, of those the later.

    Args:
      name: of a value in a record; None for the last epoch.
      largest: whether the largest value is the best.
    """

    name: str | None = None
    largest: bool = False

    def better(self, record: Record, best: Record) -> bool:
        """Whether a record's epoch is to be preferred to the best before it."""
        if self.name is None:
            return True
        loss = f"{AVERAGE if self.name.startswith(AVERAGE) else ''}validation_loss"
        loss = loss if loss in record and loss in best else "loss"
        one, other = (
            (self._key(r[self.name], self.largest), self._key(r.get(loss, 0.0), False)) for r in (record, best)
        )
        return one >= other

    @staticmethod
    def _key(value: float, largest: bool) -> float:
        # No number is below NaN: what has none comes last.
        return -np.inf if np.isnan(value) else value if largest else -value

    @property
    def of_average(self) -> bool:
        """Whether the average's weights are the result."""
        return self.name is not None and self.name.startswith(AVERAGE)


def choose_monitor(
    name: str | None, mode: str | None, names: Sequence[str], *, prefixes: Sequence[str] = ()
) -> Monitor:
    """The monitor of `fit`'s arguments.

    Args:
      name: as `fit` takes it; by default the accuracy of validation, else its loss, and without validation the last.
      mode: "min" or "max"; needed unless the name ends with "loss" or "accuracy".
      names: what records will have.
      prefixes: what more names will begin with: a metric that is finished may give several.
    """
    if mode not in (None, "min", "max"):
        raise ValueError(f'mode must be "min" or "max", got {mode!r}')
    if name is None:
        if mode is not None:
            raise ValueError(f"mode must come with a monitor, got {mode!r} and monitor=None")
        name = next((n for n in ("validation_accuracy", "validation_loss") if n in names), None)
        if name is None:
            return Monitor()
    elif name not in names and not any(name.startswith(prefix) for prefix in prefixes):
        raise ValueError(f"monitor must be one of {', '.join(names)}, got {name!r}")
    if mode is None:
        if not name.endswith(("loss", "accuracy")):
            raise ValueError(f'mode must be "min" or "max" for monitor={name!r}, got None')
        mode = "min" if name.endswith("loss") else "max"
    return Monitor(name, mode == "max")


def shown(record: Record) -> list[str]:
    """The names of a record's values that say how good the network is."""
    others = ("epoch", "step", "seconds", "images_per_second", "grad_norm", "learning_rate", "best_epoch", "stopped")
    return [name for name, value in record.items() if name not in others and isinstance(value, int | float)]


def extended(result: FitResult, train_state: TrainState, record: Record, monitor: Monitor) -> FitResult:
    """The result with one epoch more, whose record gets the best epoch so far."""
    if monitor.name is not None and not isinstance(record.get(monitor.name), int | float):
        names = ", ".join(name for name in record if isinstance(record[name], int | float))
        raise ValueError(f"monitor must be a number of the record, one of {names}, got {monitor.name!r}")
    best = not result.history or monitor.better(record, result.history[result.best_epoch - 1])
    record["best_epoch"] = record["epoch"] if best else result.best_epoch
    history = [*result.history, record]
    if not best:
        return dataclasses.replace(result, train_state=train_state, history=history)
    params, state = weights(train_state, monitor)
    return FitResult(params, state, train_state, history, len(history))


def weights(train_state: TrainState, monitor: Monitor) -> tuple[Any, Any]:
    """A copy of the parameters and the state, for the next step takes the train state's buffers."""
    return copied((train_state.average if monitor.of_average else train_state.params, train_state.state))
