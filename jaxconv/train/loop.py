"""`fit`: epochs of training, with validation, checkpoints and a progress bar."""

import contextlib
import dataclasses
import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxconv.equal_batches import Preprocess
from jaxconv.errors import shortens_tracebacks
from jaxconv.layer import Layer
from jaxconv.metrics import Function, Metric
from jaxconv.train import layout
from jaxconv.train.arguments import check_every, check_folder
from jaxconv.train.lock import only_writer
from jaxconv.train.measures import Loss
from jaxconv.train.mesh import ShardParams, placement_of
from jaxconv.train.plan import Optimizer, Plan, plan
from jaxconv.train.progress import Progress
from jaxconv.train.result import FitResult, Record
from jaxconv.train.run import Log, OnEpoch, Run, resumed
from jaxconv.train.saver import Due, Saver
from jaxconv.train.signals import Signals
from jaxconv.train.state import Augment
from jaxconv.train.summaries import configuration


@shortens_tracebacks
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
    checkpoint_every: int | datetime.timedelta | None = None,
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
    filled up with examples of the same epoch, which count twice in it. An iterable gives the batches; the next
    one is read and copied while the device computes. After each epoch comes the validation, and, with a ``folder``, a
    checkpoint.

    Args:
      net: a layer.
      inputs: the training inputs, a pytree of arrays `(N, ...)`. Or, with targets=None, batches (inputs, targets), or
        (inputs, targets, mask) where the mask is False for padding: from `jaxconv.data.batches`; an iterable such as a
        Grain ``DataLoader`` or ``IterDataset`` or a torch ``DataLoader``, which each epoch iterates over anew, after
        ``set_epoch(epoch)`` if it has that method; an iterator, which goes on from epoch to epoch; or a function that
        returns an iterator, called in each epoch with its number from 0 if it has a parameter. Where an iterable has a
        length, it must give this number of batches in each epoch. A resumed run goes on where it was: by the batch, if
        an iterable has ``epoch(number, start)``, as `jaxconv.data.batches` has, by the iterator's state, if it has
        ``get_state`` and ``set_state``, as Grain's have, and else by reading the batches before again.
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
      checkpoint_every: within an epoch too, a checkpoint after that many steps, an int, or that much time, a
        ``datetime.timedelta``. It is written while training goes on.
      log: a function of the record, or several, called after each epoch: `json_lines`, `csv_file`, `tensorboard`, or a
        custom one.
      on_epoch: ``on_epoch(record, train_state)``, called after each epoch; the run stops where it returns true. The
        train state is good until it returns. `early_stopping` makes one.
      init: (params, state) to start from, for fine-tuning; they are copied.
      folder: where the checkpoints of the best epoch, the last and the one before are kept; see `restore`. Beside them
        are run.json, the configuration and history, and, where Matplotlib is installed, curves.png at the end. It holds
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
        size; so must the sizes of an iterable's batches. The result is that of one device up to the order of sums.
        Arrays are on every device. Of several processes (`initialize_distributed`) each gives the same arrays, or an
        iterable of its own part of each batch (`data_shard`), in validation too, where parts may differ in size and in
        number. ``log`` is called in the first one only.
      shard_params: how parameters and the optimizer's state are divided, as `train_step` takes it. From the first state
        on each device has its part only.

    Returns:
      A `FitResult`. After Ctrl-C it is that of the steps so far, ``interrupted``; a checkpoint is saved first, if there
      is a folder. SIGTERM saves one too, and ends the program with a message and status 143. ``seconds`` in its history
      are those of an epoch's steps, to the last result: the first epoch after a start or a resume includes compilation;
      validation and checkpoints are not included. What was compiled is kept for the next call with the same network,
      loss, optimizer, metrics, ``augment`` and ``preprocess``.

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
    if folder is None and (resume or checkpoint_every is not None):
        raise ValueError(f"{'resume' if resume else 'checkpoint_every'} must come with a folder, got folder=None")
    path = None if folder is None else check_folder(folder, resume=resume)
    due, placement = Due(check_every(checkpoint_every)), placement_of(mesh, shard_params)
    options = {
        "loss": loss,
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "key": key,
        "augment": augment,
        "preprocess": preprocess,
        "validation": validation,
        "validation_preprocess": validation_preprocess,
        "metrics": metrics,
        "monitor": monitor,
        "mode": mode,
        "average": average,
        "init": init,
        "epoch_scan": epoch_scan,
    }
    first, auto = jax.process_index() == 0, placement and placement.auto
    with contextlib.ExitStack() as stack:
        if auto is not None:
            stack.enter_context(jax.set_mesh(auto.mesh))  # The caller's may have Explicit axes.
        made = plan(net, inputs, targets, optimizer, every=due.every, placement=auto, **options)
        result, within, saver, config = FitResult(None, None, made.train_state, [], 0), None, None, None
        if path is not None:
            stack.enter_context(only_writer(path) if first else contextlib.nullcontext())
            check_folder(path, resume=resume)  # Another run may have begun since it was looked at, and ended.
            if layout.checkpoints(path):
                result, within = resumed(path, made)
            saver = stack.enter_context(Saver(path, made.run))
            config = configuration(net=net, inputs=inputs, targets=targets, optimizer=optimizer, **options)
        signals = stack.enter_context(Signals())
        bar = stack.enter_context(_bar(made, path, result.history, show=progress and first))
        run = Run(made, bar, due, signals, saver, path, config)
        result = run.train(result, within, on_epoch=on_epoch, logs=[log] if callable(log) else list(log))
    if placement is None:
        return result
    params, state, train_state = placement.moved((result.params, result.state, result.train_state))
    return dataclasses.replace(result, params=params, state=state, train_state=train_state)


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
        colors=made.colors,
    )
