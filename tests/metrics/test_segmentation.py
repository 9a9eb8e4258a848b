"""Metrics of pixels against scikit-learn, over batches and devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.metrics import confusion, dice, mean_iou, pixel_accuracy

RNG = np.random.default_rng(0)
SCORES, CLASSES = RNG.normal(size=(6, 4, 5, 5)), RNG.integers(0, 4, (6, 4, 5))
CLASSES[0, 0] = 255
SCORES[..., 4] = -9.0  # Neither predicted nor true: left out of means.
VALID = CLASSES != 255
TRUE, FOUND = CLASSES[VALID], SCORES.argmax(-1)[VALID]


def wanted(name):
    metrics = pytest.importorskip("sklearn.metrics")
    if name == "confusion":
        return metrics.confusion_matrix(TRUE, FOUND, labels=range(5))
    if name == "pixel_accuracy":
        return metrics.accuracy_score(TRUE, FOUND)
    function = metrics.f1_score if name == "dice" else metrics.jaccard_score
    return function(TRUE, FOUND, average="macro")


METRICS = {f.__name__: f for f in (confusion, dice, mean_iou, pixel_accuracy)}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("parts", [1, 3])
def test_sums_over_batches_are_those_of_the_whole(name, parts):
    metric = METRICS[name](5)
    total = None
    for some, theirs in zip(np.split(SCORES, parts), np.split(CLASSES, parts), strict=True):
        update = jax.device_get(jax.jit(metric.update)(some, theirs))
        total = update if total is None else metric.combine(total, update)
    assert_allclose(metric.finish(total), wanted(name), rtol=1e-12)
    assert metric == METRICS[name](5)
    assert hash(metric) == hash(METRICS[name](5))


@pytest.mark.parametrize("name", METRICS)
def test_sums_over_devices_are_those_of_the_whole(name):
    metric = METRICS[name](5)
    mesh = Mesh(np.array(jax.devices()[:2]), "data")
    placed = jax.device_put((SCORES.astype(np.float32), CLASSES), NamedSharding(mesh, P("data")))
    assert_allclose(metric.finish(jax.device_get(jax.jit(metric.update)(*placed))), wanted(name), rtol=1e-12)


def test_nothing_is_nan():
    empty = np.zeros((3, 3), int)
    assert all(np.isnan(f(3).finish(empty)) for f in (dice, mean_iou, pixel_accuracy))
    assert_array_equal(confusion(3).finish(empty), empty)


@pytest.mark.parametrize("name", METRICS)
def test_a_mask_of_another_size_than_the_image_is_named(name):
    with pytest.raises(jc.ShapeError, match=rf"{name}: outputs must be scores of 5 classes .*got int32 \(6, 4, 4\)"):
        METRICS[name](5).update(jnp.zeros((6, 4, 5, 5)), jnp.zeros((6, 4, 4), int))
    with pytest.raises(jc.ArgumentError, match="classes must be at least 1, got 0"):
        METRICS[name](0)
