"""Figures of pictures are as high as their pictures, and nothing around these stays white."""

import io

import matplotlib.image
import numpy as np
import pytest

from jaxconv.inspect.figures import canvas


def drawn(shapes, columns, cell=1.2):
    figure, axes = canvas.grid(len(shapes), columns, cell)
    for ax, shape in zip(axes, shapes, strict=True):
        canvas.draw(ax, np.zeros((*shape, 1)))
    return figure


def pixels(figure):
    file = io.BytesIO(figure._repr_png_())
    return matplotlib.image.imread(file)[..., :3]


def inches(ax):
    box = ax.get_position()
    width, height = ax.figure.get_size_inches()
    return box.width * width, box.height * height


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 8), (16, 8)])
@pytest.mark.parametrize("columns", [2, 3, 8])
def test_pictures_fill_their_columns_and_nothing_around_them_is_white(height, width, columns):
    figure = drawn([(height, width)] * 2 * columns, columns)
    image = pixels(figure)
    dark = image.max(axis=-1) < 0.5
    assert dark.mean() > 0.7
    rows, places = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    edges = (rows[0], image.shape[0] - 1 - rows[-1], places[0], image.shape[1] - 1 - places[-1])
    assert max(edges) < 0.12 * figure.dpi


def test_a_row_has_the_height_of_its_highest_picture():
    figure = drawn([(4, 8), (2, 8), (8, 8), (8, 8)], 2)
    figure.draw_without_rendering()
    wide, flat, *square = map(inches, figure.axes)
    assert wide[1] == pytest.approx(wide[0] / 2, rel=0.05)
    assert flat == pytest.approx((wide[0], wide[1] / 2), rel=0.05)
    assert square[0] == pytest.approx((wide[0], wide[0]), rel=0.05)


@pytest.mark.parametrize(("count", "wide"), [(1, 2.4), (2, 4.8), (4, 6.0), (8, 9.6)])
def test_few_pictures_are_larger(count, wide):
    assert drawn([(8, 8)] * count, 8).get_figwidth() == pytest.approx(wide)


def test_a_picture_that_is_a_line_does_not_make_a_tower():
    assert drawn([(1000, 1)], 8).get_figheight() < 12


def test_room_for_titles_is_added_to_each_row():
    with_room, _ = canvas.grid(4, 2, 1.2, 0.35)
    without, _ = canvas.grid(4, 2, 1.2)
    assert with_room.get_figheight() - without.get_figheight() == pytest.approx(0.7)
