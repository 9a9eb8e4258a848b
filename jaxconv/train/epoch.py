"""One pass over a data set that lies on the device: its order, and the two ways to run it."""

import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.compiler import jit
from jaxconv.train.state import TrainState
from jaxconv.train.step import Step, steps_per_epoch

# A step's key is fold_in(key, step); this number lies far above any step.
_ORDER = zlib.crc32(b"order")

Totals = dict[str, Any]
Carry = tuple[TrainState, Totals]
Epoch = Callable[..., Carry]


def new_totals(metrics: dict[str, Any]) -> Totals:
    """What an epoch adds up: steps, the first with a loss that isn't finite (-1 for none), and the sum of metrics."""
    return {
        "steps": jnp.zeros((), jnp.int32),
        "bad": jnp.full((), -1, jnp.int32),
        "sums": {name: jnp.zeros((), value.dtype) for name, value in metrics.items()},
    }


@functools.partial(jax.jit, static_argnums=(2, 3))
def epoch_order(key: jax.Array, epoch: Any, count: int, batch: int) -> jax.Array:
    """Indices ``(steps, batch)`` of one pass: a permutation that depends on ``key`` and ``epoch`` alone.

    Where ``batch`` doesn't divide ``count``, the last batch is filled up from the front of the same permutation. So
    every image is used, all batches have one size, and batch statistics never see padding.
    """
    order = jax.random.permutation(jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch), count)
    steps = steps_per_epoch(count, batch)
    return order[jnp.arange(steps * batch) % count].reshape(steps, batch)


def scanned_epoch(step: Step) -> Epoch:
    """An epoch as one compiled scan. ``on_step`` isn't called: nothing comes back before the end."""

    def run(carry: Carry, images: jax.Array, labels: jax.Array, order: jax.Array) -> Carry:
        return jax.lax.scan(lambda carry, rows: (_advance(step, carry, images, labels, rows), None), carry, order)[0]

    compiled = jit(run, donate_argnums=0)
    return lambda carry, images, labels, order, on_step=None: compiled(carry, images, labels, order)


def looped_epoch(step: Step) -> Epoch:
    """An epoch as a Python loop over a jitted step, calling ``on_step(totals)`` after each."""

    def run(carry: Carry, images: jax.Array, labels: jax.Array, order: jax.Array) -> Carry:
        # The step counts itself, so that no number is sent to the device each time.
        return _advance(step, carry, images, labels, order[carry[1]["steps"]])

    compiled = jit(run, donate_argnums=0)

    def epoch(
        carry: Carry,
        images: jax.Array,
        labels: jax.Array,
        order: jax.Array,
        on_step: Callable[[Totals], None] | None = None,
    ) -> Carry:
        for _ in range(len(order)):
            carry = compiled(carry, images, labels, order)
            if on_step is not None:
                on_step(carry[1])
        return carry

    return epoch


def _advance(step: Step, carry: Carry, images: jax.Array, labels: jax.Array, rows: jax.Array) -> Carry:
    train_state, totals = carry
    train_state, metrics = step(train_state, images[rows], labels[rows])
    first = (totals["bad"] < 0) & ~jnp.isfinite(metrics["loss"])
    return train_state, {
        "steps": totals["steps"] + 1,
        "bad": jnp.where(first, totals["steps"], totals["bad"]),
        "sums": jax.tree.map(jnp.add, totals["sums"], metrics),
    }
