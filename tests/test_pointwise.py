"""Elementwise functions are recognized, and no others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.pointwise import is_pointwise

X = jax.ShapeDtypeStruct((2, 4, 5, 6), jnp.float32)
MAP = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)


@jax.custom_jvp
def with_custom_jvp(x):
    return jnp.sin(x)


with_custom_jvp.defjvp(lambda primals, tangents: (jnp.sin(primals[0]), tangents[0]))


@jax.custom_vjp
def with_custom_vjp(x):
    return jnp.sin(x)


with_custom_vjp.defvjp(lambda x: (jnp.sin(x), None), lambda _, g: (g,))

POINTWISE = {
    **{
        name: getattr(jax.nn, name)
        for name in (
            "relu relu6 gelu silu swish mish sigmoid hard_sigmoid hard_swish hard_tanh leaky_relu elu celu selu "
            "softplus soft_sign log_sigmoid squareplus"
        ).split()
    },
    **{
        name: getattr(jnp, name)
        for name in "abs exp log1p negative sign sqrt square tanh round sin arctan cbrt".split()
    },
    "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
    "leaky_relu": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "clip": lambda x: jnp.clip(x, -1, 1),
    "power": lambda x: x**3 + x**2.5,
    "where": lambda x: jnp.where(x > 0, x, x * 0.1),
    "affine": lambda x: (x - 0.5) / 0.25,
    "per channel": lambda x: x * jnp.arange(6.0),
    "per position": lambda x: x + jnp.arange(20.0).reshape(4, 5, 1),
    "another constant's mean": lambda x: x + jnp.arange(20.0).reshape(4, 5, 1).mean(),
    "of itself": lambda x: x * jax.nn.sigmoid(x) + x,
    "cast": lambda x: x.astype(jnp.bfloat16),
    "test": lambda x: x > 0,
    "jitted": jax.jit(lambda x: jnp.maximum(x, 0)),
    "stop_gradient": jax.lax.stop_gradient,
    "custom_jvp": with_custom_jvp,
    "custom_vjp": with_custom_vjp,
    "nothing": lambda x: x,
}

SPREADING = {
    "softmax": jax.nn.softmax,
    "log_softmax": jax.nn.log_softmax,
    "standardize": jax.nn.standardize,
    "mean": lambda x: x - x.mean(),
    "mean over channels": lambda x: x - x.mean(-1, keepdims=True),
    "max": lambda x: x / x.max(),
    "flip": lambda x: x[:, ::-1],
    "roll": lambda x: jnp.roll(x, 1, 1),
    "cumsum": lambda x: jnp.cumsum(x, 1),
    "sort": lambda x: jnp.sort(x, 1),
    "square matrix": lambda x: x @ jnp.ones((6, 6)),
    "transpose": lambda x: x.transpose(1, 0, 2, 3).transpose(1, 0, 2, 3),
    "gather": lambda x: x[:, jnp.array([1, 0, 2, 3])],
    "one position to all": lambda x: jnp.broadcast_to(x[:, :1, :1], x.shape),
    "one position added": lambda x: x + x[:, :1],
    "reshape and back": lambda x: x.reshape(2, 20, 6).reshape(2, 4, 5, 6),
    "glu": lambda x: jnp.concatenate([jax.nn.glu(x)] * 2, -1),
    "scan": lambda x: jax.lax.scan(lambda c, v: (c + v, c), jnp.zeros(x.shape[1:]), x)[1],
    "inside jit": jax.jit(lambda x: x + x[:, ::-1]),
    "convolution": lambda x: jc.conv(x, jnp.ones((3, 3, 6, 6))),
    "two outputs": lambda x: (x, x),
    "fewer": lambda x: x[:, 1:],
    "constant": lambda x: jnp.ones(x.shape),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_functions_are_recognized(name):
    assert is_pointwise(POINTWISE[name], X)
    assert jc.Fn(POINTWISE[name]).geometry(X) == ()


@pytest.mark.parametrize("name", SPREADING)
def test_others_are_not(name):
    assert not is_pointwise(SPREADING[name], X)
    assert jc.Fn(SPREADING[name]).geometry(X) is None


@pytest.mark.parametrize("name", ["gelu", "hard_swish", "softplus", "per position", "of itself"])
def test_recognized_functions_are_pointwise(name):
    """The oracle: one element changed changes that one of the output."""
    function, other = POINTWISE[name], MAP.copy()
    other[1, 2, 3, 4] += 1
    changed = np.argwhere(np.asarray(function(jnp.asarray(other)) != function(jnp.asarray(MAP))))
    np.testing.assert_array_equal(changed, [[1, 2, 3, 4]])


def test_trees_are_not_pointwise():
    assert not is_pointwise(lambda xs: xs[0], (X, X))
    assert jc.Fn(lambda xs: xs[0]).geometry((X, X)) is None


def test_one_element_is_no_excuse():
    one = jax.ShapeDtypeStruct((1, 1, 1, 1), jnp.float32)
    assert is_pointwise(jax.nn.relu, one)
    assert not is_pointwise(lambda x: x.mean(keepdims=True), one)
