"""The pools against loops; the rule for ties; what padding, NaN and infinities do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.ops import oracle
from tests.ops.compare import assert_close, assert_gradient, value_and_pullback
from tests.ops.draws import Draws, Searched, geometry, uniform


def check_max_pool(draws: Draws):
    place = geometry(draws, within_window=True)
    options = {**place.options(), "ceil_mode": draws.flag()}
    x = uniform(1, (draws.integer(1, 2), *place.size, draws.integer(1, 2))).astype(np.float32)
    if draws.flag():
        x = np.round(x * 2)  # five values only: windows full of ties
    want, indices = oracle.max_pool(x, place.window, **options)
    cotangent = uniform(2, want.shape)
    y, (gradient,) = value_and_pullback(lambda x: jc.max_pool(x, place.window, **options), [x], cotangent)
    assert_array_equal(y, want, err_msg=str(options))
    scattered = np.zeros((len(x), np.prod(place.size), x.shape[-1]))
    for at in oracle.places(want.shape):
        scattered[at[0], indices[at], at[-1]] += cotangent[at]
    assert_close(gradient, scattered.reshape(x.shape), what=str(options))
    y, ours = jax.jit(lambda x: jc.max_pool_with_indices(x, place.window, **options))(x)
    assert_array_equal(y, want, err_msg=str(options))
    assert_array_equal(ours, indices, err_msg=str(options))


def check_avg_pool(draws: Draws):
    place = geometry(draws, within_window=True)
    options = {**place.options(), "ceil_mode": draws.flag(), "count_include_pad": draws.flag()}
    x = uniform(1, (draws.integer(1, 2), *place.size, draws.integer(1, 2))).astype(np.float32)
    want = oracle.avg_pool(x, place.window, **options)
    cotangent, direction = uniform(2, want.shape), uniform(3, x.shape)
    y, (gradient,) = value_and_pullback(lambda x: jc.avg_pool(x, place.window, **options), [x], cotangent)
    assert_close(y, want, what=str(options))
    moved = oracle.avg_pool(direction, place.window, **options)
    assert_gradient(gradient, moved, direction, cotangent, f"x with {options}")


def check_lp_pool(draws: Draws):
    place = geometry(draws, within_window=True)
    options = {**place.options(), "ceil_mode": draws.flag(), "p": draws.choice([1, 2, 3, 2.5])}
    # Away from zero, where the root of few taps has no slope to difference.
    x = np.sign(uniform(2, shape := (1, *place.size, draws.integer(1, 2)))) * uniform(1, shape, 0.5, 1.5)
    x = x.astype(np.float32).astype(np.float64)
    want = oracle.lp_pool(x, place.window, **options)
    cotangent, direction = uniform(3, want.shape), uniform(4, x.shape)
    y, (gradient,) = value_and_pullback(
        lambda x: jc.lp_pool(x, place.window, **options), [x.astype(np.float32)], cotangent
    )
    assert_close(y, want, what=str(options))
    step = 1e-5
    ahead, behind = (oracle.lp_pool(x + s * direction, place.window, **options) for s in (step, -step))
    slope = np.sum((ahead - behind) / (2 * step) * cotangent)
    assert_close(np.sum(np.asarray(gradient, np.float64) * direction), slope, rtol=1e-4, atol=1e-4, what=str(options))


@given(st.data())
@settings(max_examples=12)
def test_max_pool_equals_the_loop(data):
    check_max_pool(Searched(data))


@given(st.data())
@settings(max_examples=12)
def test_avg_pool_equals_the_loop(data):
    check_avg_pool(Searched(data))


@given(st.data())
@settings(max_examples=12)
def test_lp_pool_equals_the_loop(data):
    check_lp_pool(Searched(data))


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_max_pool, check_avg_pool, check_lp_pool])
@given(st.data())
@settings(max_examples=150)
def test_pools_equal_the_loops_at_length(check, data):
    check(Searched(data))


@pytest.mark.parametrize("window", [9, 12, 16, 17])
@pytest.mark.parametrize("dilation", [1, 2])
def test_long_windows_equal_the_loop(window, dilation):
    """Long windows take another way than short ones."""
    x = np.round(uniform(1, (1, 40, 2)) * 3)
    options = {"stride": 3, "dilation": dilation, "padding": ((3, 2),)}
    want, indices = oracle.max_pool(x, (window,), **options)
    y, ours = jax.jit(lambda x: jc.max_pool_with_indices(x, (window,), **options))(x.astype(np.float32))
    assert_array_equal(y, want)
    assert_array_equal(ours, indices)


@pytest.mark.parametrize("window", [9, 12, 16, 17])
@pytest.mark.parametrize("dilation", [1, 2])
def test_long_windows_sums_equal_the_loop(window, dilation):
    """At stride 1 the gradient is such a sum again."""
    x, options = uniform(1, (2, 40, 2)), {"stride": 1, "dilation": dilation, "padding": ((3, 2),)}
    want = oracle.avg_pool(x, (window,), **options)
    cotangent = uniform(2, want.shape)
    y, (gradient,) = value_and_pullback(lambda x: jc.avg_pool(x, (window,), **options), [x], cotangent)
    each = oracle.avg_pool(np.eye(40)[..., None], (window,), **options)[..., 0]
    assert_close(y, want)
    assert_close(gradient, np.einsum("bon,io->bin", cotangent, each))


def gradient_of_sum(pool, x):
    return jax.jit(jax.grad(lambda x: pool(x).sum()))(x)


def max_pool_gradient(x, window, **options):
    return gradient_of_sum(lambda x: jc.max_pool(x, window, **options), x)


def indices_of(x, window, **options):
    return jax.jit(lambda x: jc.max_pool_with_indices(x, window, **options)[1])(x)


def test_of_equal_elements_the_first_takes_the_gradient_and_the_index():
    """First in row-major order, as in torch; XLA's own maximum would share it, or give it to another."""
    x = jnp.array([[1.0, 3.0, 3.0], [3.0, 3.0, 0.0], [3.0, 3.0, 3.0]])[..., None]
    assert_array_equal(max_pool_gradient(x, 3)[..., 0], [[0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert_array_equal(indices_of(x, 3), [[[1]]])
    # Windows that overlap each pick their own first: at (0, 1), (0, 1), (1, 0) and (1, 1).
    assert_array_equal(max_pool_gradient(x, 2, stride=1)[..., 0], [[0, 2, 0], [1, 1, 0], [0, 0, 0]])
    assert_array_equal(indices_of(x, 2, stride=1)[..., 0], [[1, 1], [3, 4]])


@pytest.mark.parametrize(
    "pool", [jc.global_max_pool, lambda x: jc.adaptive_max_pool(x, 1), lambda x: jc.max_pool(x, 12)]
)
def test_a_flat_map_gives_its_gradient_to_the_first_element(pool):
    gradient = gradient_of_sum(pool, jnp.full((12, 12, 1), 2.0))
    assert_array_equal(jnp.argwhere(gradient[..., 0]), [[0, 0]])
    assert gradient.sum() == 1


def test_nan_wins_over_numbers():
    x = np.array([1.0, np.nan, np.inf, 2.0, 3.0, 4.0], np.float32)[:, None]
    y, indices = jax.jit(lambda x: jc.max_pool_with_indices(x, (3,)))(x)
    assert_array_equal(y[:, 0], [np.nan, 4])
    assert_array_equal(indices[:, 0], [1, 5])
    y = jax.jit(lambda x: jc.max_pool(x, (2,), stride=1))(x)
    assert_array_equal(y[:, 0], [np.nan, np.nan, np.inf, 3, 4])
    assert np.isnan(jax.jit(lambda x: jc.global_max_pool(x, rank=1))(x))
    assert np.isnan(jax.jit(lambda x: jc.max_pool(x, (40,)))(np.where(np.arange(40) == 20, np.nan, 1.0)[:, None]))


def test_padding_never_wins():
    """A window of lowest values on the rim takes the first of them inside the map, and its index."""

    @jax.jit
    def pool(x):
        return *jc.max_pool_with_indices(x, 3, stride=2, padding=1), jax.grad(corner)(x)

    def corner(x):
        return jc.max_pool(x, 3, stride=2, padding=1)[1, 1, 0]

    for lowest in (-np.inf, -1e30, np.finfo(np.float32).min):
        y, indices, gradient = pool(np.full((3, 3, 1), lowest, np.float32))
        assert_array_equal(y[..., 0], np.full((2, 2), lowest, np.float32))
        assert_array_equal(indices[..., 0], [[0, 1], [3, 4]])
        assert_array_equal(gradient[..., 0], [[0, 0, 0], [0, 1, 0], [0, 0, 0]])


def test_a_window_in_the_padding_sees_nothing():
    x = jnp.ones((2, 1))
    y, indices = jc.max_pool_with_indices(x, (2,), stride=2, padding=2)
    assert_array_equal(y[:, 0], [-jnp.inf, 1, -jnp.inf])
    assert_array_equal(indices[:, 0], [-1, 0, -1])
    assert_array_equal(jc.avg_pool(x, (2,), stride=2, padding=2, count_include_pad=False)[:, 0], [0, 1, 0])
    gradient = jax.grad(lambda x: jc.max_pool(x, (2,), stride=2, padding=2)[1, 0])(x)
    assert_array_equal(gradient[:, 0], [1, 0])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32])
def test_integers_have_maxima(dtype):
    info = jnp.iinfo(dtype)
    x = jnp.array([info.min, info.max, 5, 7, 3], dtype)[:, None]
    y, indices = jax.jit(lambda x: jc.max_pool_with_indices(x, (2,), padding=1))(x)
    assert y.dtype == dtype
    assert_array_equal(y[:, 0], np.array([info.min, info.max, 7], dtype))
    assert_array_equal(indices[:, 0], [0, 1, 3])
    assert_array_equal(jc.max_pool(x, (2,), padding=1), y)
    assert_array_equal(jc.global_max_pool(x, rank=1), np.array([info.max], dtype))
    assert_array_equal(jc.adaptive_max_pool(x, 2, rank=1)[:, 0], np.array([info.max, 7], dtype))


def test_unpool_puts_back_what_pooling_took():
    x = jnp.asarray(uniform(1, (2, 5, 6, 3)), jnp.float32)
    y, indices = jax.jit(lambda x: jc.max_pool_with_indices(x, (2, 3)))(x)
    back = jax.jit(lambda y, indices: jc.max_unpool(y, indices, (5, 6)))(y, indices)
    assert_array_equal(back, oracle.max_unpool(np.asarray(y, np.float64), np.asarray(indices), (5, 6)))
    assert_array_equal(jnp.where(back != 0, x, 0), back)
    assert (back != 0).sum() == y.size


def test_unpool_drops_indices_outside():
    y = jnp.arange(1.0, 6)[:, None]
    indices = jnp.array([-1, 0, 3, 4, 1000])[:, None]
    assert_array_equal(jc.max_unpool(y, indices, (6,))[:, 0], [2, 0, 0, 3, 4, 0])
    gradient = jax.grad(lambda y: jc.max_unpool(y, indices, (6,)).sum())(y)
    assert_array_equal(gradient[:, 0], [0, 1, 1, 1, 0])


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_lp_pool_of_zeros_has_gradient_zero(p):
    x = np.zeros((4, 1), np.float32)
    assert_array_equal(gradient_of_sum(lambda x: jc.lp_pool(x, (2,), p=p), x), x)
    assert_array_equal(gradient_of_sum(lambda x: jc.global_lp_pool(x, p=p, rank=1), x), x)


def test_lp_pool_takes_the_absolute_value():
    """ONNX's; torch's sums x^p and takes a signed root, which differs at odd p."""
    assert_close(jc.lp_pool(jnp.array([[-1.0], [2.0]]), (2,), p=3), [[9 ** (1 / 3)]])


def test_global_pools_equal_one_window_over_everything():
    x = uniform(1, (2, 3, 4, 5)).astype(np.float32)

    @jax.jit
    def pools(x):
        ranks = [jc.global_avg_pool(x, rank=rank) for rank in (1, 2, 3)]
        return *ranks, jc.global_max_pool(x), jc.global_lp_pool(x, p=3), jc.lp_pool(x, (3, 4), p=3)

    rank1, rank2, rank3, most, norm, window = pools(x)
    assert_close(rank1, x.mean(2))
    assert_close(rank2, x.mean((1, 2)))
    assert_close(rank3, x.mean((0, 1, 2)))
    assert_array_equal(most, x.max((1, 2)))
    assert_close(norm, window[:, 0, 0])


@given(st.data())
@settings(max_examples=8)
def test_adaptive_pools_take_bins_from_floor_to_ceil(data):
    draws = Searched(data)
    rank = draws.integer(1, 2)
    size, bins = draws.integers(1, 8, rank), draws.integers(1, 5, rank)
    x = uniform(1, (*size, 2)).astype(np.float32)
    mean, most = np.zeros((*bins, 2)), np.zeros((*bins, 2))
    for place in oracle.places(bins):
        cut = tuple(slice(i * n // m, -(-(i + 1) * n // m)) for i, n, m in zip(place, size, bins, strict=True))
        mean[place], most[place] = x[cut].mean(tuple(range(rank))), x[cut].max(tuple(range(rank)))
    assert_close(jax.jit(lambda x: jc.adaptive_avg_pool(x, bins, rank=rank))(x), mean)
    assert_array_equal(jax.jit(lambda x: jc.adaptive_max_pool(x, bins, rank=rank))(x), most)


def test_narrow_indices_reach_every_place():
    y = jnp.array([[[1.0]]])
    x = jc.max_unpool(y, jnp.array([[[200]]], jnp.uint8), (20, 20))
    assert x.shape == (20, 20, 1)
    assert float(x[10, 0, 0]) == x.sum() == 1.0


def test_unpooling_wants_the_size_before_pooling():
    y, indices = jc.max_pool_with_indices(jnp.ones((9, 9, 1)), 2)
    with pytest.raises(jc.ShapeError, match=r"size must be the spatial sizes before pooling, .*\(4, 4\), got \(2, 2\)"):
        jc.max_unpool(y, indices, 2)


def test_positions_that_int32_cannot_count_are_refused():
    def indices_of(*size):
        return jax.eval_shape(lambda x: jc.max_pool_with_indices(x, 2), jax.ShapeDtypeStruct((1, *size, 1), np.float32))

    assert indices_of(2**16, 2**15 - 1)[1].dtype == np.int32
    message = (
        "x must have at most 2147483647 spatial positions for int32 indices, got 4900000000: spatial sizes "
        r"\(70000, 70000\)"
    )
    with pytest.raises(jc.ShapeError, match=message):
        indices_of(70000, 70000)
    y, indices = (jax.ShapeDtypeStruct((1, 2, 2, 1), dtype) for dtype in (np.float32, np.int32))
    with pytest.raises(jc.ShapeError, match="size must have at most 2147483647 spatial positions"):
        jax.eval_shape(lambda y, indices: jc.max_unpool(y, indices, 70000), y, indices)
    with jax.enable_x64(True):
        indices = jax.ShapeDtypeStruct(indices.shape, np.int64)
        assert jax.eval_shape(lambda y, indices: jc.max_unpool(y, indices, 70000), y, indices).shape[1] == 70000


@pytest.mark.parametrize("p", [1.0, 3.0, 40.0, [0.5, 2.0, 7.0]])
def test_gem_pool_is_the_generalized_mean_with_its_gradients(p):
    x = uniform(1, (2, 3, 4, 3))
    cotangent = uniform(2, (2, 3))
    clipped, power = np.maximum(x, 0.01), np.asarray(p)
    mean = (clipped**power).mean((1, 2))
    want = mean ** (1 / power)
    y, (to_x, to_p) = value_and_pullback(
        lambda x, p: jc.global_gem_pool(x, p, eps=0.01), [x.astype(np.float32), np.float32(p)], cotangent
    )
    assert_close(y, want)
    grown = want / mean / 12 * cotangent
    assert_close(to_x, np.where(x > 0.01, clipped ** (power - 1) * grown[:, None, None], 0))
    logs = (clipped**power * np.log(clipped)).mean((1, 2)) / mean / power - np.log(mean) / power**2
    each = want * logs * cotangent
    assert_close(to_p, each.sum() if power.ndim == 0 else each.sum(0))


def test_gem_pool_of_large_and_of_small_elements():
    x = jnp.array([[1e30], [1e30], [2e30]])
    assert_close(jc.global_gem_pool(x, 3.0, rank=1), [(10 / 3) ** (1 / 3) * 1e30])
    assert jc.global_gem_pool(x.astype(jnp.bfloat16), 3.0, rank=1).dtype == jnp.bfloat16
    zeros = jnp.zeros((4, 1))
    assert_close(jc.global_gem_pool(zeros, 3.0, rank=1), [1e-6])
    assert np.isfinite(jax.grad(lambda p: jc.global_gem_pool(zeros, p, rank=1).sum())(3.0))
    with pytest.raises(jc.ShapeError, match=r"p must have shape \(\), \(1,\) or \(5,\), got \(2,\)"):
        jc.global_gem_pool(jnp.ones((2, 2, 5)), jnp.ones(2))
