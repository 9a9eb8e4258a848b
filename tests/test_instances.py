"""Instances on the host: components, watershed, suppression and drawing of polygons."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv import instances


def disk(x, y, radius, size=(40, 50)):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def circle(x, y, radius, corners=32):
    angles = 2 * np.pi * np.arange(corners) / corners
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1)


def test_components_are_numbered_as_scikit_image_does():
    measure = pytest.importorskip("skimage.measure")
    mask = np.random.default_rng(0).uniform(size=(20, 30)) > 0.6
    for connectivity in (1, 2):
        got = instances.connected_components(mask, connectivity=connectivity)
        assert got.dtype == np.int32
        assert_array_equal(got, measure.label(mask, connectivity=connectivity))
    volume = np.random.default_rng(1).uniform(size=(5, 6, 7)) > 0.8
    assert_array_equal(instances.connected_components(volume, connectivity=3), measure.label(volume, connectivity=3))
    assert_array_equal(instances.connected_components(np.zeros((3, 4))), 0)


def test_a_watershed_divides_disks_that_touch():
    pytest.importorskip("skimage.segmentation")
    from scipy import ndimage

    one, other = disk(15, 20, 9), disk(30, 20, 9)
    mask = one | other
    assert instances.connected_components(mask).max() == 1
    markers = np.zeros(mask.shape, int)
    markers[20, 15], markers[20, 30] = 4, 9
    labels = instances.watershed(-ndimage.distance_transform_edt(mask), markers, mask=mask)
    assert set(np.unique(labels)) == {0, 4, 9}
    assert ((labels == 4) == (one & ~other)).mean() > 0.98
    assert_array_equal(labels != 0, mask)


def test_polygons_that_overlap_a_better_one_are_suppressed():
    polygons = np.stack([circle(15, 15, 9), circle(17, 15, 9), circle(35, 20, 8), circle(15, 15, 2), circle(36, 20, 8)])
    scores = np.array([0.7, 0.9, 0.5, 0.8, np.nan])
    assert_array_equal(instances.polygon_nms(polygons, scores, 0.5), [1, 3, 2])
    assert_array_equal(instances.polygon_nms(polygons, scores, 0.9), [1, 3, 0, 2])
    assert_array_equal(instances.polygon_nms(polygons, scores, 0.0), [1, 2])
    assert instances.polygon_nms(np.zeros((0, 8, 2)), np.zeros(0), 0.5).shape == (0,)


def test_drawn_polygons_cover_those_that_come_later_and_end_at_the_border():
    polygons = np.stack([circle(15, 15, 9), circle(20, 15, 9), circle(48, 38, 9), circle(200, 200, 9)])
    labels = instances.draw_polygons(polygons, (40, 50))
    masks = np.asarray(jc.polygon_masks(polygons.astype(np.float32), (40, 50)))
    want = np.where(masks[0], 1, np.where(masks[1], 2, np.where(masks[2], 3, 0)))
    assert (labels == want).mean() > 0.998  # an edge in float32
    assert_array_equal(instances.draw_polygons(np.zeros((0, 4, 2)), (3, 3)), 0)


def test_star_convex_objects_come_back():
    labels = np.where(disk(15, 20, 9), 1, np.where(disk(33, 20, 8), 2, 0)).astype(np.int32)
    distances = np.asarray(jc.star_distances(labels, 32))
    centers = np.argwhere(labels)
    polygons = np.asarray(jc.star_polygons(centers[:, ::-1].astype(np.float32), distances[tuple(centers.T)]))
    kept = instances.polygon_nms(polygons, distances[tuple(centers.T)].min(-1), 0.4)
    assert len(kept) == 2
    drawn = instances.draw_polygons(polygons[kept], labels.shape)
    assert ((drawn > 0) == (labels > 0)).mean() > 0.98


def test_probabilities_are_the_distance_to_the_boundary():
    labels = np.where(disk(15, 20, 9), 5, np.where(disk(25, 20, 8), 2, np.where(disk(48, 38, 7), 3, 0)))
    got = instances.star_probabilities(labels)
    assert got.dtype == np.float32
    rows, columns = np.indices(labels.shape)
    for label in (2, 3, 5):
        own = labels == label
        outside = np.argwhere(~own)
        distances = np.array([np.hypot(*(outside - at).T).min() for at in np.argwhere(own)])
        np.testing.assert_allclose(got[own], distances / distances.max(), rtol=1e-6)
    assert_array_equal(got[labels == 0], 0)
    # One object without a background: it ends with the image.
    full = instances.star_probabilities(np.ones((5, 7), int))
    steps = np.minimum(np.minimum(rows, 4 - rows), np.minimum(columns, 6 - columns))[:5, :7] + 1
    np.testing.assert_allclose(full, steps / 3, rtol=1e-6)
    assert instances.star_probabilities(np.zeros((3, 4, 5), int)).shape == (3, 4, 5)


def test_objects_are_found_in_perfect_outputs():
    labels = np.zeros((60, 80), int)
    # Two that touch, one alone, one at the border.
    for label, (x, y, radius) in enumerate([(15, 20, 9), (32, 20, 8), (60, 40, 11), (78, 10, 8)], 1):
        labels[disk(x, y, radius, labels.shape) & (labels == 0)] = label
    polygons, scores = instances.star_objects(instances.star_probabilities(labels), jc.star_distances(labels, 32))
    assert polygons.shape == (4, 32, 2)
    assert (np.diff(scores) <= 0).all()
    found = instances.draw_polygons(polygons, labels.shape)
    metric = jc.metrics.instance_precision()
    assert metric.finish(metric.update(found[None], labels.astype(np.int32)[None]))["AP80"] == 1
    nothing = instances.star_objects(np.zeros((9, 9)), np.zeros((9, 9, 8)))
    assert [a.shape for a in nothing] == [(0, 8, 2), (0,)]
    assert len(instances.star_objects(np.full((4, 4), 0.4), np.ones((4, 4, 8)), threshold=0.5)[1]) == 0


S = np.zeros((3, 4, 2))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: instances.connected_components([1, 0]), jc.ShapeError, r"mask must have shape \(height, width\) or"),
        (lambda: instances.connected_components(S[0], connectivity=3), jc.ShapeError, "connectivity must be at most 2"),
        (lambda: instances.watershed(S[0], S[0]), jc.DTypeError, "markers must be integers, got float64"),
        (
            lambda: instances.watershed(S[0], np.zeros((4, 3), int)),
            jc.ShapeError,
            r"markers must have the shape of heights, \(4, 2\), got \(4, 3\)",
        ),
        (
            lambda: instances.watershed(S[0], np.zeros((4, 2), int), mask=np.ones((2, 2))),
            jc.ShapeError,
            r"mask must have the shape of heights, \(4, 2\), got \(2, 2\)",
        ),
        (lambda: instances.polygon_nms(S[0], [1], 0.5), jc.ShapeError, r"polygons must have shape \(N, V, 2\)"),
        (lambda: instances.polygon_nms(S, [1], 0.5), jc.ShapeError, r"scores must have shape \(3,\), .*got \(1,\)"),
        (lambda: instances.polygon_nms(S, [1] * 3, 2), jc.ArgumentError, "iou_threshold must be a number from 0 to 1"),
        (lambda: instances.polygon_nms(S * np.nan, [1] * 3, 1), jc.ArgumentError, "polygons must be finite, got nan"),
        (lambda: instances.star_probabilities(S[0]), jc.DTypeError, "labels must be integers, got float64"),
        (lambda: instances.star_probabilities([1, 2]), jc.ShapeError, r"labels must have shape \(height, width\) or"),
        (lambda: instances.star_probabilities([[1, -2]]), jc.ArgumentError, "labels must not be negative, got -2"),
        (lambda: instances.star_objects(S[0], S), jc.ShapeError, r"at least 3 rays .* got \(3, 4, 2\) and \(4, 2\)"),
        (
            lambda: instances.star_objects(np.ones((3, 3)), np.ones((3, 3, 8)), threshold=2),
            jc.ArgumentError,
            "threshold must be a number from 0 to 1",
        ),
        (lambda: instances.draw_polygons(S, (0, 4)), jc.ArgumentError, "size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
