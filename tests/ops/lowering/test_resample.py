"""Interpolated axes and adaptive bins tap by tap: what a NaN reaches, exact positions, derivatives, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.ops.lowering.resample import Sampling, resample, seen_elements
from tests.ops.compare import assert_close
from tests.ops.draws import uniform

SIZES = [(1, 5), (5, 1), (4, 8), (7, 5), (3, 20), (23, 9)]
SAMPLINGS = [
    Sampling("bilinear"),
    Sampling("bilinear", align_corners=True),
    Sampling("bilinear", antialias=True),
    Sampling("bicubic"),
    Sampling("bicubic", antialias=True),
    Sampling("bicubic", align_corners=True, antialias=True),
    Sampling("nearest"),
    Sampling("mean"),
]


def cubic(t, a):
    t = abs(t)
    if t <= 1:
        return ((a + 2) * t - (a + 3)) * t * t + 1
    return ((a * t - 5 * a) * t + 8 * a) * t - 4 * a if t < 2 else 0.0


def matrix(n, m, s):
    """The weight of each element in each output, a tap at a time, in float64."""
    weights = np.zeros((n, m))
    scale = ((n - 1) / (m - 1) if m > 1 else 0.0) if s.align_corners else n / m
    kernel, reach = (lambda t: max(1 - abs(t), 0.0), 1) if s.method == "bilinear" else (None, 2)
    kernel = kernel or functools.partial(cubic, a=-0.5 if s.antialias else -0.75)
    for i in range(m):
        if s.method == "mean":
            start, stop = i * n // m, -(-(i + 1) * n // m)
            weights[start:stop, i] = 1 / (stop - start)
        elif s.method == "nearest":
            weights[min(int(i * scale), n - 1), i] = 1
        elif s.antialias:
            stretch, center = max(scale, 1.0), scale * (i + 0.5)
            taps = np.array([kernel((j + 0.5 - center) / stretch) for j in range(n)])
            # Exact arithmetic would give zero.
            taps[abs(taps) < 1e-12] = 0
            weights[:, i] = taps / taps.sum()
        else:
            source = i * scale if s.align_corners else (i + 0.5) * scale - 0.5
            source = np.clip(source, 0, n - 1) if s.method == "bilinear" else source
            for j in range(int(np.floor(source)) - reach + 1, int(np.floor(source)) + reach + 1):
                weights[np.clip(j, 0, n - 1), i] += kernel(source - j)
    weights[abs(weights) < 1e-12] = 0
    return weights


@functools.partial(jax.jit, static_argnames=("m", "sampling"))
def both_ways(x, y, m, sampling):
    """The resampled lanes of x, and the cotangents of the lanes of y."""
    forward = functools.partial(resample, axis=-2, size=m, sampling=sampling)
    transpose = jax.linear_transpose(forward, jax.ShapeDtypeStruct((y.shape[0], x.shape[1], 1), x.dtype))
    return forward(x), transpose(y)[0]


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_values_and_what_is_not_finite_follow_the_taps(n, m, sampling):
    """An element that is not finite reaches the outputs that give it weight, and in the transpose the reverse."""
    weights = matrix(n, m, sampling)
    x, y = uniform(1, (n, n)).astype(np.float32), uniform(2, (m, m)).astype(np.float32)
    # Lanes that are finite, and a lane for each element that is NaN or infinite.
    with_bad = (np.concatenate([a, *(np.where(np.eye(len(a)), bad, a) for bad in (np.nan, np.inf))]) for a in (x, y))
    results = both_ways(*(a[..., None].astype(np.float32) for a in with_bad), m, sampling)
    for clean, result, along in zip((x, y), results, (weights, weights.T), strict=True):
        finite, *broken = np.split(np.asarray(result)[..., 0], 3)
        assert_close(finite, want := clean.astype(np.float64) @ along)
        for got in broken:
            assert_array_equal(~np.isfinite(got), along != 0)
            rest = np.where(along, 0, want - np.diagonal(clean)[:, None] * along)
            assert_close(np.where(along, 0, got), rest)


@pytest.mark.parametrize(("n", "m"), [(132_300, 144_000), (144_000, 132_300), (100_003, 1_000_003)])
def test_positions_of_long_signals_are_exact(n, m):
    """Positions computed in float32 would be wrong in the third digit, products of int32 would overflow."""
    x = np.cos(np.arange(n)).astype(np.float32)
    source = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0, n - 1)
    low = np.floor(source).astype(int)
    want = x[low] * (1 - (source - low)) + x[np.minimum(low + 1, n - 1)] * (source - low)
    compiled = jax.jit(lambda x: jc.resize(x, m, rank=1)).lower(jax.ShapeDtypeStruct((n, 1), jnp.float32)).compile()
    assert_close(compiled(x[:, None])[:, 0], want, atol=1e-5)
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < 100 * (n + m)


def test_one_nan_pixel_reaches_what_torch_says():
    """32 to 64 and 32 to 8: 16 of 4096, and one of 64."""
    x = jnp.ones((32, 32, 1)).at[3, 3].set(jnp.nan)
    for y, count in ((jc.resize(x, 64), 16), (jc.adaptive_avg_pool(x, 8), 1), (jc.adaptive_avg_pool(x, 9), 4)):
        assert np.isnan(y).sum() == count
    x = jnp.ones((16, 16, 1)).at[0, 0].set(jnp.inf)
    y = np.asarray(jc.adaptive_avg_pool(x, 4))[..., 0]
    assert_array_equal(np.argwhere(~np.isfinite(y)), [[0, 0]])
    assert y[0, 0] == np.inf
    assert_array_equal(np.isinf(jc.adaptive_avg_pool(x, (4, 5)))[..., 0].sum(), 1)


@pytest.mark.parametrize("sampling", [Sampling("bilinear"), Sampling("bicubic", antialias=True), Sampling("mean")])
def test_every_transformation(sampling):
    """The map is linear: all derivatives of the square of it follow from its matrix."""
    n, m = 9, 4
    weights = matrix(n, m, sampling)
    x, t = (jnp.asarray(uniform(seed, (2, n, 3)), jnp.float32) for seed in (1, 2))
    along = functools.partial(resample, axis=-2, size=m, sampling=sampling)

    def square(x):
        return jnp.sum(along(x) ** 2) / 2

    @jax.jit
    def derivatives(x, t):
        product = jax.jvp(jax.grad(square), (x,), (t,))
        again = jax.grad(lambda x: jnp.vdot(jax.grad(square)(x), t))(x)
        lanes = jax.vmap(along, 2, 2)(x[..., None, :])[..., 0, :]
        rows = jax.lax.map(jax.checkpoint(along), x)
        return along(x), *product, again, rows, lanes

    gram = weights @ weights.T
    out, gradient, moved, again, rows, lanes = derivatives(x, t)
    assert_close(out, want := np.einsum("bnc,nm->bmc", x, weights))
    assert_close(gradient, np.einsum("bnc,nk->bkc", x, gram))
    for found in (moved, again):
        assert_close(found, np.einsum("bnc,nk->bkc", t, gram))
    assert_close(rows, want)
    assert_close(lanes, want)


def test_half_precision_is_summed_in_float32():
    x = jnp.full((4096, 1), 0.1, jnp.bfloat16).at[::2].set(1.0)
    y = jc.resize(x, 3, antialias=True, rank=1)
    assert y.dtype == jnp.bfloat16
    assert_close(y.astype(jnp.float32), jc.resize(x.astype(jnp.float32), 3, antialias=True, rank=1), rtol=4e-3)


def test_float64_has_its_digits():
    with jax.enable_x64(True):
        for sampling in SAMPLINGS:
            x = jnp.eye(23, dtype=jnp.float64)[..., None]
            got = jax.jit(lambda x, s=sampling: resample(x, -2, 9, s))(x)[..., 0]
            assert_close(got, matrix(23, 9, sampling), rtol=1e-12, atol=1e-14)


def test_strict_settings():
    """No implicit promotion of ranks or types, and no transfer, with gradients."""
    x = jax.device_put(np.ones((2, 9, 7, 3), np.float32))

    def values(x):
        return jc.resize(x, (5, 12)).sum() + jc.resize(x, 4, antialias=True).sum() + jc.adaptive_avg_pool(x, 4).sum()

    compiled = jax.jit(jax.value_and_grad(values))
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
        jax.debug_infs(True),
        jax.transfer_guard("disallow"),
    ):
        value, gradient = compiled(x)
        jax.block_until_ready((value, gradient, jc.resize(x, 4), jc.adaptive_avg_pool(x, 4)))
    assert_close(value, 2 * 3 * (60 + 16 + 16))
    assert_close(gradient.sum(), value)


def test_seen_elements_are_those_of_weight():
    for sampling in (s for s in SAMPLINGS if s.method != "mean"):
        for n, m in SIZES:
            weights = matrix(n, m, sampling)
            want = {i: (int(at[0]), int(at[-1]) + 1) for i, at in enumerate(np.flatnonzero(w) for w in weights.T)}
            assert seen_elements(n, m, sampling) == want, (n, m, sampling)


@pytest.mark.parametrize("spec", [P("d"), P(None, "d"), P(None, None, "d"), P(None, None, None, "d")])
def test_split_over_devices(spec):
    """Batch, rows, columns or channels over four devices, by the compiler and with explicit types."""
    x = uniform(1, (4, 8, 12, 4)).astype(np.float32)

    def values(x):
        return (
            jc.resize(x, (12, 8)),
            jc.adaptive_avg_pool(x, (4, 5)),
            jax.grad(lambda x: (jc.resize(x, 4) ** 2).sum())(x),
        )

    want = jax.jit(values)(x)
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4,), ("d",), axis_types=(axis_type,))
        with jax.set_mesh(mesh):
            got = jax.jit(values)(jax.device_put(x, NamedSharding(mesh, spec)))
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)
