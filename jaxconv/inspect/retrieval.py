"""Image retrieval: embeddings, nearest neighbors, precision, principal components."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import (
    check_data,
    check_hashable,
    check_outside,
    check_unstacked,
    naming_preprocess,
    one_array,
)
from jaxconv.inspect.top_k import keep_best, nothing_yet
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops.arrays import ArrayLike, accumulator
from jaxconv.ops.resize import resize

METRICS = ("cosine", "l2")


def embed(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    path: str,
    *,
    batch_size: int = 256,
    preprocess: Preprocess | None = None,
    scales: Sequence[float] | None = None,
) -> np.ndarray:
    """Returns the output of a layer for each image of a data set, feature maps averaged over positions.

    A loop on the host over batches: inside jit use `activations`.

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      images: array of shape ``(count, ...)``. NumPy arrays, memory maps included, are copied to the device in batches.
      path: the layer's path, usually of the last layer before the scores; "" is the network's output.
      batch_size: images for each call of the network.
      preprocess: ``preprocess(images)``, run inside the compiled program. Pass the same function each time: a new
        function compiles again.
      scales: for embeddings of several scales (Radenovic et al., 2018): factors for the sides of the images, which
        ``preprocess`` has returned as floating-point ``(batch, height, width, channels)``. Each scale's embedding is
        divided by its norm, then their sum. Each scale compiles a program.

    Returns:
      NumPy array of shape ``(count, channels)``.

    Raises:
      ValueError: the path names no layer, a layer inside a `repeat`, or a layer that does not return an array
        ``(batch, ..., channels)`` with the batch of the images; there are no images.
      DTypeError: the network does not accept the images' element type, and there is no preprocess.
      ArgumentError: scales are not positive numbers.

    >>> net = jc.serial(conv=jc.Conv(8), relu=jax.nn.relu, flatten=jc.Flatten(), scores=jc.Dense(10))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> embed(net, params, state, jnp.ones((5, 8, 8, 3)), "relu", batch_size=2).shape
    (5, 8)
    """
    check_outside("embed", params, state, images, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    images, batch_size = check_data(images, batch_size)
    check_unstacked(net, path)
    if scales is not None and not (len(scales) and all(scale > 0 for scale in scales)):
        raise ArgumentError(f"scales must be one or more positive numbers, got {scales!r}")

    def rows(scale: float | None) -> np.ndarray:
        features = functools.partial(_features, net, path, preprocess, scale, params, state)
        return np.concatenate(
            [np.asarray(features(part.items))[part.skip :] for part in equal_batches(images, batch_size)]
        )

    with naming_preprocess(images, preprocess):
        if scales is None:
            return rows(None)
        return _unit(np.sum([_unit(rows(float(scale))) for scale in scales], 0))


@functools.partial(jit, static_argnums=(0, 1, 2, 3))
def _features(
    net: Layer,
    path: str,
    preprocess: Preprocess | None,
    scale: float | None,
    params: Params,
    state: State,
    images: Array,
) -> Array:
    x = preprocess(images) if preprocess else images
    if scale not in (None, 1.0):
        x = resize(x, [max(1, round(n * scale)) for n in x.shape[1:3]], antialias=True)
    found = activations(net, params, state, x, paths=[path])[1][path]
    found = one_array(found, path, count=len(images))
    return jnp.mean(found, axis=tuple(range(1, found.ndim - 1)), dtype=accumulator(found.dtype))


class Neighbors(NamedTuple):
    """The result of `nearest`, as NumPy arrays, nearest first.

    Attributes:
      indices: rows of the database, ``(queries, k)``.
      distances: their distances to the query, ``(queries, k)``.
    """

    indices: np.ndarray
    distances: np.ndarray


def nearest(
    queries: ArrayLike,
    database: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    exclude_self: bool = False,
    batch_size: int = 4096,
) -> Neighbors:
    """Returns the k rows of a database that are nearest to each query, by exhaustive search.

    A loop on the host over batches of both: inside jit use `jax.lax.top_k` on the matrix product.

    Args:
      queries: real array of shape ``(queries, features)``.
      database: real array of shape ``(rows, features)``.
      k: the number of neighbors.
      metric: "cosine", 1 minus the cosine of the angle (1 where a vector is zero); or "l2", the Euclidean distance.
      exclude_self: whether to exclude row i for query i, for queries that are the database.
      batch_size: rows of each that are compared at a time; memory grows with its square.

    Returns:
      A `Neighbors`. At equal distances the lower row comes first.

    Raises:
      ValueError: the shapes do not fit each other, k is greater than the number of rows, a value is not finite in
        float32, or the metric is unknown.
      DTypeError: an array does not have a real type.

    Equals ``sklearn.neighbors.NearestNeighbors(algorithm="brute")``, except for rows whose distances differ by less
    than rounding in float32; for "l2" that is relative to the value furthest from the database's mean.

    >>> rows = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> nearest(rows, rows, 1, exclude_self=True).indices.tolist()
    [[2], [2], [0]]
    >>> nearest(jnp.array([[4.0, 3.0]]), rows, 2, metric="l2").indices.tolist()
    [[2, 0]]
    """
    check_outside("nearest", queries, database, inside="jax.lax.top_k")
    queries, database = _vectors(queries, "queries"), _vectors(database, "database")
    if queries.shape[1] != database.shape[1]:
        raise ShapeError(
            f"queries and database must have the same number of features, got {queries.shape} and {database.shape}"
        )
    if metric not in METRICS:
        raise ArgumentError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if exclude_self and len(queries) != len(database):
        raise ArgumentError(
            f"queries must be the database for exclude_self, got {len(queries)} queries for {len(database)} rows"
        )
    k, most = as_int(k, "k", least=1), len(database) - exclude_self
    if k > most:
        raise ArgumentError(f"k must be at most {most}, the number of rows that a query can find, got {k}")
    batch_size = as_int(batch_size, "batch_size", least=1)
    scaled = _unit if metric == "cosine" else _centered(queries, database)
    found = []
    for some in equal_batches(queries, batch_size):
        asked = scaled(some.items)
        best = nothing_yet(len(some.items), k, np.float32, others=1)
        for rows in equal_batches(database, batch_size):
            best = _compare(metric, exclude_self, asked, scaled(rows.items), some.start, rows.start, rows.skip, best)
        indices, distances = _ranked(metric, some.items, database, *map(np.asarray, best))
        found.append((indices[some.skip :], distances[some.skip :]))
    return Neighbors(*map(np.concatenate, zip(*found, strict=True)))


def _vectors(a: ArrayLike, name: str) -> np.ndarray:
    a = np.asarray(a)
    if not jnp.issubdtype(a.dtype, np.floating) and not jnp.issubdtype(a.dtype, np.integer):
        raise DTypeError(f"{name} must be an array of a real type, got {a.dtype}")
    if a.ndim != 2 or 0 in a.shape:
        raise ShapeError(f"{name} must have shape (rows, features), with at least one of each, got {a.shape}")
    a = a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)
    most = np.finfo(np.float32).max
    if not -most <= a.min() <= a.max() <= most:
        raise ArgumentError(
            f"{name} must be finite in float32, got {int((~(np.abs(a) <= most)).sum())} values that are not"
        )
    return a


def _unit(a: np.ndarray) -> np.ndarray:
    """Returns rows of norm 1, first divided by their largest magnitude, so that no square overflows or underflows."""
    largest = np.abs(a).max(axis=1, keepdims=True)
    a = (a / np.where(largest > 0, largest, 1)).astype(np.float32)
    return a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1)


def _centered(queries: np.ndarray, database: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that subtracts the database's mean from rows, and divides by the largest magnitude.

    The order of distances does not change, and products of values of similar magnitude lose less precision.
    """
    shift = database.mean(axis=0, dtype=np.float64)
    ends = [end for a in (queries, database) for end in (a.min(axis=0), a.max(axis=0))]
    largest = np.abs(np.stack(ends) - shift).max() or 1
    return lambda a: ((a - shift) / largest).astype(np.float32)


