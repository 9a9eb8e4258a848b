"""Photographs by torchvision's names and files, generated scenes, and what is refused."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import jaxconv as jc
from experiments import masks, segment


@pytest.fixture
def small(monkeypatch):
    """A small network in the place of torchvision's, with an auxiliary head in training."""

    def net(aux_loss=False):
        trunk = jc.backbone(
            jc.serial(a=jc.Conv(4, 3, stride=2), relu=jax.nn.relu, b=jc.Conv(4, 3)), {"a": "aux", "b": "out"}
        )
        return jc.models.fcn(trunk, 21, width=4, aux_width=4 if aux_loss else None)

    monkeypatch.setitem(segment.NETWORKS, "fcn_resnet50", net)
    return net


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 52, 3), np.uint8)).save(path)
    return path


def file_of(net, path):
    """The weights of a network, in a file with torch's names."""
    params, state = net.init(jax.random.key(1), (1, 64, 64, 3))
    tensors = {name: np.asarray(a) for name, a in jc.weights.to_torch(net, params, state).items()}
    jc.weights.write(path, tensors)
    return path, params, state


def test_photographs_get_the_networks_classes(small, photo, tmp_path, capsys):
    path, params, state = file_of(small(aux_loss=True), tmp_path / "fcn.safetensors")
    out = tmp_path / "out"
    image = segment.read_image(photo)
    x = (image / 255.0 - np.array(segment.MEAN)) / np.array(segment.STD)
    net = small()
    scores, _ = net.apply({k: v for k, v in params.items() if k != "aux_classifier"}, state, np.float32(x)[None])
    want = np.asarray(scores[0].argmax(-1))
    mask = np.where(want == want[0, 0], want, 255).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = f"--network fcn_resnet50 --weights {path} --image {photo} --mask {tmp_path / 'mask.png'} --out {out}"
    metrics = segment.main(options.split())
    with Image.open(out / "photo_classes.png") as written:
        assert_array_equal(np.asarray(written), want)
    with Image.open(out / "photo_overlay.png") as written:
        assert written.size == (52, 40)
    # What is known of the mask is right, so the class that is there has an IoU of 1.
    assert metrics["mean_iou"] == 1
    assert segment.CLASSES[want[0, 0]] in capsys.readouterr().out


def test_mean_iou_ignores_what_is_not_known():
    found, true = np.array([[0, 1, 1], [2, 2, 2]]), np.array([[0, 1, 255], [2, 2, 0]])
    assert segment.mean_iou([found], [true], 21) == pytest.approx((1 / 2 + 1 + 2 / 3) / 3)


def test_bad_arguments_are_refused_before_anything_is_written(small, photo, tmp_path):
    out = tmp_path / "out"
    begin = f"--network fcn_resnet50 --out {out} --image {photo}"
    wrong = tmp_path / "wrong.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(wrong)
    other, _, _ = file_of(jc.serial(jc.Conv(3, 3)), tmp_path / "other.safetensors")
    for options, message in {
        begin: "--network needs --weights",
        f"--network fcn_resnet50 --weights {other} --out {out}": "--network needs --image",
        f"--image {photo} --out {out}": "--image and --mask need --weights",
        f"--weights {other} --out {out}": "--weights needs --image",
        f"{begin} --weights {other} --mask {wrong}": "the mask must have the size of the image, 52 x 40, got 9 x 9",
        f"{begin} --weights {other} --mask {wrong} {wrong}": "one for each --image, got 2 masks and 1 images",
        f"{begin} {photo} --weights {other}": "files of different names, got photo, photo",
        f"{begin} --weights {other}": "0.weight",
        f"--size 30 --out {out}": "--size must be a multiple of 8, got 30",
    }.items():
        with pytest.raises(ValueError, match=message):
            segment.main(options.split())
    assert not out.exists()


def test_ignored_pixels_do_not_change_the_loss():
    rng = np.random.default_rng(0)
    scores, classes = rng.normal(size=(2, 4, 5, 6)).astype(np.float32), rng.integers(0, 6, (2, 4, 5)).astype(np.int32)
    log = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    each = -np.take_along_axis(log, classes[..., None], -1)[..., 0]
    assert_allclose(segment.loss(scores, classes), each.mean((1, 2)), rtol=1e-5)
    classes[:, 1] = segment.IGNORED
    assert_allclose(segment.loss(scores, classes), np.delete(each, 1, 1).mean((1, 2)), rtol=1e-5)
    assert_allclose(segment.loss(scores, np.full_like(classes, segment.IGNORED)), 0)


def test_a_small_run_on_scenes(photo, tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "network", lambda width: jc.serial(jc.Conv(width, 5), jax.nn.relu, jc.Conv(6, 3)))
    out = tmp_path / "out"
    metrics = segment.main(
        f"--scenes 16 --test-scenes 6 --size 32 --width 4 --epochs 1 --batch 8 --quiet --out {out}".split()
    )
    assert metrics == json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["mean_iou"] <= 1
    assert set(metrics["iou"]) == {"background", "disc", "square", "triangle", "star", "ring"}
    assert (out / "scenes.png").exists()
    # The trained network on a picture of the user's, whose sides are no multiples of 8.
    used = tmp_path / "used"
    segment.main(f"--weights {out / 'weights.safetensors'} --image {photo} --out {used}".split())
    with Image.open(used / "photo_classes.png") as written:
        assert written.size == (52, 40)
        assert set(np.unique(written)) <= set(range(6))
    assert json.loads((used / "photographs.json").read_text())["network"] == "U-Net"


def test_colors_of_classes_are_different():
    assert len({tuple(color) for color in masks.PALETTE.tolist()}) == len(masks.PALETTE) == 12


@pytest.mark.slow
def test_scenes_are_segmented(tmp_path):
    metrics = segment.main(["--out", str(tmp_path / "out"), "--quiet"])
    assert metrics["mean_iou"] >= 0.5


@pytest.mark.slow
@pytest.mark.torch
def test_classes_are_torchvisions(tmp_path):
    """LR-ASPP by a file that torch wrote, random weights: the same class at nearly every pixel."""
    torch = pytest.importorskip("torch")
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    torch.manual_seed(0)
    reference = segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None).eval()
    torch.save(reference.state_dict(), tmp_path / "lraspp.pth")
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    net, params, state = segment.pretrained("lraspp_mobilenet_v3_large", tmp_path / "lraspp.pth")
    got = segment.classes_of(net, params, state, image, 520)
    x = (image / 255.0 - np.array(segment.MEAN)) / np.array(segment.STD)
    with torch.no_grad():
        want = reference(torch.from_numpy(np.float32(x)).permute(2, 0, 1)[None])["out"][0].argmax(0).numpy()
    assert (got == want).mean() > 0.99
