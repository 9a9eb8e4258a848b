"""`fit`: epochs of training on a data set that fits on the device, with validation, checkpoints and a progress bar."""

import contextlib
import dataclasses
import functools
import os
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxconv.data import split
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer
from jaxconv.train import checkpoint, layout, leaves
from jaxconv.train.checks import check_arrays, check_batch, check_folder, check_labels, check_positive, check_run
from jaxconv.train.epoch import epoch_order, looped_epoch, new_totals, scanned_epoch
from jaxconv.train.evaluation import measured
from jaxconv.train.layout import DamagedError
from jaxconv.train.lock import only_writer
from jaxconv.train.progress import Progress
from jaxconv.train.state import Augment, Loss, TrainState, as_key, copied
from jaxconv.train.step import METRICS, raw_step, steps_per_epoch

_VALIDATION = zlib.crc32(b"validation")

Record = dict[str, Any]
Optimizer: TypeAlias = optax.GradientTransformation | Callable[[int], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Args:
      params: the best epoch's parameters.
      state: the best epoch's layer state.
      train_state: the last epoch's train state.
      history: a record for each epoch, of numbers: epoch; loss, accuracy and grad_norm, means over its steps; seconds;
        images_per_second; validation_loss and validation_accuracy.
      best_epoch: the epoch that ``params`` are from, counted from 1.
    """

    params: Any
    state: Any
    train_state: TrainState
    history: list[Record]
    best_epoch: int

    def __repr__(self) -> str:
        best = self.history[self.best_epoch - 1] if self.history else {}
        values = "".join(f", {name}={value:.4g}" for name, value in best.items() if name.split("_")[-1] in METRICS)
        return f"FitResult(best_epoch={self.best_epoch} of {len(self.history)}{values})"

    @property
    def train_seconds(self) -> float:
        """Seconds of training, compilation included, validation and checkpoints not; before a resume too."""
        return sum(record["seconds"] for record in self.history)

    @property
    def images_per_second(self) -> float:
        """Images trained on a second of `train_seconds`."""
        return sum(record["seconds"] * record["images_per_second"] for record in self.history) / self.train_seconds


def fit(
    net: Layer,
    images: Any,
    labels: Any,
    optimizer: Optimizer,
    *,
    loss: Loss,
    epochs: int,
    batch: int = 128,
    key: jax.Array | int = 0,
    augment: Augment | None = None,
    preprocess: Preprocess | None = None,
    validation: tuple[Any, Any] | float | None = None,
    init: tuple[Any, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    epoch_scan: bool | None = None,
    progress: bool = True,
) -> FitResult:
    """Trains a network on images that fit on the device.

    The data set goes to the device once, and each step gathers its batch there. An epoch sees every image, in an order
    that depends on ``key`` and the epoch's number alone; where ``batch`` doesn't divide the count, the last batch is
    filled up with images of the same epoch, which count twice in it. After each epoch comes the validation, and, with
    a ``folder``, a checkpoint. The best epoch is the one of the highest validation accuracy, or of the lowest
    validation loss where there is no accuracy; of equal accuracies the one of the lowest loss, of equals in both the
    latest. Without validation it is the last.

    Args:
      net: a layer.
      images: the training images, ``(count, ...)``.
      labels: their labels, ``(count, ...)``.
      optimizer: an Optax transformation, or a function that makes one from the number of steps of the run, for
        schedules: ``lambda steps: optax.adamw(optax.cosine_onecycle_schedule(steps, 3e-3))``. The steps are those of
        ``epochs``: a run resumed with more epochs gets a longer schedule.
      loss: ``loss(logits, labels)``, as `train_step` takes it.
      epochs: how many passes over the images; with ``resume``, those already made included.
      batch: images of a step.
      key: a random key or an int: it draws the initial weights, the order, augmentation, dropout and the split.
      augment: ``augment(key, x)``, as `train_step` takes it.
      preprocess: ``preprocess(images)``, as `train_step` takes it; validation runs it too.
      validation: (images, labels), never the test images; or the fraction of the training images to set aside and
        not train on, drawn by ``key``, each class in the same proportion.
      init: (params, state) to start from, for fine-tuning; they are copied.
      folder: where the checkpoints of the best epoch, the last and the one before are kept; see `restore`. It holds
        nothing else but what systems leave in folders. It is locked while the run goes on; the lock ends with the
        process. Over NFS it excludes other machines where the server and the mount have locks.
      resume: whether to continue from the folder's last whole checkpoint, or to start anew where there is none; a
        warning names what is damaged. On CPU the result is bitwise that of a run that was never interrupted.
      epoch_scan: whether an epoch is one compiled scan; else it is a loop over a jitted step. By default a scan on GPU
        and TPU and a loop on CPU, which shows progress, and where lax's own convolution gradients are slow inside a
        scan; jaxconv's are not (experiments/benchmarks/scan.py measures it).
      progress: whether to show a bar: images per second, loss, accuracy, time left.

    Returns:
      A `FitResult`. ``seconds`` in its history are those of an epoch's steps, to the last result: the first epoch after
      a start or a resume includes compilation; validation and checkpoints are not included.

    Raises:
      ValueError: for arguments that don't fit together, and for a folder that holds something else, or another run.
      NonFiniteLossError: where the loss of a step, or a parameter or a layer's state at the end of an epoch, isn't
        finite. The checkpoint of the last good epoch stays as it is.
      OSError: where a checkpoint can't be written, the one before stays as it is; where another run has the folder.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp, optax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Linear:
      ...     def init(self, key, x):
      ...         return {"kernel": jnp.zeros((x.shape[-1], 2))}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return x @ params["kernel"], state
      >>> images = jax.random.normal(jax.random.key(0), (100, 5))
      >>> labels = (images[:, 0] > 0).astype(int)
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> result = fit(
      ...     Linear(), images, labels, optax.sgd(1.0), loss=loss, epochs=5, batch=20, validation=0.2, progress=False
      ... )
      >>> len(result.history), result.history[-1]["loss"] < result.history[0]["loss"]
      (5, True)
    """
    check_arrays(images, labels, labelled=True)
    check_positive("epochs", epochs)
    check_batch(batch)
    if folder is None and resume:
        raise ValueError("resume: expected a folder to resume from, got folder=None")
    path = None if folder is None else check_folder(folder, resume=resume)
    key = as_key(key)
    held: Any = None
    if isinstance(validation, tuple):
        check_arrays(*validation, labelled=True, name="validation")
        held = validation
    elif validation is not None:
        images, labels, *held = _split(key, images, labels, validation)
    count = len(images)
    check_batch(batch, count)
    given, images, labels = labels, jnp.asarray(images), jnp.asarray(labels)
    steps = steps_per_epoch(count, batch)
    made = optimizer if hasattr(optimizer, "update") else optimizer(epochs * steps)

    some = jax.ShapeDtypeStruct((batch, *images.shape[1:]), images.dtype)
    x = some if preprocess is None else jax.eval_shape(preprocess, some)
    result = FitResult(None, None, TrainState.create(net, made, key, x, init=init), [], 0)
    step = raw_step(net, loss, made, augment=augment, preprocess=preprocess)
    # Labels are checked as they came: on the device an int64 of 2**32 is 0.
    check_labels(_logits(net, result.train_state, x, train=True), given, loss)
    if held:
        check_labels(_logits(net, result.train_state, x, train=False), held[1], loss, name="validation")
        held = [jnp.asarray(array) for array in held]
    some_labels = jax.ShapeDtypeStruct((batch, *labels.shape[1:]), labels.dtype)
    metrics = jax.eval_shape(step, result.train_state, some, some_labels)[1]

    run = {"images": count, "batch": batch, "key": jax.random.key_data(result.train_state.key).tolist()}
    if epoch_scan is None:
        epoch_scan = next(iter(images.devices())).platform != "cpu"
    run_epoch = scanned_epoch(step) if epoch_scan else looped_epoch(step)

    with contextlib.ExitStack() as stack:
        if path is not None:
            stack.enter_context(only_writer(path))
            check_folder(path, resume=resume)  # Another run may have begun since it was looked at, and ended.
            if layout.epochs(path):
                result = _resumed(path, result.train_state, run)
        bar = Progress(show=progress, epochs=epochs, steps=steps, batch=batch, folder=path, history=result.history)
        stack.enter_context(bar)
        for epoch in range(len(result.history), epochs):
            start = time.perf_counter()
            rows = epoch_order(result.train_state.key, epoch, count, batch)
            carry = run_epoch((result.train_state, new_totals(metrics)), images, labels, rows, bar.on_step)
            train_state, totals = jax.block_until_ready(carry)
            seconds = time.perf_counter() - start
            record: Record = {"epoch": epoch + 1, **bar.read(totals)}
            if bad := _not_finite(train_state):
                raise bar.failure(bad, steps)
            record |= {"seconds": seconds, "images_per_second": steps * batch / seconds}
            if held:
                params, state = train_state.params, train_state.state
                means = measured(net, params, state, *held, loss=loss, batch=batch, preprocess=preprocess)
                record |= {f"validation_{name}": means[name] for name in means if name != "count"}
            result = _extended(result, train_state, record)
            bar.end(record)
            if path is not None:
                checkpoint.save_locked(path, train_state, result.history, best_epoch=result.best_epoch, run=run)
    return result


def _logits(net: Layer, train_state: TrainState, x: Any, *, train: bool) -> Any:
    """The shapes of the network's output."""
    apply = functools.partial(net.apply, train=train)
    key = train_state.key if train else None
    return jax.eval_shape(lambda *args: apply(*args, key=key), train_state.params, train_state.state, x)[0]


def _resumed(path: Path, like: TrainState, run: dict[str, Any]) -> FitResult:
    train_state, record = checkpoint.load(path, "last", like=like)
    check_run(path, record["run"], run)
    history, best_epoch = record["history"], record["best_epoch"]
    try:
        best = checkpoint.restore(path, best_epoch, like=like)
    except (DamagedError, FileNotFoundError) as error:
        warnings.warn(f"{error}; epoch {len(history)} counts as the best so far", stacklevel=3)
        best, best_epoch = copied(train_state), len(history)
    return FitResult(best.params, best.state, train_state, history, best_epoch)


def _extended(result: FitResult, train_state: TrainState, record: Record) -> FitResult:
    """The result with one epoch more."""
    history = [*result.history, record]
    if result.history and not _better(record, result.history[result.best_epoch - 1]):
        return dataclasses.replace(result, train_state=train_state, history=history)
    # Copied, for the next step takes the train state's buffers.
    params, state = copied((train_state.params, train_state.state))
    return FitResult(params, state, train_state, history, len(history))


def _split(key: jax.Array, images: Any, labels: Any, fraction: float) -> tuple[Any, Any, Any, Any]:
    """Training images and labels, then those held out."""
    if not isinstance(fraction, float) or not 0 < fraction < 1:
        raise ValueError(f"validation: expected (images, labels) or a fraction between 0 and 1, got {fraction!r}")
    labels = np.asarray(labels)
    classes = labels if labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer) else np.zeros(len(labels), int)
    seed = int(jax.random.bits(jax.random.fold_in(key, _VALIDATION)))
    try:
        kept, rest = split(classes, fraction, seed=seed)
    except ValueError as error:
        raise ValueError(f"validation: expected a fraction that splits the images in two, got {fraction}") from error
    return images[kept], labels[kept], images[rest], labels[rest]


def _better(record: Record, best: Record) -> bool:
    if "validation_loss" not in record:
        return True
    # No number is below NaN: what has none comes last.
    one, other = [
        (r.get("validation_accuracy", 0.0), -np.nan_to_num(r["validation_loss"], nan=np.inf)) for r in (record, best)
    ]
    return bool(one >= other)


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
