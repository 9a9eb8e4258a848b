"""The compiled programs of a run, and what they add up over the steps of an epoch."""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.layer import Layer
from jaxconv.train.measures import Loss, Metrics, finished, ordered, sums_of, training_metrics
from jaxconv.train.mesh import Placement
from jaxconv.train.state import Augment, TrainState
from jaxconv.train.step import Step, raw_step, steps_per_epoch

# A step's key is fold_in(key, step); this number is far above any step.
_ORDER = zlib.crc32(b"order")

Totals = dict[str, Any]
Carry = tuple[TrainState, Totals]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that a step computes, as data: two runs of equal recipes share what is compiled.

    Args: as `fit` takes them; ``metrics`` are items.
    """

    net: Layer
    loss: Loss
    optimizer: optax.GradientTransformation
    metrics: Metrics = ()
    augment: Augment | None = None
    preprocess: Preprocess | None = None
    average: float | None = None
    placement: Placement | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """The step of a recipe, compiled in each of the ways in which an epoch is run. All donate the carry.

    Args:
      step: as `train_step`, before jit.
      gathered: ``gathered(carry, inputs, targets, order)``, one step on the rows ``order[carry.steps]``.
      scanned: ``scanned(carry, inputs, targets, order)``, a step for each row of ``order``.
      fed: ``fed(carry, inputs, targets)``, one step on a batch; beside the carry it returns the loss, which tells when
        the step is done.
      new_totals: ``new_totals(measured)``, what an epoch begins with, from the shapes of what a step measures.
      means: ``means(totals)``, the numbers of a record, from totals on the host.
    """

    step: Step
    gathered: Callable[..., Carry]
    scanned: Callable[..., Carry]
    fed: Callable[..., tuple[Carry, jax.Array]]
    new_totals: Callable[..., Totals]
    means: Callable[[Totals], dict[str, Any]]


def program(recipe: Recipe) -> Program:
    """The program of a recipe: that of an equal recipe before, if they can be compared, with what it has compiled."""
    try:
        hash(recipe)
    except TypeError:
        return _program(recipe)
    return _cached(recipe)


def _program(recipe: Recipe) -> Program:
    metrics = training_metrics(recipe.metrics)
    step = raw_step(
        recipe.net,
        recipe.loss,
        recipe.optimizer,
        metrics=metrics,
        augment=recipe.augment,
        preprocess=recipe.preprocess,
        average=recipe.average,
        placement=recipe.placement,
    )
    advance = functools.partial(_advance, step, frozenset(sums_of(metrics)))

    def gathered(carry: Carry, inputs: Any, targets: Any, order: jax.Array) -> Carry:
        # The step counts itself, so that no number is sent to the device each time.
        return advance(carry, *_rows((inputs, targets), order[carry[1]["steps"]]))[0]

    def scanned(carry: Carry, inputs: Any, targets: Any, order: jax.Array) -> Carry:
        def body(carry: Carry, rows: jax.Array) -> tuple[Carry, None]:
            return advance(carry, *_rows((inputs, targets), rows))[0], None

        return jax.lax.scan(body, carry, order)[0]

    return Program(
        step,
        jit(gathered, donate_argnums=0),
        jit(scanned, donate_argnums=0),
        jit(advance, donate_argnums=0),
        functools.partial(_new_totals, frozenset(sums_of(metrics)), recipe.placement),
        functools.partial(_means, metrics),
    )


# A notebook compares fewer recipes than these; each keeps its compiled programs.
_cached = functools.lru_cache(maxsize=16)(_program)


@functools.partial(jax.jit, static_argnums=(2, 3))
def epoch_order(key: jax.Array, epoch: Any, count: int, batch_size: int) -> jax.Array:
    """Indices ``(steps, batch_size)`` of one pass: a permutation that depends on ``key`` and ``epoch`` alone.

    Where ``batch_size`` doesn't divide ``count``, the last batch is filled up from the front of the same permutation.
    So every example is used, all batches have one size, and batch statistics never see padding.
    """
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch), count)
    steps = steps_per_epoch(count, batch_size)
    return order[jnp.arange(steps * batch_size) % count].reshape(steps, batch_size)


def _new_totals(sums: frozenset[str], placement: Placement | None, measured: dict[str, Any]) -> Totals:
    """Steps, examples, the first step with a loss that isn't finite (-1 for none), and a sum of each value."""
    measured = {name: jax.tree.map(_as_float, value) if name in sums else value for name, value in measured.items()}
    totals = {
        "steps": jnp.zeros((), jnp.int32),
        "count": jnp.zeros((), jnp.int32),
        "bad": jnp.full((), -1, jnp.int32),
        "sums": jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), measured),
    }
    return totals if placement is None else placement.put_whole(totals)


def _as_float(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    # Counts of an epoch's pixels do not fit into int32.
    return jax.ShapeDtypeStruct(leaf.shape, jnp.promote_types(leaf.dtype, jnp.float32))


def _advance(step: Step, sums: frozenset[str], carry: Carry, inputs: Any, targets: Any) -> tuple[Carry, jax.Array]:
    train_state, totals = carry
    rows = len(jax.tree.leaves(inputs)[0])
    train_state, measured = step(train_state, inputs, targets)
    first = (totals["bad"] < 0) & ~jnp.isfinite(measured["loss"])
    # A mean counts by the examples that it is of: the last batch of an epoch may be smaller.
    weighted = {name: value if name in sums else rows * value for name, value in measured.items()}
    totals = {
        "steps": totals["steps"] + 1,
        "count": totals["count"] + rows,
        "bad": jnp.where(first, totals["steps"], totals["bad"]),
        "sums": jax.tree.map(lambda total, value: total + value.astype(total.dtype), totals["sums"], weighted),
    }
    return (train_state, totals), measured["loss"]


def _rows(tree: Any, rows: jax.Array) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _means(metrics: Metrics, totals: Totals) -> dict[str, Any]:
    sums, count = sums_of(metrics), int(totals["count"])
    values = {name: value if name in sums else float(value) / count for name, value in totals["sums"].items()}
    return finished({name: values[name] for name in ordered(values)}, metrics)


def host(totals: Totals) -> Totals:
    """Totals in NumPy's arrays. Waits for the step."""
    return jax.tree.map(np.asarray, jax.device_get(totals))
