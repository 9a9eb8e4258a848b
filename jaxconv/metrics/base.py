"""What a metric is, and those of classification."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

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
            f"got {described(targets)} and outputs {described(outputs)}"
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
                f"got {described(targets)} and outputs {described(outputs)}"
            )
        return (jax.lax.top_k(outputs, self.k)[1] == targets[..., None]).any(-1)


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


def described(tree: Any) -> str:
    """Returns the types and shapes of the arrays in a pytree, for messages.

    >>> described({"a": jnp.zeros((2, 3))})
    'float32 (2, 3)'
    """
    leaves = jax.tree.leaves(tree)
    return ", ".join(f"{leaf.dtype} {tuple(leaf.shape)}" if hasattr(leaf, "shape") else repr(leaf) for leaf in leaves)


__all__ = ["Metric", "accuracy", "add", "top_k"]
