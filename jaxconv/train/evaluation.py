"""Exact evaluation and prediction over a data set of any size, with one compiled program."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.layer import Layer
from jaxconv.ops.arrays import wider
from jaxconv.structs import struct_of
from jaxconv.train.checks import check_arrays, check_batch, check_labels
from jaxconv.train.state import Loss
from jaxconv.train.step import METRICS, is_classification


def evaluate(
    net: Layer,
    params: Any,
    state: Any,
    images: Any,
    labels: Any,
    *,
    loss: Loss,
    batch: int = 256,
    preprocess: Preprocess | None = None,
) -> dict[str, Any]:
    """The mean loss and the accuracy over all of ``images``, whatever their number.

    The last batch reaches back into the one before where the count isn't a multiple of ``batch``; what it saw already
    is masked. So no image counts twice, none is dropped, and one program is compiled.

    Args:
      net: a layer; it runs with ``train=False``.
      params: its parameters.
      state: its state.
      images: ``(count, ...)``. NumPy arrays, memory maps included, go to the device batch by batch.
      labels: ``(count, ...)``. Where they index classes they must be from 0 to the number of classes less one; the
        check reads all of them once.
      loss: ``loss(logits, labels)``, a loss for each example, or a scalar that is a mean over examples.
      batch: images for each call of the network.
      preprocess: ``preprocess(images)``, run inside the compiled program. Pass the same function each time: a new one,
        such as a lambda written in the call, compiles anew.

    Returns:
      A dict: ``loss``; ``accuracy`` where `train_step` has one; ``count``.

    Raises:
      ValueError: where there are no images, their number differs from the labels', labels are out of range or not what
        the loss takes, or ``batch`` is below 1.

    Example:
      >>> import dataclasses, jax.numpy as jnp, optax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Identity:
      ...     def init(self, key, x):
      ...         return {}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return x, state
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> evaluate(Identity(), {}, {}, 50.0 * jnp.eye(3), jnp.array([0, 1, 0]), loss=loss, batch=2)["accuracy"]
      0.666...
    """
    count = check_arrays(images, labels, labelled=True)
    check_batch(batch)
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    size = min(batch, count)
    logits = _forward.eval_shape(net, preprocess, params, state, struct_of((size, *images.shape[1:]), images.dtype))
    check_labels(logits, labels, loss)
    return measured(net, params, state, images, labels, loss=loss, batch=batch, preprocess=preprocess)


def measured(
    net: Layer,
    params: Any,
    state: Any,
    images: Any,
    labels: Any,
    *,
    loss: Loss,
    batch: int,
    preprocess: Preprocess | None,
) -> dict[str, Any]:
    """`evaluate` without checks, for one who made them before."""
    measure = functools.partial(_measure, net, loss, preprocess, params, state)
    pairs = zip(equal_batches(images, batch), equal_batches(labels, batch), strict=True)
    sums = _one_behind(measure(some.items, theirs.items, some.skip) for some, theirs in pairs)
    totals: dict[str, float] = {}
    for batch_sums in sums:
        totals = {name: totals.get(name, 0.0) + float(value) for name, value in batch_sums.items()}
    return {**{name: totals[name] / len(images) for name in METRICS if name in totals}, "count": len(images)}


def predict(
    net: Layer,
    params: Any,
    state: Any,
    images: Any,
    *,
    batch: int = 256,
    preprocess: Preprocess | None = None,
) -> Any:
    """The network's output for all of ``images``, in their order.

    Args:
      net: a layer; it runs with ``train=False``.
      params: its parameters.
      state: its state.
      images: ``(count, ...)``.
      batch: images for each call of the network.
      preprocess: as in `evaluate`.

    Returns:
      NumPy arrays ``(count, ...)`` in the form of the network's output: logits ``(count, classes)``, say.

    Raises:
      ValueError: where there are no images, or ``batch`` is below 1.

    Example:
      >>> import dataclasses, numpy as np
      >>> @dataclasses.dataclass(frozen=True)
      ... class Double:
      ...     def init(self, key, x):
      ...         return {}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return 2 * x, state
      >>> predict(Double(), {}, {}, np.arange(5.0, dtype=np.float32), batch=2)
      array([0., 2., 4., 6., 8.], dtype=float32)
    """
    check_arrays(images)
    check_batch(batch)
    run = functools.partial(_forward, net, preprocess, params, state)
    outputs = _one_behind((run(some.items), some.skip) for some in equal_batches(images, batch))
    pieces = [jax.tree.map(lambda leaf, skip=skip: np.asarray(leaf)[skip:], output) for output, skip in outputs]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def _one_behind(results: Iterator[Any]) -> Iterator[Any]:
    """Each result after the next was asked for: the device stays busy, and no queue of batches fills its memory."""
    last = next(results)
    for result in results:
        yield last
        last = result
    yield last


@functools.partial(jit, static_argnums=(0, 1))
def _forward(net: Layer, preprocess: Preprocess | None, params: Any, state: Any, images: jax.Array) -> Any:
    return net.apply(params, state, images if preprocess is None else preprocess(images), train=False)[0]


@functools.partial(jit, static_argnums=(0, 1, 2))
def _measure(
    net: Layer,
    loss: Loss,
    preprocess: Preprocess | None,
    params: Any,
    state: Any,
    images: jax.Array,
    labels: jax.Array,
    skip: jax.Array,
) -> dict[str, jax.Array]:
    """Sums over a batch of the loss and of right answers, without its first ``skip`` images."""
    logits = _forward(net, preprocess, params, state, images)
    fresh = jnp.arange(len(labels)) >= skip
    values = {"loss": _per_example(loss, logits, labels)}
    if is_classification(logits, labels):
        values["accuracy"] = jnp.argmax(logits, -1) == labels
    return {name: jnp.sum(jnp.where(fresh, _by_example(value), 0)) for name, value in values.items()}


def _per_example(loss: Loss, logits: Any, labels: jax.Array) -> jax.Array:
    values = loss(logits, labels)
    if values.ndim == 0:
        alone = functools.partial(jax.tree.map, lambda leaf: leaf[None])
        values = jax.vmap(lambda one, label: loss(alone(one), label[None]))(logits, labels)
    return values


def _by_example(values: jax.Array) -> jax.Array:
    """The mean over all axes but the first, in float32 at least."""
    return jnp.mean(values.reshape(values.shape[0], -1), 1, dtype=wider(values.dtype, jnp.float32))
