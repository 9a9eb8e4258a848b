"""Squares out of photographs."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from experiments.images import central_crop


@pytest.mark.parametrize("transposed", [False, True])
def test_the_crop_is_the_middle(transposed):
    image = np.random.default_rng(1).integers(0, 256, (256, 301, 3), np.uint8)
    wanted = image[16:240, 38:262]
    if transposed:
        image, wanted = image.swapaxes(0, 1), wanted.swapaxes(0, 1)
    assert_array_equal(central_crop(image), wanted)


def test_the_crop_is_resized():
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    rows = central_crop(ramp, 8, share=0.5)[:, 0, 0].astype(float)
    wanted = 64 + 16 * np.arange(8) + 7.5
    assert np.abs(rows[1:-1] - wanted[1:-1]).max() <= 0.5  # Bicubic: exact on a ramp, away from the border.


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2)])
def test_the_smallest_images_have_a_crop(shape):
    assert central_crop(np.full((*shape, 3), 9, np.uint8), 4).tolist() == [[[9] * 3] * 4] * 4
