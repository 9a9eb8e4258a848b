"""The best scores over many batches."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from jaxconv.equal_batches import equal_batches
from jaxconv.inspect.top_k import keep_best, nothing_yet


@settings(max_examples=12)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 100))
def test_the_best_of_batches_are_the_best_of_all(k, size, seed):
    # Few different numbers, so that there are ties: the earlier wins.
    scores = np.random.default_rng(seed).integers(0, 4, (3, 13)).astype(np.float32)
    best = nothing_yet(3, k, jnp.float32, others=1)
    for part in equal_batches(np.arange(13), size):
        fresh = np.where(np.arange(len(part.items)) < part.skip, -np.inf, scores[:, part.items])
        best = keep_best(best, (jnp.asarray(fresh), jnp.broadcast_to(part.items, fresh.shape)))
    want = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert_array_equal(best[1], want)
    assert_array_equal(best[0], np.take_along_axis(scores, want, 1))
