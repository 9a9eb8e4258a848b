"""The layer protocol, and layers of users."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.nets import Pass, Shift, normal

KEY = jax.random.key(0)


def test_any_object_with_the_two_methods_is_a_layer():
    assert isinstance(Shift(), jc.Layer)
    assert isinstance(jc.Conv(8), jc.Layer)
    assert not isinstance(jax.nn.relu, jc.Layer)


def added(ys):
    return ys[0] + ys[1]


def composites(layer):
    """Every composite of one layer."""
    return {
        "serial": jc.serial(layer),
        "parallel": jc.serial(jc.parallel(layer, layer), added),
        "concat": jc.concat(layer, jc.Identity()),
        "split": jc.split(layer, jc.Identity()),
        "gate": jc.gate(layer),
        "residual": jc.residual(layer),
        "inline": jc.serial(jc.inline(layer)),
        "repeat": jc.repeat(layer, 2),
        "remat": jc.remat(layer),
        "mixed_precision": jc.mixed_precision(layer),
    }


@pytest.mark.parametrize("name", composites(Pass()))
@pytest.mark.parametrize("layer", [Shift(), Pass()], ids=["Shift", "Pass"])
def test_a_users_layer_works_in_every_composite(name, layer):
    net, x = composites(layer)[name], jnp.asarray(normal((2, 4)))
    params, state = net.init(KEY, x)
    y, same = net.apply(params, state, x)
    assert jax.tree.structure(same) == jax.tree.structure(state)
    trained, moved = jax.jit(lambda p, s, x: net.apply(p, s, x, train=True, key=KEY))(params, state, x)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    for old, new in zip(jax.tree.leaves(state), jax.tree.leaves(moved), strict=True):
        assert_array_equal(new, old + 1)
    np.testing.assert_allclose(trained, y, rtol=1e-2)
    assert hash(net) == hash(composites(layer)[name])
    assert net == composites(layer)[name]
    assert jc.summary(net, x).parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert jc.inspect.activations(net, params, state, x)[0].shape == y.shape


def test_an_inlined_layer_that_returns_its_state_keeps_no_siblings_state_back():
    net = jc.serial(jc.BatchNorm(), jc.inline(Pass()), shift=Shift())
    x = jnp.asarray(normal((8, 3)))
    params, state = net.init(KEY, x)
    _, moved = net.apply(params, state, x, train=True)
    _, want = jc.BatchNorm().apply(params["0"], state["0"], x, train=True)
    assert jax.tree.structure(moved) == jax.tree.structure(state)
    jax.tree.map(assert_array_equal, moved["0"], want)
    assert moved["shift"]["passes"] == 1
    assert np.any(moved["0"]["mean"] != state["0"]["mean"])
