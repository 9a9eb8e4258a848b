"""Initializers and dropout draw along one axis, and the same bits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.ops.draws import drawn

SHAPE = (3, 2, 4, 6)
INITIALIZERS = {
    "he_normal": initializers.he_normal(),
    "lecun_normal, transposed": initializers.lecun_normal(in_axis=-1, out_axis=-2),
    "he_uniform": initializers.he_uniform(),
    "fan out": initializers.variance_scaling(1 / 3, "fan_out", "uniform"),
    "normal": initializers.normal(0.01),
    "orthogonal": initializers.orthogonal(),
    "zeros": initializers.zeros,
    "constant": initializers.constant(0.5),
}


# Those that draw as others do are slow tests.
ALIKE = {"he_normal", "normal", "fan out"}


@pytest.mark.parametrize(
    "initializer",
    [pytest.param(f, id=name, marks=[pytest.mark.slow] * (name in ALIKE)) for name, f in INITIALIZERS.items()],
)
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=pytest.mark.slow)])
def test_the_bits_are_those_of_the_initializer(initializer, dtype):
    if initializer is INITIALIZERS["orthogonal"] and dtype == jnp.bfloat16:
        pytest.skip("LAPACK has no bfloat16")
    key = jax.random.key(3)
    # Both compiled: fused, XLA rounds the last product differently than one by one.
    want = jax.jit(functools.partial(initializer, shape=SHAPE, dtype=dtype))(key)
    assert_array_equal(drawn(initializer, key, SHAPE, dtype), want)
    assert_array_equal(jax.vmap(lambda k: drawn(initializer, k, SHAPE, dtype))(key[None])[0], want)


def test_the_bits_of_half_precision():
    key, he_normal = jax.random.key(3), INITIALIZERS["he_normal"]
    want = jax.jit(functools.partial(he_normal, shape=SHAPE, dtype=jnp.bfloat16))(key)
    assert_array_equal(drawn(he_normal, key, SHAPE, jnp.bfloat16), want)


def test_old_keys_and_doubles_draw_the_same():
    with jax.enable_x64(True):
        key = jax.random.PRNGKey(1)
        want = jax.jit(lambda k: initializers.he_normal()(k, SHAPE, jnp.float64))(key)
        assert_array_equal(drawn(initializers.he_normal(), key, SHAPE, jnp.float64), want)


def shapes_of_bits(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "random_bits":
            yield eqn.params["shape"]
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from shapes_of_bits(inner)


def test_no_program_of_init_or_dropout_draws_over_several_axes():
    net = jc.serial(jc.Conv(4), jc.ConvTranspose(3, 2), jc.ConvLocal(2, 3), jc.Dropout(0.5), jc.Flatten(), jc.Dense(5))
    key = jax.random.key(0)
    init = jax.make_jaxpr(lambda key: net.init(key, (2, 6, 6, 3)))(key)
    params, state = net.init(key, (2, 6, 6, 3))
    x = jnp.ones((2, 6, 6, 3))
    train = jax.make_jaxpr(lambda key: net.apply(params, state, x, train=True, key=key))(key)
    found = [*shapes_of_bits(init.jaxpr), *shapes_of_bits(train.jaxpr)]
    assert len(found) >= 5
    assert all(len(shape) <= 1 for shape in found)


def test_a_custom_initializer_is_called_as_it_is():
    table = np.arange(24, dtype=np.float32)

    def fixed(key, shape, dtype):
        assert not isinstance(key, jax.core.Tracer)
        return table[: np.prod(shape)].reshape(shape)

    params, _ = jc.Dense(3, kernel_init=fixed).init(jax.random.key(0), (1, 4))
    assert_array_equal(params["kernel"], table[:12].reshape(4, 3))


def test_dropout_keeps_the_elements_that_it_kept_over_several_axes():
    key, x = jax.random.key(2), jnp.ones((2, 3, 4, 5))
    keep = jax.random.bernoulli(key, jnp.float32(0.75), x.shape)
    assert_array_equal(jc.dropout(x, 0.25, key) != 0, keep)
