"""Heat maps against loops."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from tests.ops import box_oracles as oracles

RNG = np.random.default_rng(0)


def test_gaussians_around_keypoints():
    points = RNG.uniform(0, 8, (2, 3, 2)).astype(np.float32)
    points[1, 2] = np.nan
    sigma = np.array([0.5, 1.0, 2.0], np.float32)
    got = jax.jit(lambda p: jc.encode_heatmap(p, (6, 9), sigma))(points)
    y, x = np.mgrid[:6, :9]
    for n, k in itertools.product(range(2), range(3)):
        squared = (x - points[n, k, 0]) ** 2 + (y - points[n, k, 1]) ** 2
        want = np.nan_to_num(np.exp(-squared / (2 * sigma[k] ** 2)))
        assert_allclose(got[n, ..., k], want, rtol=1e-5, atol=1e-6)
    assert np.isfinite(jax.jit(jax.grad(lambda p: jc.encode_heatmap(p, (6, 9), sigma).sum()))(points)).all()


def test_expected_positions_are_those_of_narrow_gaussians():
    points = RNG.uniform(2, 6, (4, 3, 2)).astype(np.float32)
    logits = (
        -((np.arange(9) - points[..., :1]) ** 2)[:, :, None, :] - ((np.arange(8) - points[..., 1:]) ** 2)[:, :, :, None]
    )
    got = jax.jit(jc.soft_argmax)(np.moveaxis(logits, 1, -1))
    assert_allclose(got, points, atol=2e-2)
    x = RNG.normal(size=(5, 7, 2)).astype(np.float32)
    shares = np.exp(np.float64(x) / 0.5) / np.exp(np.float64(x) / 0.5).sum((0, 1))
    y, columns = np.mgrid[:5, :7]
    want = np.stack([(shares * a[..., None]).sum((0, 1)) for a in (columns, y)], -1)
    assert_allclose(jc.soft_argmax(x, temperature=0.5), want, rtol=1e-5)
    assert jc.soft_argmax(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert np.abs(jax.grad(lambda x: jc.soft_argmax(x)[..., 0].sum())(x)).max() > 0


def test_peaks():
    heat = RNG.uniform(size=(2, 6, 7, 3)).astype(np.float32)
    heat[0, 2, 2, 1] = heat[0, 2, 3, 1] = 0.99  # a plateau
    heat[1, 0, 0, 0] = np.nan
    points, labels, scores, valid = jax.jit(lambda h: jc.heatmap_peaks(h, 40))(heat)
    for n in range(2):
        want = []
        for y, x, c in itertools.product(range(6), range(7), range(3)):
            around = heat[n, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2, c]
            if heat[n, y, x, c] >= around.max():
                want.append((-heat[n, y, x, c], y, x, c))
        want = sorted(want)[:40]
        assert valid[n].sum() == len(want) < 40
        count = len(want)
        assert_array_equal(points[n, :count], [[x, y] for _, y, x, _ in want])
        assert_array_equal(labels[n, :count], [c for *_, c in want])
        assert_array_equal(scores[n, :count], [-s for s, *_ in want])
        assert_array_equal(scores[n, count:], 0)
    gradient = jax.grad(lambda h: jc.heatmap_peaks(h, 40)[2].sum())(heat)
    assert set(np.unique(gradient)) == {0, 1}
    assert gradient.sum() == valid.sum()


def test_peaks_of_negative_logits_and_of_a_flat_map():
    points, _, scores, valid = jc.heatmap_peaks(-np.ones((2, 2, 1), np.float32), 4)
    assert valid.all()
    assert_array_equal(scores, -1)
    assert_array_equal(points, [[0, 0], [1, 0], [0, 1], [1, 1]])


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("sides", [(10, 10), (40, 5), (3, 60)])
def test_corners_within_the_radius_keep_the_overlap(sides, overlap):
    radius = float(jc.gaussian_radius(np.array(sides, np.float32), min_overlap=overlap))
    box = np.array([0, 0, *sides], np.float64)
    moves = [np.array(m) for m in itertools.product((-1, 0, 1), repeat=4)]
    least = min(oracles.iou(box, box + radius * m) for m in moves)
    assert least == pytest.approx(overlap, abs=1e-4)


def test_centers_of_objects():
    points = np.array([[2.7, 1.2], [4.0, 2.0], [5.0, 5.0], [-40, 1], [1, 1]], np.float32)
    labels, radius = np.array([0, 0, 1, 1, 7]), np.array([2.5, 1, 0, 3, 2], np.float32)
    got = jax.jit(lambda p: jc.encode_centers(p, labels, radius, (7, 8), 2))(points)
    want = np.zeros((7, 8, 2))
    for (px, py), label, r in zip(np.floor(points), labels, np.floor(radius), strict=True):
        for y, x in itertools.product(range(7), range(8)):
            if label < 2 and max(abs(x - px), abs(y - py)) <= r:
                value = math.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * ((2 * r + 1) / 6) ** 2))
                want[y, x, label] = max(want[y, x, label], value)
    assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    none = jc.encode_centers(points, labels, radius, (7, 8), 2, valid=np.zeros(5, bool))
    assert_array_equal(none, 0)
    assert jc.encode_centers(points[:0], labels[:0], 1.0, (7, 8), 2).shape == (7, 8, 2)


H = np.ones((4, 4, 2), np.float32)
P = np.ones((3, 2), np.float32)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: jc.heatmap_peaks(H[0], 1), jc.ShapeError, r"heatmap must have shape \(..., height, width, classes\)"),
        (lambda: jc.heatmap_peaks(H, 0), jc.ArgumentError, "max_outputs must be at least 1, got 0"),
        (lambda: jc.heatmap_peaks(H, 33), jc.ShapeError, "max_outputs must be at most 32, got 33"),
        (lambda: jc.heatmap_peaks(H, 3, window=2), jc.ArgumentError, "window must be odd, got 2"),
        (
            lambda: jc.soft_argmax(H[0]),
            jc.ShapeError,
            r"heatmap must have shape \(..., height, width, K\), got \(4, 2\)",
        ),
        (lambda: jc.soft_argmax(H, temperature=0), jc.ArgumentError, "temperature must be positive, got 0"),
        (lambda: jc.encode_heatmap(P[0], 4, 1), jc.ShapeError, r"points must have shape \(..., K, 2\), got \(2,\)"),
        (lambda: jc.encode_heatmap(H[..., :1], 4, 1), jc.ShapeError, r"points must have shape \(..., 2\), got"),
        (lambda: jc.gaussian_radius(H[0, 0, :1]), jc.ShapeError, r"sides must have shape \(..., 2\), got \(1,\)"),
        (lambda: jc.gaussian_radius(P, min_overlap=2), jc.ArgumentError, "min_overlap must be a number from 0 to 1"),
        (lambda: jc.encode_centers(P, P[:, 0], 1, 4, 2), jc.DTypeError, "labels must be integers, got float32"),
        (lambda: jc.encode_centers(P, np.ones(2, int), 1, 4, 2), jc.ShapeError, r"labels must have shape \(3,\)"),
        (lambda: jc.encode_centers(P, np.ones(3, int), 1, 4, 0), jc.ArgumentError, "classes must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
