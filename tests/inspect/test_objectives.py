"""Scores, and what is said of those that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import objectives
from tests.nets import normal

Y = normal((3, 4, 5, 6), 0)


def test_scores_are_numpys():
    def score(objective):
        return objectives.total(objective, Y, {"a": Y})

    assert_allclose(score(objectives.channel("a", 2)), Y[..., 2].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    each = [Y[i, ..., c].mean() for i, c in enumerate((5, 0, 2))]
    assert_allclose(score(objectives.channel("", [5, 0, 2])), each, rtol=1e-5, atol=1e-6)
    assert_allclose(score(objectives.channel("a", [5, -1, 2])), [each[0], 0, each[2]], rtol=1e-5, atol=1e-6)
    assert_allclose(score(objectives.unit("a", (3, 1), 4)), Y[:, 3, 1, 4], rtol=1e-6)
    assert_allclose(score(objectives.layer("a")), np.square(Y).mean(axis=(1, 2, 3)), rtol=1e-5)
    both = [objectives.layer("a"), objectives.layer("")]
    assert_allclose(score(both), 2 * np.square(Y).mean(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_channel_that_is_not_finite_leaves_the_others_alone(bad):
    y = jnp.asarray(Y).at[..., 1].set(bad)
    score = lambda y, c: objectives.total(objectives.channel("", c), y, {})  # noqa: E731
    assert_allclose(score(y, [0, -1, 2]), [Y[0, ..., 0].mean(), 0, Y[2, ..., 2].mean()], rtol=1e-5, atol=1e-6)
    assert np.isfinite(jax.grad(lambda y: score(y, [0, -1, 2]).sum())(y)).all()
    # A channel that is known only when the program runs is not taken for another.
    unknown = jax.jit(lambda objective: objectives.total(objective, jnp.asarray(Y), {}))
    assert np.isnan(unknown(objectives.channel("", [6, 0, 0]))).tolist() == [True, False, False]


def test_objectives_are_trees_that_share_a_program():
    traced = []

    @jax.jit
    def score(objective):
        traced.append(objective)
        return objectives.total(objective, jnp.asarray(Y), {"a": jnp.asarray(Y)})

    for c in range(4):
        assert_allclose(score(objectives.channel("a", c)), Y[..., c].mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    score(objectives.unit("a", (0, 0), 1))
    assert len(traced) == 2


@pytest.fixture(scope="module")
def ready():
    net = jc.serial(conv=jc.Conv(4), pair=jc.parallel(jc.Identity(), jc.Identity()), first=lambda xs: xs[0])
    return net, *net.init(jax.random.key(0), (1, 6, 6, 3))


@pytest.mark.parametrize(
    ("error", "objective", "message"),
    [
        (
            jc.PathError,
            lambda: objectives.channel("conf", 0),
            "path must name a layer of net, got 'conf': nearest are 'conv'",
        ),
        (
            jc.ArgumentError,
            lambda: objectives.channel("conv", 4),
            r"c for an output of shape \(2, 6, 6, 4\) must be below 4, got 4",
        ),
        (jc.ArgumentError, lambda: objectives.channel("conv", [0, 7]), r"must be below 4, got \[0, 7\]"),
        (
            jc.ShapeError,
            lambda: objectives.channel("conv", [0, 1, 2]),
            "c must be one channel, or one for each of the 2 images, got 3",
        ),
        (
            jc.ArgumentError,
            lambda: objectives.channel("conv", -2),
            "c must be an int or a sequence of ints, at least 0, got -2",
        ),
        (
            jc.ArgumentError,
            lambda: objectives.channel("conv", 0.5),
            "c must be an int or a sequence of ints, at least 0, got 0.5",
        ),
        (
            jc.ShapeError,
            lambda: objectives.unit("conv", (1,), 0),
            "position must have 2 indices for an output of shape",
        ),
        (jc.ArgumentError, lambda: objectives.unit("conv", (1, 6), 0), "position, index 1, .* must be below 6"),
        (
            jc.ArgumentError,
            lambda: objectives.unit("conv", (-1, 0), 0),
            "position must be an int or a sequence of ints, at least 0",
        ),
        (
            jc.ShapeError,
            lambda: objectives.layer("pair"),
            "path 'pair' must name a layer that returns one array, got PyTreeDef",
        ),
        (
            jc.ShapeError,
            lambda: objectives.Objective("conv", lambda y, _: y.sum()),
            r"objective must return \(2,\) scores, .* got \(\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(error, ready, objective, message):
    with pytest.raises(error, match=message):
        objectives.check(*ready, (2, 6, 6, 3), objective(), None)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ([], "objective must be an Objective or a sequence of them, got"),
        (3, "objective must be an Objective or a sequence of them, got 3"),
        ("conv", r"must be .*, got the string 'conv': write jaxconv.inspect.channel\('conv', 0\) .*inspect.logit\(0\)"),
    ],
)
def test_what_is_no_objective_is_refused(ready, objective, message):
    with pytest.raises(TypeError, match=message):
        objectives.check(*ready, (2, 6, 6, 3), objective, None)


def test_a_network_that_cannot_take_the_images_says_so(ready):
    with pytest.raises(jc.ShapeError, match=r"^conv \(Conv\): .* x has 1"):
        objectives.check(*ready, (2, 6, 6, 1), objectives.layer("conv"), None)


def test_inside_a_repeat_outputs_are_stacked():
    net = jc.serial(body=jc.repeat(jc.serial(conv=jc.Conv(3)), 2))
    params, state = net.init(jax.random.key(0), (1, 4, 4, 3))
    with pytest.raises(jc.PathError, match=r"path must name a layer outside of repeat, got 'body.conv'"):
        objectives.check(net, params, state, (1, 4, 4, 3), objectives.layer("body.conv"), None)


def test_scores_differentiate(ready):
    x = jnp.ones((2, 6, 6, 3)) / 2
    grad = jax.jit(jax.grad(lambda x: objectives.scores(*ready, x, objectives.channel("conv", [1, -1])).sum()))(x)
    assert np.any(grad[0] != 0)
    assert_allclose(grad[1], 0)


@pytest.mark.parametrize("make", [lambda c: objectives.logit(c), lambda c: objectives.channel("a", c)])
def test_one_channel_for_all_is_one(make):
    with pytest.raises(jc.ArgumentError, match="c must be an int or a sequence of ints, at least 0, got -1"):
        make(-1)
    make([0, -1])
