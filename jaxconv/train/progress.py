"""What is seen while training runs, and the loss that stops it."""

import time
from pathlib import Path
from typing import Any

import jax
from tqdm.auto import tqdm

from jaxconv.train.epoch import Totals
from jaxconv.train.step import METRICS

# Seconds. Reading a number waits for the device, so not at every step.
_INTERVAL = 0.5


def _display(bar: Any) -> Any:
    """Shows a notebook's bar; what a saved notebook keeps of it is the text at the last update."""
    from IPython.display import display

    return display(bar.container, display_id=True)


class NonFiniteLossError(FloatingPointError):
    """The loss, or a parameter, became infinite or NaN; training has stopped.

    Args:
      what: what isn't finite.
      epoch: the epoch in which it came, from 1.
      step: the step of that epoch, from 1.
      steps: the steps of an epoch.
      folder: the run's folder, where its "last" checkpoint is from before the failure; None where there is none.
      history: the records of the epochs that ended well.
    """

    def __init__(
        self, what: str, *, epoch: int, step: int, steps: int, folder: Path | None, history: list[dict[str, Any]]
    ):
        if folder is not None and history:
            good = f"the last good state is the checkpoint of epoch {len(history)} in {folder}"
        elif folder is not None:
            good = f"no epoch ended well, so {folder} holds no checkpoint"
        else:
            good = "no checkpoint was kept: fit was given no folder"
        super().__init__(f"{what} is not finite at epoch {epoch}, step {step} of {steps}; {good}")
        self.epoch, self.step, self.history = epoch, step, history
        self.folder = folder if history else None


class Progress:
    """A tqdm bar over all images of all epochs, and the watch over the loss.

    Args:
      show: whether there is a bar; the watch is always on.
      epochs: how many epochs the run has.
      steps: steps of an epoch.
      batch: images of a step.
      folder: the run's folder, for the error's message.
      history: the records of the epochs that are behind.
    """

    def __init__(
        self, *, show: bool, epochs: int, steps: int, batch: int, folder: Path | None, history: list[dict[str, Any]]
    ):
        self._epochs, self._steps, self._batch, self._folder = epochs, steps, batch, folder
        self._history = list(history)
        self._shown: dict[str, str] = {}
        self._last_read = time.perf_counter()
        in_notebook = show and any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
        self._bar = tqdm(
            total=epochs * steps * batch,
            initial=len(history) * steps * batch,
            unit="image",
            unit_scale=True,
            dynamic_ncols=True,
            disable=not show,
            **({"display": False} if in_notebook else {}),
        )
        self._shown_bar = _display(self._bar) if in_notebook else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._shown_bar is not None:
            self._shown_bar.update(self._bar.container)

    def on_step(self, totals: Totals) -> None:
        """Reads the totals now and then."""
        if time.perf_counter() - self._last_read >= _INTERVAL:
            self.read(totals)
            self._last_read = time.perf_counter()

    def read(self, totals: Totals) -> dict[str, float]:
        """The means of the epoch's metrics so far, which the bar shows too. Raises `NonFiniteLossError`."""
        host = jax.device_get(totals)
        if host["bad"] >= 0:
            raise self.failure("the loss", int(host["bad"]) + 1)
        done = int(host["steps"])
        means = {name: float(host["sums"][name]) / done for name in METRICS if name in host["sums"]}
        self._show(means)
        self._bar.set_description(f"epoch {len(self._history) + 1}/{self._epochs}", refresh=False)
        self._bar.update((len(self._history) * self._steps + done) * self._batch - self._bar.n)
        return means

    def end(self, record: dict[str, Any]) -> None:
        """Takes the record of a finished epoch."""
        self._history.append(record)
        self._show(record)

    def failure(self, what: str, step: int) -> NonFiniteLossError:
        """The error for something that isn't finite after ``step`` steps of this epoch."""
        return NonFiniteLossError(
            what,
            epoch=len(self._history) + 1,
            step=step,
            steps=self._steps,
            folder=self._folder,
            history=self._history,
        )

    def _show(self, record: dict[str, Any]) -> None:
        names = ("loss", "accuracy", "validation_loss", "validation_accuracy")
        self._shown |= {name: f"{record[name]:.4f}" for name in names if name in record}
        self._bar.set_postfix(self._shown, refresh=False)
