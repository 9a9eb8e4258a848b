"""Batches of one size."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from jaxconv.equal_batches import equal_batches


@settings(max_examples=12)
@given(count=st.integers(1, 20), size=st.integers(1, 25), host=st.booleans())
def test_batches_have_one_size_and_hold_everything_once(count, size, host):
    items = np.arange(count)
    parts = list(equal_batches(items if host else jnp.asarray(items), size))
    assert {len(part.items) for part in parts} == {min(size, count)}
    assert_array_equal(np.concatenate([np.asarray(part.items)[part.skip :] for part in parts]), items)
    assert all(part.items[0] == part.start for part in parts)
