"""Padding against NumPy's, by mode."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.ops import oracle
from tests.ops.draws import uniform

PADDINGS = [0, 2, (1, 2), ((0, 3), (2, 0)), ((-1, 1), (1, -2)), ((-1, -1), (-2, 0))]


@pytest.mark.parametrize("mode", ["zeros", "reflect", "edge", "circular"])
def test_modes_equal_numpy(mode):
    """Negative amounts crop first; the rest is taken from what is left."""
    x = uniform(1, (2, 5, 5, 1)).astype(np.float32)
    padded = jax.jit(lambda x: [jc.pad(x, padding, mode=mode) for padding in PADDINGS])(x)
    for padding, y in zip(PADDINGS, padded, strict=True):
        pairs = oracle.pairs(padding, (5, 5), (1, 1), (1, 1), (1, 1))
        crop = [(min(low, 0), min(high, 0)) for low, high in pairs]
        grow = [(max(low, 0), max(high, 0)) for low, high in pairs]
        want = oracle.padded(oracle.padded(x, crop), grow, mode)
        assert_array_equal(y, want, err_msg=str(padding))


def test_the_picture_of_the_docstring():
    x = np.array([1, 2, 3, 4])[:, None]
    for mode, want in {
        "zeros": [0, 0, 1, 2, 3, 4, 0, 0],
        "reflect": [3, 2, 1, 2, 3, 4, 3, 2],
        "edge": [1, 1, 1, 2, 3, 4, 4, 4],
        "circular": [3, 4, 1, 2, 3, 4, 1, 2],
    }.items():
        assert_array_equal(jc.pad(x, 2, mode=mode, rank=1)[:, 0], want)


def test_value_and_integers():
    x = np.ones((2, 1), np.uint8)
    y = jc.pad(x, ((1, 0),), value=7, rank=1)
    assert y.dtype == np.uint8
    assert_array_equal(y[:, 0], [7, 1, 1])
