"""The loop of a run: epochs, what happens between their steps, and how it is continued or cut short."""

import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxconv.train import checkpoint, leaves, summaries
from jaxconv.train.arguments import check_run
from jaxconv.train.epoch import Carry, Totals, host
from jaxconv.train.layout import DamagedError
from jaxconv.train.plan import Plan
from jaxconv.train.progress import Progress
from jaxconv.train.result import FitResult, Record, extended, weights
from jaxconv.train.saver import Due, Saver
from jaxconv.train.signals import Signals
from jaxconv.train.state import TrainState

OnEpoch = Callable[[Record, TrainState], Any]
Log = Callable[[Record], Any]


@dataclasses.dataclass(frozen=True)
class Within:
    """Where an epoch was left.

    Args:
      step: how many of its steps were taken.
      totals: what they add up to.
      seconds: that they took.
    """

    step: int
    totals: Totals
    seconds: float


@dataclasses.dataclass
class Run:
    """What a run works with.

    Args:
      plan: what it does.
      bar: what it shows, and the watch over the loss.
      due: when it saves within an epoch.
      signals: whether it is asked to stop.
      saver: of its checkpoints, and ``path``, their folder; None without one.
      config: what run.json says of it.
    """

    plan: Plan
    bar: Progress
    due: Due
    signals: Signals
    saver: Saver | None = None
    path: Path | None = None
    config: dict[str, Any] | None = None

    def train(
        self, result: FitResult, within: Within | None, *, on_epoch: OnEpoch | None, logs: Sequence[Log]
    ) -> FitResult:
        """All epochs after those of ``result``, the first of them from where it was left."""
        self._write(result)
        while self._unfinished(result):
            train_state, totals, seconds = self._steps(result, within)
            steps, done = int(totals["steps"]), steps_of(result)
            if self.signals.received and steps != self.plan.limit(done):
                return self._cut_short(result, train_state, Within(steps, totals, seconds))
            record = self._record(result, train_state, totals, seconds)
            result, within = extended(result, train_state, record, self.plan.monitor), None
            self.bar.end(record)
            if on_epoch is not None and on_epoch(record, train_state):
                record["stopped"] = True
            if self.saver is not None:
                self.saver.save(result, train_state, self._position(None))
                self.due.saved()
            self._write(result)
            for log in logs if jax.process_index() == 0 else ():
                log(record)
            if self.signals.received and self._unfinished(result):
                return self._cut_short(result, train_state, None)
        if self.saver is not None and self.path is not None:
            self.saver.wait()
            if jax.process_index() == 0:
                summaries.draw_curves(self.path, result.history)
        return result

    def _unfinished(self, result: FitResult) -> bool:
        stopped = result.history and result.history[-1].get("stopped")
        return not stopped and self.plan.goes_on(len(result.history), steps_of(result))

    def _steps(self, result: FitResult, within: Within | None) -> tuple[TrainState, Totals, float]:
        """The steps of an epoch, to its end or until a signal came: the train state, the totals, the seconds."""
        plan, done = self.plan, steps_of(result)
        limit, began, paused = plan.limit(done), time.perf_counter(), 0.0
        before = within or Within(0, plan.program.new_totals(plan.measured), 0.0)

        def on_step(carry: Carry, step: int) -> bool:
            nonlocal paused
            self.bar.on_step(carry[1])
            if self.saver is not None and step != limit and self.due(done + step):
                start = time.perf_counter()
                train_state, totals = jax.block_until_ready(carry)
                self._check(train_state, totals)
                seconds = before.seconds + start - began - paused
                self.saver.save(result, train_state, self._position(Within(step, totals, seconds)))
                self.due.saved()
                paused += time.perf_counter() - start
            return self.signals.stop()

        carry = (result.train_state, before.totals)
        carry = plan.source.run(
            plan.program, carry, epoch=len(result.history), start=before.step, stop=limit, on_step=on_step
        )
        train_state, totals = jax.block_until_ready(carry)
        seconds = before.seconds + time.perf_counter() - began - paused
        self._check(train_state, totals)
        return train_state, totals, seconds

    def _check(self, train_state: TrainState, totals: Totals) -> None:
        """Raises NonFiniteLossError."""
        self.bar.read(totals)
        if bad := _not_finite(train_state):
            raise self.bar.failure(bad, int(totals["steps"]))

    def _record(self, result: FitResult, train_state: TrainState, totals: Totals, seconds: float) -> Record:
        """The record of an epoch, validation included."""
        record: Record = {
            "epoch": len(result.history) + 1,
            "step": steps_of(result) + int(totals["steps"]),
            **self.plan.program.means(host(totals)),
            **_learning_rate(train_state.opt_state),
            "seconds": seconds,
            "images_per_second": int(totals["count"]) / seconds,
        }
        return record | self.plan.validate(train_state)

    def _cut_short(self, result: FitResult, train_state: TrainState, within: Within | None) -> FitResult:
        """The result so far, saved; after SIGTERM the program ends."""
        name = self.signals.received.name if self.signals.received else ""
        where = f"epoch {len(result.history) + 1}, step {within.step}" if within else f"epoch {len(result.history)}"
        kept = "fit was given no folder, so no checkpoint is kept"
        if self.saver is not None:
            # The signal may have come while this step's checkpoint was being written.
            if within is not None and self.saver.position != (len(result.history), within.step):
                self.saver.save(result, train_state, self._position(within))
            self.saver.wait()
            kept = f"the checkpoint is in {self.path}, resume=True continues from there"
        if name == "SIGTERM":
            print(f"SIGTERM: fit stopped after {where}; {kept}", file=sys.stderr)
            raise SystemExit(128 + 15)
        warnings.warn(f"fit was interrupted after {where}; the result so far is returned; {kept}", stacklevel=4)
        if not result.history:
            params, state = weights(train_state, self.plan.monitor)
            result = dataclasses.replace(result, params=params, state=state)
        return dataclasses.replace(result, train_state=train_state, interrupted=True)

    def _position(self, within: Within | None) -> dict[str, Any]:
        """Where a run is, as JSON, for its checkpoint."""
        position: dict[str, Any] = {"step": 0, "source": self.plan.source.state()}
        if within is not None:
            totals = [leaf.tolist() for leaf in jax.tree.leaves(host(within.totals))]
            position |= {"step": within.step, "totals": totals, "seconds": within.seconds}
        return position

    def _write(self, result: FitResult) -> None:
        if self.path is not None and self.config is not None and jax.process_index() == 0:
            summaries.write_run(self.path, self.config, result.history)


