"""Detectors against live torchvision: raw outputs, boxes and losses of all families, in float64."""

import importlib.util

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.detectors import PUBLISHED, SMALL, images, raw, targets
from tests.models.test_detection import loss_gradient, same, training_pass
from tests.record_detectors import MOST
from tests.record_torchvision import fill, shapes_of

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _torchvision():
    pytest.importorskip("torch")
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is not installed")


def both(pair, batch=1):
    """Torchvision's detector, and ours with its weights and an image, in float64."""
    from tests.record_detectors import build, filled

    model, x = build(pair).double(), images(pair, batch).astype(np.float64)
    drawn, _ = filled(model, x)
    net = pair.ours()
    return model, net, *jc.weights.from_torch(net, drawn), x


@pytest.mark.parametrize("pair", PUBLISHED, ids=str)
def test_raw_outputs_and_final_boxes_are_torchvisions(pair):
    from tests import record_detectors as theirs

    with jax.enable_x64(True):
        model, net, params, state, x = both(pair)
        wanted = shapes_of(model)
        assert {name: a.shape for name, a in jc.weights.to_torch(net, params, state).items()} == wanted
        y = jax.jit(lambda p, s, x: net.apply(p, s, x)[0])(params, state, x)
        for got, expected in zip(raw(net, y), theirs.raw(model, x), strict=True):
            assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
        decoded = jax.jit(lambda y: net.decode(y, **(pair.decode or {})))(y)
        found = jc.detect.found_in(decoded, image_size=x.shape[1:3])
        [expected] = theirs.found(model, x)
        assert len(expected["boxes"]) > 2
        if "masks" in expected:
            expected["masks"] = expected["masks"][..., ::8, ::8]
        assert len(found["boxes"]) == len(expected["boxes"])
        same(found, {name: array[:MOST] for name, array in expected.items()}, 1e-3)


@pytest.mark.parametrize("pair", SMALL, ids=str)
def test_losses_in_training_are_torchvisions(pair):
    from tests import record_detectors as theirs

    with jax.enable_x64(True):
        model, net, params, state, x = both(pair, 2)
        wanted = theirs.losses(model, pair, x)
        given = targets(pair)
        (total, parts), _ = loss_gradient(net)(training_pass(net, pair.two_stages)(params, state, x, given), given)
        assert set(parts) == set(wanted)
        for name, value in wanted.items():
            assert np.mean(parts[name]) == pytest.approx(value, rel=1e-5), name
        assert total == pytest.approx(sum(wanted.values()), rel=1e-5)


def test_images_are_resized_normalized_and_padded_as_torchvision_does():
    import torch

    from tests.record_detectors import detection, first

    transform = detection().transform.GeneralizedRCNNTransform(
        96, 160, list(jc.detect.images.MEAN), list(jc.detect.images.STD)
    )
    random = np.random.default_rng(0)
    photos = [random.uniform(size=size).astype(np.float32) for size in ((60, 90, 3), (200, 64, 3))]
    transform.eval()
    wanted, _ = transform([first(photo[None], torch.float32)[0] for photo in photos])
    got = jc.detect.preprocess(photos, min_size=96, max_size=160)
    np.testing.assert_allclose(got["image"], np.moveaxis(wanted.tensors.numpy(), 1, -1), atol=1e-4)
    assert got["size"].tolist() == [list(size) for size in wanted.image_sizes]
    boxes = random.uniform(0, 90, (2, 3, 4)).astype(np.float32)
    found = jc.detect.Detections(boxes, boxes[..., 0], boxes[..., 0], boxes[..., 0] > 0)
    back = jc.detect.rescale(found, got["size"], got["original"]).boxes
    results = transform.postprocess(
        [{"boxes": torch.from_numpy(each)} for each in boxes], wanted.image_sizes, [photo.shape[:2] for photo in photos]
    )
    for ours, theirs in zip(back, results, strict=True):
        np.testing.assert_allclose(ours, theirs["boxes"].numpy(), rtol=1e-5)


def test_files_with_torchvisions_older_names_are_read():
    from tests.record_detectors import build

    old = {
        "retinanet_resnet50_fpn": lambda name: name.replace("_head.conv.1.0.", "_head.conv.2.").replace(
            "_blocks.0.0.", "_blocks.0."
        ),
        "fcos_resnet50_fpn": lambda name: name.replace("_blocks.0.0.", "_blocks.0."),
        "maskrcnn_resnet50_fpn": lambda name: name.replace("mask_head.2.0.", "mask_head.mask_fcn3.").replace(
            "rpn.head.conv.0.0.", "rpn.head.conv."
        ),
    }
    for pair in PUBLISHED:
        if pair.name in old:
            model = build(pair)
            drawn = fill(model)
            net = pair.ours()
            names = {old[pair.name](name): a for name, a in drawn.items()}
            assert names.keys() != drawn.keys()
            got, wanted = (jc.weights.from_torch(net, tensors) for tensors in (names, drawn))
            jax.tree.map(np.testing.assert_array_equal, got, wanted)
