"""Whitening of descriptors by their principal components, for retrieval."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxconv.errors import ArgumentError
from jaxconv.inspect.arguments import check_outside
from jaxconv.inspect.retrieval import pca
from jaxconv.layer import Array
from jaxconv.ops.arrays import ArrayLike
from jaxconv.ops.norm import unit_norm


class Whitening(NamedTuple):
    """The result of `pca_whitening`: ``(x - mean) @ matrix`` has the covariance 1.

    Attributes:
      mean: of the rows, ``(features,)``.
      matrix: ``(features, n)``.
    """

    mean: Array
    matrix: Array


def pca_whitening(x: ArrayLike, n: int) -> Whitening:
    """Returns the map that makes the first n principal components of rows uncorrelated, with variance 1.

    Descriptors compare better by their directions after it: features that often occur together count less (Jegou and
    Chum, "Negative evidences and co-occurrences in image retrieval", 2012). Learn it on images other than the queries.

    Args:
      x: array of shape ``(rows, features)``.
      n: the number of components.

    Raises:
      ArgumentError: n is below 1, or the rows vary in fewer than n directions.
      ShapeError: x has another rank, or n is greater than its number of rows or of features.

    Equals ``sklearn.decomposition.PCA(n, whiten=True)``. Runs on the host.

    >>> found = pca_whitening(jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 6.0], [2.0, 6.0]]), 2)
    >>> print(jnp.abs(found.matrix).round(2))
    [[0.   0.87]
     [0.29 0.  ]]
    """
    check_outside("pca_whitening", x, inside="jaxconv.inspect.pca")
    found = pca(x, n)
    deviation = jnp.std(found.points, axis=0, ddof=1)
    if not deviation.min() > 1e-6 * deviation.max():
        raise ArgumentError(f"x must vary in n = {n} directions, got {int((deviation > 1e-6 * deviation.max()).sum())}")
    return Whitening(found.mean, found.components.T / deviation)


def whiten(x: ArrayLike, whitening: Whitening) -> Array:
    """Returns rows after `pca_whitening`, divided by their norm.

    Args:
      x: array of shape ``(..., features)``.
      whitening: the result of `pca_whitening`.

    >>> whiten(jnp.array([[4.0, 7.0]]), Whitening(jnp.array([1.0, 3.0]), jnp.eye(2)))
    Array([[0.6, 0.8]], dtype=float32)
    """
    x = jnp.asarray(x, whitening.mean.dtype)
    return unit_norm(jnp.matmul(x - whitening.mean, whitening.matrix, precision="highest"))


__all__ = ["Whitening", "pca_whitening", "whiten"]