@functools.partial(jit, static_argnums=(0, 1))
def _compare(
    metric: str,
    exclude_self: bool,
    queries: Array,
    rows: Array,
    query_start: Array,
    row_start: Array,
    skip: Array,
    best: Tree,
) -> Tree:
    """Returns the best of ``best`` and of ``rows``, without the first ``skip`` rows."""
    likeness = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    if metric == "l2":
        likeness -= jnp.sum(rows**2, axis=1) / 2
    fresh = jnp.arange(len(rows))
    number = jnp.broadcast_to(row_start + fresh, likeness.shape)
    out = fresh < skip
    if exclude_self:
        out |= number == query_start + jnp.arange(len(queries))[:, None]
    return keep_best(best, (jnp.where(out, -jnp.inf, likeness), number))


def _ranked(
    metric: str, queries: np.ndarray, database: np.ndarray, scores: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows found and their distances; L2 distances come from differences, which are more precise."""
    if metric == "cosine":
        return indices, 1 - scores
    wide = queries.astype(np.float64)
    far = np.stack([np.linalg.norm(wide - database[column], axis=1) for column in indices.T], 1)
    order = np.lexsort((indices, far))
    return np.take_along_axis(indices, order, 1), np.take_along_axis(far, order, 1)


def precision_at_k(indices: ArrayLike | Neighbors, labels: ArrayLike, query_labels: ArrayLike) -> float:
    """Returns the fraction of neighbors that have the label of the query, averaged over queries.

    Runs on the host: inside jit use ``(labels[indices] == query_labels[:, None]).mean()``.

    Args:
      indices: rows of the database, integers ``(queries, k)``; or the `Neighbors` that `nearest` returns.
      labels: integers ``(rows,)`` of the database.
      query_labels: integers ``(queries,)``.

    Returns:
      A number between 0 and 1.

    Raises:
      ValueError: the shapes do not fit each other, or an index is out of range.

    Equals ``torchmetrics.retrieval.RetrievalPrecision(top_k=k)`` of positive scores that give this ranking.

    >>> precision_at_k([[0, 1], [2, 0]], labels=[7, 8, 9], query_labels=[7, 9])
    0.5
    """
    formula = "(labels[indices] == query_labels[:, None]).mean()"
    check_outside("precision_at_k", indices, labels, query_labels, inside=formula)
    return float(_relevant(indices, labels, query_labels).mean())


def mean_average_precision(indices: ArrayLike | Neighbors, labels: ArrayLike, query_labels: ArrayLike) -> float:
    """Returns the mean over queries of the average precision of a ranking, which may be cut after k rows.

    The average precision is the sum of the precisions at the relevant rows of the ranking, divided by the number of
    relevant rows in the database, or by k if that is less. Queries without a relevant row do not count.

    Args:
      indices: rows of the database, integers ``(queries, k)``, nearest first; or the `Neighbors` that `nearest`
        returns.
      labels: integers ``(rows,)`` of the database.
      query_labels: integers ``(queries,)``.

    Returns:
      A number between 0 and 1.

    Raises:
      ValueError: the shapes do not fit each other, an index is out of range, or no query has a relevant row.

    Equals ``sklearn.metrics.average_precision_score`` if k is the number of rows, and
    ``torchmetrics.retrieval.RetrievalMAP``.

    >>> mean_average_precision([[0, 1, 2]], labels=[7, 8, 7], query_labels=[7]).__round__(4)
    0.8333
    """
    check_outside("mean_average_precision", indices, labels, query_labels, inside="precision_at_k's formula")
    hits = _relevant(indices, labels, query_labels)
    ranks = np.arange(1, hits.shape[1] + 1)
    values, counts = np.unique(np.asarray(labels), return_counts=True)
    asked = np.asarray(query_labels)
    found = np.searchsorted(values, asked).clip(max=len(values) - 1)
    relevant = np.where(values[found] == asked, counts[found], 0)
    if not relevant.any():
        raise ArgumentError("query_labels must have a label of labels, got none")
    total = (np.cumsum(hits, 1) / ranks * hits).sum(1)[relevant > 0]
    return float((total / np.minimum(relevant[relevant > 0], hits.shape[1])).mean())


def _relevant(indices: Any, labels: Any, query_labels: Any) -> np.ndarray:
    """Returns for each query and rank whether the row has the query's label, or raises."""
    indices = indices.indices if isinstance(indices, Neighbors) else np.asarray(indices)
    labels, query_labels = np.asarray(labels), np.asarray(query_labels)
    if indices.ndim != 2 or labels.ndim != 1 or query_labels.shape != indices.shape[:1] or not indices.size:
        raise ShapeError(
            "indices, labels and query_labels must have shapes (queries, k), (rows,) and (queries,), "
            f"got {indices.shape}, {labels.shape} and {query_labels.shape}"
        )
    if not np.issubdtype(indices.dtype, np.integer):
        raise DTypeError(f"indices must be integers, got {indices.dtype}")
    if not 0 <= indices.min() <= indices.max() < len(labels):
        raise ArgumentError(
            f"indices must be from 0 to {len(labels) - 1}, got {indices.min()} to {indices.max()}: labels has a label "
            "for each row of the database"
        )
    return labels[indices] == query_labels[:, None]


class Pca(NamedTuple):
    """The result of `pca`.

    Attributes:
      points: the coordinates of each row along the components, ``(rows, n)``.
      components: orthonormal directions, ``(n, features)``, in order of decreasing variance.
      mean: of the rows, ``(features,)``; ``points = (x - mean) @ components.T``.
      explained: the fraction of the variance along each component, ``(n,)``.
    """

    points: Array
    components: Array
    mean: Array
    explained: Array


def pca(x: ArrayLike, n: int = 2) -> Pca:
    """Returns the principal components of rows, by a singular value decomposition.

    PCA preserves large distances. To preserve neighborhoods use t-SNE (``sklearn.manifold.TSNE``) or UMAP
    (``umap.UMAP``); both accept the output of `embed`, and work better on its first 50 principal components.

    Args:
      x: array of shape ``(rows, features)``.
      n: the number of components.

    Returns:
      A `Pca`. The value of largest magnitude in each component is positive, so that signs are the same on all machines.

    Raises:
      ArgumentError: n is below 1.
      ShapeError: x has another rank, or n is greater than its number of rows or of features.

    Equals ``sklearn.decomposition.PCA(svd_solver="full")``.

    >>> found = pca(jnp.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), 1)
    >>> print(found.points.round(3)[:, 0], found.explained)
    [-1.414  0.     1.414] [1.]
    """
    x = jnp.asarray(x)
    x = x.astype(accumulator(x.dtype)) if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    if x.ndim != 2 or 0 in x.shape:
        raise ShapeError(f"x must have shape (rows, features), with at least one of each, got {x.shape}")
    if as_int(n, "n", least=1) > min(x.shape):
        raise ShapeError(f"n must be at most the rows and the features of x, {x.shape}, got {n}")
    mean = jnp.mean(x, axis=0)
    u, s, v = jnp.linalg.svd(x - mean, full_matrices=False)
    largest = jnp.take_along_axis(v[:n], jnp.argmax(jnp.abs(v[:n]), axis=1)[:, None], axis=1)
    sign = jnp.where(largest < 0, -1, 1)
    total = jnp.sum(s**2)
    explained = s[:n] ** 2 / jnp.where(total > 0, total, 1)
    return Pca((u[:, :n] * s[:n]) * sign.T, v[:n] * sign, mean, explained)


__all__ = ["Neighbors", "Pca", "embed", "mean_average_precision", "nearest", "pca", "precision_at_k"]
