"""Maps over images: strong values are visible on white and on black, and maps can share a scale."""

import numpy as np
import pytest
from matplotlib import colors

import jaxconv as jc
from jaxconv.inspect import figures
from tests.inspect.figures.test_canvas import pixels

HALVES = np.concatenate([np.zeros((1, 8, 4, 1)), np.ones((1, 8, 4, 1))], axis=2)


def over(figure, i=0):
    return figure.axes[i].images[1]


def test_red_and_blue_are_as_strong_on_white_as_on_black():
    signs = np.where(np.arange(8) < 4, 1.0, -1.0)[None, :, None] * np.ones((1, 8, 8))
    image = pixels(figures.heat_maps(HALVES, signs, opacity=1.0))
    height, width = (n // 4 for n in image.shape[:2])
    corners = [image[y, x] for y in (height, 3 * height) for x in (width, 3 * width)]
    for corner, wanted in zip(corners, ("red", "red", "blue", "blue"), strict=True):
        strongest = colors.to_rgb(wanted)
        assert np.argmax(corner) == np.argmax(strongest)
        assert corner.max() - corner.min() > 0.7
    np.testing.assert_allclose(corners[0], corners[1], atol=0.02)


def test_images_are_dimmed_under_signed_maps_only():
    picture = np.full((1, 8, 8, 3), [1.0, 0.0, 0.0])
    maps = np.zeros((1, 8, 8))
    np.testing.assert_array_equal(figures.heat_maps(picture, maps).axes[0].images[0].get_array(), picture[0])
    maps[0, 0, 0] = -1
    for given in (picture, np.round(255 * picture).astype(np.uint8)):
        below = figures.heat_maps(given, maps).axes[0].images[0]
        np.testing.assert_allclose(below.get_array(), 0.299 * 0.35, rtol=1e-5)
        assert below.get_clim() == (0, 1)


@pytest.mark.parametrize(("sign", "ends"), [(1, (0, 8)), (-1, (-8, 8))])
def test_a_shared_scale_has_a_bar(sign, ends):
    maps = sign * np.array([2.0, 8.0])[:, None, None] * np.ones((2, 4, 4))
    images = np.zeros((2, 8, 8, 1))
    own = figures.heat_maps(images, maps)
    assert [abs(over(own, i).get_array()).max() for i in (0, 1)] == [1, 1]
    assert len(own.axes) == 2
    shared = figures.heat_maps(images, maps, shared=True)
    assert [abs(over(shared, i).get_array()).max() for i in (0, 1)] == [0.25, 1]
    assert len(shared.axes) == 3
    assert shared.axes[2].get_ylim() == ends


def test_maps_of_one_channel_are_maps():
    maps = np.random.default_rng(0).uniform(0, 1, (1, 4, 4, 1))
    np.testing.assert_array_equal(
        over(figures.heat_maps(np.zeros((1, 8, 8, 1)), maps)).get_array(),
        over(figures.heat_maps(np.zeros((1, 8, 8, 1)), maps[..., 0])).get_array(),
    )
    with pytest.raises(jc.ShapeError, match=r"got \(1, 4, 4, 3\): reduce each .* abs\(maps\)\.max\(-1\)"):
        figures.heat_maps(np.zeros((1, 8, 8, 3)), np.ones((1, 4, 4, 3)))


def test_one_field_is_drawn():
    net = jc.serial(jc.Conv(8), jc.MaxPool(2), jc.Conv(8))
    box = jc.inspect.unit_field(net, (1, 32, 32, 3), "2", (0, 5))
    (patch,) = figures.fields(np.zeros((32, 32, 3)), box).axes[0].patches
    assert patch.get_bbox().bounds == (box[1][0] - 0.5, box[0][0] - 0.5, box[1][1] - box[1][0], box[0][1] - box[0][0])
