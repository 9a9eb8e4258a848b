"""One layer for each of several arrays, and several layers on one array."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from tests.nets import normal, ready

X = OrderedDict(fine=normal((2, 8, 8, 3)), coarse=normal((2, 4, 4, 5), 1))


def test_each_runs_the_layer_of_an_arrays_position():
    net = jc.each(jc.Conv(4), jc.Conv(6, 1))
    params, state = net.init(0, X)
    y, _ = jax.jit(net.apply)(params, state, X)
    assert list(y) == ["fine", "coarse"]
    for i, (name, conv) in enumerate((("fine", jc.Conv(4)), ("coarse", jc.Conv(6, 1)))):
        np.testing.assert_allclose(y[name], conv.apply(params[str(i)], {}, X[name])[0], rtol=1e-5, atol=1e-5)
    pair, _ = net.apply(params, state, tuple(X.values()))
    assert isinstance(pair, tuple)
    np.testing.assert_array_equal(pair[1], y["coarse"])


@pytest.mark.parametrize("x", [(X["fine"],), dict(X), X["fine"]], ids=["one", "plain dict", "array"])
def test_each_refuses_another_number_of_arrays_and_dicts_without_order(x):
    with pytest.raises(jc.ArgumentError, match="x must be a tuple or an OrderedDict of 2 arrays, one for each layer"):
        jc.each(jc.Conv(4), jc.Conv(6)).init(0, x)


def test_heads_return_outputs_by_name_in_their_order():
    net = jc.heads(scores=jc.Conv(2, 1), boxes=jc.Conv(4, 1))
    params, state, x = ready(net, (2, 8, 8, 3))
    y, _ = jax.jit(net.apply)(params, state, x)
    assert list(y) == ["scores", "boxes"]
    np.testing.assert_allclose(y["boxes"], jc.Conv(4, 1).apply(params["boxes"], {}, x)[0], rtol=1e-5, atol=1e-5)
    assert repr(net) == "heads(scores=Conv(features=2, window=1), boxes=Conv(features=4, window=1))"


def test_heads_without_names_are_refused():
    with pytest.raises(jc.ArgumentError, match=r"heads must have a name for each layer, got inline"):
        jc.heads(jc.inline(jc.Conv(2)))


def test_heads_at_the_level_of_a_shared_trunk_have_torchs_names():
    ends = jc.heads(cls_logits=jc.Conv(2, 1), bbox_reg=jc.serial(jc.inline(jc.Conv(4, 1)), jax.nn.relu))
    net = jc.serial(jc.inline(jc.serial(conv=jc.serial(jc.Conv(8), jax.nn.relu))), jc.inline(ends))
    params, state, x = ready(net, (1, 8, 8, 3))
    names = set(jc.weights.to_torch(net, params, state))
    parts = ("weight", "bias")
    assert names == {f"{layer}.{part}" for layer in ("conv.0", "cls_logits", "bbox_reg") for part in parts}
    y, _ = net.apply(params, state, x)
    assert (y["bbox_reg"] >= 0).all()
    back = jc.weights.from_torch(net, jc.weights.to_torch(net, params, state))
    jax.tree.map(np.testing.assert_array_equal, back, (params, state))
    assert [row.path for row in jc.summary(net, x.shape).rows if isinstance(row.layer, jc.Conv)] == [
        "conv.0",
        "cls_logits",
        "bbox_reg",
    ]


def test_one_layer_is_shared_by_all_maps_and_each_has_its_own():
    net = jc.serial(own=jc.each(jc.Conv(4, 1), jc.Conv(4, 1)), head=jc.shared(jc.heads(a=jc.Conv(1), b=jc.Conv(2))))
    params, state = net.init(0, X)
    y, _ = jax.eval_shape(net.apply, params, state, X)
    assert [(name, each["b"].shape) for name, each in y.items()] == [("fine", (2, 8, 8, 2)), ("coarse", (2, 4, 4, 2))]
    assert sum(a.size for a in jax.tree.leaves(params)) == jc.summary(net, X).parameters

    @jax.jit
    @jax.grad
    def gradient(params):
        return sum(jnp.sum(a**2) for a in jax.tree.leaves(net.apply(params, state, X)[0]))

    grads = gradient(params)
    assert all(np.any(g) for g in jax.tree.leaves(grads["own"]))
