"""Tiles against the network on the whole image, one program, blending, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.tiles import _Axis
from jaxconv.train import predict_tiled
from jaxconv.train.forward import forward

# Two scales, one pool, and outputs of strides 1 and 2 in a dict: U-Net's parts in small.
NET = jc.serial(
    jc.Conv(3, 3),
    jax.nn.relu,
    jc.MaxPool(2),
    jc.heads(fine=jc.serial(jc.Conv(2, 3), jc.ConvTranspose(2, 2, stride=2)), coarse=jc.Conv(1, 1)),
)
PARAMS, STATE = NET.init(jax.random.key(0), (1, 16, 16, 1))
# Pixels on each side that an output sees: 1 by the first convolution, 2 by the second, 1 by the pool.
REACH = 4


def image(*sizes, channels=1, seed=0):
    return np.random.default_rng(seed).normal(size=(*sizes, channels)).astype(np.float32)


def whole(net, params, state, x):
    return jax.tree.map(lambda leaf: np.asarray(leaf[0]), jax.jit(net.apply)(params, state, x[None])[0])


@pytest.mark.parametrize("size", [(64, 48), (16, 16), (40, 16)])
def test_tiles_that_cover_the_receptive_field_equal_the_whole_image_borders_included(size):
    x = image(*size)
    want = whole(NET, PARAMS, STATE, x)
    got = predict_tiled(NET, PARAMS, STATE, x, tile=16, overlap=2 * REACH, batch_size=4)
    assert set(got) == {"fine", "coarse"}
    assert got["coarse"].shape == (size[0] // 2, size[1] // 2, 1)
    for name in want:
        assert got[name].shape == want[name].shape
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-6)


def test_less_overlap_differs_near_the_seams_only():
    x = image(16, 60)
    want = whole(NET, PARAMS, STATE, x)["fine"]
    got = predict_tiled(NET, PARAMS, STATE, x, tile=(16, 20), overlap=0)["fine"]
    wrong = np.flatnonzero(np.abs(got - want).max((0, 2)) > 1e-4)
    assert len(wrong)
    assert np.abs(wrong[:, None] - np.array([19.5, 39.5])).min(1).max() < REACH


def test_sizes_that_no_tile_divides_are_those_of_the_whole_image_away_from_the_end():
    x = image(45, 13)
    got = predict_tiled(NET, PARAMS, STATE, x, tile=16, overlap=8)
    assert got["fine"].shape == (45, 13, 2)
    assert got["coarse"].shape == (23, 7, 1)
    padded = np.pad(x, ((0, 3), (0, 3), (0, 0)), mode="symmetric")
    want = whole(NET, PARAMS, STATE, padded)["fine"]
    np.testing.assert_allclose(got["fine"], want[:45, :13], rtol=1e-5, atol=1e-6)


def test_other_ranks():
    for sizes in [(52,), (20, 24, 20)]:
        net = jc.serial(jc.Conv(2, (3,) * len(sizes)), jax.nn.relu, jc.Conv(2, (3,) * len(sizes)))
        params, state = net.init(jax.random.key(1), (1, *sizes, 2))
        x = image(*sizes, channels=2)
        got = predict_tiled(net, params, state, x, tile=12, overlap=4)
        np.testing.assert_allclose(got, whole(net, params, state, x), rtol=1e-5, atol=1e-6)


def test_one_program_whatever_the_size():
    net = jc.serial(jc.Conv(2, 3))
    params, state = net.init(jax.random.key(0), (1, 8, 8, 1))
    predict_tiled(net, params, state, image(64, 64), tile=8, overlap=2, batch_size=4)
    before = forward._cache_size()
    for size in [(33, 20), (47, 90)]:
        predict_tiled(net, params, state, image(*size), tile=8, overlap=2, batch_size=4)
    assert forward._cache_size() == before


@pytest.mark.parametrize(
    ("size", "tile", "overlap"), [(100, 32, 8), (100, 32, 24), (31, 32, 8), (97, 24, 16), (9, 4, 0)]
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("half", [False, True])
def test_weights_add_up_to_one_and_are_zero_outside_of_tiles(size, tile, overlap, stride, half):
    blend = overlap // 2 if half else 0
    axis = _Axis(size, tile, overlap)
    total = np.zeros(-(-max(size, tile) // stride) + tile)
    for number, start in enumerate(axis.starts):
        assert start % axis.unit == 0
        shares = axis.shares(number, stride, blend)
        assert shares.shape == (tile // stride,)
        assert shares.min() >= 0
        total[start // stride : (start + tile) // stride] += shares
    np.testing.assert_allclose(total[: -(-size // stride)], 1, rtol=1e-12)
    assert all(b - a <= tile - overlap for a, b in zip(axis.starts, axis.starts[1:], strict=False))
    assert axis.starts[-1] + tile - size < axis.unit or len(axis.starts) == 1


@dataclasses.dataclass(frozen=True)
class Mean:
    """Every output is the mean of its tile: nothing that an overlap covers."""

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape), state


def test_a_blend_goes_from_one_tile_to_the_next_in_a_straight_line():
    x = np.concatenate([np.zeros((8, 8, 1)), np.ones((8, 8, 1))], 1).astype(np.float32)
    got = predict_tiled(Mean(), {}, {}, x, tile=(8, 10), overlap=(4, 4), blend=4)[0, :, 0]
    # Tiles of columns 0 to 9 and 6 to 15: means 0.2 and 0.8, which meet in the middle of columns 6 to 9.
    np.testing.assert_allclose(got, [0.2] * 6 + [0.275, 0.425, 0.575, 0.725] + [0.8] * 6, rtol=1e-5)
    hard = predict_tiled(Mean(), {}, {}, x, tile=(8, 10), overlap=(4, 4))[0, :, 0]
    np.testing.assert_allclose(hard, [0.2] * 8 + [0.8] * 8, rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Returns:
    """Returns what a function makes of its input."""

    function: object

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return self.function(x), state


def test_labels_stay_labels_and_preprocess_runs_inside():
    x = np.random.default_rng(0).integers(0, 255, (21, 34, 1), np.uint8)
    net = Returns(lambda x: (x[..., 0] > 0.5).astype(jnp.int32))
    got = predict_tiled(net, {}, {}, x, tile=16, overlap=4, preprocess=lambda tiles: tiles.astype(jnp.float32) / 255)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, x[..., 0] / 255 > 0.5)
    with pytest.raises(jc.DTypeError, match="blend must be 0 for outputs that are not floating-point, got 2 and int32"):
        predict_tiled(net, {}, {}, x, tile=16, overlap=4, blend=2)


def test_values_that_are_not_finite_stay_in_their_pixels():
    x = image(20, 20)
    x[3, 4], x[16, 16] = np.inf, np.nan
    got = predict_tiled(Returns(lambda x: x), {}, {}, x, tile=8, overlap=4)
    np.testing.assert_array_equal(got, x)


IDENTITY = Returns(lambda x: x)


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (np.ones(4), {}, jc.ShapeError, r"image must have shape \(\*spatial, channels\) with at least one pixel"),
        (np.ones((0, 4, 1)), {}, jc.ShapeError, r"got \(0, 4, 1\)"),
        (image(9, 9), {"tile": 8, "overlap": 8}, jc.ArgumentError, r"overlap must be less than tile, \(8, 8\)"),
        (image(9, 9), {"overlap": -1}, jc.ArgumentError, "overlap must be at least 0, got -1"),
        (image(9, 9), {"tile": 0}, jc.ArgumentError, "tile must be at least 1, got 0"),
        (image(9, 9), {"tile": (8, 8, 8)}, jc.ArgumentError, "tile must be an int or one int for each of the 2"),
        (image(9, 9), {"blend": 3}, jc.ArgumentError, "blend must be from 0 to overlap, 2, got 3"),
        (image(9, 9), {"batch_size": 0}, ValueError, "batch_size must be"),
    ],
)
def test_bad_input_is_one_clear_error(x, options, error, message):
    with pytest.raises(error, match=message):
        predict_tiled(IDENTITY, {}, {}, x, **{"tile": 8, "overlap": 2} | options)


@pytest.mark.parametrize("function", [lambda x: x[:, 1:-1, 1:-1], lambda x: x.mean((1, 2)), lambda x: x[:, ::4, ::4]])
def test_outputs_of_sizes_that_do_not_fit_are_refused(function):
    with pytest.raises(jc.ShapeError, match=r"net must have outputs \(batch, 8, 8, ...\) for tiles of \(8, 8\)"):
        predict_tiled(Returns(function), {}, {}, image(20, 20), tile=8, overlap=2)
