"""Metrics of segmentation: counts of pixels by true and predicted class, summed over batches and devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int
from jaxconv.metrics.base import Metric, add, described, identity, is_classification


def confusion(classes: int) -> Metric:
    """Returns the number of pixels, or examples, of each true class that are predicted as each class.

    Args:
      classes: the number of classes, K.

    Returns:
      A `Metric` of outputs `(N, ..., K)`, scores, and integer targets `(N, ...)`. Targets outside of 0 to K - 1, such
      as 255, are ignored. The result is `(K, K)`: the true class by rows, the predicted by columns.

    >>> metric = confusion(2)
    >>> metric.finish(metric.update(jnp.eye(2)[jnp.array([0, 1, 1, 1])], jnp.array([0, 0, 1, 255])))
    Array([[1, 1],
           [0, 1]], dtype=int32)

    Equals `sklearn.metrics.confusion_matrix` of all pixels that are not ignored.
    """
    return Metric(_Confusion("confusion", as_int(classes, "classes", least=1)), add, identity)


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
    return Metric(_Confusion("mean_iou", as_int(classes, "classes", least=1)), add, _mean_iou)


def dice(classes: int) -> Metric:
    """Returns the mean over classes of the Dice coefficient of predicted and true pixels, over a whole data set.

    Args:
      classes: the number of classes, K.

    Returns:
      A `Metric` of outputs and targets as in `mean_iou`: twice the intersection over the sum of both areas.

    >>> metric = dice(2)
    >>> round(metric.finish(metric.update(jnp.eye(2)[jnp.array([[0, 1, 1, 1]])], jnp.array([[0, 0, 1, 255]]))), 3)
    0.667

    Equals `sklearn.metrics.f1_score(average="macro")` of all pixels that are not ignored.
    """
    return Metric(_Confusion("dice", as_int(classes, "classes", least=1)), add, _dice)


def pixel_accuracy(classes: int) -> Metric:
    """Returns the share of pixels whose class is right, over a whole data set.

    Args:
      classes: the number of classes, K.

    Returns:
      A `Metric` of outputs and targets as in `mean_iou`. Unlike the mean of `accuracy`, it ignores the targets outside
      of 0 to K - 1, and counts each pixel once whatever the size of its image.

    >>> metric = pixel_accuracy(2)
    >>> round(metric.finish(metric.update(jnp.eye(2)[jnp.array([[0, 1, 1, 1]])], jnp.array([[0, 0, 1, 255]]))), 3)
    0.667

    Equals `sklearn.metrics.accuracy_score` of all pixels that are not ignored.
    """
    return Metric(_Confusion("pixel_accuracy", as_int(classes, "classes", least=1)), add, _pixel_accuracy)


@dataclasses.dataclass(frozen=True)
class _Confusion:
    """Counts `(K, K)` of pixels by true and predicted class."""

    name: str
    classes: int

    def __call__(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        if not is_classification(outputs, targets) or outputs.shape[-1] != self.classes:
            raise ShapeError(
                f"{self.name}: outputs must be scores of {self.classes} classes and targets their indices, "
                f"got {described(targets)} and outputs {described(outputs)}"
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
    return _mean_share(both, confusion.sum(0) + confusion.sum(1) - both)


def _dice(confusion: Any) -> float:
    return _mean_share(2.0 * np.diagonal(confusion), confusion.sum(0) + confusion.sum(1))


def _pixel_accuracy(confusion: Any) -> float:
    return _mean_share(np.array([float(np.trace(confusion))]), np.asarray(confusion.sum())[None])


def _mean_share(part: Any, whole: Any) -> float:
    """Returns the mean of part / whole where there is something; NaN where there is nothing at all."""
    there = whole > 0
    return float(np.mean(part[there] / whole[there])) if there.any() else float("nan")


__all__ = ["confusion", "dice", "mean_iou", "pixel_accuracy"]
