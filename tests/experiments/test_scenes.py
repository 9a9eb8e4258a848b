"""Scenes: boxes, masks and classes that agree, the same for a seed, and sizes that are refused."""

import numpy as np
import pytest

from experiments import scenes
from jaxconv.errors import ArgumentError


@pytest.fixture(scope="module")
def found():
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (160, 200, 3))
    return scenes.scenes(24, 64, seed=3, most=5, photographs=[ramp])


def test_shapes_and_types(found):
    assert found.images.shape == (24, 64, 64, 3)
    assert found.images.dtype == found.instances.dtype == np.uint8
    assert found.boxes.shape == (24, 5, 4)
    assert (found.boxes.dtype, found.labels.dtype, found.valid.dtype) == (np.float32, np.int32, bool)
    assert found.masks.shape == (24, 5, 64, 64)
    assert set(found.targets) == {"boxes", "labels", "valid"}


def test_each_box_is_that_of_its_mask(found):
    for masks, boxes, valid in zip(found.masks, found.boxes, found.valid, strict=True):
        for mask, box, real in zip(masks, boxes, valid, strict=True):
            assert mask.any() == real
            if real:
                rows, columns = np.nonzero(mask)
                wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_array_equal(box, wanted)
            else:
                assert not box.any()


def test_the_class_of_a_pixel_is_that_of_its_object(found):
    classes = found.classes
    assert classes.dtype == np.int32
    for i, j in np.argwhere(found.valid):
        assert (classes[i][found.masks[i, j]] == found.labels[i, j] + 1).all()
    assert ((classes == 0) == (found.instances == 0)).all()


def test_every_class_and_every_number_of_objects_occurs(found):
    assert set(found.labels[found.valid]) == set(range(len(scenes.CLASSES)))
    assert set(found.valid.sum(1)) == {1, 2, 3, 4, 5}


def test_objects_are_mostly_visible(found):
    for i, j in np.argwhere(found.valid):
        left, top, right, bottom = found.boxes[i, j]
        # A ring is the emptiest of the shapes.
        assert found.masks[i, j].sum() > 0.2 * (right - left) * (bottom - top)


def test_a_scene_depends_on_the_seed_and_its_index_alone():
    few, more, other = (scenes.scenes(n, 32, seed=seed) for n, seed in ((2, 0), (3, 0), (3, 1)))
    np.testing.assert_array_equal(few.images, more.images[:2])
    np.testing.assert_array_equal(few.boxes, more.boxes[:2])
    assert (more.images != other.images).any((1, 2, 3)).all()


@pytest.mark.parametrize(
    "bad", [{"n": -1}, {"size": 31}, {"seed": -1}, {"most": 0}, {"most": 256}, {"photographs": [np.zeros((9, 9, 3))]}]
)
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ArgumentError, match=next(iter(bad))):
        scenes.scenes(**{"n": 1} | bad)


def test_a_photograph_smaller_than_a_scene_is_enlarged():
    random = np.random.default_rng(0)
    made = [scenes.background(random, 48, [np.full((20, 30, 3), 9, np.uint8)]) for _ in range(12)]
    assert {image.shape for image in made} == {(48, 48, 3)}
    assert sum((image == 9).all() for image in made) > 3
