"""Star-convex polygons against stardist's loop and scikit-image's drawing."""

import ast
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from tests.ops import box_oracles as oracles


def blobs():
    y, x = np.mgrid[:24, :30]
    labels = np.zeros((24, 30), np.int32)
    labels[(x - 8) ** 2 + (y - 9) ** 2 < 40] = 1
    labels[(x - 17) ** 2 / 4 + (y - 12) ** 2 < 20] = 2  # touches the first
    labels[20:, 25:] = 3  # at the border
    return labels


@pytest.mark.parametrize("rays", [4, 7, 32])
def test_distances_to_the_boundary(rays):
    got = jax.jit(lambda a: jc.star_distances(a, rays))(blobs())
    want = oracles.star_distances(blobs(), rays)
    # A ray that ends between two pixels may be rounded to either.
    assert (np.abs(got - want) < 1e-3).mean() > 0.98
    assert np.abs(got - want).max() < 1.5


# What stardist 0.9.2's `_py_star_dist` gives for 8 rays at (row, column) of `blobs`.
DIAGONAL = np.sqrt(0.5)
RECORDED = {
    (9, 8): [2.5, 2 + DIAGONAL, 6.5, 6 + DIAGONAL, 6.5, 6 + DIAGONAL, 6.5, 6 + DIAGONAL],
    (12, 19): [6.5, 4 + DIAGONAL, 4.5, 6 + DIAGONAL, 10.5, 6 + DIAGONAL, 4.5, 4 + DIAGONAL],
    (7, 5): [8.5, 4 + DIAGONAL, 7.5, 4 + DIAGONAL, 2.5, 2 + DIAGONAL, 3.5, 6 + DIAGONAL],
    (22, 27): [2.5, 2 + DIAGONAL, 1.5, 2 + DIAGONAL, 2.5, 3 + DIAGONAL, 2.5, 3 + DIAGONAL],
    (15, 17): [6.5, 2 + DIAGONAL, 1.5, 2 + DIAGONAL, 6.5, 9 + DIAGONAL, 7.5, 9 + DIAGONAL],
    (0, 0): [0] * 8,
}


def test_distances_are_those_that_stardist_gave():
    got = np.asarray(jc.star_distances(blobs(), 8))
    for at, want in RECORDED.items():
        assert_allclose(got[at], want, rtol=1e-5, err_msg=str(at))


@pytest.mark.parametrize("rays", [8, 32])
def test_distances_equal_live_stardist(rays):
    """The function alone, out of the package's file: the package imports what it does not need for this."""
    spec = importlib.util.find_spec("stardist")
    if spec is None or spec.origin is None:
        pytest.skip("the package stardist is not installed")
    source = ast.parse((Path(spec.origin).parent / "geometry" / "geom2d.py").read_text())
    [function] = [node for node in source.body if getattr(node, "name", "") == "_py_star_dist"]
    names = {"np": np}
    exec(compile(ast.Module([function], []), "geom2d.py", "exec"), names)
    want = names["_py_star_dist"](blobs(), rays)
    got = jc.star_distances(blobs(), rays)
    assert (np.abs(got - want) < 1e-3).mean() > 0.98
    assert np.abs(got - want).max() < 1.5


def test_polygons_of_distances_cover_their_objects():
    labels = blobs()
    distances = jc.star_distances(labels, 32)
    for label, (y, x) in {1: (9, 8), 2: (12, 19)}.items():
        polygon = jc.star_polygons(np.array([x, y], np.float32), distances[y, x])
        mask = np.asarray(jc.polygon_masks(polygon, labels.shape))
        object_ = labels == label
        assert (mask & object_).sum() / (mask | object_).sum() > 0.9


def test_corners_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    points, distances = (
        rng.normal(size=(2, 3, 2)).astype(np.float32),
        rng.uniform(-0.2, 3, (2, 3, 7)).astype(np.float32),
    )
    angles = 2 * np.pi * np.arange(7) / 7
    reach = np.maximum(distances, 0)[..., None]
    want = points[..., None, :] + reach * np.stack([np.cos(angles), np.sin(angles)], -1)
    assert_allclose(jax.jit(jc.star_polygons)(points, distances), want, rtol=1e-5, atol=1e-6)
    assert np.isfinite(jax.grad(lambda d: jc.star_polygons(points, d).sum())(distances)).all()


def test_masks_are_those_that_scikit_image_draws():
    draw = pytest.importorskip("skimage.draw")
    rng = np.random.default_rng(1)
    polygons = np.asarray(
        jc.star_polygons(rng.uniform(0, 20, (6, 2)).astype(np.float32), rng.uniform(1, 9, (6, 11)).astype(np.float32))
    )
    got = jax.jit(lambda p: jc.polygon_masks(p, (20, 25)))(polygons)
    for polygon, mask in zip(polygons, got, strict=True):
        assert_array_equal(mask, draw.polygon2mask((20, 25), polygon[:, ::-1]))
    assert_array_equal(jc.polygon_masks(polygons[3], (20, 25)), got[3])


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: jc.star_distances(np.ones((3, 3))), jc.DTypeError, "labels must be integers, got float"),
        (lambda: jc.star_distances(np.ones(3, int)), jc.ShapeError, r"labels must have shape \(height, width\), got"),
        (lambda: jc.star_distances(np.ones((3, 3), int), 2), jc.ArgumentError, "rays must be at least 3, got 2"),
        (lambda: jc.star_polygons(np.ones(3), np.ones(8)), jc.ShapeError, r"points must have shape \(..., 2\), got"),
        (lambda: jc.star_polygons(np.ones(2), np.ones(2)), jc.ShapeError, "with at least 3 rays"),
        (lambda: jc.polygon_masks(np.ones((2, 2)), 4), jc.ShapeError, "with at least 3 corners"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
