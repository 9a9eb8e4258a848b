"""Metrics against other libraries, and sums that are finished after they are combined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.metrics import accuracy, add, mean_iou, top_k

RNG = np.random.default_rng(0)


def test_accuracy_and_top_k_of_scores_at_each_position():
    scores = RNG.normal(size=(5, 3, 7)).astype(np.float32)
    classes = RNG.integers(0, 7, (5, 3))
    order = np.argsort(-scores, axis=-1, kind="stable")
    assert_array_equal(accuracy(scores, classes), order[..., 0] == classes)
    for k in (1, 3, 7):
        assert_array_equal(jax.jit(top_k(k))(scores, classes), (order[..., :k] == classes[..., None]).any(-1))
    assert top_k(3) == top_k(3)
    assert hash(top_k(3)) == hash(top_k(3))


@pytest.mark.parametrize("parts", [1, 3])
def test_mean_iou_over_batches_is_that_of_the_whole(parts):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, classes = RNG.normal(size=(6, 4, 4, 5)), RNG.integers(0, 4, (6, 4, 4))
    classes[0, 0] = 255
    scores[..., 4] = -9.0  # Neither predicted nor true: left out of the mean.
    metric = mean_iou(5)
    total = None
    for some, theirs in zip(np.split(scores, parts), np.split(classes, parts), strict=True):
        update = jax.device_get(jax.jit(metric.update)(some, theirs))
        total = update if total is None else metric.combine(total, update)
    valid = classes != 255
    want = metrics.jaccard_score(classes[valid], scores.argmax(-1)[valid], average="macro")
    assert_allclose(metric.finish(total), want, rtol=1e-12)


def test_mean_iou_of_nothing_is_nan():
    assert np.isnan(mean_iou(3).finish(np.zeros((3, 3), int)))


def test_sums_of_trees():
    assert add({"a": 1, "b": (2, 3)}, {"a": 10, "b": (20, 30)}) == {"a": 11, "b": (22, 33)}


@pytest.mark.parametrize(
    ("metric", "outputs", "targets"),
    [
        (accuracy, (4, 3), (4, 3)),
        (accuracy, (4, 3), (5,)),
        (top_k(4), (4, 3), (4,)),
        (mean_iou(4).update, (2, 8, 8, 3), (2, 8, 8)),
    ],
)
def test_wrong_shapes_are_named(metric, outputs, targets):
    with pytest.raises(jc.ShapeError, match=r"must be .*, got int32 .* and outputs float32"):
        metric(jnp.zeros(outputs), jnp.zeros(targets, int))


def test_wrong_types_are_named():
    with pytest.raises(jc.ShapeError, match=r"accuracy: targets must be integers .*, got float32 \(4,\)"):
        accuracy(jnp.zeros((4, 3)), jnp.zeros(4))
    with pytest.raises(jc.ArgumentError, match="k must be at least 1, got 0"):
        top_k(0)


@pytest.mark.parametrize(("classes", "dtype"), [(256, np.uint8), (300, np.uint8), (200, np.int8)])
def test_mean_iou_of_targets_whose_type_cannot_represent_the_number_of_classes(classes, dtype):
    targets = np.array([0, 1, 100], dtype)
    metric = mean_iou(classes)
    confusion = np.asarray(metric.update(jax.nn.one_hot(targets, classes), jnp.asarray(targets)))
    assert_array_equal(np.flatnonzero(np.diagonal(confusion)), [0, 1, 100])
    assert metric.finish(confusion) == 1
