"""Images from features: through layers that lose nothing, and through some that do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect.descent import NonFiniteGradientError
from jaxconv.inspect.images import Parameterization, total_variation
from jaxconv.inspect.inversion import invert

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (2, 8, 8, 3), minval=0.1, maxval=0.9)
FREE = {"variation_weight": 0.0, "alpha_weight": 0.0}


@pytest.mark.parametrize("parameterization", [Parameterization(), Parameterization(fourier=False, covariance=None)])
def test_through_an_invertible_layer_the_image_comes_back(parameterization):
    # An orthogonal 1x1 convolution, then an invertible activation.
    matrix = jnp.linalg.qr(jax.random.normal(KEY, (3, 3)))[0]
    net = jc.serial(mix=jc.Conv(3, 1, bias=False), act=jnp.tanh)
    params = {"mix": {"kernel": matrix[None, None]}}
    features, _ = net.apply(params, {}, X)
    options = {"parameterization": parameterization, "steps": 300, "rate": 0.1}
    images, losses = invert(net, params, {}, X.shape, features, "act", **FREE, **options)
    assert jnp.abs(images - X).mean() < 0.02
    assert losses[-1] < 1e-2 * losses[0]


@pytest.fixture(scope="module")
def lossy():
    net = jc.serial(conv=jc.Conv(8), relu=jax.nn.relu, pool=jc.AvgPool(2))
    params, state = net.init(KEY, X)
    return net, params, state, jc.inspect.activations(net, params, state, X, paths=["pool"])[1]["pool"]


def test_features_are_met_and_regularizers_do_their_work(lossy):
    *net, features = lossy
    images, losses = invert(*net, X.shape, features, "pool", **FREE, steps=60)
    _, found = jc.inspect.activations(*net, images, paths=["pool"])
    assert jnp.square(found["pool"] - features).sum() < 0.05 * jnp.square(features).sum()
    assert losses.shape == (60,)
    smooth, _ = invert(*net, X.shape, features, "pool", variation_weight=10.0, alpha_weight=0.0, steps=60)
    assert (total_variation(smooth) < 0.5 * total_variation(images)).all()
    gray, _ = invert(*net, X.shape, features, "pool", variation_weight=0.0, alpha_weight=10.0, alpha=2.0, steps=60)
    assert jnp.abs(gray - 0.5).mean() < jnp.abs(images - 0.5).mean()


def test_from_an_image_it_stays_with_what_fits(lossy):
    *net, features = lossy
    images, losses = invert(*net, X, features, "pool", **FREE, steps=3, rate=1e-4)
    assert_allclose(images, X, atol=1e-2)
    assert losses[0] < 1e-4


def test_what_is_wrong_is_named(lossy):
    *net, features = lossy
    with pytest.raises(jc.PathError, match="path must name a layer of net, got 'pol': nearest are 'pool'"):
        invert(*net, X.shape, features, "pol")
    with pytest.raises(jc.ShapeError, match=r"features must have the shape of 'conv' .* got \(2, 4, 4, 8\)"):
        invert(*net, X.shape, features, "conv")
    with pytest.raises(jc.ArgumentError, match=r"x must have values in \[0, 1\]"):
        invert(*net, X + 1, features, "pool")
    with pytest.raises(jc.ArgumentError, match="path 'pool' must have a target with a value other than 0"):
        invert(*net, X.shape, features * 0, "pool")
    pair = jc.serial(jc.parallel(jc.Identity(), jc.Identity()))
    with pytest.raises(jc.ShapeError, match=r"path '' must name a layer that returns an array .* \(2, 8, 8, 3\) \("):
        invert(pair, {}, {}, X.shape, X, "")
    with pytest.raises(NonFiniteGradientError, match="invert: the gradient or the step is not finite at step 1 of 2"):
        invert(*net, X.shape, features * np.nan, "pool", steps=2)


def test_features_in_half_precision_are_measured_in_single():
    net = jc.serial(half=lambda x: 300 * x.astype(jnp.float16))
    images, losses = invert(net, {}, {}, X.shape, (300 * X).astype(jnp.float16), "half", **FREE, steps=30, rate=0.1)
    assert np.isfinite(losses).all()
    assert jnp.abs(images - X).mean() < 0.15
