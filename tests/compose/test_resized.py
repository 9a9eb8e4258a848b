"""Outputs resized to the size of the input."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import activations, receptive_field
from tests.nets import ready

X = (2, 8, 8, 3)


def run(net, params, state, x, **options):
    return jax.jit(lambda p, s, x: net.apply(p, s, x, **options))(params, state, x)


def output(net, x):
    return jax.eval_shape(lambda key: net.init_with_output(key, x)[2], jax.random.key(0))


def again(net):
    """What the network's own text makes."""
    names = {name: getattr(jc, name) for name in dir(jc)}
    return eval(repr(net), {**names, "jax": jax, "jaxconv": jc})


@pytest.mark.parametrize("options", [{}, {"method": "nearest"}, {"align_corners": True}], ids=str)
def test_maps_get_the_size_of_the_input(options):
    body = jc.serial(conv=jc.Conv(2, stride=3))
    net = jc.resized(body, **options)
    params, state, x = ready(net, (1, 10, 7, 3))
    y, _ = run(net, params, state, x)
    small, _ = body.apply(params, state, x)
    assert_allclose(y, jc.resize(small, (10, 7), **options), rtol=1e-5, atol=1e-6)
    assert again(net) == net
    assert list(params) == ["conv"]


def test_maps_of_any_rank_get_the_size_of_the_input():
    net = jc.resized(jc.Conv(2, (3,), stride=4), rank=1)
    assert output(net, (1, 9, 3)).shape == (1, 9, 2)


def test_all_maps_of_a_tree_get_the_size_of_the_input():
    row = jc.serial(a=jc.Conv(2, stride=2), b=jc.Conv(3, stride=2))
    net = jc.resized(jc.auxiliary(row, head=("a", jc.Conv(1))))
    params, state, x = ready(net, X)
    (y, extra), _ = run(net, params, state, x, train=True)
    assert y.shape == (2, 8, 8, 3)
    assert extra["head"].shape == (2, 8, 8, 1)
    y, _ = run(net, params, state, x)
    assert y.shape == (2, 8, 8, 3)


def test_what_is_resized_can_be_looked_into():
    net = jc.serial(up=jc.resized(jc.serial(conv=jc.Conv(2, stride=2))), last=jc.Conv(1))
    assert [(row.path, type(row.layer)) for row in jc.summary(net, X).rows] == [
        ("up.conv", jc.Conv), ("up", jc.Resize), ("last", jc.Conv),
    ]  # fmt: skip
    (field, _) = receptive_field(net, X)["up"]
    assert not field.exact
    assert field.stride == 1
    params, state, x = ready(net, X)
    _, found = activations(net, params, state, x)
    assert found["up.conv"].shape == (2, 4, 4, 2)
    assert found["up"].shape == (2, 8, 8, 2)


def test_a_global_branch_sees_everything_at_each_place():
    net = jc.concat(jc.Conv(2, 1), jc.resized(jc.serial(jc.AdaptiveAvgPool(1), jc.Conv(2, 1))))
    params, state, x = ready(net, X)
    y, _ = run(net, params, state, x)
    assert y.shape == (2, 8, 8, 4)
    assert_allclose(y[..., 2:], jnp.broadcast_to(y[:, :1, :1, 2:], (2, 8, 8, 2)), rtol=1e-6)
    (field, _) = receptive_field(net, X)[""]
    starts = [field.offset + i * field.stride for i in range(8)]
    assert max(starts) <= 0
    assert min(starts) + field.size >= 8


@pytest.mark.parametrize(
    ("options", "sentence"), [({"method": "sharp"}, "method must be one of"), ({"rank": 0}, "rank must be at least 1")]
)
def test_options_of_resized_are_checked_at_construction(options, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        jc.resized(jc.Conv(2), **options)
