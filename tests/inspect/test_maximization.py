"""What a unit wants to see, where the answer is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import objectives
from jaxconv.inspect.descent import NonFiniteGradientError
from jaxconv.inspect.images import PIXELS, Parameterization
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.views import View

KEY = jax.random.key(0)
SIZE = 8
NET = jc.serial(conv=jc.Conv(3, SIZE, padding="VALID", bias=False), relu=jax.nn.relu)


def edges():
    """Returns an upright, a level and a slanting edge of mean zero, ``(height, width, filters)``."""
    rows, columns = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    slant = np.sign(rows + columns)
    return np.stack([np.sign(columns), np.sign(rows), slant], -1).astype(np.float32)


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


@pytest.fixture(scope="module")
def params():
    return {"conv": {"kernel": jnp.asarray(edges())[:, :, None] / SIZE**2}}


@pytest.mark.parametrize("parameterization", [Parameterization(), Parameterization(fourier=False), PIXELS], ids=str)
def test_an_edge_filter_wants_its_edge(params, parameterization):
    shape = (3, SIZE + 4, SIZE + 4, 1)
    wanted = objectives.unit("conv", (2, 2), [0, 1, 2])
    images, scores = maximize(
        NET, params, {}, shape, wanted, key=KEY, steps=40, parameterization=parameterization, view=None
    )
    assert images.shape == shape
    assert scores.shape == (40,)
    assert scores[-1] > scores[0]
    for c in range(3):
        assert correlation(images[c, 2:-2, 2:-2, 0], edges()[..., c]) > 0.95


def test_a_channel_wants_its_edge_somewhere(params):
    # Its mean over positions is highest where the edge comes again and again: some window is close to the filter.
    images, _ = maximize(
        NET, params, {}, (1, 24, 24, 1), objectives.channel("relu", 0), key=KEY, steps=60, view=View(2, 0, 0)
    )
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(images[0, ..., 0]), (SIZE, SIZE)).reshape(-1, SIZE**2)
    assert max(correlation(window, edges()[..., 0]) for window in windows) > 0.8


def test_color_is_found(params):
    kernel = jnp.array([2.0, -1.0, -1.0]).reshape(1, 1, 3, 1)
    net = jc.serial(jc.Conv(1, 1, bias=False))
    images, _ = maximize(net, {"0": {"kernel": kernel}}, {}, (1, 6, 6, 3), objectives.channel("0", 0), steps=200)
    red, green, blue = images.mean(axis=(0, 1, 2))
    assert red > 0.7
    assert max(green, blue) < 0.3


@pytest.mark.slow
def test_a_class_is_brought_about():
    net = jc.serial(conv=jc.Conv(4), relu=jax.nn.relu, pool=jc.GlobalAvgPool(), fc=jc.Dense(5))
    params, state = net.init(KEY, (1, 8, 8, 3))
    images, _ = maximize(net, params, state, (5, 8, 8, 3), objectives.logit(range(5)), steps=40, rate=0.3)
    gray, _ = net.apply(params, state, jnp.full((5, 8, 8, 3), 0.5))
    assert (jnp.diag(net.apply(params, state, images)[0]) > jnp.diag(gray)).all()


# --- Units that do not fire -------------------------------------------------------------------------------------------

RECTIFIED = jc.serial(conv=jc.Conv(3, SIZE, padding="VALID"), relu=jax.nn.relu)


def biased(*bias):
    return {"conv": {"kernel": jnp.asarray(edges())[:, :, None] / SIZE**2, "bias": jnp.array(bias)}}


def gray(n):
    return jnp.full((n, SIZE + 4, SIZE + 4, 1), 0.5) + 0.01 * jax.random.normal(KEY, (n, SIZE + 4, SIZE + 4, 1))


@pytest.mark.parametrize(("steps", "x", "rate"), [(3, "images", 2.0), (60, "shape", 0.1)])
def test_a_unit_that_does_not_fire_at_first_is_reached(steps, x, rate):
    # A gray image has activation 0, the edge 0.5.
    params = biased(-0.05, -0.05, -0.05)
    wanted = objectives.channel("relu", [0, 1, 2])
    images, scores = maximize(
        RECTIFIED,
        params,
        {},
        (3, SIZE + 4, SIZE + 4, 1) if x == "shape" else gray(3),
        wanted,
        key=KEY,
        steps=steps,
        rate=rate,
        view=None,
    )
    assert scores.shape == (steps,)
    assert scores[0] == 0
    assert (RECTIFIED.apply(params, {}, images)[0].max(axis=(1, 2)).diagonal() > 0.05).all()
    if steps == 60:
        for c in range(3):
            windows = np.lib.stride_tricks.sliding_window_view(np.asarray(images[c, ..., 0]), (SIZE, SIZE))
            assert max(correlation(w, edges()[..., c]) for w in windows.reshape(-1, SIZE**2)) > 0.8


def test_a_layer_behind_two_that_do_not_fire_is_reached():
    net = jc.serial(jc.Conv(3, SIZE, padding="VALID"), jax.nn.relu, jc.Conv(1, 1), jax.nn.relu6, jc.GlobalAvgPool())
    params = {
        "0": biased(-0.05, -0.05, -0.05)["conv"],
        "2": {"kernel": jnp.ones((1, 1, 3, 1)), "bias": -jnp.ones(1) / 50},
    }
    images, scores = maximize(net, params, {}, gray(1), objectives.logit(0), steps=40, view=None)
    assert scores[0] == 0
    assert net.apply(params, {}, images)[0] > 0.01


def test_a_unit_that_can_never_fire_is_named():
    wanted = [objectives.unit("relu", (1, 2), [0, 2, 1, 2]), objectives.channel("conv", [-1, -1, 0, -1])]
    with pytest.warns(UserWarning, match="the gradient of the score is zero at all steps for ") as seen:
        images, scores = maximize(RECTIFIED, biased(0.1, 0.0, -2.0), {}, gray(4), wanted, steps=6, view=None)
    assert len(seen) == 1
    message = str(seen[0].message)
    assert "image 1, channel 2 at (1, 2) of 'relu'; image 3, channel 2 at (1, 2) of 'relu': the unit" in message
    assert seen[0].filename == __file__
    assert np.isfinite(images).all()
    assert scores[-1] > scores[0]


def test_one_step_without_a_gradient_says_so():
    with pytest.warns(UserWarning, match=r"zero at all steps for image 0, channel 0 of 'relu'"):
        maximize(RECTIFIED, biased(-0.1, 0, 0), {}, gray(1), objectives.channel("relu", 0), steps=1, view=None)


def test_only_images_without_any_gradient_are_redirected():
    # Nothing passes the rectifier for image 0 either, but a gradient reaches it from the layer before.
    net = jc.serial(conv=jc.Conv(3, SIZE, padding="VALID"), relu=jax.nn.relu, pool=jc.GlobalAvgPool())
    run = functools.partial(maximize, net, biased(0, -0.05, 0), {}, gray(2), steps=12, rate=0.1, view=None)
    beside, _ = run([objectives.logit(1), objectives.unit("conv", (0, 0), [0, -1])])
    alone, _ = run([objectives.logit(1), objectives.unit("conv", (0, 0), [0, 0])])
    assert_allclose(beside[0], alone[0], atol=1e-5)
    assert np.abs(beside[1] - gray(2)[1]).max() > 0.01


def test_from_an_image_with_a_preprocess(params):
    x = jax.random.uniform(KEY, (1, SIZE, SIZE, 1))
    wanted = objectives.unit("conv", (0, 0), 0)

    def run(preprocess):
        return maximize(NET, params, {}, x, wanted, steps=1, preprocess=preprocess, view=None, rate=1e-6)

    images, scores = run(None)
    assert_allclose(images, x, atol=1e-2)
    assert_allclose(scores[0], (x[0, ..., 0] * edges()[..., 0]).mean(), atol=2e-3)
    _, doubled = run(double)
    assert_allclose(doubled, 2 * scores, rtol=1e-5)


def double(x):
    return 2 * x


def test_deterministic_by_key(params):
    def run(key):
        return maximize(NET, params, {}, (1, 12, 12, 1), objectives.channel("conv", 1), key=key, steps=3)[0]

    assert_array_equal(run(KEY), run(KEY))
    assert np.any(run(KEY) != run(jax.random.key(1)))


def test_what_is_wrong_is_named(params):
    def run(x=(1, 12, 12, 1), objective=None, params=params):
        return maximize(NET, params, {}, x, objective or objectives.channel("conv", 0), steps=3)

    with pytest.raises(jc.PathError, match="path must name a layer of net, got 'com': nearest are 'conv'"):
        run(objective=objectives.layer("com"))
    with pytest.raises(jc.ArgumentError, match=r"x must have values in \[0, 1\], got values from 2 to 2"):
        run(x=jnp.full((1, 12, 12, 1), 2.0))
    with pytest.raises(jc.ArgumentError, match="rate must be a positive number, got nan"):
        maximize(NET, params, {}, (1, 12, 12, 1), objectives.channel("conv", 0), rate=float("nan"))
    with pytest.raises(jc.ShapeError, match=r"^conv \(Conv\): "):
        run(x=(1, 4, 4, 1))
    with pytest.raises(NonFiniteGradientError, match="maximize: the gradient or the step is not finite at step 1 of 3"):
        run(params=jax.tree.map(lambda a: a * np.nan, params))


def test_an_int_is_a_seed():
    net = jc.serial(conv=jc.Conv(4))
    params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    seeded, keyed = (
        maximize(net, params, state, (1, 8, 8, 3), objectives.channel("conv", 0), steps=1, key=key)[0]
        for key in (3, jax.random.key(3))
    )
    assert_array_equal(seeded, keyed)
