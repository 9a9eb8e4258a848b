"""A run of `fit` as data: its sources, its length, its program and its first train state, all of it checked."""

import dataclasses
import datetime
import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import numpy as np
import optax

from jaxconv.data import split
from jaxconv.data.batch import color_functions
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer
from jaxconv.metrics import Function, Metric
from jaxconv.train import evaluation
from jaxconv.train.arguments import (
    check_batch_size,
    check_classes,
    check_data,
    check_loss,
    check_positive,
    same_structure,
)
from jaxconv.train.epoch import Program, Recipe, program
from jaxconv.train.evaluation import class_check
from jaxconv.train.measures import Loss, as_metrics, ordered, sums_of
from jaxconv.train.mesh import Placement
from jaxconv.train.result import AVERAGE, Monitor, choose_monitor
from jaxconv.train.sources import Arrays, Batches, is_iterable, known_length
from jaxconv.train.state import Augment, TrainState, run_key, typed_key
from jaxconv.train.step import prepared

_VALIDATION = zlib.crc32(b"validation")

Optimizer: TypeAlias = optax.GradientTransformation | Callable[[int], optax.GradientTransformation]
Source: TypeAlias = Arrays | Batches


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run does.

    Args:
      recipe, program: of its step.
      source: of the training batches.
      held: of the validation; None without one.
      held_preprocess: what the validation's inputs go through.
      batch_size: examples of a step, of a validation batch too.
      epochs, steps: where the run ends, at the first that is reached; None where there is no such end.
      monitor: which epoch is the best.
      train_state: before the first step; the run takes its buffers.
      key: a copy of the train state's, which gives the order of an epoch.
      measured: the shapes of what a step measures.
      run: what a resumed run must have in common with this one.
      colors: the functions of colors in ``augment``.
    """

    recipe: Recipe
    program: Program
    source: Source
    held: Source | None
    held_preprocess: Preprocess | None
    batch_size: int
    epochs: int | None
    steps: int | None
    monitor: Monitor
    train_state: TrainState
    key: jax.Array
    measured: dict[str, Any]
    run: dict[str, Any]
    colors: tuple[str, ...] = ()

    def limit(self, done: int) -> int | None:
        """Where an epoch ends that begins after ``done`` steps; None where its source ends it."""
        left = [n for n in (self.source.steps, None if self.steps is None else self.steps - done) if n is not None]
        return min(left, default=None)

    def goes_on(self, epoch: int, done: int) -> bool:
        """Whether there is something to do after ``epoch`` epochs and ``done`` steps."""
        return (self.epochs is None or epoch < self.epochs) and (self.steps is None or done < self.steps)

    def validate(self, train_state: TrainState) -> dict[str, Any]:
        """The values of the validation, of the parameters and of their average."""
        found: dict[str, Any] = {}
        if self.held is not None:
            for prefix, params in (("", train_state.params), (AVERAGE, train_state.average)):
                if params is not None:
                    values = evaluation.measured(
                        self.recipe.net,
                        params,
                        train_state.state,
                        self.held.parts(self.batch_size),
                        loss=self.recipe.loss,
                        metrics=self.recipe.metrics,
                        preprocess=self.held_preprocess,
                        placement=self.recipe.placement,
                    )
                    found |= {f"{prefix}validation_{name}": values[name] for name in values if name != "count"}
        return found


def plan(
    net: Layer,
    inputs: Any,
    targets: Any,
    optimizer: Optimizer,
    *,
    loss: Loss,
    epochs: int | None,
    steps: int | None,
    batch_size: int,
    key: jax.Array | int,
    augment: Augment | None,
    preprocess: Preprocess | None,
    validation: Any,
    validation_preprocess: Preprocess | None,
    metrics: Mapping[str, Function | Metric],
    monitor: str | None,
    mode: str | None,
    average: float | None,
    init: tuple[Any, Any] | None,
    epoch_scan: bool | None,
    every: int | datetime.timedelta | None = None,
    placement: Placement | None = None,
) -> Plan:
    """The plan of `fit`'s arguments. Raises ValueError for those that do not fit together.

    ``every`` is its ``checkpoint_every``: a scan is cut where a checkpoint is due, and where only the time tells that
    there is none.
    """
    key, items = typed_key(key), as_metrics(metrics)
    if average is not None and not 0 < average < 1:
        raise ValueError(f"average must be a decay between 0 and 1, both excluded, got {average!r}")
    batch_size = check_batch_size(batch_size)
    if placement is not None and not is_iterable(inputs, targets):
        placement.check_batch_size(batch_size)
    epochs = None if epochs is None else check_positive("epochs", epochs)
    steps = None if steps is None else check_positive("steps", steps)
    if isinstance(every, datetime.timedelta):
        if epoch_scan:
            raise ValueError("checkpoint_every must be a number of steps with epoch_scan=True, got a timedelta")
        epoch_scan = False
    source, held, given, run = _sources(
        inputs,
        targets,
        validation,
        key,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        scan=epoch_scan,
        chunk=every if isinstance(every, int) else None,
        placement=placement,
    )
    total = _total(source.steps, epochs, steps)
    if not hasattr(optimizer, "update"):
        if not callable(optimizer):
            raise ValueError(f"optimizer must be an Optax transformation or a function of steps, got {optimizer!r}")
        if total is None:
            raise ValueError("steps must be given where inputs have no length and optimizer is a function of steps")
        optimizer = made(optimizer, total)
    recipe = Recipe(net, loss, optimizer, items, augment, preprocess, average, placement)

    if isinstance(source, Batches):
        source.check_sizes()
    some, theirs = source.example()
    if placement is not None and isinstance(source, Batches):
        some, theirs = placement.whole_batch((some, theirs))
    key_shape = jax.eval_shape(lambda: jax.random.key(0))
    prepare = functools.partial(prepared, augment=augment, preprocess=preprocess)
    with color_functions() as colors:
        x, y = jax.eval_shape(prepare, key_shape, some, theirs)
    where = {} if placement is None else {"mesh": placement.mesh, "shard_params": placement.shard_params}
    train_state = TrainState.create(net, optimizer, key, x, init=init, average=average, **where)  # type: ignore[arg-type]
    outputs = _outputs(net, train_state, x, train=True)
    check_loss(loss, items, outputs, y)
    _check_classes(recipe, source, outputs, given[0], y)
    names: list[str] = []
    if held is not None:
        validation_preprocess = validation_preprocess or preprocess
        seen, wanted = held.example()
        seen = seen if validation_preprocess is None else jax.eval_shape(validation_preprocess, seen)
        outputs = _outputs(net, train_state, seen, train=False)
        names = ordered(check_loss(loss, items, outputs, wanted, name="validation"))
        _check_classes(recipe, held, outputs, given[1], wanted, name="validation")
    elif validation_preprocess is not None:
        raise ValueError("validation_preprocess must come with validation, got validation=None")

    made_program = program(recipe)
    copy = run_key(key)
    measured = jax.eval_shape(made_program.step, train_state, some, theirs)[1]
    prefixes = ["validation_"] if held is not None else []
    prefixes += [f"{AVERAGE}validation_"] if held is not None and average is not None else []
    chosen = choose_monitor(
        monitor,
        mode,
        [*ordered(measured), *(f"{prefix}{name}" for prefix in prefixes for name in names)],
        prefixes=[f"{prefix}{name}_" for prefix in ["", *prefixes] for name in sums_of(items)],
    )
    run |= {"batch_size": batch_size, "key": jax.random.key_data(copy).tolist()}
    return Plan(
        recipe=recipe,
        program=made_program,
        source=source,
        held=held,
        held_preprocess=validation_preprocess,
        batch_size=jax.tree.leaves(some)[0].shape[0],
        epochs=epochs,
        steps=total if steps is not None else None,
        monitor=chosen,
        train_state=train_state,
        key=copy,
        measured=measured,
        run=run,
        colors=tuple(dict.fromkeys(colors)),
    )


@functools.lru_cache(maxsize=16)
def made(optimizer: Callable[[int], optax.GradientTransformation], steps: int) -> optax.GradientTransformation:
    """The optimizer of a function of the number of steps; the same one for equal arguments."""
    return optimizer(steps)


def _sources(
    inputs: Any,
    targets: Any,
    validation: Any,
    key: jax.Array,
    *,
    batch_size: int,
    epochs: int | None,
    steps: int | None,
    scan: bool | None,
    chunk: int | None,
    placement: Placement | None,
) -> tuple[Source, Source | None, tuple[Any, Any], dict[str, Any]]:
    """The sources of training and validation, their targets as they were given, and what identifies the data.

    Targets are checked as they came: on the device an int64 of 2**32 is 0.
    """
    held: Source | None = None
    given = None
    if isinstance(validation, tuple) and len(validation) == 2:
        count = check_data(*validation, name="validation")
        held, given = Arrays(*validation, min(batch_size, count), placement=placement), validation[1]
    elif validation is not None and not isinstance(validation, float | int):
        if not is_iterable(validation, None):
            raise ValueError(
                "validation must be (inputs, targets), a fraction between 0 and 1 or an iterable of batches, "
                f"got {type(validation).__name__}"
            )
        held = Batches(validation, name="validation", placement=placement)
    if is_iterable(inputs, targets):
        if isinstance(validation, float | int):
            raise ValueError(f"validation must be (inputs, targets) or an iterable of batches, got {validation!r}")
        if epochs is None and steps is None:
            raise ValueError("epochs or steps must be given, got neither")
        endless = epochs is not None and steps is not None
        if endless and known_length(inputs) is not None:
            raise ValueError(f"epochs or steps must be given, not both, for inputs of {known_length(inputs)} batches")
        length = -(-steps // epochs) if endless else None  # type: ignore[operator]
        source: Source = Batches(inputs, steps=length, placement=placement)
        return source, held, (None, given), {"batches": source.steps}
    if (epochs is None) == (steps is None):
        raise ValueError(f"epochs or steps must be given, not both, got epochs={epochs} and steps={steps}")
    count = check_data(inputs, targets)
    rows = None
    if isinstance(validation, float | int):
        rows, rest = _split(key, targets, count, validation)
        held_inputs, given = jax.tree.map(lambda leaf: leaf[rest], (inputs, targets))
        held = Arrays(held_inputs, given, min(batch_size, len(rest)), placement=placement)
        inputs, targets = jax.tree.map(lambda leaf: leaf[rows], (inputs, targets))
        count = len(rows)
    check_batch_size(batch_size, count)
    source = Arrays(inputs, targets, batch_size, scan=scan, chunk=chunk, rows=rows, placement=placement)
    return source, held, (targets, given), {"examples": count}


def _total(source_steps: int | None, epochs: int | None, steps: int | None) -> int | None:
    """The steps of a run, where they are known."""
    if steps is not None or source_steps is None or epochs is None:
        return steps
    return epochs * source_steps


def _outputs(net: Layer, train_state: TrainState, x: Any, *, train: bool) -> Any:
    """The shapes of the network's outputs."""
    apply = functools.partial(net.apply, train=train)
    key = train_state.key if train else None
    return jax.eval_shape(lambda *args: apply(*args, key=key), train_state.params, train_state.state, x)[0]


def _check_classes(recipe: Recipe, source: Source, outputs: Any, given: Any, prepared: Any, *, name: str = "") -> None:
    loss, metrics = recipe.loss, recipe.metrics
    if isinstance(source, Batches):
        source.check = class_check(loss, metrics, outputs, name=name)
    elif same_structure(given, prepared):
        check_classes(loss, metrics, outputs, given, name=name)


def _split(key: jax.Array, targets: Any, count: int, fraction: Any) -> tuple[np.ndarray, np.ndarray]:
    """The examples to train on and those held out, each class in the same proportion."""
    if not isinstance(fraction, float) or not 0 < fraction < 1:
        wanted = "(inputs, targets), a fraction between 0 and 1 or an iterable of batches"
        raise ValueError(f"validation must be {wanted}, got {fraction!r}")
    classes = np.zeros(count, int)
    if hasattr(targets, "dtype") and targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer):
        classes = np.asarray(targets)
    seed = int(jax.random.bits(jax.random.fold_in(key, _VALIDATION)))
    try:
        return split(classes, fraction, seed=seed)
    except ValueError as error:
        raise ValueError(f"validation must be a fraction that leaves no part empty, got {fraction}") from error
