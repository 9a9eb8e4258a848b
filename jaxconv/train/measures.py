"""What a loss and metrics say about a batch: values to average over examples, and sums to finish later."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxconv.metrics import Function, Metric, accuracy, add, is_classification
from jaxconv.ops.arrays import wider

Loss: TypeAlias = Callable[[Any, Any], Any]
Metrics: TypeAlias = tuple[tuple[str, Function | Metric], ...]

# Losses whose targets are classes. The same shapes fit other losses: embeddings (N, 32) and
# identities (N,), say, whose "accuracy" would mean nothing.
_CLASSIFYING = (optax.softmax_cross_entropy_with_integer_labels,)
_RECORDED = "loss grad_norm epoch step seconds images_per_second learning_rate best_epoch count stopped".split()
_PREFIXES = ("validation_", "average_")


def as_metrics(metrics: Mapping[str, Function | Metric]) -> Metrics:
    """The metrics as items, which can be compared and hashed. Raises ValueError for a name or a value that is none."""
    if not isinstance(metrics, Mapping):
        raise ValueError(f"metrics must be a dict of functions by name, got {type(metrics).__name__}")
    for name, metric in metrics.items():
        check_name(name, "metrics")
        if not (callable(metric) or isinstance(metric, Metric)):
            raise ValueError(f"metrics[{name!r}] must be a function of outputs and targets or a Metric, got {metric!r}")
    return tuple(metrics.items())


def check_name(name: Any, argument: str) -> None:
    """Raises ValueError for what a record can't have as the name of a value of the user's."""
    if not isinstance(name, str) or not name or name in _RECORDED or name.startswith(_PREFIXES):
        taken = f"{', '.join(_RECORDED)}, and not begin with {' or '.join(_PREFIXES)}"
        raise ValueError(f"{argument}: a name must be a string other than {taken}, got {name!r}")


def with_accuracy(loss: Loss, metrics: Metrics, outputs: Any, targets: Any) -> Metrics:
    """The metrics, with the accuracy before them where the loss and the shapes leave no doubt that it is meant."""
    function = loss
    while isinstance(function, functools.partial) and not function.args and not function.keywords:
        function = function.func
    known = any(name == "accuracy" for name, _ in metrics)
    if known or function not in _CLASSIFYING or not is_classification(outputs, targets):
        return metrics
    return (("accuracy", accuracy), *metrics)


def indexes_classes(loss: Loss, metrics: Metrics, outputs: Any, targets: Any) -> bool:
    """Whether the targets are known to be indices of classes on the last axis of the outputs."""
    named = dict(with_accuracy(loss, metrics, outputs, targets))
    return named.get("accuracy") is accuracy and is_classification(outputs, targets)


def training_metrics(metrics: Metrics) -> Metrics:
    """Those that can be summed on the device, over the steps of an epoch."""
    return tuple((name, m) for name, m in metrics if not isinstance(m, Metric) or m.combine is add)


def sums_of(metrics: Metrics) -> dict[str, Metric]:
    """Those that are no means over examples."""
    return {name: metric for name, metric in metrics if isinstance(metric, Metric)}


def measure(loss: Loss, metrics: Metrics, outputs: Any, targets: Any) -> tuple[Any, dict[str, Any]]:
    """The loss's values, and by their names those of its dict, if it returns one, and of the metrics."""
    values = loss(outputs, targets)
    values, named = values if isinstance(values, tuple) and len(values) == 2 else (values, {})
    named = dict(named)
    for name in named:
        check_name(name, "loss")
    for name, metric in with_accuracy(loss, metrics, outputs, targets):
        if name in named:
            raise ValueError(f"metrics: a name must be none of those that loss returns, got {name!r}")
        named[name] = metric.update(outputs, targets) if isinstance(metric, Metric) else metric(outputs, targets)
    return values, named


def means(measured: dict[str, Any], sums: Iterable[str]) -> dict[str, Any]:
    """The mean of each value over the batch; what is in ``sums`` as it is."""
    return {name: value if name in sums else mean(value) for name, value in measured.items()}


def totals(measured: dict[str, Any], sums: Iterable[str], rows: int) -> dict[str, Any]:
    """The sum over a batch's examples of each value, of which a scalar is the mean; what is in ``sums`` as it is."""
    return {name: value if name in sums else _total(value, rows) for name, value in measured.items()}


def finished(values: dict[str, Any], metrics: Metrics) -> dict[str, Any]:
    """Numbers for a record: sums are finished; where that gives a dict, each of its values has a name."""
    sums = sums_of(metrics)
    result: dict[str, Any] = {}
    for name, value in values.items():
        value = sums[name].finish(value) if name in sums else value
        parts = {f"{name}_{part}": one for part, one in value.items()} if isinstance(value, Mapping) else {name: value}
        if twice := sorted(result.keys() & parts.keys()):
            raise ValueError(f"metrics: each value must have a different name, got {', '.join(twice)} twice")
        result |= {part: _plain(one) for part, one in parts.items()}
    return result


def ordered(names: Iterable[str]) -> list[str]:
    """Names in the order in which they are shown: jit sorts the dicts that it returns."""
    place = {"loss": -2, "accuracy": -1, "grad_norm": 1}
    return sorted(names, key=lambda name: place.get(name, 0))


def mean(values: Any) -> jax.Array:
    """The mean, accumulated in float32 at least."""
    return jnp.mean(_wide(jnp.asarray(values)))


def takes_targets(augment: Any) -> bool:
    """Whether ``augment`` has three positional parameters without default: key, inputs and targets."""
    try:
        parameters = inspect.signature(augment).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(needed) >= 3


def _total(values: Any, rows: int) -> jax.Array:
    values = _wide(jnp.asarray(values))
    return values * rows if values.ndim == 0 else jnp.sum(jnp.mean(values.reshape(values.shape[0], -1), 1))


def _wide(values: jax.Array) -> jax.Array:
    """The values in float32 at least: squares of float16 overflow from 256 on."""
    return values.astype(wider(values.dtype, jnp.float32))


def _plain(value: Any) -> Any:
    """A number or nested lists of numbers, as JSON has them."""
    value = np.asarray(value)
    return value.item() if value.size == 1 else value.tolist()
