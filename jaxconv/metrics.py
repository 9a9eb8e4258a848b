"""Metrics of outputs and targets: a value for each example, or sums that are combined over batches and finished once.

A metric of `jaxconv.train` is either a function ``f(outputs, targets)`` of a batch, whose values are averaged over the
data set, or a `Metric`, for a value that is not a mean over examples, such as the mean IoU or the average precision.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int


def add(total: Any, batch: Any) -> Any:
    """Returns the sums of two pytrees of arrays.

    >>> add({"hits": 3, "count": 4}, {"hits": 1, "count": 4})
    {'count': 8, 'hits': 4}
    """
    return jax.tree.map(lambda one, other: one + other, total, batch)


def identity(total: Any) -> Any:
    """Returns its argument.

    >>> identity(0.5)
    0.5
    """
    return total


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric that is not a mean over examples.

    Args:
      update: ``update(outputs, targets)``, a pytree of arrays for a batch; it runs on the device, under jit.
      combine: ``combine(total, batch)``, the results of two groups of examples as one. It runs on the host, on NumPy
        arrays; the sums of `add` are int64 and float64.
      finish: ``finish(total)``, a number, an array, or a dict of them. It runs on the host, once.

    `jaxconv.train.fit` also records the metric over the batches of training, in float32 on the device, where
    ``combine`` is `add`. Others are measured in validation and by `jaxconv.train.evaluate` only.

    >>> largest = Metric(lambda outputs, targets: jnp.abs(outputs - targets).max(), max, float)
    >>> largest.finish(largest.combine(largest.update(1.0, 3.0), largest.update(0.0, 0.5)))
    2.0
    """

    update: Callable[[Any, Any], Any]
    combine: Callable[[Any, Any], Any] = add
    finish: Callable[[Any], Any] = identity


Function: TypeAlias = Callable[[Any, Any], Any]


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns whether the largest score is that of the right class.

    Args:
      outputs: `(N, ..., K)`, scores of K classes.
      targets: `(N, ...)`, integers, the indices of the right classes.

    Returns:
      `(N, ...)`, bool.

    Raises:
      ShapeError: the arrays have other shapes or types.

    >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
    [True, False]
    """
    if not is_classification(outputs, targets):
        raise ShapeError(
            f"accuracy: targets must be integers of the shape of outputs without the last axis, "
            f"got {_described(targets)} and outputs {_described(outputs)}"
        )
    return jnp.argmax(outputs, -1) == targets


def top_k(k: int) -> Function:
    """Returns a metric: whether the right class is among the k with the highest scores.

    Args:
      k: the number of classes that count as found.

    Returns:
      A function of outputs and targets, as `accuracy` takes them. Of equal scores the one with the lower index is the
      higher.

    >>> top_k(2)(jnp.array([[0.1, 0.5, 0.9]] * 2), jnp.array([1, 0])).tolist()
    [True, False]
    """
    return _TopK(as_int(k, "k", least=1))


@dataclasses.dataclass(frozen=True)
class _TopK:
    k: int

    def __call__(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        if not is_classification(outputs, targets) or self.k > outputs.shape[-1]:
            raise ShapeError(
                f"top_k: outputs must be scores of at least {self.k} classes and targets their indices, "
                f"got {_described(targets)} and outputs {_described(outputs)}"
            )
        return (jax.lax.top_k(outputs, self.k)[1] == targets[..., None]).any(-1)


def mean_iou(classes: int) -> Metric:
    """Returns the mean over classes of intersection over union of predicted and true pixels, over a whole data set.

    Args:
      classes: the number of classes, K.

    Returns:
      A `Metric` of outputs `(N, ..., K)`, scores, and integer targets `(N, ...)`. Targets outside of 0 to K - 1, such
      as 255, are ignored. Classes that appear in neither predictions nor targets are left out of the mean.

    >>> metric = mean_iou(2)
    >>> metric.finish(metric.update(jnp.eye(2)[jnp.array([[0, 1, 1, 1]])], jnp.array([[0, 0, 1, 255]])))
    0.5

    Equals `sklearn.metrics.jaccard_score(average="macro")` of all pixels that are not ignored.
    """
    return Metric(_Confusion(as_int(classes, "classes", least=1)), add, _mean_iou)


@dataclasses.dataclass(frozen=True)
class _Confusion:
    """Counts `(K, K)` of pixels by true and predicted class."""

    classes: int

    def __call__(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        if not is_classification(outputs, targets) or outputs.shape[-1] != self.classes:
            raise ShapeError(
                f"mean_iou: outputs must be scores of {self.classes} classes and targets their indices, "
                f"got {_described(targets)} and outputs {_described(outputs)}"
            )
        k = self.classes
        # First int32: JAX converts k to the targets' type, in which 256 may be 0.
        targets = targets.astype(jnp.int32)
        index = targets * k + jnp.argmax(outputs, -1)
        valid = (targets >= 0) & (targets < k)
        counts = jnp.zeros(k * k + 1, jnp.int32).at[jnp.where(valid, index, k * k)].add(1)
        return counts[:-1].reshape(k, k)


def _mean_iou(confusion: Any) -> float:
    both = np.diagonal(confusion).astype(float)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0])) if (either > 0).any() else float("nan")


def is_classification(outputs: Any, targets: Any) -> bool:
    """Returns whether ``targets`` may be the indices of classes on the last axis of ``outputs``, by their shapes.

    >>> is_classification(jnp.zeros((4, 10)), jnp.zeros(4, int)), is_classification(jnp.zeros((4, 10)), jnp.zeros(4))
    (True, False)
    """
    return (
        hasattr(outputs, "ndim")
        and hasattr(targets, "dtype")
        and jnp.issubdtype(targets.dtype, jnp.integer)
        and tuple(targets.shape) == tuple(outputs.shape[:-1])
        and outputs.ndim > 0
        and outputs.shape[-1] > 1
    )


def _described(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    return ", ".join(f"{leaf.dtype} {tuple(leaf.shape)}" if hasattr(leaf, "shape") else repr(leaf) for leaf in leaves)


__all__ = ["Metric", "accuracy", "add", "mean_iou", "top_k"]


def __dir__() -> list[str]:
    return sorted(__all__)
