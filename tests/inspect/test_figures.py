"""Figures hold what they were given, and refuse what they cannot draw."""

import numpy as np
import pytest

from jaxconv import ShapeError
from jaxconv.inspect import figures


def pictures(figure):
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_images_are_drawn_as_they_are():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    figure = figures.images(images, list("abcde"), columns=2)
    np.testing.assert_array_equal(pictures(figure), images)
    assert [ax.get_title() for ax in figure.axes if ax.images] == list("abcde")


def test_filters_share_one_scale_with_zero_in_grey():
    kernel = np.zeros((3, 3, 1, 2))
    kernel[0, 0, 0, 0], kernel[1, 1, 0, 1] = 2.0, -1.0
    first, second = pictures(figures.filters(kernel))
    assert first[0, 0] == 1.0
    assert second[1, 1] == 0.25
    assert first[2, 2] == second[2, 2] == 0.5


def test_filters_of_inner_layers_have_a_picture_for_each_pair_of_channels():
    assert len(pictures(figures.filters(np.ones((3, 3, 2, 5))))) == 10
    assert len(pictures(figures.filters(np.zeros((3, 3, 3, 5))))) == 5


def test_activation_maps_have_a_row_for_each_layer_with_maps():
    maps = {"conv": np.arange(32.0).reshape(4, 4, 2), "pool": np.ones((2, 2, 3)), "scores": np.ones(10)}
    figure = figures.activation_maps(maps, most=2)
    drawn = pictures(figure)
    assert [a.shape for a in drawn] == [(4, 4), (4, 4), (2, 2), (2, 2)]
    np.testing.assert_array_equal(drawn[1], maps["conv"][..., 1])
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["conv\n4x4x2", "pool\n2x2x3"]


def test_learning_curves_draw_what_the_history_has():
    history = [{"epoch": 1, "loss": 2.0, "validation_loss": 2.5}, {"epoch": 2, "loss": 1.0, "validation_loss": 1.5}]
    loss, accuracy = figures.learning_curves(history).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[2.0, 1.0], [2.5, 1.5]]
    assert not accuracy.lines


def test_confusion_matrix_writes_each_count():
    axes = figures.confusion_matrix([[3, 1], [0, 4]], ["cat", "dog"]).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.images(np.ones((2, 4, 4))), r"images must have shape .* got \(2, 4, 4\)"),
        (lambda: figures.images(np.ones((2, 4, 4, 2))), r"images must have shape"),
        (lambda: figures.filters(np.ones((3, 3, 1))), r"kernel must have shape .* got \(3, 3, 1\)"),
        (lambda: figures.activation_maps({"scores": np.ones(10)}), r"maps must have .* got \[\(10,\)\]"),
        (lambda: figures.confusion_matrix(np.ones((2, 3)), ["a", "b"]), r"counts must have shape \(2, 2\)"),
        (lambda: figures.learning_curves([]), r"history must have at least one epoch"),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ShapeError, match=message):
        call()
