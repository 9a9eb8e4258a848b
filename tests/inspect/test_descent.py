"""The loop: Optax's updates, one compiled step, and the step at which a gradient stops it."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import descent
from jaxconv.inspect.descent import NonFiniteGradientError, adam, minimize

KEY = jax.random.key(0)


def distance(z, target, key):
    return jnp.sum(jnp.square(z - target))


def square_root(z, _, key):
    # The third step of size 1 from 2.5 goes below zero.
    return jnp.sum(jnp.sqrt(z))


def noisy(z, _, key):
    return jnp.sum(z * jax.random.normal(key, z.shape))


def test_steps_are_optaxs():
    z, target = jnp.zeros(3), jnp.array([1.0, 2.0, 3.0])
    optimizer = optax.sgd(0.25)
    seen = []
    got, losses = minimize(
        distance, z, target, optimizer, 3, key=KEY, what="test", on_step=lambda i, loss: seen.append((i, loss))
    )
    assert_allclose(got, target * (1 - 0.5**3), rtol=1e-6)
    assert_allclose(losses, [14.0, 3.5, 0.875], rtol=1e-6)
    assert seen == [(i + 1, pytest.approx(float(loss))) for i, loss in enumerate(losses)]
    assert_array_equal(z, 0)


def test_line_searches_get_what_they_want():
    z, _ = minimize(distance, jnp.zeros(3), jnp.arange(3.0), optax.lbfgs(), 4, key=KEY, what="test")
    assert_allclose(z, jnp.arange(3.0), atol=1e-5)


def test_a_tree_moves_and_its_key_counts():
    z, _ = minimize(noisy_tree, {"a": jnp.zeros(2), "b": jnp.zeros(3)}, None, optax.sgd(1.0), 2, key=KEY, what="test")
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(z))
    first, _ = minimize(noisy, jnp.ones(4), None, optax.sgd(1.0), 3, key=KEY, what="test")
    same, _ = minimize(noisy, jnp.ones(4), None, optax.sgd(1.0), 3, key=KEY, what="test")
    other, _ = minimize(noisy, jnp.ones(4), None, optax.sgd(1.0), 3, key=jax.random.key(1), what="test")
    assert_array_equal(first, same)
    assert np.any(first != other)


def noisy_tree(z, data, key):
    return sum(noisy(leaf, data, key) for leaf in z.values())


def unit_steps():
    return optax.stateless(lambda g, _: -jnp.sign(g))


@pytest.mark.parametrize("steps", [4, 40])
@pytest.mark.parametrize("watched", [True, False])
def test_nan_gradients_stop_it_with_their_step(steps, watched):
    seen = []
    with pytest.raises(
        NonFiniteGradientError, match=rf"^test: the gradient or the step is not finite at step 4 of {steps}$"
    ) as e:
        minimize(
            square_root,
            jnp.array([2.5, 90.0]),
            None,
            unit_steps(),
            steps,
            key=KEY,
            what="test",
            on_step=(lambda i, _: seen.append(i)) if watched else None,
        )
    assert (e.value.step, e.value.steps) == (4, steps)
    assert seen == ([1, 2, 3] if watched else [])


def downhill(z, _, key):
    return jnp.sum(z * jnp.array([1.0, 1e-30]))


def test_a_step_that_is_not_finite_stops_it_too():
    # The loss and its gradient are finite at every step, but z has no room for the second one.
    with pytest.raises(NonFiniteGradientError, match=r"^test: the gradient or the step is not finite at step 2 of 2$"):
        minimize(downhill, jnp.zeros(2), None, optax.sgd(2e38), 2, key=KEY, what="test")


def flat(z, _, key):
    return jnp.sum(jnp.maximum(z["a"], 0)) + jnp.sum(z["b"]) * 0


def test_a_gradient_that_is_zero_throughout_is_said(recwarn):
    z = {"a": -jnp.ones((2, 3)), "b": jnp.zeros(())}
    minimize(flat, {**z, "a": z["a"].at[1, 2].set(1.0)}, None, optax.sgd(1.0), 3, key=KEY, what="test")
    assert not recwarn.list
    with pytest.warns(UserWarning, match="^test: the gradient is zero at each of the 3 steps: nothing has changed$"):
        minimize(flat, z, None, optax.sgd(1.0), 3, key=KEY, what="test")


def test_a_descent_goes_on_where_it_was():
    optimizer = optax.adam(0.1)
    whole, losses = minimize(noisy, jnp.ones(4), None, optimizer, 20, key=KEY, what="test")
    parts = descent.Descent(jnp.ones(4), optimizer, 20, key=KEY, what="test")
    unmoved = [parts.run(noisy, None, count) for count in (1, 16, 0, 3)]
    assert_array_equal(parts.z, whole)
    assert_array_equal(jnp.stack(parts.losses), losses)
    assert [u.tolist() for u in unmoved] == [[False] * 4, [False] * 4, [True] * 4, [False] * 4]


def test_equal_losses_share_a_compiled_step():
    before = descent._step._cache_size()
    for _ in range(2):
        minimize(distance, jnp.zeros(7), jnp.ones(7), adam(0.125), 2, key=KEY, what="test")
    assert descent._step._cache_size() == before + 1


def test_steps_are_counted_from_one():
    with pytest.raises(jc.ArgumentError, match="steps must be at least 1, got 0"):
        minimize(distance, jnp.zeros(1), jnp.zeros(1), optax.sgd(1.0), 0, key=KEY, what="test")


def test_without_optax_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r"of images needs the package optax: pip install '\.\[train\]'"):
        descent.import_optax()
