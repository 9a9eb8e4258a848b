"""Which functions are rectifiers."""

import functools

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from jaxconv.inspect.rectifiers import is_rectifier, rectifier_paths


@pytest.mark.parametrize(
    "function",
    [jax.nn.relu, jax.nn.relu6, jax.jit(jax.nn.relu), lambda x: x * (x > 0), functools.partial(jnp.maximum, 0)],
)
def test_rectifiers(function):
    assert is_rectifier(function)
    for transform in (jax.jit, jax.vmap, jax.grad, lambda f: jax.jit(jax.vmap(jax.grad(f)))):
        x = jnp.ones(() if transform is jax.grad else 1)
        assert transform(lambda x: x * is_rectifier(function))(x) == 1


@pytest.mark.parametrize(
    "function",
    [
        jax.nn.gelu,
        jax.nn.silu,
        jax.nn.elu,
        jax.nn.leaky_relu,
        jax.nn.sigmoid,
        jax.nn.hard_sigmoid,
        jax.nn.softplus,
        jnp.abs,
        lambda x: x,
        lambda x: 0 * x,
        lambda x: jax.nn.relu(x - x.mean()),
        lambda x: x.mean((1, 2)),
        lambda x: x["maps"],
        lambda x: (x, x),
    ],
)
def test_others(function):
    assert not is_rectifier(function)


def test_paths_of_rectifiers():
    net = jc.serial(
        jc.Dense(3), act=jax.nn.relu, body=jc.residual(jc.serial(jc.Dense(3), jnp.tanh), after=jax.nn.relu6)
    )
    assert rectifier_paths(net) == ["act", "body.after"]
