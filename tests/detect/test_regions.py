"""Masks, keypoints, samples and images of detectors, against NumPy or torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.detect.keypoints import heat_positions, keypoints_of
from jaxconv.detect.regions import sampled


@pytest.fixture
def random():
    return np.random.default_rng(0)


def boxes(random, n, size):
    corners = np.sort(random.uniform(0, size, (n, 2, 2)), 1)
    corners[:, 1] = np.maximum(corners[:, 1], corners[:, 0] + 1)
    return np.minimum(corners.reshape(n, 4), size).astype(np.float32)


def test_a_mask_pasted_back_covers_its_box():
    box = jnp.array([[4.0, 6.0, 20.0, 14.0]])
    mask = np.asarray(jc.detect.paste_masks(jnp.ones((1, 28, 28)), box, (24, 32))[0])
    np.testing.assert_allclose(mask[7:13, 5:19], 1, rtol=1e-5)
    assert not mask[:5].any()
    assert not mask[16:].any()
    assert not mask[:, 22:].any()


def test_a_projected_mask_is_the_mean_over_each_cell():
    mask = np.zeros((1, 16, 16), np.float32)
    mask[0, :, 8:] = 1
    found = jc.detect.project_masks(mask, jnp.array([[0.0, 0.0, 16.0, 16.0]]), jnp.array([0]), 4)[0]
    np.testing.assert_allclose(found.mean(0), [0, 0.125, 1, 1], atol=1e-6)
    assert np.ptp(found, axis=0).max() == 0


def test_masks_that_fit_no_boxes_are_refused():
    with pytest.raises(jc.ShapeError, match=r"masks must be \(boxes, size, size\) with boxes \(boxes, 4\), got"):
        jc.detect.paste_masks(jnp.ones((2, 28, 28)), jnp.ones((1, 4)), (8, 8))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_masks_and_keypoints_are_torchvisions(random):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    from tests.record_detectors import detection

    heads = detection().roi_heads
    given, size = boxes(random, 7, 40), (40, 48)
    masks = random.uniform(size=(7, 12, 12)).astype(np.float32)
    wanted = heads.paste_masks_in_image(torch.from_numpy(masks)[:, None], torch.from_numpy(given), size)[:, 0]
    np.testing.assert_allclose(jc.detect.paste_masks(masks, given, size), wanted.numpy(), atol=1e-5)

    objects = (random.uniform(size=(3, *size)) > 0.5).astype(np.uint8)
    matched = random.integers(0, 3, 7)
    wanted = heads.project_masks_on_boxes(
        torch.from_numpy(objects), torch.from_numpy(given), torch.from_numpy(matched), 8
    )
    np.testing.assert_allclose(jc.detect.project_masks(objects, given, matched, 8), wanted.numpy(), atol=1e-5)

    maps = random.normal(size=(7, 10, 10, 3)).astype(np.float32)
    wanted, scores = heads.heatmaps_to_keypoints(
        torch.from_numpy(np.moveaxis(maps, -1, 1).copy()), torch.from_numpy(given)
    )
    points, heat = keypoints_of(maps[None], given[None], np.ones((1, 7), bool), 49)
    np.testing.assert_allclose(points[0], wanted.numpy(), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(heat[0], scores.numpy(), rtol=1e-4, atol=1e-4)

    keypoints = random.uniform(0, 40, (7, 3, 3)).astype(np.float32)
    keypoints[0, 0, :2] = given[0, 2:]
    keypoints[:, 1, 2] = 0
    wanted, valid = heads.keypoints_to_heatmap(torch.from_numpy(keypoints), torch.from_numpy(given), 10)
    at, visible = heat_positions(jnp.asarray(keypoints), jnp.asarray(given), 10)
    np.testing.assert_array_equal(visible, valid.numpy().astype(bool))
    np.testing.assert_array_equal(np.where(visible, at, 0), wanted.numpy())


def test_a_keypoint_is_the_middle_of_the_highest_position():
    heat = np.zeros((1, 1, 8, 8, 1), np.float32)
    heat[0, 0, 5, 2, 0] = 1
    point, score = keypoints_of(heat, np.array([[[10.0, 20.0, 18.0, 28.0]]]), np.ones((1, 1), bool), 9)
    np.testing.assert_allclose(point[0, 0, 0], [12.5, 25.5, 1])
    assert score[0, 0, 0] == pytest.approx(1)


def test_samples_have_the_given_number_and_at_most_a_fraction_of_objects():
    positive = jnp.arange(100) < 40
    draw = jax.jit(lambda key: sampled(key, positive, ~positive, 20, 0.25))
    chosen = [draw(jax.random.key(i)) for i in range(3)]
    for p, n in chosen:
        assert int(p.sum()) == 5
        assert int(n.sum()) == 15
        assert not (p & ~positive).any()
        assert not (n & positive).any()
    assert not np.array_equal(chosen[0][0], chosen[1][0])
    p, n = sampled(jax.random.key(0), positive & (jnp.arange(100) < 2), ~positive, 20, 0.25)
    assert (int(p.sum()), int(n.sum())) == (2, 18)


def test_images_of_several_sizes_are_padded_and_boxes_come_back():
    photos = [np.full((40, 80, 3), 255, np.uint8), np.full((60, 50, 3), 0.5, np.float32)]
    x = jc.detect.preprocess(photos, min_size=64, max_size=100)
    assert x["image"].shape == (2, 96, 128, 3)
    assert x["size"].tolist() == [[50, 100], [76, 64]]
    assert not x["image"][0, 50:].any()
    np.testing.assert_allclose(x["image"][0, 0, 0], (1 - np.array(jc.detect.images.MEAN)) / jc.detect.images.STD, 1e-5)
    fixed = jc.detect.preprocess(photos, size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, divisor=1)
    assert fixed["image"].shape == (2, 32, 32, 3)
    np.testing.assert_allclose(fixed["image"][0], 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([np.zeros((4, 4), np.uint8)], r"images must be \(height, width, 3\), got \(4, 4\) at 0"),
        ([np.zeros((4, 4, 3), np.int32)], "images must be uint8, or floating-point in .*, got int32 at 0"),
        ([], "images must have at least one image, got none"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(jc.ArgumentError, match=message):
        jc.detect.preprocess(images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: jc.detect.AnchorGrid(((8,), (16, 32))), "sizes must have as many entries for each level"),
        (lambda: jc.detect.DefaultBoxes(((2,),), (0.5,), (32, 32)), "scales must have one entry more than ratios"),
        (
            lambda: jc.detect.AnchorGrid(((8,),)).boxes([(4, 4), (2, 2)], (32, 32)),
            "anchors must be given for each of 2 feature maps, got 1 levels",
        ),
        (lambda: jc.detect.RetinaNet(jc.Conv(4), 2, jc.detect.AnchorGrid(((8,),)), "l2"), "box_loss must be 'l1' or"),
    ],
)
def test_what_fits_no_detector_is_refused(make, message):
    with pytest.raises(jc.ArgumentError, match=message):
        make()
