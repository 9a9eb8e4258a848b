"""Defects seen in other libraries for JAX, each a test that ours passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.ops import oracle
from tests.ops.compare import assert_close, assert_gradient, value_and_pullback
from tests.ops.draws import uniform


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("count_include_pad", [True, False])
def test_half_average_of_ones_is_one(dtype, count_include_pad):
    """A sum of 4096 ones in bfloat16 stops at 256: Flax gives 0.25, and float32 where padding is not counted."""
    ones = jnp.ones((64, 64, 1), dtype)
    y = jax.jit(lambda x: jc.avg_pool(x, 64, count_include_pad=count_include_pad))(ones)
    assert y.dtype == dtype
    assert_array_equal(y.astype(jnp.float32), [[[1]]])
    for pool in (jc.global_avg_pool, lambda x: jc.adaptive_avg_pool(x, 1), lambda x: jc.resize(x, 1, method="area")):
        y = jax.jit(pool)(ones)
        assert y.dtype == dtype
        assert_array_equal(y.ravel().astype(jnp.float32), [1])


def test_half_norm_of_ones_is_the_root_of_their_number():
    y = jax.jit(lambda x: (jc.lp_pool(x, 64), jc.global_lp_pool(x)))(jnp.ones((64, 64, 1), jnp.bfloat16))
    assert [float(a.squeeze()) for a in y] == [64, 64]


def test_statistics_survive_a_large_mean():
    """Mean 1e4, variance 1: E[x^2] - E[x]^2 in float32 has no digits left, and Flax's default comes out anywhere."""
    x = (1e4 + uniform(1, (4096, 2)) * 3**0.5).astype(np.float32)  # uniform on (-1, 1) has variance 1/3
    exact = x.astype(np.float64)

    @jax.jit
    def normalized(x):
        mean, var = jc.batch_statistics(x)
        batch, instance = jc.batch_norm(x, mean, var), jc.instance_norm(x[None], rank=1)[0]
        return mean, var, batch, instance, jc.layer_norm(x.T).T

    mean, var, *normals = normalized(x)
    assert_close(mean, exact.mean(0), rtol=1e-7, atol=0)
    assert_close(var, exact.var(0), rtol=1e-4, atol=0)
    for y in normals:
        assert_close(np.std(y, axis=0), np.ones(2), rtol=1e-3)


def test_dilated_max_pool_has_a_gradient():
    """That of `lax.reduce_window` with window dilation is not implemented."""
    x = uniform(1, (1, 7, 6, 1)).astype(np.float32)
    options = {"stride": 1, "dilation": (2, 3), "padding": 1}
    want, indices = oracle.max_pool(x, (3, 2), **options)
    scattered = np.bincount(indices.ravel(), minlength=42).reshape(x.shape)
    y, (gradient,) = value_and_pullback(lambda x: jc.max_pool(x, (3, 2), **options), [x], np.ones_like(want))
    assert_array_equal(y, want)
    assert_array_equal(gradient, scattered)
    curvature = jax.jit(jax.hessian(lambda x: (jc.max_pool(x, (3, 2), **options) ** 2).sum()))(x)
    assert_array_equal(np.diag(curvature.reshape(42, 42)), 2 * scattered.ravel())


def test_adaptive_bins_are_those_of_torch():
    """Equinox gives [1, 3.5, 5.5]."""
    assert_close(jc.adaptive_avg_pool(jnp.arange(7.0)[:, None], 3, rank=1)[:, 0], [1, 3, 5])


def test_ceil_mode_divides_by_what_a_window_holds():
    """6 elements, window 4, stride 3, padding 1: the overhang is not counted, the padding is if asked."""
    x = jnp.arange(1.0, 7)[:, None]
    pool = {"stride": 3, "padding": 1, "ceil_mode": True}
    assert_close(jc.avg_pool(x, (4,), **pool)[:, 0], [6 / 4, 18 / 4, 6 / 2])
    assert_close(jc.avg_pool(x, (4,), **pool, count_include_pad=False)[:, 0], [6 / 3, 18 / 4, 6 / 1])


def test_pools_step_by_their_window():
    """As in the lecture, torch and Keras; Flax and Equinox step by 1."""
    image = jax.ShapeDtypeStruct((6, 6, 1), np.float32)
    for pool in (jc.max_pool, jc.avg_pool, jc.lp_pool, lambda x, window: jc.max_pool_with_indices(x, window)[1]):
        assert jax.eval_shape(lambda x, pool=pool: pool(x, 3), image).shape == (2, 2, 1)
        assert jax.eval_shape(lambda x, pool=pool: pool(x, (2, 3)), image).shape == (3, 2, 1)


# More than the window, less than nothing, both: lax's own gradient of these has negative padding, which XLA:CPU reads
# out of bounds (openxla/xla#48713).
PADS = [((5, 4),), ((-2, -1),), ((4, -3),), ((-3, 4),), ((0, 3),)]


@pytest.mark.parametrize("pads", PADS, ids=str)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (3, 2)])
def test_negative_and_asymmetric_padding_of_conv(pads, stride, dilation):
    x, kernel = (uniform(i, shape).astype(np.float32) for i, shape in enumerate([(2, 9, 2), (3, 2, 2)]))
    options = {"stride": stride, "dilation": dilation, "padding": pads}
    check_linear(jc.conv, oracle.conv, (x, kernel), options)


@pytest.mark.parametrize("pads", [((5, 4),), ((-2, -3),), ((4, -3),), ((-3, 4),)], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_negative_and_asymmetric_padding_of_conv_transpose(pads, stride):
    y, kernel = (uniform(i, shape).astype(np.float32) for i, shape in enumerate([(2, 9, 2), (3, 2, 2)]))
    check_linear(jc.conv_transpose, oracle.conv_transpose, (y, kernel), {"stride": stride, "padding": pads})


@pytest.mark.parametrize("pads", [((-1, -2),), ((2, -3),), ((-3, 2),)], ids=str)
def test_negative_and_asymmetric_padding_of_pools(pads):
    x = uniform(1, (2, 9, 2)).astype(np.float32)
    options = {"padding": pads, "stride": 2, "count_include_pad": False, "ceil_mode": True}
    check_linear(lambda x, **o: jc.avg_pool(x, (3,), **o), lambda x, **o: oracle.avg_pool(x, (3,), **o), (x,), options)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("extra", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_transposed_convolution_with_groups_and_output_padding(groups, extra, dilation):
    y, kernel = (uniform(i, shape).astype(np.float32) for i, shape in enumerate([(1, 3, 2, 4), (3, 2, 2, 4)]))
    options = {"stride": 3, "padding": 1, "output_padding": extra, "dilation": dilation, "groups": groups}
    check_linear(jc.conv_transpose, oracle.conv_transpose, (y, kernel), options)


def check_linear(op, loops, args, options):
    """Values and gradients of an op that is linear in each argument."""
    want = loops(*args, **options)
    cotangent = uniform(10, want.shape)
    y, gradients = value_and_pullback(lambda *args: op(*args, **options), args, cotangent)
    assert_close(y, want)
    for i, gradient in enumerate(gradients):
        direction = uniform(20 + i, args[i].shape)
        moved = loops(*(direction if j == i else a for j, a in enumerate(args)), **options)
        assert_gradient(gradient, moved, direction, cotangent, f"argument {i}")
