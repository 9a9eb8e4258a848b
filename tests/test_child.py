"""Running a layer inside another."""

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from jaxconv.child import child_key

KEY = jax.random.key(0)


def test_a_childs_key_is_of_its_name_only():
    assert child_key(None, "a") is None
    assert child_key(KEY, "") is KEY
    keys = [jax.random.key_data(child_key(KEY, name)).tolist() for name in ("0", "1", "conv", "conv1")]
    assert len({tuple(key) for key in keys}) == 4
    assert keys[0] == jax.random.key_data(jax.random.fold_in(KEY, 0xF4DBDF21)).tolist()  # crc32(b"0")


class Wrong:
    """A layer whose author forgot the state."""

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return x


def test_a_layer_that_returns_no_state_is_named():
    with pytest.raises(jc.ArgumentError, match=r"^0 \(Wrong\): apply must return \(y, state\) with a dict as state"):
        jc.serial(Wrong()).apply({}, {}, jnp.ones(3))
