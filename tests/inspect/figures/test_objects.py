"""Boxes and keypoints are drawn at their pixels, in the colors of their names."""

import numpy as np
import pytest

import jaxconv as jc
from jaxconv.inspect import figures

GRAY = np.zeros((2, 20, 30, 3), np.uint8)


def test_boxes_have_their_place_name_and_color():
    boxes = [[[2, 3, 12, 9], [0, 0, 30, 20]], [[1, 1, 5, 5]]]
    fig = figures.boxes(GRAY, boxes, [["traffic light 0.9", "dog 85%"], ["dog 0.25"]], ["a", "b"])
    first, second = (ax.patches for ax in fig.axes)
    assert first[0].get_bbox().extents.tolist() == [1.5, 2.5, 11.5, 8.5]
    assert first[1].get_bbox().extents.tolist() == [-0.5, -0.5, 29.5, 19.5]
    assert first[1].get_edgecolor() == second[0].get_edgecolor() != first[0].get_edgecolor()
    assert [text.get_text() for text in fig.axes[0].texts] == ["traffic light 0.9", "dog 85%"]
    assert [ax.get_title() for ax in fig.axes] == ["a", "b"]


def test_images_without_objects_are_drawn():
    fig = figures.boxes(GRAY, [np.zeros((0, 4))] * 2, [[], []])
    assert [len(ax.patches) for ax in fig.axes] == [0, 0]
    fig = figures.poses(GRAY[:1], [np.zeros((0, 17, 2))], [(0, 1)])
    assert not fig.axes[0].lines


def test_lines_join_the_keypoints_that_are_there():
    points = np.array([[[1, 2], [4, 8], [np.nan, np.nan]]])
    fig = figures.poses(GRAY[:1], [points], [(0, 1), (1, 2)])
    line, marks = fig.axes[0].lines
    np.testing.assert_allclose(line.get_xydata(), [[1, 2], [4, 8]])
    np.testing.assert_allclose(marks.get_xydata(), [[1, 2], [4, 8]])
    assert fig.axes[0].get_xlim() == (-0.5, 29.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.boxes(GRAY, [np.zeros((1, 4))]), "boxes must be one for each of the 2 images, got 1"),
        (lambda: figures.boxes(GRAY[:1], [np.zeros(4)]), r"boxes\[0\] must have shape \(n, 4\), .*got \(4,\)"),
        (lambda: figures.boxes(GRAY[:1], [np.zeros((2, 4))], [["a"]]), r"labels\[0\] must be one for each of the 2"),
        (lambda: figures.boxes(GRAY[:1], [np.zeros((0, 4))], titles=["a", "b"]), "titles must be one for each of the"),
        (lambda: figures.poses(GRAY[:1], [np.zeros((2, 2))]), r"points\[0\] must have shape \(n, K, 2\)"),
        (lambda: figures.poses(GRAY[:1], [np.zeros((1, 3, 2))], [(0, 3)]), r"from 0 to 2, got \(0, 3\)"),
    ],
)
def test_shapes_that_do_not_fit(call, message):
    with pytest.raises(jc.ShapeError, match=message):
        call()
