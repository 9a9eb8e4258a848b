"""Stick figures: their joints are where their limbs are, also mirrored; a network learns to find them."""

import jax
import numpy as np
import pytest

from experiments import pose, pose_train


def test_joints_are_on_the_figure():
    images, joints = pose_train.drawn(4, 3)
    assert images.shape == (4, 64, 64, 3)
    assert images.dtype == np.uint8
    assert joints.shape == (4, len(pose_train.JOINTS), 2)
    again, _ = pose_train.drawn(4, 3)
    np.testing.assert_array_equal(images, again)
    # The figure's left is the viewer's right.
    assert (joints[:, 1, 0] > joints[:, 2, 0]).all()
    assert (joints[:, 7, 1] > joints[:, 1, 1]).all()


def test_augmentation_moves_joints_with_the_image_and_keeps_left_left():
    images, joints = pose_train.drawn(16, 0)
    marked = np.zeros_like(images)
    left = joints[:, 1].round().astype(int)
    for i, (x, y) in enumerate(left):
        marked[i, y - 1 : y + 2, x - 1 : x + 2] = 255
    moved, targets = pose_train.augment(jax.random.key(1), marked, {"points": joints.astype(np.float32)})
    shoulders = np.asarray(targets["points"])[:, 1:3]
    assert (shoulders[:, 0, 0] > shoulders[:, 1, 0]).all()
    weights = np.asarray(moved, np.float32)[..., 0]
    weights = np.where(weights > 200, weights, 0)
    y, x = ((weights * axis).sum((1, 2)) / weights.sum((1, 2)) for axis in np.mgrid[:64, :64])
    nearest = np.linalg.norm(shoulders - np.stack([x, y], -1)[:, None], axis=-1).min(1)
    assert nearest.max() < 1.5


@pytest.mark.slow
def test_a_network_learns_the_joints(tmp_path, capsys):
    metrics = pose.main(["--train", "--quiet", "--out", str(tmp_path)])
    # The run of the page: 84.9%, 82.9% and 16.6%.
    assert metrics["pck"] >= 0.8
    assert metrics["pck_of_soft_argmax"] >= 0.75
    assert metrics["pck_of_the_mean_pose"] <= 0.2
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "figure.png", "weights.safetensors"}
    assert "of the joints of 256 held-out figures" in capsys.readouterr().out