def resumed(path: Path, plan: Plan) -> tuple[FitResult, Within | None]:
    """The result so far of the run in a folder, and where its epoch was left."""
    like = plan.train_state
    train_state, record = checkpoint.load(path, "last", like=like)
    check_run(path, record["run"], plan.run)
    history, best_epoch, position = record["history"], record["best_epoch"], record.get("within") or {"step": 0}
    result = FitResult(None, None, train_state, history, best_epoch)
    name = plan.monitor.name
    if history and name is not None and name not in history[-1]:
        raise ValueError(
            f"monitor must be a value of the run that {path} holds, {', '.join(history[-1])}, got {name!r}"
        )
    try:
        if best_epoch:
            best = checkpoint.restore(path, best_epoch, like=like)
            params, state = weights(best, plan.monitor)
            result = dataclasses.replace(result, params=params, state=state)
    except (DamagedError, FileNotFoundError) as error:
        warnings.warn(f"{error}; epoch {len(history)} counts as the best so far", stacklevel=3)
        params, state = weights(train_state, plan.monitor)
        result = dataclasses.replace(result, params=params, state=state, best_epoch=len(history))
    step = position["step"]
    plan.source.restore(position.get("source"), epoch=len(history), step=step, done=int(train_state.step))
    if not step:
        return result, None
    placement = plan.recipe.placement
    template = plan.program.new_totals(plan.measured)
    pairs = zip(jax.tree.leaves(template), position["totals"], strict=True)
    totals = jax.tree.unflatten(
        jax.tree.structure(template), [jnp.asarray(np.asarray(value, leaf.dtype)) for leaf, value in pairs]
    )
    totals = totals if placement is None else placement.put_whole(totals)
    return result, Within(step, totals, position["seconds"])


def steps_of(result: FitResult) -> int:
    """The steps of the epochs that are finished."""
    return result.history[-1]["step"] if result.history else 0


def _learning_rate(opt_state: Any) -> dict[str, float]:
    """The learning rate of the last step, where the optimizer's state has one: `optax.inject_hyperparams` keeps it."""
    found = [value for _, value in optax.tree.get_all_with_path(opt_state, "learning_rate")]
    found = [value for value in found if getattr(value, "shape", None) == ()]  # A schedule's state has the name too.
    names = ["learning_rate", *(f"learning_rate_{i}" for i in range(1, len(found)))]
    return {name: float(np.asarray(value)) for name, value in zip(names, found, strict=False)}


def _not_finite(train_state: TrainState) -> str | None:
    """The path of a parameter or of a layer's state that isn't finite, if there is one."""
    for what, tree in (("parameter", train_state.params), ("layer state", train_state.state)):
        flat = leaves.flatten(tree)
        for path, finite in zip(flat, np.asarray(_finite(list(flat.values()))).tolist(), strict=True):
            if not finite:
                return f"{what} {path}"
    return None


@jax.jit
def _finite(arrays: list[jax.Array]) -> jax.Array:
    """For each array whether all of it is finite."""
    return jnp.array([jnp.all(jnp.isfinite(a)) if jnp.issubdtype(a.dtype, jnp.inexact) else True for a in arrays], bool)
