"""Features of regions against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from tests.ops import box_oracles as oracles
from tests.ops.box_oracles import draw_boxes

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(2, 9, 12, 3)).astype(np.float32)


def regions(count, scale=1.0):
    """Drawn boxes and odd ones: partly and wholly outside, without area, in the wrong order, larger than the map."""
    odd = [
        [-5, -4, 3, 4],
        [8, 6, 30, 20],
        [50, 50, 60, 60],
        [-30, -30, -20, -20],
        [4, 4, 4, 4],
        [7, 6, 3, 2],
        [-9, -9, 40, 40],
    ]
    boxes = np.concatenate([draw_boxes(np.random.default_rng(1), count, 12), np.array(odd, np.float32)]) / scale
    return boxes.astype(np.float32), np.random.default_rng(2).integers(0, 2, len(boxes))  # fmt: skip


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [1, 2, 3, 0, -1])
def test_roi_align(aligned, sampling):
    boxes, index = regions(10, 0.5)
    options = {"spatial_scale": 0.5, "sampling_ratio": sampling, "aligned": aligned}
    got = jax.jit(lambda x, b, i: jc.roi_align(x, b, i, (3, 2), **options))(FEATURES, boxes, index)
    want = oracles.roi_align(FEATURES, boxes, index, (3, 2), 0.5, sampling, aligned)
    assert got.dtype == np.float32
    assert_allclose(got, want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sampling", [2, 0])
def test_no_boxes_and_vmap(sampling):
    boxes, index = regions(4)
    boxes, index = boxes[:4], index[:4]
    none = jc.roi_align(FEATURES, boxes[:0], index[:0], 2, sampling_ratio=sampling)
    assert none.shape == (0, 2, 2, 3)

    def align(x, b):
        return jc.roi_align(x[None], b, jnp.zeros(4, int), 2, sampling_ratio=sampling)

    got = jax.jit(jax.vmap(align))(FEATURES, np.stack([boxes, boxes + 1]))
    for i in range(2):
        want = oracles.roi_align(FEATURES[i : i + 1], boxes + i, [0] * 4, (2, 2), 1.0, sampling)
        assert_allclose(got[i], want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("sampling", [2, 0])
def test_gradients_of_roi_align(sampling):
    """In features the op is linear, so that one direction is enough; in boxes against differences."""
    rng = np.random.default_rng(3)
    with jax.enable_x64(True):
        boxes = draw_boxes(rng, 5, 9, dtype=np.float64)
        index = rng.integers(0, 2, 5)
        x, u = (rng.normal(size=(2, 6, 7, 2)) for _ in range(2))
        y = rng.normal(size=(5, 2, 2, 2))

        @jax.jit
        def total(x, b):
            return (y * jc.roi_align(x, b, index, 2, sampling_ratio=sampling, aligned=True)).sum()

        over_x, over_boxes = jax.jit(jax.grad(total, (0, 1)))(x, boxes)
        moved = oracles.roi_align(u, boxes, index, (2, 2), 1.0, sampling, True)
        assert_allclose((over_x * u).sum(), (y * moved).sum(), rtol=1e-9)
        if sampling == 0:
            assert_array_equal(over_boxes, 0)
            return
        direction, step = rng.normal(size=boxes.shape), 1e-7
        slope = (total(x, boxes + step * direction) - total(x, boxes - step * direction)) / (2 * step)
        assert_allclose((over_boxes * direction).sum(), slope, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_types_of_features(dtype):
    boxes, index = regions(4)
    with jax.enable_x64(dtype == np.float64):
        x = FEATURES.astype(dtype)
        for options in ({"sampling_ratio": 2}, {"sampling_ratio": 0}):
            got = jax.jit(lambda x, b, i, o=options: jc.roi_align(x, b, i, 2, **o))(x, boxes[:6], index[:6])
            want = oracles.roi_align(
                np.asarray(x, np.float64), boxes[:6], index[:6], (2, 2), 1.0, options["sampling_ratio"]
            )
            assert got.dtype == dtype
            assert_allclose(np.asarray(got, np.float64), want, rtol=float(jnp.finfo(dtype).eps), atol=1e-5)
        assert jax.eval_shape(lambda x: jc.roi_pool(x, boxes, index, 2), x).dtype == dtype


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_roi_pool(scale):
    boxes, index = regions(10, scale)
    got = jax.jit(lambda x, b, i: jc.roi_pool(x, b, i, (3, 2), spatial_scale=scale))(FEATURES, boxes, index)
    assert_array_equal(got, oracles.roi_pool(FEATURES, boxes, index, (3, 2), scale).astype(np.float32))
    assert jc.roi_pool(FEATURES, boxes[:0], index[:0], 2).shape == (0, 2, 2, 3)


def test_the_gradient_of_roi_pool_goes_to_one_pixel_of_each_cell():
    boxes, index = draw_boxes(np.random.default_rng(4), 3, 8, least=3), np.array([0, 1, 1])
    x = np.round(FEATURES)  # ties
    gradient = jax.jit(jax.grad(lambda x: jc.roi_pool(x, boxes, index, 2).sum()))(x)
    assert gradient.sum() == 3 * 2 * 2 * 3
    assert_array_equal(gradient, np.round(gradient))
    largest = np.isin(x[gradient > 0], np.asarray(jc.roi_pool(x, boxes, index, 2)))
    assert largest.all()


def test_levels_of_a_pyramid():
    sides = np.array([1, 55, 56, 111, 112, 223, 224, 447, 448, 5000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert_array_equal(jc.box_levels(boxes), [0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    assert_array_equal(jc.box_levels(np.zeros((1, 4), np.float32)), [0])
    assert_array_equal(jc.box_levels(boxes, lowest=3, highest=4), [0] * 6 + [1] * 4)


@pytest.mark.parametrize("sampling", [2, 0])
def test_each_box_on_its_level(sampling):
    rng = np.random.default_rng(5)
    maps = [rng.normal(size=(2, n, n + 3, 2)).astype(np.float32) for n in (16, 8, 4)]
    boxes, index = draw_boxes(rng, 12, 60, least=2), rng.integers(0, 2, 12)
    boxes[:3, 2:], boxes[3:6, 2:] = boxes[:3, :2] + 30, boxes[3:6, :2] + 60
    options = {"canonical_size": 24.0, "canonical_level": 3}
    level = np.asarray(jc.box_levels(boxes, lowest=2, highest=4, **options))
    assert set(level) == {0, 1, 2}
    got = jax.jit(
        lambda maps, b: jc.multiscale_roi_align(
            maps, b, index, 2, spatial_scales=(1 / 4, 1 / 8, 1 / 16), sampling_ratio=sampling, **options
        )
    )(maps, boxes)
    for k in range(12):
        want = oracles.roi_align(
            maps[level[k]], boxes[k : k + 1], index[k : k + 1], (2, 2), 1 / 4 / 2 ** level[k], sampling
        )
        assert_allclose(got[k], want[0], rtol=1e-4, atol=2e-5)


X, B, I = np.ones((2, 4, 4, 3), np.float32), np.ones((3, 4), np.float32), np.zeros(3, int)


def align(x=X, b=B, i=I, size=2, **options):
    return lambda: jc.roi_align(x, b, i, size, **{"sampling_ratio": 2, **options})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (align(X[0]), jc.ShapeError, r"features must have shape \(N, height, width, channels\), got \(4, 4, 3\)"),
        (align(X[:0]), jc.ShapeError, r"features must have images and positions, got shape \(0, 4, 4, 3\)"),
        (align(b=B[:, :3]), jc.ShapeError, r"boxes must have shape \(..., 4\), got \(3, 3\)"),
        (align(b=B[0]), jc.ShapeError, r"boxes must have shape \(K, 4\), got \(4,\)"),
        (align(i=I[:2]), jc.ShapeError, r"batch_indices must have shape \(3,\), .*got \(2,\)"),
        (align(i=I.astype(np.float32)), jc.DTypeError, "batch_indices must be integers, got float32"),
        (align(size=0), jc.ArgumentError, "output_size must be at least 1, got 0"),
        (align(sampling_ratio=1.5), jc.ArgumentError, "sampling_ratio must be an integer, got 1.5"),
        (align(spatial_scale=0), jc.ArgumentError, r"spatial_scale must be positive, got \[0.0\]"),
        (align(X.astype(int)), jc.DTypeError, "features must be a floating-point array, got int"),
        (lambda: jc.roi_pool(X, B, I, (2, -1)), jc.ArgumentError, "output_size must be at least 1, got -1"),
        (lambda: jc.roi_pool(X, B, I, 2, spatial_scale=-1), jc.ArgumentError, "spatial_scale must be positive, got -1"),
        (
            lambda: jc.multiscale_roi_align([X, X], B, I, 2, spatial_scales=(1,), sampling_ratio=2),
            jc.ArgumentError,
            r"spatial_scales must be one number for each of the 2 feature maps, got \(1,\)",
        ),
        (
            lambda: jc.multiscale_roi_align([X, X], B, I, 2, spatial_scales=(1, 0.3), sampling_ratio=2),
            jc.ArgumentError,
            "spatial_scales must be powers of 2",
        ),
        (
            lambda: jc.multiscale_roi_align([X, X[:1]], B, I, 2, spatial_scales=(1, 0.5), sampling_ratio=2),
            jc.ShapeError,
            "features must have the same images and channels",
        ),
        (lambda: jc.box_levels(B, lowest=5, highest=2), jc.ArgumentError, "lowest must not be greater than highest"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
