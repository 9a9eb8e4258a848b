"""Batches of one size, and the best of many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.batches import batches, check_data, keep_best, nothing_yet


@settings(max_examples=12)
@given(count=st.integers(1, 20), size=st.integers(1, 25), host=st.booleans())
def test_batches_have_one_size_and_hold_everything_once(count, size, host):
    items = np.arange(count)
    parts = list(batches(items if host else jnp.asarray(items), size))
    assert {len(part.items) for part in parts} == {min(size, count)}
    assert_array_equal(np.concatenate([np.asarray(part.items)[part.skip :] for part in parts]), items)
    assert all(part.items[0] == part.start for part in parts)


@settings(max_examples=12)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 100))
def test_the_best_of_batches_are_the_best_of_all(k, size, seed):
    # Few different numbers, so that there are ties: the earlier wins.
    scores = np.random.default_rng(seed).integers(0, 4, (3, 13)).astype(np.float32)
    best = nothing_yet(3, k, jnp.float32, others=1)
    for part in batches(np.arange(13), size):
        fresh = np.where(np.arange(len(part.items)) < part.skip, -np.inf, scores[:, part.items])
        best = keep_best(best, (jnp.asarray(fresh), jnp.broadcast_to(part.items, fresh.shape)))
    want = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert_array_equal(best[1], want)
    assert_array_equal(best[0], np.take_along_axis(scores, want, 1))


def test_wrong_data_is_named():
    for images in (np.ones((0, 3)), np.ones(()), jnp.ones((0, 3)), []):
        with pytest.raises(jc.ShapeError, match="images must be an array with at least one item on its first axis"):
            check_data(images, 2)
    with pytest.raises(jc.ShapeError, match="batch_size must be at least 1, got 0"):
        check_data(np.ones((2, 3)), 0)
    assert check_data([[1, 2]], 5)[1] == 1
    assert isinstance(check_data(jnp.ones(3), 5)[0], jax.Array)
