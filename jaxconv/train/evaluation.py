"""Exact evaluation and prediction over a data set of any size, with one compiled program of the network."""

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess, one_behind
from jaxconv.errors import shortens_tracebacks
from jaxconv.layer import Layer
from jaxconv.metrics import Function, Metric, add
from jaxconv.structs import struct_of
from jaxconv.train.arguments import check_arrays, check_batch_size, check_classes, check_data, check_loss
from jaxconv.train.forward import forward
from jaxconv.train.measures import Loss, Metrics, as_metrics, finished, measure, ordered, sums_of, totals
from jaxconv.train.mesh import Placement
from jaxconv.train.parts import Part, Spans, array_parts
from jaxconv.train.sources import Batches, is_iterable


@shortens_tracebacks
def evaluate(
    net: Layer,
    params: Any,
    state: Any,
    inputs: Any,
    targets: Any = None,
    *,
    loss: Loss,
    metrics: Mapping[str, Function | Metric] = {},
    batch_size: int = 256,
    preprocess: Preprocess | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
    """Returns the mean loss and the metrics over all of ``inputs``, whatever their number.

    No example counts twice and none is dropped. The network runs on batches of one size; the last batch may repeat
    examples of the one before, which the loss and the metrics do not receive again.

    Args:
      net: a layer; it runs with ``train=False``.
      params: its parameters.
      state: its state.
      inputs: a pytree of arrays `(N, ...)`. NumPy arrays, memory maps included, go to the device batch by batch. Or,
        without targets, an iterable of batches (inputs, targets), as `fit` takes it.
      targets: a pytree of arrays `(N, ...)`. Where they are known to index classes they must be from 0 to the number
        of classes less one; the check reads all of them once.
      loss: ``loss(outputs, targets)``, a loss for each example or a scalar, or a pair of it and a dict of more values
        by name. A scalar counts as the mean over the batch that it is of: exact for means over examples; a loss of
        pairs or triplets is averaged over the batches.
      metrics: by name, ``f(outputs, targets)``, a value for each example or a scalar, or a `jaxconv.metrics.Metric`.
      batch_size: examples in each call of the network; an iterable has its own.
      preprocess: ``preprocess(inputs)``, run inside the compiled program. Pass the same function each time: a new one,
        such as a lambda written in the call, compiles anew.
      mesh: the devices that each batch is divided over, by the mesh's axis "data"; its size may be any. Parameters that
        are divided over the mesh stay so, others are put on every device. Of several processes each gives the same
        arrays, or an iterable of its part of each batch, whose last parts may differ in size. All get the values of the
        whole.

    Returns:
      A dict: ``loss``; what the loss's dict has; ``accuracy`` where `train_step` has one; the metrics; ``count``.

    Raises:
      ValueError: where there are no inputs, their number differs from the targets', targets are out of range or not
        what the loss takes, ``batch_size`` is below 1, or the structure of batches changes.

    Example:
      >>> import dataclasses, jax.numpy as jnp, optax
      >>> @dataclasses.dataclass(frozen=True)
      ... class Identity:
      ...     def init(self, key, x):
      ...         return {}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return x, state
      >>> loss = optax.softmax_cross_entropy_with_integer_labels
      >>> evaluate(Identity(), {}, {}, 50.0 * jnp.eye(3), jnp.array([0, 1, 0]), loss=loss, batch_size=2)["accuracy"]
      0.666...
    """
    items = as_metrics(metrics)
    check_batch_size(batch_size)
    with _on(mesh) as placement:
        source: Batches | None = None
        if is_iterable(inputs, targets):
            source = Batches(inputs, placement=placement)
            some, theirs = source.example()
        else:
            count = check_data(inputs, targets)
            inputs, targets = jax.tree.map(_as_array, (inputs, targets))
            some, theirs = structs((inputs, targets), min(batch_size, count))
        if placement is not None:
            params, state = placement.put_params((params, state))
        outputs = forward.eval_shape(net, preprocess, params, state, some)
        check_loss(loss, items, outputs, theirs)
        if source is None:
            check_classes(loss, items, outputs, targets)
            parts = array_parts(inputs, targets, batch_size, placement)
        else:
            source.check = class_check(loss, items, outputs)
            parts = source.parts()
        options: dict[str, Any] = {"metrics": items, "preprocess": preprocess, "placement": placement}
        return measured(net, params, state, parts, loss=loss, **options)


def measured(
    net: Layer,
    params: Any,
    state: Any,
    parts: Iterable[Part],
    *,
    loss: Loss,
    metrics: Metrics,
    preprocess: Preprocess | None,
    placement: Placement | None = None,
) -> dict[str, Any]:
    """Returns what `evaluate` does, without its checks."""
    sums = sums_of(metrics)
    if placement is not None:
        params, state = placement.put_params((params, state))
    run = functools.partial(forward, net, preprocess, params, state)
    everywhere = None if placement is None else jax.NamedSharding(placement.mesh, jax.P())
    measure_part = functools.partial(_measure, loss, metrics, everywhere)
    results = one_behind((part.rows, measure_part(part.spans, run(part.inputs), part.targets)) for part in parts)
    total, count = None, 0
    for rows, result in results:
        count += rows
        batch = {name: _exact(value, sums.get(name)) for name, value in jax.device_get(result).items()}
        if total is None:
            total = batch
        else:
            total = {n: (sums[n].combine if n in sums else add)(value, batch[n]) for n, value in total.items()}
    assert total is not None
    values = {name: total[name] if name in sums else total[name] / count for name in ordered(total)}
    return {**finished(values, metrics), "count": count}


@shortens_tracebacks
def predict(
    net: Layer,
    params: Any,
    state: Any,
    inputs: Any,
    *,
    batch_size: int = 256,
    preprocess: Preprocess | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Any:
    """Returns the network's output for all of ``inputs``, in their order.

    Args:
      net: a layer; it runs with ``train=False``.
      params: its parameters.
      state: its state.
      inputs: a pytree of arrays `(N, ...)`, or an iterable of batches (inputs, targets), as `evaluate` takes it; the
        targets are not used.
      batch_size: examples in each call of the network; an iterable has its own.
      preprocess, mesh: as in `evaluate`. Every process gets the outputs of all examples.

    Returns:
      NumPy arrays `(N, ...)` in the structure of the network's output: logits `(N, classes)`, say.

    Raises:
      ValueError: where there are no inputs, or ``batch_size`` is below 1.

    Example:
      >>> import dataclasses, numpy as np
      >>> @dataclasses.dataclass(frozen=True)
      ... class Double:
      ...     def init(self, key, x):
      ...         return {}, {}
      ...     def apply(self, params, state, x, *, train=False, key=None):
      ...         return 2 * x, state
      >>> predict(Double(), {}, {}, np.arange(5.0, dtype=np.float32), batch_size=2)
      array([0., 2., 4., 6., 8.], dtype=float32)
    """
    check_batch_size(batch_size)
    arrays = isinstance(inputs, tuple | list | dict) or hasattr(inputs, "shape") or not is_iterable(inputs, None)
    with _on(mesh) as placement:
        if arrays:
            check_arrays(inputs)
            parts = array_parts(jax.tree.map(_as_array, inputs), None, batch_size, placement)
        else:
            parts = Batches(inputs, placement=placement).parts()
        if placement is not None:
            params, state = placement.put_params((params, state))
        run = functools.partial(forward, net, preprocess, params, state)
        outputs = one_behind((run(part.inputs), part.spans) for part in parts)
        pieces = [
            jax.tree.map(lambda leaf, start=start, stop=stop: leaf[start:stop], output)
            for output, spans in ((jax.tree.map(_whole, output), spans) for output, spans in outputs)
            for start, stop in spans
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)


def structs(tree: Any, rows: int) -> Any:
    """Returns the shapes of a batch of ``rows`` examples."""
    return jax.tree.map(lambda leaf: struct_of((rows, *leaf.shape[1:]), leaf.dtype), tree)


def class_check(loss: Loss, metrics: Metrics, outputs: Any, *, name: str = "") -> Any:
    """Returns a function that checks the classes of a batch of an iterable; targets on a device are not checked."""

    def check(inputs: Any, targets: Any, step: int) -> None:
        if isinstance(targets, np.ndarray):
            check_classes(loss, metrics, outputs, targets, name=f"{name} batch {step}:".strip())

    return check


@contextlib.contextmanager
def _on(mesh: jax.sharding.Mesh | None) -> Iterator[Placement | None]:
    """Yields the placement on a mesh, whose axes are Auto inside the context; None without a mesh."""
    if mesh is None:
        yield None
        return
    placement = Placement(mesh).auto
    with jax.set_mesh(placement.mesh):
        yield placement


def _whole(leaf: jax.Array) -> np.ndarray:
    """Returns an array on the host, with the parts of other processes."""
    if leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def _as_array(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


@functools.partial(jit, static_argnums=(0, 1, 2, 3))
def _measure(
    loss: Loss, metrics: Metrics, everywhere: jax.NamedSharding | None, spans: Spans, outputs: Any, targets: Any
) -> dict[str, Any]:
    """Returns sums over the examples of a batch in ``spans``: all of them, except in the last batch."""
    size, rows = len(jax.tree.leaves(targets)[0]), sum(stop - start for start, stop in spans)

    def counted(leaf: Any) -> Any:
        return jnp.concatenate([leaf[start:stop] for start, stop in spans]) if leaf.shape[:1] == (size,) else leaf

    if rows != size:
        outputs, targets = jax.tree.map(counted, (outputs, targets))
    values, named = measure(loss, metrics, outputs, targets)
    found = totals({"loss": values, **named}, sums_of(metrics), rows)
    # Every process reads them.
    return found if everywhere is None else jax.lax.with_sharding_constraint(found, everywhere)


def _exact(value: Any, metric: Metric | None) -> Any:
    """Returns a batch's values in the widest types, so that sums over millions of examples are exact."""
    if metric is not None and metric.combine is not add:
        return value
    return jax.tree.map(lambda leaf: leaf.astype(np.int64 if leaf.dtype.kind in "bui" else _float(leaf.dtype)), value)


def _float(dtype: Any) -> Any:
    return np.complex128 if jnp.issubdtype(dtype, jnp.complexfloating) else np.float64
