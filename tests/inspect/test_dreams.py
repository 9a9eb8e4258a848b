"""Octaves, what a dream does to a layer, and what stops it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import objectives
from jaxconv.inspect.descent import NonFiniteGradientError
from jaxconv.inspect.dreams import dream, octave_sizes
from jaxconv.inspect.views import View

KEY = jax.random.key(0)
NET = jc.serial(conv=jc.Conv(4), relu=jax.nn.relu, pool=jc.AvgPool(2))
X = jax.random.uniform(KEY, (2, 16, 20, 3))
OPTIONS = {"octaves": 2, "steps": 3, "view": View(jitter=4, degrees=0, zoom=0), "rate": 0.03}


@pytest.fixture(scope="module")
def params():
    return NET.init(KEY, X)[0]


def norm(params, x):
    return float(objectives.scores(NET, params, {}, x, objectives.layer("relu")).sum())


def test_octaves_end_with_the_image():
    assert octave_sizes((100, 50), 1, 1.4) == [(100, 50)]
    assert octave_sizes((100, 50), 4, 2.0) == [(12, 6), (25, 12), (50, 25), (100, 50)]
    assert octave_sizes((4, 1), 3, 3.0) == [(1, 1), (1, 1), (4, 1)]
    with pytest.raises(jc.ArgumentError, match="octave_scale must be greater than 1, got 1"):
        octave_sizes((4, 4), 2, 1.0)
    with pytest.raises(jc.ArgumentError, match="octaves must be at least 1, got 0"):
        octave_sizes((4, 4), 0, 1.4)


def test_a_dream_raises_its_layers_norm_and_stays_an_image(params):
    y = dream(NET, params, {}, X, "relu", **OPTIONS)
    assert y.shape == X.shape
    assert 0 <= y.min() < y.max() <= 1
    assert norm(params, y) > 1.1 * norm(params, X)


def test_steps_have_the_same_size_whatever_the_layers_scale(params):
    options = {"octaves": 1, "steps": 1, "rate": 0.01, "view": None}
    inner = jnp.clip(X, 0.2, 0.8)
    y = dream(NET, params, {}, inner, "relu", **options)
    assert_allclose(jnp.abs(y - inner).mean(axis=(1, 2, 3)), 0.01, rtol=1e-3)
    louder = jax.tree.map(lambda a: 1e3 * a, params)
    assert_allclose(dream(NET, louder, {}, inner, "relu", **options), y, atol=1e-5)


def test_detail_is_carried_between_octaves(params):
    # The last octave alone moves a pixel by the sum of its steps in the mean; with the one before it is further off.
    one = dream(NET, params, {}, X, "relu", **{**OPTIONS, "octaves": 1})
    two = dream(NET, params, {}, X, "relu", **OPTIONS)
    assert jnp.abs(two - X).mean() > 1.2 * jnp.abs(one - X).mean()
    # Nothing dreamt leaves the image as it was, through all octaves, and each says so.
    with pytest.warns(UserWarning, match=r"octave . of 2: the gradient is zero at each of the 3 steps") as seen:
        still = dream(NET, jax.tree.map(jnp.zeros_like, params), {}, X, "relu", **OPTIONS)
    assert [str(warning.message)[:21] for warning in seen] == ["dream, octave 1 of 2:", "dream, octave 2 of 2:"]
    assert_allclose(still, X, atol=1e-6)


@pytest.mark.slow
def test_a_single_channel_and_bytes(params):
    gray = jnp.full((1, 12, 12, 3), 128, jnp.uint8)
    y = dream(NET, params, {}, gray, objectives.channel("relu", 2), **OPTIONS)
    before, after = (objectives.scores(NET, params, {}, x, objectives.channel("relu", 2))[0] for x in (gray / 255, y))
    assert after > before


def test_deterministic_by_key_and_counted(params):
    seen = []
    first = dream(NET, params, {}, X, "relu", **OPTIONS, on_step=lambda i, loss: seen.append((i, loss)))
    assert [i for i, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert all(loss < 0 for _, loss in seen)
    assert_array_equal(first, dream(NET, params, {}, X, "relu", **OPTIONS, key=KEY))
    assert np.any(first != dream(NET, params, {}, X, "relu", **OPTIONS, key=jax.random.key(1)))


def grows(x):
    """Is infinite where a dream has made the image brighter."""
    return jnp.where(x.mean() > 0.53, jnp.inf, 1.0) * x


def test_nan_gradients_stop_a_dream_with_their_step(params):
    net = jc.serial(grows=grows)
    x = jnp.full((1, 8, 8, 3), 0.5)
    with pytest.raises(NonFiniteGradientError, match=r"^dream, octave 1 of 2: .* at step 3 of 6$"):
        dream(net, {}, {}, x, "grows", octaves=2, steps=6, rate=0.02)
    with pytest.raises(NonFiniteGradientError, match=r"^dream, octave 2 of 2: .* at step 1 of 2$"):
        dream(net, {}, {}, x, "grows", octaves=2, steps=2, rate=0.02)


@pytest.mark.parametrize("rate", [np.nan, np.inf, 0.0, -0.1])
def test_a_rate_is_a_positive_number(params, rate):
    with pytest.raises(jc.ArgumentError, match=f"rate must be a positive number, got {rate}"):
        dream(NET, params, {}, X, "relu", **OPTIONS | {"rate": rate})


def test_a_network_of_one_size_dreams_in_one_octave():
    net = jc.serial(conv=jc.Conv(2), flatten=jc.Flatten(), fc=jc.Dense(3))
    params, state = net.init(KEY, X)
    message = r"^octaves must give sizes that net accepts, got 8 x 10 pixels in octave 1 of 3: .*\(fc \(Dense\): "
    with pytest.raises(jc.ShapeError, match=message):
        dream(net, params, state, X, "conv", **OPTIONS | {"octaves": 3})
    assert dream(net, params, state, X, "conv", **OPTIONS | {"octaves": 1}).shape == X.shape


@pytest.mark.parametrize(
    ("error", "x", "path", "message"),
    [
        (jc.ShapeError, X[0], "relu", r"x must have shape \(batch, height, width, channels\), got \(16, 20, 3\)"),
        (jc.ArgumentError, 255 * X, "relu", r"x must have values in \[0, 1\], got values from"),
        (jc.ShapeError, X[..., :1], "relu", r"^conv \(Conv\): .* x has 1"),
        (jc.PathError, X, "relo", "path must name a layer of net, got 'relo': nearest are 'relu'"),
        (jc.ShapeError, X[:, :1], "pool", r"^pool \(AvgPool\): "),
    ],
)
def test_what_is_wrong_is_named(error, params, x, path, message):
    with pytest.raises(error, match=message):
        dream(NET, params, {}, x, path, **OPTIONS)
