import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxconv.train import TrainState
from tests.train.toys import Centered, Linear, assert_same


def test_is_a_pytree_with_named_paths():
    train_state = TrainState.create(Linear(), optax.adam(1e-3), 0, jnp.zeros((1, 8)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(train_state)]
    assert ".params['dense']['kernel']" in paths
    assert paths[-2:] == [".step", ".key"]
    assert train_state.step.dtype == jnp.int32
    assert_same(jax.tree.map(lambda leaf: leaf, train_state), train_state)


@pytest.mark.parametrize("key", [7, np.int64(7), jax.random.key(7), jax.random.PRNGKey(7)])
def test_takes_a_key_in_each_form(key):
    x = jax.ShapeDtypeStruct((2, 8), jnp.float32)
    train_state = TrainState.create(Centered(), optax.sgd(0.1), key, x)
    assert_same(train_state, TrainState.create(Centered(), optax.sgd(0.1), jax.random.key(7), x))


def test_initial_weights_are_those_of_init():
    x = jnp.zeros((2, 8))
    train_state = TrainState.create(Centered(), optax.sgd(0.1), 7, x)
    assert_same((train_state.params, train_state.state), Centered().init(jax.random.split(jax.random.key(7))[0], x))


def test_init_is_copied():
    params, state = Linear().init(jax.random.key(0), jnp.zeros((1, 8)))
    train_state = TrainState.create(Linear(), optax.sgd(0.1), 0, init=(params, state))
    train_state.params["dense"]["kernel"].delete()
    assert not params["dense"]["kernel"].is_deleted()


def test_needs_an_input_or_weights():
    with pytest.raises(ValueError, match="x: expected an input or its shape"):
        TrainState.create(Linear(), optax.sgd(0.1), 0)


def test_holds_no_weak_types():
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    train_state = TrainState.create(Linear(), optimizer, 0, jnp.zeros((1, 8)))
    assert not any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(train_state))


def test_repr_is_short():
    train_state = TrainState.create(Linear(), optax.sgd(0.1), 0, jnp.zeros((1, 8)))
    assert repr(train_state).startswith("TrainState(step=Array(0, dtype=int32), key=")
