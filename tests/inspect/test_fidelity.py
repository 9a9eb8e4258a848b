"""Tests of attributions, on attributions that are known to be good or bad."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import (
    guided_backprop,
    infidelity,
    integrated_gradients,
    max_sensitivity,
    saliency,
    sanity_check,
)
from tests.nets import normal, ready

KEY = jax.random.key(4)
SHAPE = (3, 6, 6, 2)


@pytest.fixture(scope="module")
def linear():
    net = jc.serial(jc.Flatten(), jc.Dense(3))
    return net, *ready(net, SHAPE)


def masked(key, x):
    """Removes elements at random: for attributions that sum to the score."""
    mask = jax.random.bernoulli(key, 0.3, x.shape).astype(x.dtype)
    return mask, x * (1 - mask)


# --- Infidelity -------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_linear_network_is_faithful(linear):
    net, params, state, x = linear
    true = saliency(net, params, state, x, 1)
    whole = integrated_gradients(net, params, state, x, 1)
    check = functools.partial(infidelity, net, params, state, x, target=1, key=KEY)
    assert check(true).max() < 1e-8
    assert check(whole, perturb=masked).max() < 1e-8
    # A wrong scale counts, unless it is normalized away.
    assert check(2 * true).min() > 1e-2
    assert check(2 * true, normalize=True).max() < 1e-8


def test_the_error_of_no_attribution_is_the_variance_of_the_score(linear):
    net, params, state, x = linear
    kernel = np.asarray(params["1"]["kernel"])[:, 1]
    got = infidelity(net, params, state, x, np.zeros_like(x), 1, key=KEY, noise=0.5, samples=4000)
    span = np.ptp(x, axis=(1, 2, 3))
    assert_allclose(got, (0.5 * span) ** 2 * (kernel**2).sum(), rtol=0.15)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attributions": np.zeros(3)}, r"attributions must have the shape of x, \(3, 6, 6, 2\), got \(3,\)"),
        ({"noise": 0.0}, "noise must be positive, got 0.0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"key": None}, "key must be a random key, got None"),
        (
            {"perturb": lambda key, x: (x[0], x)},
            r"perturb must return two arrays of the shape of x, .* got \(6, 6, 2\)",
        ),
    ],
)
def test_wrong_arguments_of_infidelity_are_named(options, message, linear):
    net, params, state, x = linear
    with pytest.raises(ValueError, match=message):
        infidelity(net, params, state, x, **({"attributions": x, "target": 1, "key": KEY} | options))


# --- Sensitivity ------------------------------------------------------------------------------------------------------


def test_sensitivity_is_the_largest_relative_change():
    x = normal(SHAPE)
    got = max_sensitivity(lambda x: 3 * x, x, key=KEY, radius=0.1, samples=5)
    size = np.linalg.norm(x.reshape(3, -1), axis=1)
    most = 0.1 * np.sqrt(72) / size
    assert (got < most).all()
    assert (got > 0.4 * most).all()
    assert_allclose(max_sensitivity(jnp.ones_like, x, key=KEY), np.zeros(3))
    # Attributions of zero have no size to compare with.
    assert np.isfinite(max_sensitivity(lambda x: jnp.where(x == normal(SHAPE), 0, 1.0), x, key=KEY)).all()


@pytest.mark.parametrize(
    ("explain", "options", "message"),
    [
        (lambda x: x, {"radius": 0.0}, "radius must be positive, got 0.0"),
        (lambda x: x, {"samples": 0}, "samples must be at least 1, got 0"),
        (lambda x: x[0], {}, r"explain must return attributions of 3 examples, got shape \(6, 6, 2\)"),
        (lambda x: x, {"key": None}, "key must be a random key, got None"),
    ],
)
def test_wrong_arguments_of_sensitivity_are_named(explain, options, message):
    with pytest.raises(ValueError, match=message):
        max_sensitivity(explain, normal(SHAPE), **({"key": KEY} | options))


# --- Sanity -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def convnet():
    net = jc.serial(
        conv=jc.Conv(6), bn=jc.BatchNorm(), relu=jax.nn.relu, body=jc.serial(conv=jc.Conv(6), relu=jax.nn.relu),
        flatten=jc.Flatten(), fc=jc.Dense(3),
    )  # fmt: skip
    return net, *ready(net, SHAPE)


def test_gradients_pass_and_edges_are_flagged(convnet):
    order = ("fc", "body.conv", "bn", "conv")
    good = sanity_check(*convnet, functools.partial(saliency, target=1), key=KEY)
    assert good.paths == order
    assert good.similarities.shape == (4, 3)
    assert not good.flagged
    edges = sanity_check(*convnet, lambda net, params, state, x: jnp.abs(jnp.diff(x, axis=1)), key=KEY)
    assert edges.flagged
    assert (edges.similarities == 1).all()


def test_weights_are_replaced_from_the_last_layer_on(convnet):
    net, params, state, x = convnet
    seen = []

    def explain(net, params, state, x):
        seen.append((params, state))
        return guided_backprop(net, params, state, x, 1)

    sanity_check(net, params, state, x, explain, key=KEY)
    fresh = net.init(KEY, SHAPE)
    for i, trees in enumerate(seen):
        for path in ("fc", "body.conv", "bn", "conv")[i:]:
            before, _, last = path.partition(".")
            at = [tree[before][last] if last else tree[before] for tree in (trees[0], params)]
            assert all(map(np.array_equal, *map(jax.tree.leaves, at)))
    for got, want in zip(seen[-1], fresh, strict=True):
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_similarity_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    from jaxconv.inspect.fidelity import _similarity

    a, b = normal((5, 5), 1).round(1), normal((5, 5), 2).round(1)
    want = stats.spearmanr(np.abs(a).ravel(), np.abs(b).ravel()).statistic
    assert_allclose(_similarity(a, b), want, rtol=1e-6)
    assert _similarity(a, np.zeros_like(a)) == 0
    assert _similarity(np.zeros_like(a), np.zeros_like(a)) == 1


def test_a_network_without_weights_is_refused():
    net = jc.serial(jax.nn.relu)
    with pytest.raises(jc.ArgumentError, match="net must have weights, got a network without any"):
        sanity_check(net, {}, {}, jnp.ones((1, 3)), saliency, key=KEY)
    with pytest.raises(ValueError, match="key must be a random key, got None"):
        sanity_check(net, {}, {}, jnp.ones((1, 3)), saliency, key=None)
