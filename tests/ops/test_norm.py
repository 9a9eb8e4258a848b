"""Normalisation: what its formulas say, in NumPy; statistics over mapped axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from tests.ops.compare import assert_close
from tests.ops.draws import uniform


def normalized(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def test_norms_equal_their_formulas():
    x, scale, bias = uniform(1, (2, 3, 4, 6)), uniform(2, (6,)), uniform(3, (6,))
    eps = 0.1

    @jax.jit
    def ours(x, scale, bias):
        return (
            jc.batch_norm(x, *jc.batch_statistics(x), scale, bias, eps=eps),
            jc.layer_norm(x, scale, bias, eps=eps),
            jc.instance_norm(x, scale, bias, eps=eps),
            jc.group_norm(x, 3, scale, bias, eps=eps),
            jc.instance_norm(x, eps=eps, rank=1),
            jc.group_norm(x, 1, eps=eps, rank=3),
        )

    grouped = normalized(x.reshape(2, 3, 4, 3, 2), (1, 2, 4), eps).reshape(x.shape)
    want = (
        normalized(x, (0, 1, 2), eps) * scale + bias,
        normalized(x, 3, eps) * scale + bias,
        normalized(x, (1, 2), eps) * scale + bias,
        grouped * scale + bias,
        normalized(x, 2, eps),
        normalized(x, (0, 1, 2, 3), eps),
    )
    for got, expected in zip(ours(*(a.astype(np.float32) for a in (x, scale, bias))), want, strict=True):
        assert_close(got, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_local_response_norm_equals_its_formula(size):
    """An even size takes one channel more before than after."""
    x = uniform(1, (2, 7))
    want = np.empty_like(x)
    for c in range(7):
        near = x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        want[:, c] = x[:, c] / (2 + 0.5 / size * (near**2).sum(1)) ** 0.75
    ours = jax.jit(lambda x: jc.local_response_norm(x, size, alpha=0.5, k=2.0))(x.astype(np.float32))
    assert_close(ours, want)


def test_unit_norm_equals_its_formula():
    x = uniform(1, (2, 3, 7)).astype(np.float32)
    assert_close(jc.unit_norm(x), x / np.sqrt((x.astype(np.float64) ** 2).sum(-1, keepdims=True)))
    assert_close(jc.unit_norm(x, eps=100.0), x / 100)
    assert jc.unit_norm(x.astype(np.float16) * 200).dtype == np.float16
    assert_close(jnp.linalg.norm(jc.unit_norm(x.astype(np.float16) * 200), axis=-1), np.ones((2, 3)), rtol=1e-3)


def test_unit_norm_of_zeros_is_zero_with_a_finite_gradient():
    zeros = jnp.zeros((2, 3))
    assert not jc.unit_norm(zeros).any()
    np.testing.assert_allclose(jax.grad(lambda x: jc.unit_norm(x, eps=0.1).sum())(zeros), 10)


def test_scale_and_bias_are_each_optional():
    x, scale = uniform(1, (4, 3)).astype(np.float32), uniform(2, (3,)).astype(np.float32)
    plain = jc.layer_norm(x)
    assert_close(jc.layer_norm(x, scale), plain * scale)
    assert_close(jc.layer_norm(x, bias=scale), plain + scale)


def test_wide_statistics_do_not_widen_half_images():
    x, statistics = jnp.ones((4, 2), jnp.bfloat16), jnp.ones(2, jnp.float32)
    assert jc.batch_norm(x, statistics, statistics).dtype == jnp.bfloat16
    assert jc.batch_norm(x, statistics, statistics, statistics).dtype == jnp.float32
    assert {a.dtype for a in jc.batch_statistics(x)} == {np.dtype(np.float32)}


def test_a_constant_channel_is_normalized_to_zero_with_finite_gradients():
    x = np.full((8, 2), 3.0, np.float32)
    y, pullback = jax.vjp(lambda x: jc.batch_norm(x, *jc.batch_statistics(x)), x)
    assert not np.any(y)
    assert np.all(np.isfinite(pullback(y)[0]))


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch():
    x = uniform(1, (4, 6, 3)).astype(np.float32)
    want = [x.reshape(-1, 3).mean(0), x.reshape(-1, 3).var(0)]
    mapped = jax.vmap(lambda x: jc.batch_statistics(x, axis_name="i"), axis_name="i")(x)
    for got, expected in zip(mapped, want, strict=True):
        assert_close(got, np.stack([expected] * 4))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def local(x):
        return jc.batch_statistics(x, axis_name="data")

    # out_specs=P() is accepted because the mean over the axis is known to be the same everywhere.
    shared = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("data"), out_specs=P()))(x.reshape(-1, 3))
    for got, expected in zip(shared, want, strict=True):
        assert_close(got, expected)


def test_gradients_through_statistics_over_a_mapped_axis_are_those_of_the_whole_batch():
    x, weight = uniform(1, (8, 3)).astype(np.float32), uniform(2, (8, 3)).astype(np.float32)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def norm(x, axis_name=None):
        return jc.batch_norm(x, *jc.batch_statistics(x, axis_name=axis_name))

    split = jax.shard_map(lambda x: norm(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    got, want = (jax.jit(jax.grad(lambda x, f=f: jnp.sum(f(x) * weight)))(x) for f in (split, norm))
    assert_close(got, want)
