"""Random masks: how often, how large, and of what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc

KEY = jax.random.key


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
    count = 20_000
    y = np.asarray(jc.dropout(np.ones(count, np.float32), rate, KEY(1)))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    # Five standard deviations of a binomial count.
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / count)


def test_the_key_decides_the_mask():
    x = np.ones((50, 4), np.float32)
    for op in (jc.dropout, jc.drop_path):
        assert_array_equal(op(x, 0.5, KEY(1)), op(x, 0.5, KEY(1)))
        assert np.any(op(x, 0.5, KEY(1)) != op(x, 0.5, KEY(2)))


@pytest.mark.parametrize("op", [jc.dropout, jc.drop_path])
def test_rates_at_the_ends(op):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert_array_equal(op(x, 0, KEY(0)), x)
    assert_array_equal(op(x, 0.0, KEY(0)), x)
    assert_array_equal(op(x, 1.0, KEY(0)), 0 * x)
    gradient = jax.grad(lambda x: op(x, 1.0, KEY(0)).sum())(x)
    assert_array_equal(gradient, 0 * x)


def test_drop_path_drops_whole_examples():
    y = np.asarray(jc.drop_path(np.ones((400, 3, 2), np.float32), 0.25, KEY(3)))
    assert {tuple(np.unique(example)) for example in y} == {(0.0,), (np.float32(4 / 3),)}
    kept = (y[:, 0, 0] != 0).mean()
    assert abs(kept - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 400)


def test_the_gradient_has_the_mask():
    x = np.ones((20, 3), np.float32)
    for op in (jc.dropout, jc.drop_path):
        assert_array_equal(jax.grad(lambda x, op=op: op(x, 0.5, KEY(4)).sum())(x), op(x, 0.5, KEY(4)))


def test_a_dropped_infinity_is_zero():
    y = np.asarray(jc.dropout(np.full(50, np.inf, np.float32), 0.5, KEY(5)))
    assert set(np.unique(y)) == {0.0, np.inf}


@pytest.mark.parametrize("drop", [jc.dropout, jc.drop_path])
def test_a_missing_key_is_an_error(drop):
    with pytest.raises(jc.MissingKeyError, match="key must be a random key, got None"):
        drop(jnp.ones((2, 3)), 0.5, None)
