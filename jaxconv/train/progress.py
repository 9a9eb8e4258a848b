"""What is seen while training runs, and the loss that stops it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from jaxconv.train.epoch import Program, Totals, host
from jaxconv.train.result import shown

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
      steps: the steps of an epoch; None where that is not known.
      folder: the run's folder, where its "last" checkpoint is from before the failure; None where there is none.
      history: the records of the epochs that ended well.
      indices: the examples of the step's batch, as indices into the inputs; None where they are not known.
      colors: the functions of colors in ``augment``, which return NaN for images that are not from 0 to 1.
    """

    def __init__(
        self,
        what: str,
        *,
        epoch: int,
        step: int,
        steps: int | None,
        folder: Path | None,
        history: list[dict[str, Any]],
        indices: np.ndarray | None = None,
        colors: Sequence[str] = (),
    ):
        if folder is not None and history:
            good = f"the last good state is the checkpoint of epoch {len(history)} in {folder}"
        elif folder is not None:
            good = f"no epoch ended well, so {folder} holds no checkpoint"
        else:
            good = "no checkpoint was kept: fit was given no folder"
        place = f"epoch {epoch}, step {step}" + ("" if steps is None else f" of {steps}")
        batch = (
            "" if indices is None else f"; its batch is inputs[{np.array2string(indices, threshold=8, separator=', ')}]"
        )
        names = " and ".join(colors)
        hint = (
            f"; {names} in augment returns NaN if images are not from 0 to 1: if so, normalize after it"
            if colors
            else ""
        )
        super().__init__(f"{what} is not finite at {place}; {good}{batch}{hint}")
        self.epoch, self.step, self.history, self.indices = epoch, step, history, indices
        self.folder = folder if history else None


class Progress:
    """A tqdm bar over all examples of all epochs, and the watch over the loss.

    Args:
      show: whether there is a bar; the watch is always on.
      program: of the run; it has the means.
      epochs: how many epochs the run has, where that is known.
      steps: steps of an epoch, where that is known.
      total: steps of the run, where that is known.
      batch_size: examples of a step.
      folder: the run's folder, for the error's message.
      history: the records of the epochs that are behind.
      indices: ``indices(epoch, step)``, both from 0, the examples of a batch.
      colors: the functions of colors in ``augment``, for the error's message.
    """

    def __init__(
        self,
        *,
        show: bool,
        program: Program,
        epochs: int | None,
        steps: int | None,
        total: int | None,
        batch_size: int,
        folder: Path | None,
        history: list[dict[str, Any]],
        indices: Callable[[int, int], Any] = lambda epoch, step: None,
        colors: Sequence[str] = (),
    ):
        self._program, self._epochs, self._steps, self._folder = program, epochs, steps, folder
        self._history, self._batch_size, self._indices = list(history), batch_size, indices
        self._colors = colors
        self._done = history[-1]["step"] if history else 0
        self._shown: dict[str, str] = {}
        self._last_read = time.perf_counter()
        in_notebook = show and any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
        self._bar = tqdm(
            total=None if total is None else total * batch_size,
            initial=self._done * batch_size,
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

    def read(self, totals: Totals) -> dict[str, Any]:
        """The means of the epoch's values so far, which the bar shows too. Raises `NonFiniteLossError`."""
        totals = host(totals)
        if totals["bad"] >= 0:
            step = int(totals["bad"])
            raise self.failure("the loss", step + 1, self._indices(len(self._history), step))
        means = self._program.means(totals)
        self._show(means)
        of = "" if self._epochs is None else f"/{self._epochs}"
        self._bar.set_description(f"epoch {len(self._history) + 1}{of}", refresh=False)
        self._bar.update((self._done + int(totals["steps"])) * self._batch_size - self._bar.n)
        return means

    def end(self, record: dict[str, Any]) -> None:
        """Takes the record of a finished epoch."""
        self._history.append(record)
        self._done = record["step"]
        self._show(record)

    def failure(self, what: str, step: int, indices: Any = None) -> NonFiniteLossError:
        """The error for something that isn't finite after ``step`` steps of this epoch."""
        return NonFiniteLossError(
            what,
            epoch=len(self._history) + 1,
            step=step,
            steps=self._steps,
            folder=self._folder,
            history=self._history,
            indices=indices,
            colors=self._colors,
        )

    def _show(self, record: dict[str, Any]) -> None:
        self._shown |= {name: f"{record[name]:.4f}" for name in shown(record)}
        self._bar.set_postfix(self._shown, refresh=False)
