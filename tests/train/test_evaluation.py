import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.train import evaluate, predict
from jaxconv.train.evaluation import _measure
from jaxconv.train.forward import forward
from tests.train.toys import Centered, Linear, cross_entropy, data

NET = Centered()
PARAMS, _ = NET.init(jax.random.key(1), jnp.zeros((1, 4, 2)))
STATE = {"norm": {"mean": jnp.full((4, 2), 0.5)}}


def expected(images, labels):
    x = np.asarray(images, np.float64).reshape(len(images), -1) - 0.5
    logits = x @ np.asarray(PARAMS["dense"]["kernel"], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return logits, -log_p[np.arange(len(labels)), labels].mean(), (logits.argmax(1) == labels).mean()


@settings(max_examples=15)
@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), on_device=st.booleans())
def test_equals_numpy_for_any_count(count, batch_size, on_device):
    images, labels = data(count, seed=count)
    logits, loss, accuracy = expected(images, labels)
    put = jnp.asarray if on_device else np.asarray
    result = evaluate(NET, PARAMS, STATE, put(images), put(labels), loss=cross_entropy, batch_size=batch_size)
    assert result["count"] == count
    assert result["accuracy"] == accuracy
    np.testing.assert_allclose(result["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(
        predict(NET, PARAMS, STATE, put(images), batch_size=batch_size), logits, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("put", [jnp.asarray, np.asarray])
def test_one_program_for_all_batches(put):
    images, labels = map(put, data(23))
    networks, measures = forward._cache_size(), _measure._cache_size()
    for _ in range(2):
        evaluate(NET, PARAMS, STATE, images, labels, loss=cross_entropy, batch_size=5)
    assert forward._cache_size() <= networks + 1
    assert _measure._cache_size() <= measures + 2, "one for the last batch"


def test_images_and_labels_may_lie_in_different_places():
    images, labels = data(7)
    results = [
        evaluate(NET, PARAMS, STATE, put(images), other(labels), loss=cross_entropy, batch_size=3)
        for put, other in [(jnp.asarray, np.asarray), (np.asarray, jnp.asarray)]
    ]
    assert results[0] == results[1]


def test_scalar_loss_is_taken_as_a_mean():
    images, labels = data(11)

    def scalar(logits, labels):
        return cross_entropy(logits, labels).mean()

    result = evaluate(NET, PARAMS, STATE, images, labels, loss=scalar, batch_size=4)
    assert result["loss"] == pytest.approx(expected(images, labels)[1], rel=1e-5)


def test_labels_for_each_pixel():
    class Pixels(Linear):
        def apply(self, params, state, x, *, train=False, key=None):
            return x, state

    logits = np.asarray([[[9, 0], [0, 9]], [[9, 0], [9, 0]], [[9, 0], [0, 9]]], np.float32)
    result = evaluate(Pixels(), {}, {}, logits, np.zeros((3, 2), np.int32), loss=cross_entropy, batch_size=2)
    assert result["accuracy"] == pytest.approx(4 / 6)


def test_without_classes_there_is_no_accuracy():
    images, _ = data(5)

    def squared(y, targets):
        return ((y - targets) ** 2).sum(-1)

    result = evaluate(NET, PARAMS, STATE, images, np.zeros((5, 3), np.float32), loss=squared, batch_size=2)
    assert set(result) == {"loss", "count"}
    np.testing.assert_allclose(result["loss"], (expected(images, np.zeros(5, int))[0] ** 2).sum(1).mean(), rtol=1e-5)


def test_a_loss_that_is_not_finite_is_reported():
    images, labels = data(5)
    images[3] = np.nan
    assert np.isnan(evaluate(NET, PARAMS, STATE, images, labels, loss=cross_entropy, batch_size=2)["loss"])


def test_preprocess_runs_inside():
    images = np.arange(12, dtype=np.uint8).reshape(6, 2)

    def double(x):
        return 2 * x.astype(jnp.float32)

    class Identity(Linear):
        def apply(self, params, state, x, *, train=False, key=None):
            return {"y": x}, state

    np.testing.assert_array_equal(
        predict(Identity(), {}, {}, images, batch_size=4, preprocess=double)["y"], 2.0 * images
    )


def test_runs_without_training():
    images, labels = data(5)
    optimizer_free = evaluate(Centered(rate=0.9), PARAMS, STATE, images, labels, loss=cross_entropy)
    assert optimizer_free == evaluate(Centered(rate=0.0), PARAMS, STATE, images, labels, loss=cross_entropy)


@pytest.mark.parametrize(
    ("images", "labels", "batch_size", "message"),
    [
        (np.zeros((0, 8)), np.zeros(0, int), 4, r"inputs must be an array with at least one example .* got \(0, 8\)"),
        (np.zeros((3, 8)), np.zeros(4, int), 4, r"targets must have 3 examples, as the inputs have, got shape \(4,\)"),
        (np.zeros((3, 8)), 1, 4, "targets must be an array with at least one example on its first axis, got int"),
        ([[1.0]], np.zeros(1, int), 4, r"inputs\[0\]\[0\] must be an array .* got float"),
        (np.zeros((3, 8)), np.zeros(3, int), 0, "batch_size must be an int of 1 or more, got 0"),
        (np.zeros((3, 8)), np.zeros(3, int), 2.0, r"batch_size must be an int of 1 or more, got 2\.0"),
    ],
)
def test_bad_input(images, labels, batch_size, message):
    with pytest.raises(ValueError, match=message):
        evaluate(NET, PARAMS, STATE, images, labels, loss=cross_entropy, batch_size=batch_size)


@pytest.mark.parametrize("put", [np.asarray, jnp.asarray, lambda a: jax.device_put(a, sharded())])
@pytest.mark.parametrize(
    ("labels", "came"),
    [
        (np.arange(12) % 3 + 1, "1 to 3"),
        (np.arange(12) % 3 - 1, "-1 to 1"),
        (np.where(np.arange(12) == 5, 255, 0).astype(np.uint8), "0 to 255"),
    ],
)
def test_labels_out_of_range(put, labels, came):
    images, _ = data(12)
    with pytest.raises(ValueError, match=f"^targets must be 0 to 2 for 3 classes, got {came}$"):
        evaluate(NET, PARAMS, STATE, images, put(labels), loss=cross_entropy, batch_size=5)


def sharded():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.NamedSharding(mesh, jax.P("data"))


def test_labels_that_would_wrap_on_the_device_are_out_of_range():
    images, _ = data(3)
    with pytest.raises(ValueError, match="targets must be 0 to 2 for 3 classes, got 0 to 4294967296"):
        evaluate(NET, PARAMS, STATE, images, np.array([0, 2**32, 1]), loss=cross_entropy)


def test_labels_the_loss_does_not_take():
    images, labels = data(5)
    with pytest.raises(ValueError, match=r"targets must be what softmax_cross\w+ takes beside .* got float32 \(5,\)"):
        evaluate(NET, PARAMS, STATE, images, labels.astype(np.float32), loss=cross_entropy)


def test_a_loss_of_another_length():
    images, labels = data(4)
    with pytest.raises(
        ValueError,
        match=r"loss must return a scalar, a value for each of 4 examples, or \(loss, dict\), got float32 \(3, 3\)",
    ):
        evaluate(NET, PARAMS, STATE, images, labels, loss=lambda y, labels: optax.l2_loss(y)[1:])
