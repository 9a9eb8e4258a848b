"""Embeddings, neighbors, precision, principal components: against NumPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import (
    Neighbors,
    activations,
    embed,
    mean_average_precision,
    nearest,
    pca,
    pca_whitening,
    precision_at_k,
    whiten,
)
from tests.nets import ready

SHAPE = (1, 6, 4, 3)


def small():
    return jc.serial(
        conv=jc.Dense(5),
        relu=jax.nn.relu,
        twice=jc.repeat(jc.serial(inner=jc.Dense(5)), 2),
        flatten=jc.Flatten(),
        scores=jc.Dense(2),
    )


def scaled(images):
    return images.astype(jnp.float32) / 255


# --- Embeddings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["relu", "twice", "flatten", "scores", ""])
@pytest.mark.parametrize("device", [False, True])
def test_embeddings_are_the_mean_over_positions(path, device):
    net = small()
    params, state, _ = ready(net, SHAPE)
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE[1:]), np.uint8)
    given = jnp.asarray(images) if device else images
    got = embed(net, params, state, given, path, batch_size=3, preprocess=scaled)
    want = np.asarray(activations(net, params, state, scaled(images), paths=[path])[1][path])
    assert isinstance(got, np.ndarray)
    assert_allclose(got, want.mean((1, 2)) if want.ndim == 4 else want, rtol=1e-5, atol=1e-6)


def test_embeddings_of_scales_are_the_sum_of_directions():
    net = jc.serial(conv=jc.Conv(5), relu=jax.nn.relu, pool=jc.GlobalGemPool())
    params, state, _ = ready(net, (1, 8, 6, 3))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), np.uint8)
    got = embed(net, params, state, images, "pool", batch_size=2, preprocess=scaled, scales=(1.0, 0.5))
    wanted = 0
    for size in ((8, 6), (4, 3)):
        x = jc.resize(scaled(images), size, antialias=True)
        rows = np.asarray(net.apply(params, state, x)[0])
        wanted = wanted + rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert_allclose(got, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), rtol=1e-5)
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(jc.ArgumentError, match="scales must be one or more positive numbers"):
            embed(net, params, state, images, "pool", preprocess=scaled, scales=scales)


def test_wrong_paths_and_images_are_named():
    net = jc.serial(small=small(), pair=jc.parallel(jnp.sin, jnp.cos), total=lambda xs: xs[0].sum(-1))
    params, state, x = ready(net, SHAPE)
    for error, path, message in (
        (jc.PathError, "smal", "path must name a layer of net, got 'smal': nearest are 'small'"),
        (jc.PathError, "small.twice.inner", r"path must name a layer outside of repeat, got 'small\.twice\.inner'"),
        (
            jc.ShapeError,
            "pair",
            r"path 'pair' must name a layer that returns an array \(batch, ..., channels\), got \(1, 2\) \(1, 2\)",
        ),
        (
            jc.ShapeError,
            "total",
            r"path 'total' must name a layer that returns an array \(batch, ..., channels\), got \(1,\)",
        ),
    ):
        with pytest.raises(error, match=message):
            embed(net, params, state, x, path)
    with pytest.raises(jc.ShapeError, match="images must be an array with at least one item"):
        embed(net, params, state, x[:0], "small")
    with pytest.raises(jc.ShapeError, match=r"'small' must name .* \(batch, .*, got \(2, 2\) for 1 images"):
        embed(net, params, state, x, "small", preprocess=lambda x: jnp.concatenate([x, x]))
    with pytest.raises(jc.ShapeError, match=r"small\.scores \(Dense\): kernel"):
        embed(net, params, state, np.ones((2, 5, 4, 3), np.float32), "small")


def test_bytes_ask_for_a_preprocess():
    net = small()
    params, state, _ = ready(net, SHAPE)
    images = np.zeros((2, *SHAPE[1:]), np.uint8)
    with pytest.raises(
        jc.DTypeError,
        match=r"^images must have an element type .*, got uint8: pass preprocess=, .*\(conv \(Dense\): x",
    ):
        embed(net, params, state, images, "relu")
    # A network that takes bytes needs none.
    assert embed(jc.serial(scaled=scaled), {}, {}, images, "scaled").shape == (2, SHAPE[-1])


# --- Neighbors --------------------------------------------------------------------------------------------------------


def by_numpy(queries, database, metric):
    queries, database = queries.astype(np.float64), database.astype(np.float64)
    if metric == "l2":
        return np.linalg.norm(queries[:, None] - database, axis=-1)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(database, axis=1)
    return 1 - queries @ database.T / norms


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("batch_size", [7, 10, 1000])
@pytest.mark.parametrize("shift", [0, 30])
def test_neighbors_are_numpys(metric, batch_size, shift):
    rng = np.random.default_rng(0)
    queries, database = rng.normal(shift, 1, (13, 6)), rng.normal(shift, 1, (29, 6))
    got = nearest(queries, database, 5, metric=metric, batch_size=batch_size)
    far = by_numpy(queries, database, metric)
    found = np.take_along_axis(far, got.indices, 1)
    assert_allclose(got.distances, found, rtol=1e-5, atol=1e-6)
    assert_allclose(found, np.sort(far, axis=1)[:, :5], rtol=1e-5, atol=1e-6)
    assert all(len(set(row)) == 5 for row in got.indices)
    if shift == 0 or metric == "l2":
        assert_array_equal(got.indices, np.argsort(far, axis=1)[:, :5])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_oneself_can_be_left_out(metric):
    rows = np.random.default_rng(0).normal(size=(23, 4))
    far = by_numpy(rows, rows, metric)
    with_self = nearest(rows, rows, 1, metric=metric, batch_size=10)
    assert_array_equal(with_self.indices[:, 0], np.arange(23))
    np.fill_diagonal(far, np.inf)
    got = nearest(rows, rows, 22, metric=metric, exclude_self=True, batch_size=10)
    assert_array_equal(got.indices, np.argsort(far, axis=1)[:, :22])


def test_l2_distances_of_near_rows_far_away_are_exact():
    database = np.array([[1e4, 0], [1e4 + 0.25, 0], [0, 0]], np.float32)
    got = nearest(database[:1], database, 3, metric="l2")
    assert_array_equal(got.indices, [[0, 1, 2]])
    assert_array_equal(got.distances, [[0, 0.25, 1e4]])


def test_equal_rows_come_in_order_and_bytes_are_numbers():
    database = np.array([[200, 0], [0, 200], [200, 0], [200, 0]], np.uint8)
    for metric in ("cosine", "l2"):
        got = nearest(database[:1], database, 4, metric=metric, batch_size=3)
        assert_array_equal(got.indices, [[0, 2, 3, 1]])
    assert_allclose(nearest(np.zeros((1, 2)), database, 1).distances, [[1]])


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (jc.ArgumentError, {"k": 6}, "k must be at most 5, the number of rows that a query can find, got 6"),
        (jc.ArgumentError, {"k": 5, "exclude_self": True}, "k must be at most 4, the number of rows"),
        (jc.ArgumentError, {"k": 0}, "k must be at least 1, got 0"),
        (jc.ArgumentError, {"metric": "l1"}, "metric must be one of cosine, l2, got 'l1'"),
        (
            jc.ShapeError,
            {"queries": np.ones((5, 4))},
            r"queries and database must have the same number of features, got \(5, 4\) and \(5, 3\)",
        ),
        (
            jc.ShapeError,
            {"queries": np.ones(3)},
            r"queries must have shape \(rows, features\), with at least one of each, got \(3,\)",
        ),
        (
            jc.ShapeError,
            {"database": np.ones((0, 3))},
            r"database must have shape \(rows, features\), with at least one of each",
        ),
        (
            jc.ArgumentError,
            {"queries": np.ones((4, 3)), "exclude_self": True},
            "queries must be the database for exclude_self, got 4 que",
        ),
        (
            jc.ArgumentError,
            {"database": np.full((5, 3), np.nan)},
            "database must be finite in float32, got 15 values that are not",
        ),
        (
            jc.DTypeError,
            {"queries": np.ones((5, 3), complex)},
            "queries must be an array of a real type, got complex128",
        ),
        (jc.ArgumentError, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(error, changes, message):
    arguments = {"queries": np.ones((5, 3)), "database": np.ones((5, 3)), "k": 2} | changes
    with pytest.raises(error, match=message):
        nearest(**arguments)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("scale", [1e-60, 1e-30, 1e-23, 1e20, 3e38])
def test_neighbors_do_not_depend_on_the_scale(metric, scale):
    rows = np.random.default_rng(0).uniform(-1, 1, (9, 4))
    scaled = (scale * rows).astype(np.float64 if scale == 1e-60 else np.float32)
    want, got = (nearest(a[:3], a, 4, metric=metric, batch_size=5) for a in (rows, scaled))
    assert_array_equal(got.indices, want.indices)
    assert_allclose(got.distances / (scale if metric == "l2" else 1), want.distances, rtol=1e-5, atol=1e-6)


def test_rows_of_very_different_sizes_have_their_angles():
    rows = np.array([[1e20, 0], [0, 1e-30], [1e-30, 1e-30], [0, 0]], np.float32)
    half = 1 - 0.5**0.5
    assert_allclose(nearest(rows[:1], rows, 4).distances, [[0, half, 1, 1]], atol=1e-6)


# --- Precision --------------------------------------------------------------------------------------------------------


def test_precision_by_hand():
    indices = [[0, 1, 2], [3, 0, 1]]
    labels = np.array([5, 6, 5, 7])
    assert precision_at_k(indices, labels, [5, 7]) == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert precision_at_k(jnp.array(indices), labels, [8, 8]) == 0.0
    found = Neighbors(np.array(indices), np.zeros((2, 3)))
    assert precision_at_k(found, labels, [5, 7]) == precision_at_k(indices, labels, [5, 7])


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (
            jc.ShapeError,
            ([0, 1], [1, 2], [1]),
            r"must have shapes \(queries, k\), \(rows,\) and \(queries,\), got \(2,\), \(2,\) and",
        ),
        (jc.ShapeError, ([[0, 1]], [1, 2], [1, 2]), r"got \(1, 2\), \(2,\) and \(2,\)"),
        (
            jc.ArgumentError,
            ([[0, 2]], [1, 2], [1]),
            "indices must be from 0 to 1, got 0 to 2: labels has a label for each row",
        ),
        (jc.ArgumentError, ([[-1, 0]], [1, 2], [1]), "indices must be from 0 to 1, got -1 to 0"),
    ],
)
def test_wrong_rankings_are_named(error, arguments, message):
    with pytest.raises(error, match=message):
        precision_at_k(*arguments)


# --- Principal components ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 5), (4, 9)])
def test_components_are_those_of_numpys_svd(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.arange(1, shape[1] + 1) + 3
    got = jax.jit(pca, static_argnums=1)(x, 3)
    u, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    sign = np.sign(v[np.arange(3), np.abs(v[:3]).argmax(1)])
    assert_allclose(got.points, u[:, :3] * s[:3] * sign, rtol=1e-4, atol=1e-4)
    assert_allclose(got.components, v[:3] * sign[:, None], atol=1e-5)
    assert_allclose(got.explained, s[:3] ** 2 / (s**2).sum(), rtol=1e-4)
    assert_allclose((x - got.mean) @ got.components.T, got.points, rtol=1e-4, atol=1e-4)


def test_signs_do_not_depend_on_the_order_of_rows():
    x = np.random.default_rng(0).integers(0, 256, (12, 4), np.uint8)
    turned = pca(x[::-1])
    assert_allclose(pca(x).points, turned.points[::-1], rtol=1e-4, atol=1e-3)
    assert np.isfinite(pca(np.ones((3, 2))).explained).all()


@pytest.mark.parametrize(
    ("error", "x", "n", "message"),
    [
        (jc.ShapeError, np.ones(4), 2, r"x must have shape \(rows, features\), with at least one of each, got \(4,\)"),
        (jc.ShapeError, np.ones((4, 3)), 4, r"n must be at most the rows and the features of x, \(4, 3\), got 4"),
        (jc.ArgumentError, np.ones((4, 3)), 0, "n must be at least 1, got 0"),
    ],
)
def test_what_has_no_components_is_named(error, x, n, message):
    with pytest.raises(error, match=message):
        pca(x, n)


def test_indices_are_integers():
    with pytest.raises(jc.DTypeError, match="indices must be integers, got float64"):
        precision_at_k(np.array([[0.0, 1.0]]), [1, 2], [1])


# --- Average precision and whitening ----------------------------------------------------------------------------------


def test_average_precision_is_scikit_learns():
    score = pytest.importorskip("sklearn.metrics").average_precision_score
    random = np.random.default_rng(0)
    labels, asked = random.integers(0, 4, 30), random.integers(0, 5, 12)
    scores = random.normal(size=(12, 30))
    order = np.argsort(-scores, 1)
    wanted = [score(labels == own, row) for own, row in zip(asked, scores, strict=True) if own in labels]
    assert len(wanted) < 12
    assert_allclose(mean_average_precision(order, labels, asked), np.mean(wanted))


def test_average_precision_of_a_cut_ranking_by_hand():
    assert mean_average_precision([[0, 1]], [7, 8, 7], [7]) == 0.5
    assert mean_average_precision([[0, 2]], [7, 7, 7, 7], [7]) == 1.0
    with pytest.raises(jc.ArgumentError, match="query_labels must have a label of labels"):
        mean_average_precision([[0]], [7], [8])


def test_whitened_rows_have_variance_one_and_norm_one():
    random = np.random.default_rng(0)
    rows = (random.normal(size=(50, 6)) @ random.normal(size=(6, 6)) + 3).astype(np.float32)
    found = pca_whitening(rows, 4)
    white = (rows - found.mean) @ found.matrix
    assert_allclose(np.cov(white.T), np.eye(4), atol=1e-4)
    assert_allclose(whiten(rows, found), white / np.linalg.norm(white, axis=1, keepdims=True), atol=1e-5)
    with pytest.raises(jc.ArgumentError, match="x must vary in n = 2 directions, got 1"):
        pca_whitening(jnp.arange(12.0).reshape(6, 2), 2)
