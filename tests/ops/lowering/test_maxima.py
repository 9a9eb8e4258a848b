"""The programs of each platform for maxima of windows, run here: the same values, winners and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.ops.lowering import maxima
from jaxconv.ops.lowering.maxima import Windows

PLATFORMS = ("cpu", "cuda", None)


@st.composite
def windows(draw):
    """Draws windows of one to three axes, the last first, and the sizes that they just cover."""
    axes, size = [], []
    for back in range(draw(st.integers(1, 3))):
        taps, stride, out = (draw(st.integers(1, high)) for high in (4, 3, 3))
        dilation = draw(st.sampled_from([1, 1, 2]))
        axes.append(Windows(-2 - back, taps, stride, dilation, out))
        size.append((out - 1) * stride + (taps - 1) * dilation + 1)
    return tuple(axes), tuple(size)


def place_by_loops(y, x, axes):
    """Adds each number of y to the first largest element that its window sees."""
    order = sorted(axes, key=lambda w: w.axis)
    back = np.zeros(x.shape)
    for n in range(x.shape[0]):
        for c in range(x.shape[-1]):
            for at in np.ndindex(*y.shape[1:-1]):
                best = None
                for tap in np.ndindex(*(w.taps for w in order)):
                    where = tuple(a * w.stride + t * w.dilation for a, t, w in zip(at, tap, order, strict=True))
                    if best is None or x[(n, *where, c)] > x[(n, *best, c)]:
                        best = where
                back[(n, *best, c)] += y[(n, *at, c)]
    return back


@given(windows(), st.integers(0, 2**16))
@settings(max_examples=12)
def test_all_platforms_find_the_same_winners_and_place_the_same_gradient(drawn, seed):
    axes, size = drawn
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (2, *reversed(size), 2)).astype(np.float32)  # with ties
    indices = np.arange(x.size, dtype=np.int32).reshape(x.shape)
    found = {p: maxima._best(p, jnp.asarray(x), jnp.asarray(indices), tell=False, axes=axes) for p in PLATFORMS}
    for p in PLATFORMS:
        for ours, theirs in zip(found[p], found["cpu"], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        (alone,) = maxima._best(p, jnp.asarray(x), tell=False, axes=axes)
        np.testing.assert_array_equal(alone, found["cpu"][0])
    y = rng.standard_normal(found["cpu"][0].shape).astype(np.float32)
    expected = place_by_loops(y, x, axes)
    for p in PLATFORMS:
        _, *taps = maxima._best(p, jnp.asarray(x), tell=True, axes=axes)
        placed = maxima._place(p, jnp.asarray(y), *taps, axes=axes, size=size)
        np.testing.assert_allclose(placed, expected, rtol=1e-6, atol=1e-6)
        t = jnp.asarray(rng.standard_normal(x.shape), jnp.float32)
        picked = maxima._pick(p, t, *taps, axes=axes, size=size)
        np.testing.assert_allclose(jnp.vdot(picked, y), jnp.vdot(t, placed), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_told_taps_have_the_same_types_on_every_platform(platform):
    axes = (Windows(-2, 3, 2, 1, 4), Windows(-3, 2, 2, 1, 4))
    x = jnp.zeros((2, 8, 9, 3))
    types = jax.eval_shape(lambda x: maxima._best(None, x, tell=True, axes=axes), x)
    found = maxima._best(platform, x, tell=True, axes=axes)
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in types]
