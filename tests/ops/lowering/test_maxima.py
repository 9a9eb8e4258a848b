"""The programs of each platform for maxima of windows, run here: the same values, winners and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxconv as jc
from jaxconv.ops.lowering import pool
from jaxconv.ops.lowering.problem import Windows
from jaxconv.ops.lowering.table import PLATFORMS as NAMED
from tests.ops.transforms import quick_jit

PLATFORMS = ("cpu", "cuda", None)


def run(primitive, platform, *arrays, **params):
    return pool._program(primitive, NAMED[platform], *arrays, lowering="auto", **params)


@st.composite
def windows(draw):
    """Draws windows of one to three axes, the last first, and a shape that they just cover."""
    axes, shape = [], []
    rank = draw(st.integers(1, 3))
    some = draw(st.lists(st.booleans(), min_size=rank, max_size=rank).filter(any))  # an axis may have no windows
    for back in range(rank):
        taps, stride, out = (draw(st.integers(1, high)) for high in (4, 3, 3))
        dilation = draw(st.sampled_from([1, 1, 2]))
        if some[back]:
            axes.append(Windows(-2 - back, taps, stride, dilation, out))
            out = (out - 1) * stride + (taps - 1) * dilation + 1
        shape.insert(0, out)
    return tuple(axes), (2, *shape, 2)


def place_by_loops(y, x, axes):
    """Adds each number of y to the first largest element that its window sees."""
    order = sorted(axes, key=lambda w: w.axis)
    back = np.zeros(x.shape)
    for at in np.ndindex(*y.shape):
        best = None
        for taps in np.ndindex(*(w.taps for w in order)):
            where = list(at)
            for w, tap in zip(order, taps, strict=True):
                where[w.axis] = at[w.axis] * w.stride + tap * w.dilation
            if best is None or x[tuple(where)] > x[best]:
                best = tuple(where)
        back[best] += y[at]
    return back


@given(windows(), st.integers(0, 2**16))
@settings(max_examples=12)
def test_all_platforms_find_the_same_winners_and_place_the_same_gradient(drawn, seed):
    axes, shape = drawn
    size = tuple(shape[w.axis] for w in axes)
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(np.float32)  # with ties
    indices = np.arange(x.size, dtype=np.int32).reshape(x.shape)
    out = {w.axis: w.out for w in axes}
    y = rng.standard_normal([out.get(axis - x.ndim, n) for axis, n in enumerate(x.shape)]).astype(np.float32)
    t = rng.standard_normal(x.shape).astype(np.float32)

    @functools.partial(quick_jit, static_argnums=0)
    def everything(platform, x, indices, y, t):
        found = run(pool.best_p, platform, x, indices, winners=False, axes=axes)
        alone = run(pool.best_p, platform, x, winners=False, axes=axes)
        _, *taps = run(pool.best_p, platform, x, winners=True, axes=axes)
        placed = run(pool.place_p, platform, y, *taps, axes=axes, size=size)
        picked = run(pool.pick_p, platform, t, *taps, axes=axes, size=size)
        return *found, *alone, placed, picked

    expected = place_by_loops(y, x, axes)
    want = everything("cpu", x, indices, y, t)
    for p in PLATFORMS:
        *found, placed, picked = everything(p, x, indices, y, t)
        for ours, theirs in zip(found, (*want[:2], want[0]), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(placed, expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(np.vdot(picked, y), np.vdot(t, placed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_told_taps_have_the_same_types_on_every_platform(platform):
    axes = (Windows(-2, 3, 2, 1, 4), Windows(-3, 2, 2, 1, 4))
    x = jnp.zeros((2, 8, 9, 3))
    types = jax.eval_shape(lambda x: run(pool.best_p, None, x, winners=True, axes=axes), x)
    found = run(pool.best_p, platform, x, winners=True, axes=axes)
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in types]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    "pool",
    [
        lambda x: jc.max_pool(x, (2, 9)),
        lambda x: jc.max_pool(x, (9, 2)),
        lambda x: jc.max_pool(x, (2, 3), stride=(2, 1)),
        lambda x: jc.max_pool(x, 2, ceil_mode=True),
        lambda x: jc.adaptive_max_pool(x, (6, 5)),
        lambda x: jc.adaptive_max_pool(x, (4, 18)),
        lambda x: jc.max_pool_with_indices(x, 3)[0],
    ],
)
def test_gradients_lower_on_every_platform(pool, platform):
    """And here they are those of finite differences."""
    x = np.random.default_rng(0).permutation(2 * 18 * 18 * 2).reshape(2, 18, 18, 2).astype(np.float32)
    loss = lambda x: jnp.sum(pool(x) ** 2)  # noqa: E731
    assert jax.jit(jax.grad(loss)).trace(x).lower(lowering_platforms=(platform,)).as_text()
    direction = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    want = (float(loss(x + 0.25 * direction)) - float(loss(x - 0.25 * direction))) / 0.5
    if platform == "cpu":
        np.testing.assert_allclose(jnp.vdot(jax.grad(loss)(x), direction), want, rtol=2e-2)
