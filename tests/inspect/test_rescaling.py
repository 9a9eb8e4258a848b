"""DeepLIFT: completeness, linear networks, and the rescale rule by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import deep_lift, saliency
from tests.nets import ready

SHAPE = (2, 8, 8, 3)


def convnet():
    return jc.serial(
        stem=jc.Conv(4),
        bn=jc.BatchNorm(),
        relu=jax.nn.relu,
        block=jc.residual(jc.serial(a=jc.Conv(4), act=jax.nn.silu, b=jc.Conv(4)), jc.Conv(4, 1), after=jax.nn.relu6),
        branches=jc.concat(jc.Conv(3, 1), jc.serial(jc.MaxPool(3, stride=1, padding=1), jc.PReLU())),
        excite=jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(7), jax.nn.sigmoid)),
        pool=jc.AdaptiveMaxPool(3),
        flatten=jc.Flatten(),
        scores=jc.Dense(3),
    )


@pytest.fixture(scope="module")
def made():
    net = convnet()
    return net, *ready(net, SHAPE)


@pytest.mark.parametrize("baseline", [0.0, np.linspace(-1, 1, 3)])
def test_attributions_are_complete(baseline, made):
    net, params, state, x = made

    @jax.jit
    def run(x):
        low = jnp.broadcast_to(jnp.asarray(baseline, jnp.float32), x.shape)
        scores = [net.apply(params, state, x)[0][:, 2] for x in (x, low)]
        return deep_lift(net, params, state, x, 2, baseline=baseline), scores[0] - scores[1]

    got, want = run(x)
    assert_allclose(got.sum((1, 2, 3)), want, atol=1e-4 * np.abs(want).max())
    assert np.abs(want).min() > 1e-2


def test_a_linear_network_is_exact():
    net = jc.serial(conv=jc.Conv(4), pool=jc.AvgPool(2), flatten=jc.Flatten(), fc=jc.Dense(3))
    params, state, x = ready(net, SHAPE)
    got, slopes = jax.jit(
        lambda x: (deep_lift(net, params, state, x, 2, baseline=0.5), saliency(net, params, state, x, 2))
    )(x)
    assert_allclose(got, (x - 0.5) * slopes, atol=1e-5 * np.abs(got).max())


def test_rescaling_by_hand():
    net = jc.serial(jc.Dense(3), jax.nn.sigmoid, jc.Dense(1))
    params, state, x = ready(net, (4, 5))
    w, v = (np.asarray(params[name]["kernel"], np.float64) for name in "02")
    b = np.asarray(params["0"]["bias"], np.float64)
    z, z0 = x @ w + b, np.full(5, 0.3) @ w + b
    ratio = (1 / (1 + np.exp(-z)) - 1 / (1 + np.exp(-z0))) / (z - z0)
    want = (x - 0.3) * ((ratio * v[:, 0]) @ w.T)
    assert_allclose(deep_lift(net, params, state, x, 0, baseline=0.3), want, rtol=1e-4, atol=1e-6)


def test_an_input_like_its_baseline_has_the_gradient_inside_and_no_attribution():
    net = jc.serial(jc.Dense(3), jnp.tanh, jc.Dense(1))
    params, state, x = ready(net, (2, 4))
    assert not np.asarray(deep_lift(net, params, state, x, 0, baseline=x)).any()


def test_vmap_and_targets(made):
    net, params, state, x = made
    one = jax.vmap(lambda x, target: deep_lift(net, params, state, x[None], target)[0])
    target = jnp.array([0, 2])

    @jax.jit
    def run(x):
        top = jnp.argmax(net.apply(params, state, x)[0], axis=1)
        batch = [deep_lift(net, params, state, x, t) for t in (target, None, top, lambda y: y[:, 2])]
        return one(x, target), *batch

    each, batch, none, top, function = run(x)
    assert_allclose(each, batch, rtol=1e-4, atol=1e-5)
    assert_allclose(none, top, rtol=1e-6)
    assert_allclose(function[1], batch[1], rtol=1e-6)


@pytest.mark.parametrize("layer", [jax.nn.softmax, jc.LayerNorm()])
def test_layers_without_a_rule_are_named(layer):
    net = jc.serial(fc=jc.Dense(4), act=layer)
    params, state, x = ready(net, (2, 3))
    with pytest.raises(
        jc.ArgumentError, match=r"act \((Fn|LayerNorm)\): deep_lift must have a rule for each layer, got"
    ):
        deep_lift(net, params, state, x, 0)


def test_a_wrong_baseline_is_named(made):
    with pytest.raises(jc.ShapeError, match=r"baseline must broadcast to x \(2, 8, 8, 3\), got shape \(2,\)"):
        deep_lift(*made, 0, baseline=np.ones(2))
