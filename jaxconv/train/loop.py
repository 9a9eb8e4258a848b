"""`fit`: epochs of training, with validation, checkpoints and a progress bar."""

import contextlib
import dataclasses
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer
from jaxconv.metrics import Function, Metric
from jaxconv.train import checkpoint, layout, leaves
from jaxconv.train.checks import check_folder, check_run
from jaxconv.train.layout import DamagedError
from jaxconv.train.lock import only_writer
from jaxconv.train.measures import Loss
from jaxconv.train.mesh import ShardParams, placement_of
from jaxconv.train.plan import Optimizer, Plan, plan
from jaxconv.train.progress import Progress
from jaxconv.train.result import FitResult, Record, extended, weights
from jaxconv.train.state import Augment, TrainState

OnEpoch = Callable[[Record, TrainState], Any]
Log = Callable[[Record], Any]


def fit(
    net: Layer,
    inputs: Any,
    targets: Any,
    optimizer: Optimizer,
    *,
    loss: Loss,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    key: jax.Array | int = 0,
    augment: Augment | None = None,
    preprocess: Preprocess | None = None,
    validation: Any = None,
    validation_preprocess: Preprocess | None = None,
    metrics: Mapping[str, Function | Metric] = {},
    monitor: str | None = None,
    mode: str | None = None,
    average: float | None = None,
    log: Log | Sequence[Log] = (),
    on_epoch: OnEpoch | None = None,
    init: tuple[Any, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    epoch_scan: bool | None = None,
    progress: bool = True,
    mesh: jax.sharding.Mesh | None = None,
    shard_params: ShardParams = None,
) -> FitResult:
    """Trains a network on arrays that fit on the device, or on an iterable of batches.

    Arrays go to the device once, and each step gathers its batch there. An epoch sees every example, in an order that
    depends on ``key`` and the epoch's number alone; where ``batch_size`` doesn't divide the count, the last batch is
    filled up with examples of the same epoch, which count twice in it. An iterable gives batches of its own; the next
    one is read and copied while the device computes. After each epoch comes the validation, and, with a ``folder``, a
    checkpoint.

    Args:
      net: a layer.
      inputs: the training inputs, a pytree of arrays `(N, ...)`. Or, with targets=None, batches (inputs, targets): an
        iterable such as a Grain ``DataLoader`` or ``IterDataset`` or a torch ``DataLoader``, which each epoch iterates
        over anew, after ``set_epoch(epoch)`` if it has that method; an iterator, which goes on from epoch to epoch; or
        a function that returns an iterator, called in each epoch with its number from 0 if it has a parameter. Where
        an iterable has a length, it must give this number of batches in each epoch.
      targets: a pytree of arrays `(N, ...)`.
      optimizer: an Optax transformation, or a function that makes one from the number of steps of the run, for
        schedules: ``lambda steps: optax.adamw(optax.cosine_onecycle_schedule(steps, 3e-3))``. A run resumed with more
        epochs gets a longer schedule.
      loss: ``loss(outputs, targets)``, as `train_step` takes it.
      epochs: how many passes over the inputs; with ``resume``, those already made included.
      steps: how many steps, in place of epochs. With both, an iterable has no end, and an epoch is
        ``steps / epochs`` steps.
      batch_size: examples of a step, and of a batch of the validation. An iterable has its own.
      key: a random key or an int: it draws the initial weights, the order, augmentation, dropout and the split.
      augment: ``augment(key, x)`` or ``augment(key, x, y) -> (x, y)``, as `train_step` takes it.
      preprocess: ``preprocess(inputs)``, as `train_step` takes it.
      validation: (inputs, targets) or an iterable of batches, never the test images; or the fraction of the training
        arrays to set aside and not train on, drawn by ``key``, each class in the same proportion.
      validation_preprocess: what validation runs in place of ``preprocess``, such as a center crop.
      metrics: by name, ``f(outputs, targets)``, a value for each example, or a `jaxconv.metrics.Metric`. They are
        recorded for training, over the outputs of its steps, and for validation, over the whole set. The accuracy is
        recorded without being named where ``loss`` is Optax's softmax cross entropy with integer labels.
      monitor: the value of a record that chooses the best epoch, such as "validation_iou". By default the validation's
        accuracy, where there is one, else its loss, and without validation the last epoch. Of equal values the one with
        the lower loss is chosen, of equals in both the later.
      mode: whether the "max" or the "min" of it is the best; needed unless its name ends with "accuracy" or "loss".
      average: the decay of a moving average of the parameters, as `train_step` takes it. It is validated beside them:
        average_validation_loss and so on, one of which may be the monitor; then the result has the average's weights.
      log: a function of the record, or several, called after each epoch.
      on_epoch: ``on_epoch(record, train_state)``, called after each epoch; the run stops where it returns true. The
        train state is good until it returns.
      init: (params, state) to start from, for fine-tuning; they are copied.
      folder: where the checkpoints of the best epoch, the last and the one before are kept; see `restore`. It holds
        nothing else but what systems leave in folders. It is locked while the run goes on; the lock ends with the
        process. Over NFS it excludes other machines where the server and the mount have locks.
      resume: whether to continue from the folder's last whole checkpoint, or to start anew where there is none; a
        warning names what is damaged. On CPU the result is bitwise that of a run that was never interrupted. A run that
        ``on_epoch`` stopped is finished.
      epoch_scan: whether an epoch of arrays is one compiled scan; else it is a loop over a jitted step. By default a
        scan on GPU and TPU and a loop on CPU, which shows progress, and where lax's own convolution gradients are slow
        inside a scan; jaxconv's are not (experiments/benchmarks/scan.py measures it).
      progress: whether to show a bar: examples per second, loss, metrics, time left.
      mesh: the devices to train on: its axis "data" divides each batch, and ``batch_size`` must be a multiple of its
        size. The result is that of one device up to the order of sums. Arrays are on every device. Of several
        processes (`initialize_distributed`) each gives the same arrays, or an iterable of its own part of each batch
        (`data_shard`); an iterable of validation gives each process all of it. ``log`` is called in the first one only.
      shard_params: how parameters and the optimizer's state are divided, as `train_step` takes it.

    Returns:
      A `FitResult`. ``seconds`` in its history are those of an epoch's steps, to the last result: the first epoch after
      a start or a resume includes compilation; validation and checkpoints are not included. What was compiled is kept
      for the next call with the same network, loss, optimizer, metrics, ``augment`` and ``preprocess``.

    Raises:
      ValueError: for arguments that don't fit together, and for a folder that holds something else, or another run; for
        batches that differ in structure from the first, and an iterable that ends early.
      NonFiniteLossError: where the loss of a step, or a parameter or a layer's state at the end of an epoch, isn't
        finite. It has the step and, for arrays, the indices of its batch. The checkpoint of the last good epoch stays.
      OSError: where a checkpoint can't be written, the one before stays as it is; where another run has the folder.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, optax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Linear:
      ...     def init(self, key, x):
      ...         return {"kernel": jnp.zeros((x.shape[-1], 2))}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return x @ params["kernel"], state
      >>> x = jax.random.normal(jax.random.key(0), (100, 5))
      >>> y = (x[:, 0] > 0).astype(int)
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> result = fit(
      ...     Linear(), x, y, optax.sgd(1.0), loss=loss, epochs=5, batch_size=20, validation=0.2, progress=False
      ... )
      >>> len(result.history), result.history[-1]["loss"] < result.history[0]["loss"]
      (5, True)
    """
    if folder is None and resume:
        raise ValueError("resume must come with a folder to resume from, got folder=None")
    path = None if folder is None else check_folder(folder, resume=resume)
    placement = placement_of(mesh, shard_params)
    made = plan(
        net,
        inputs,
        targets,
        optimizer,
        loss=loss,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        key=key,
        augment=augment,
        preprocess=preprocess,
        validation=validation,
        validation_preprocess=validation_preprocess,
        metrics=metrics,
        monitor=monitor,
        mode=mode,
        average=average,
        init=init,
        epoch_scan=epoch_scan,
        placement=placement and placement.auto,
    )
    first = jax.process_index() == 0
    result = FitResult(None, None, made.train_state, [], 0)
    with contextlib.ExitStack() as stack:
        if path is not None:
            stack.enter_context(only_writer(path) if first else contextlib.nullcontext())
            check_folder(path, resume=resume)  # Another run may have begun since it was looked at, and ended.
            if layout.epochs(path):
                result = _resumed(path, made)
        bar = stack.enter_context(_bar(made, path, result.history, show=progress and first))
        logs = ([log] if callable(log) else list(log)) if first else []
        while _unfinished(made, result):
            record, train_state = _epoch(made, result, bar)
            result = extended(result, train_state, record, made.monitor)
            bar.end(record)
            if on_epoch is not None and on_epoch(record, train_state):
                record["stopped"] = True
            if path is not None:
                checkpoint.save_locked(path, train_state, result.history, best_epoch=result.best_epoch, run=made.run)
            for function in logs:
                function(record)
    if placement is not None:
        params, state, train_state = placement.moved((result.params, result.state, result.train_state))
        result = dataclasses.replace(result, params=params, state=state, train_state=train_state)
    return result


def _unfinished(made: Plan, result: FitResult) -> bool:
    last = result.history[-1] if result.history else {"step": 0}
    return not last.get("stopped") and made.goes_on(len(result.history), last["step"])


def _bar(made: Plan, path: Path | None, history: list[Record], *, show: bool) -> Progress:
    steps = made.source.steps
    total = made.steps if made.steps or steps is None or made.epochs is None else made.epochs * steps
    return Progress(
        show=show,
        program=made.program,
        epochs=made.epochs if total is None or not steps else -(-total // steps),
        steps=steps,
        total=total,
        batch_size=made.batch_size,
        folder=path,
        history=history,
        indices=lambda epoch, step: made.source.indices(made.key, epoch, step),
    )


def _epoch(made: Plan, result: FitResult, bar: Progress) -> tuple[Record, TrainState]:
    """One epoch of training and its validation."""
    train_state, epoch = result.train_state, len(result.history)
    start, done = time.perf_counter(), result.history[-1]["step"] if result.history else 0
    carry = train_state, made.program.new_totals(made.measured)
    carry = made.source.run(made.program, carry, epoch=epoch, start=0, stop=made.limit(done), on_step=bar.on_step)
    train_state, totals = jax.block_until_ready(carry)
    seconds = time.perf_counter() - start
    means, steps = bar.read(totals), int(totals["steps"])
    if bad := _not_finite(train_state):
        raise bar.failure(bad, steps)
    record: Record = {"epoch": epoch + 1, "step": done + steps, **means, **_learning_rate(train_state.opt_state)}
    record |= {"seconds": seconds, "images_per_second": int(totals["count"]) / seconds}
    return record | made.validate(train_state), train_state


def _learning_rate(opt_state: Any) -> dict[str, float]:
    """The learning rate of the last step, where the optimizer's state has one: `optax.inject_hyperparams` keeps it."""
    found = [value for _, value in optax.tree.get_all_with_path(opt_state, "learning_rate")]
    names = ["learning_rate", *(f"learning_rate_{i}" for i in range(1, len(found)))]
    return {name: float(np.asarray(value)) for name, value in zip(names, found, strict=False) if np.size(value) == 1}


def _resumed(path: Path, made: Plan) -> FitResult:
    like = made.train_state
    train_state, record = checkpoint.load(path, "last", like=like)
    check_run(path, record["run"], made.run)
    history, best_epoch = record["history"], record["best_epoch"]
    try:
        best = checkpoint.restore(path, best_epoch, like=like)
    except (DamagedError, FileNotFoundError) as error:
        warnings.warn(f"{error}; epoch {len(history)} counts as the best so far", stacklevel=3)
        best, best_epoch = train_state, len(history)
    return FitResult(*weights(best, made.monitor), train_state, history, best_epoch)


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
