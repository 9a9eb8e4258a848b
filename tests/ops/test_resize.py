"""Interpolation and channels shuffled into space, where torch has nothing to compare with or says less."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.ops.compare import assert_close
from tests.ops.draws import uniform

SMOOTH = [(method, antialias) for method in ("bilinear", "bicubic") for antialias in (False, True)]


def resized(x, size, **options):
    return jax.jit(lambda x: jc.resize(x, size, **options))(x)


@pytest.mark.parametrize(("method", "antialias"), SMOOTH)
@pytest.mark.parametrize("size", [1, 3, 11])
def test_axes_are_resized_one_by_one(method, antialias, size):
    """So rank 1 and 3, and one column, are right where rank 2 is, which torch checks."""

    @jax.jit
    def ways(x):
        resize = functools.partial(jc.resize, method=method, antialias=antialias)
        turned = x.swapaxes(1, 2)
        rows = resize(turned, size, rank=1).swapaxes(1, 2)
        return (
            resize(x, (size, 4)),
            resize(rows, 4, rank=1),
            resize(x[:, None], (1, size, 4), rank=3)[:, 0],
            resize(turned, (4, size)).swapaxes(1, 2),
        )

    want, *others = ways(uniform(1, (1, 6, 5, 2)).astype(np.float32))
    assert want.shape == (1, size, 4, 2)
    for got in others:
        assert_close(got, want)


@pytest.mark.parametrize("method", ["nearest", "nearest_exact", "bilinear", "bicubic", "area"])
def test_the_same_size_changes_nothing(method):
    x = uniform(1, (4, 3, 2)).astype(np.float32)
    assert_array_equal(resized(x, (4, 3), method=method), x)


@pytest.mark.parametrize(("method", "antialias"), [*SMOOTH, ("nearest", False), ("area", False)])
def test_a_constant_stays_constant(method, antialias):
    x = np.full((5, 4, 1), 2.5, np.float32)
    assert_close(resized(x, (3, 9), method=method, antialias=antialias), np.full((3, 9, 1), 2.5))


def test_align_corners_keeps_the_corners_and_straight_lines():
    line = np.linspace(0, 1, 4, dtype=np.float32)[:, None]
    assert_close(resized(line, 7, align_corners=True, rank=1)[:, 0], np.linspace(0, 1, 7))
    cubic = resized(line, 7, align_corners=True, method="bicubic", rank=1)[:, 0]
    assert_close(cubic[:: len(cubic) - 1], [0, 1])


def test_names_of_the_same_method():
    x = uniform(1, (4, 3, 2)).astype(np.float32)
    for one, other in (("linear", "bilinear"), ("trilinear", "bilinear"), ("cubic", "bicubic")):
        assert_array_equal(resized(x, 5, method=one), resized(x, 5, method=other))


def test_nearest_takes_integers():
    x = np.array([1, 2, 3], np.uint8)[:, None]
    for method, want in (("nearest", [1, 1, 2, 2, 3]), ("nearest_exact", [1, 1, 2, 3, 3])):
        y = jc.resize(x, 5, method=method, rank=1)
        assert y.dtype == np.uint8
        assert_array_equal(y[:, 0], want)


def test_area_is_the_mean_of_adaptive_bins():
    x = uniform(1, (7, 5, 2)).astype(np.float32)
    assert_array_equal(resized(x, (3, 2), method="area"), jc.adaptive_avg_pool(x, (3, 2)))


def test_pixel_shuffle_puts_each_channel_at_its_place():
    """Channel (c factor + i) factor + j goes to row i and column j of the blocks of channel c."""
    factor, channels = 3, 2
    x = np.arange(2 * 4 * channels * factor**2).reshape(2, 4, -1)
    y = jc.pixel_shuffle(x, factor)
    assert y.shape == (6, 12, channels)
    for row, column, c in np.ndindex(*y.shape):
        i, j = row % factor, column % factor
        assert y[row, column, c] == x[row // factor, column // factor, (c * factor + i) * factor + j]


def test_channel_shuffle_takes_one_channel_of_each_group_in_turn():
    groups, each = 3, 2
    x = np.arange(4 * groups * each).reshape(4, -1)
    y = jc.channel_shuffle(x, groups)
    for row, group, i in np.ndindex(4, groups, each):
        assert y[row, i * groups + group] == x[row, group * each + i]


def test_pixel_shuffle_of_one_and_three_axes():
    assert_array_equal(jc.pixel_shuffle(jnp.arange(6).reshape(3, 2), 2, rank=1)[:, 0], np.arange(6))
    x = np.arange(8).reshape(1, 1, 1, 8)
    assert_array_equal(jc.pixel_shuffle(x, 2, rank=3)[..., 0], np.arange(8).reshape(2, 2, 2))
