"""What a network is shown: blurs, turns, rolls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect.views import View, blur, jitter, turn

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (2, 9, 12, 3))


def test_blur_preserves_the_mean_and_is_scipys():
    scipy = pytest.importorskip("scipy.ndimage")
    for sigma in (0.5, 1.5, 6.0):
        y = blur(X, sigma)
        assert_allclose(y.mean(axis=(1, 2)), X.mean(axis=(1, 2)), rtol=1e-5)
        want = scipy.gaussian_filter(np.asarray(X), (0, sigma, sigma, 0), mode="reflect", truncate=8.0)
        assert_allclose(y, want, atol=1e-5)
    assert blur(X, 0) is X
    assert_allclose(blur(X, 50.0), jnp.broadcast_to(X.mean(axis=(1, 2), keepdims=True), X.shape), atol=1e-3)
    with pytest.raises(jc.ArgumentError, match="sigma must not be negative, got -1"):
        blur(X, -1)


def test_jitter_rolls_within_its_reach():
    assert jitter(KEY, X, 0) is X
    seen = set()
    for key in jax.random.split(KEY, 30):
        at = jitter(key, jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1.0), 1)
        seen.add(int(at.argmax()))
    assert seen <= {9 * i + j for i in (3, 4, 5) for j in (3, 4, 5)}
    assert len(seen) > 5


def test_turn_is_the_identity_without_a_turn():
    assert turn(KEY, X) is X
    assert_allclose(turn(KEY, X, degrees=1e-6), X, atol=1e-5)
    with pytest.raises(jc.ArgumentError, match=r"zoom must be in \[0, 1\), got 1"):
        turn(KEY, X, zoom=1)


def test_turn_is_scipys_affine_transform():
    scipy = pytest.importorskip("scipy.ndimage")
    angle, factor = jax.random.uniform(KEY, (2,), minval=-1) * jnp.array([np.deg2rad(30), 0.3])
    cos, sin = np.cos(angle) / (1 + factor), np.sin(angle) / (1 + factor)
    matrix = np.array([[cos, -sin], [sin, cos]])
    center = (np.array(X.shape[1:3]) - 1) / 2
    y = turn(KEY, X, degrees=30, zoom=0.3)
    for c in range(3):
        want = scipy.affine_transform(
            np.asarray(X[0, ..., c]), matrix, center - matrix @ center, order=1, mode="mirror"
        )
        assert_allclose(y[0, ..., c], want, atol=1e-4)


def test_turn_of_a_line_and_its_gradient():
    assert_allclose(turn(KEY, jnp.ones((1, 1, 5, 1)), degrees=20, zoom=0.2), 1, rtol=1e-5)
    gradient = jax.grad(lambda x: turn(KEY, x, degrees=20, zoom=0.2)[:, 4:5, 5:7].sum())(X)
    assert_allclose(gradient.sum(), 2 * 2 * 3, rtol=1e-4)


def test_views_are_deterministic_by_key_and_jit():
    view = View(jitter=2, degrees=10, zoom=0.1, blur=0.5)
    assert_array_equal(view(KEY, X), view(KEY, X))
    assert_allclose(jax.jit(view)(KEY, X), view(KEY, X), atol=1e-5)
    assert np.any(view(jax.random.key(1), X) != view(KEY, X))
    assert View(0, 0, 0)(KEY, X) is X
    assert hash(view) == hash(View(2, 10, 0.1, 0.5))
