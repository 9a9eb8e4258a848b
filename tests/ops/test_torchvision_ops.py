"""The ops of boxes against live torchvision, over drawn cases."""

import importlib.util
import itertools

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from tests.ops.box_oracles import draw_boxes
from tests.ops.test_boxes import KINDS, ODD
from tests.ops.test_nms import CASES, kept
from tests.record_torchvision import torchvision

pytestmark = pytest.mark.torch
FORMATS = ("xyxy", "xywh", "cxcywh")


@pytest.fixture(scope="module")
def live():
    pytest.importorskip("torch")
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is not installed")
    return torchvision()


@pytest.fixture(scope="module")
def compiled(live):
    if not live.extension._has_ops():
        pytest.skip("torchvision's compiled operators do not load beside this build of torch")
    return live


def tensor(a, **options):
    import torch

    return torch.tensor(np.asarray(a), **options)


def pairs(seed):
    rng = np.random.default_rng(seed)
    return draw_boxes(rng, 40), draw_boxes(rng, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_overlaps(live, kind):
    name = {"iou": "box_iou"}.get(kind, f"{kind}_box_iou")
    theirs = getattr(live.ops, name)
    for one, other in (pairs(0), (ODD, pairs(1)[0]), (pairs(2)[0], ODD)):
        want = theirs(tensor(one), tensor(other)).numpy()
        got = np.asarray(KINDS[kind](one, other))
        defined = ~np.isnan(want)  # 0 / 0 there, 0 here
        assert_allclose(got[defined], want[defined], rtol=1e-5, atol=2e-6)
        assert np.isfinite(got).all()


def test_formats_areas_limits_and_masks(live):
    boxes = pairs(3)[0]
    for source, target in itertools.product(FORMATS, repeat=2):
        want = live.ops.box_convert(tensor(boxes), source, target).numpy()
        assert_allclose(jc.box_convert(boxes, source, target), want, rtol=1e-6)
    assert_allclose(jc.box_area(boxes), live.ops.box_area(tensor(boxes)).numpy(), rtol=1e-6)
    clipped = live.ops.clip_boxes_to_image(tensor(boxes - 10), (40, 50)).numpy()
    assert_array_equal(jc.clip_boxes(boxes - 10, (40, 50)), clipped)
    masks = np.random.default_rng(4).uniform(size=(6, 9, 11)) > 0.95
    masks[0] = False
    assert_array_equal(jc.masks_to_boxes(masks), live.ops.masks_to_boxes(tensor(masks)).numpy())


def test_offsets(live):
    utils = importlib.import_module("torchvision.models.detection._utils")
    boxes, anchors = pairs(5)[0][:30], pairs(5)[1]
    coder = utils.BoxCoder((10.0, 10.0, 5.0, 5.0))
    offsets = coder.encode_single(tensor(boxes), tensor(anchors))
    options = {"weights": (10, 10, 5, 5)}
    assert_allclose(jc.encode_boxes(boxes, anchors, **options), offsets.numpy(), rtol=1e-4, atol=1e-5)
    offsets[0] = 100
    want = coder.decode_single(offsets, tensor(anchors)).numpy()
    assert_allclose(jc.decode_boxes(offsets.numpy(), anchors, **options), want, rtol=1e-5, atol=1e-4)
    for normalize in (True, False):
        linear = utils.BoxLinearCoder(normalize_by_size=normalize)
        distances = linear.encode(tensor(anchors), tensor(boxes))
        got = jc.encode_distances(boxes, anchors, normalize_by_size=normalize)
        assert_allclose(got, distances.numpy(), rtol=1e-4, atol=1e-4)
        want = linear.decode(distances, tensor(anchors)).numpy()
        assert_allclose(
            jc.decode_distances(distances.numpy(), anchors, normalize_by_size=normalize), want, rtol=1e-4, atol=1e-4
        )


def test_anchors(live):
    import torch

    module = importlib.import_module("torchvision.models.detection.anchor_utils")
    images = module.ImageList(torch.zeros(1, 3, 96, 128), [(96, 128)])
    maps = [torch.zeros(1, 1, 12, 16), torch.zeros(1, 1, 6, 8)]
    sizes, ratios = ((16, 20, 25), (32, 40, 51)), (0.5, 1.0, 2.0)
    [want] = module.AnchorGenerator(sizes, (ratios, ratios))(images, maps)
    got = [
        jc.anchor_grid(g, s, sizes=z, aspect_ratios=ratios)
        for g, s, z in zip([(12, 16), (6, 8)], (8, 16), sizes, strict=True)
    ]
    assert_array_equal(np.concatenate(got), want.numpy())
    for options in ({}, {"scales": [0.07, 0.15, 0.33]}, {"steps": [8, 16], "clip": False, "max_ratio": 1.3}):
        [want] = module.DefaultBoxGenerator([[2], [2, 3]], **options)(images, maps)
        got = jc.default_boxes([(12, 16), (6, 8)], (96, 128), [[2], [2, 3]], **options)
        assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-4)


def test_matches(live):
    utils = importlib.import_module("torchvision.models.detection._utils")
    for seed in range(5):
        boxes, anchors = pairs(10 + seed)[1][:7], pairs(20 + seed)[0]
        iou = live.ops.box_iou(tensor(boxes), tensor(anchors))
        for low_quality in (False, True):
            want = utils.Matcher(0.5, 0.3, low_quality)(iou).numpy()
            got = jc.match_boxes(boxes, anchors, high=0.5, low=0.3, allow_low_quality=low_quality)
            assert_array_equal(got, want)
        want = utils.SSDMatcher(0.5)(iou).numpy()
        assert_array_equal(jc.match_boxes(boxes, anchors, high=0.5, low=0.5, force_best=True), want)


def test_levels(live):
    module = importlib.import_module("torchvision.ops.poolers")
    rng = np.random.default_rng(6)
    boxes = draw_boxes(rng, 200, 2000)
    boxes[:60] = np.concatenate([np.zeros((60, 2)), np.repeat(np.arange(1, 61)[:, None] * 14, 2, 1)], 1)
    want = module.LevelMapper(2, 5)([tensor(boxes)]).numpy()
    assert_array_equal(jc.box_levels(boxes), want)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7])
@pytest.mark.parametrize(("boxes", "scores"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_suppression(compiled, boxes, scores, threshold):
    want = compiled.ops.nms(tensor(boxes), tensor(scores), threshold).tolist()
    assert kept(jc.nms(boxes, scores, threshold, max(len(boxes), 1))) == want


def test_suppression_by_label_and_of_ten_thousand(compiled):
    rng = np.random.default_rng(7)
    boxes, scores = draw_boxes(rng, 10_000, 1000), rng.permutation(10_000).astype(np.float32)
    labels = rng.integers(0, 5, 10_000)
    want = compiled.ops.nms(tensor(boxes), tensor(scores), 0.5).tolist()
    assert kept(jc.nms(boxes, scores, 0.5, 10_000)) == want
    want = compiled.ops.batched_nms(tensor(boxes), tensor(scores), tensor(labels), 0.5).tolist()
    assert kept(jc.batched_nms(boxes, scores, labels, 0.5, 10_000)) == want


def _align(live, x, rois, scale, size, sampling, aligned):
    """The compiled operator, or the version in Python, which differs for points outside of the map."""
    module = importlib.import_module("torchvision.ops.roi_align")
    if live.extension._has_ops():
        return module.roi_align(x, rois, size, scale, sampling, aligned)
    return module._roi_align.__wrapped__(x, rois, scale, size, size, sampling, aligned)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [2, -1])
def test_regions_and_their_gradients(live, sampling, aligned):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(2, 16, 20, 3))
    boxes = draw_boxes(rng, 12, 36, least=2, dtype=np.float64)
    if live.extension._has_ops():
        boxes = np.concatenate([boxes, [[-30.0, -20, 10, 12], [30, 25, 60, 50], [90, 90, 99, 99], [5, 5, 5, 5]]])
    index = rng.integers(0, 2, len(boxes))
    rois = tensor(np.concatenate([index[:, None], boxes], 1))
    inputs = tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    want = _align(live, inputs, rois, 0.5, 3, sampling, aligned)
    cotangent = rng.normal(size=(len(boxes), 3, 3, 3))
    want.backward(tensor(np.moveaxis(cotangent, -1, 1)))
    with jax.enable_x64(True):
        got, pullback = jax.vjp(
            lambda x: jc.roi_align(x, boxes, index, 3, spatial_scale=0.5, sampling_ratio=sampling, aligned=aligned), x
        )
        [gradient] = pullback(cotangent)
    assert_allclose(got, np.moveaxis(want.detach().numpy(), 1, -1), rtol=1e-6, atol=1e-9)
    assert_allclose(gradient, np.moveaxis(inputs.grad.numpy(), 1, -1), rtol=1e-6, atol=1e-9)


def test_regions_of_a_pyramid(live):
    if not live.extension._has_ops():
        pytest.skip("torchvision's compiled operators do not load beside this build of torch")
    rng = np.random.default_rng(9)
    boxes = draw_boxes(rng, 20, 400, least=4)
    maps = {str(i): rng.normal(size=(1, 128 >> i, 128 >> i, 2)).astype(np.float32) for i in range(4)}
    pool = live.ops.MultiScaleRoIAlign(list(maps), 7, 2)
    want = pool({k: tensor(np.moveaxis(v, -1, 1)) for k, v in maps.items()}, [tensor(boxes)], [(512, 512)]).numpy()
    got = jc.multiscale_roi_align(
        list(maps.values()),
        boxes,
        np.zeros(20, int),
        7,
        spatial_scales=(1 / 4, 1 / 8, 1 / 16, 1 / 32),
        sampling_ratio=2,
    )
    assert_allclose(got, np.moveaxis(want, 1, -1), rtol=1e-4, atol=1e-5)


def test_pooled_regions_and_their_gradients(compiled):
    rng = np.random.default_rng(10)
    x = rng.normal(size=(2, 16, 20, 3)).astype(np.float32)
    boxes = np.concatenate([draw_boxes(rng, 12, 36), [[-30, -20, 10, 12], [90, 90, 99, 99], [5, 5, 5, 5]]]).astype(
        np.float32
    )
    index = rng.integers(0, 2, len(boxes))
    inputs = tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    want = compiled.ops.roi_pool(inputs, tensor(np.concatenate([index[:, None], boxes], 1)).float(), (3, 4), 0.5)
    want.sum().backward()
    got, pullback = jax.vjp(lambda x: jc.roi_pool(x, boxes, index, (3, 4), spatial_scale=0.5), x)
    assert_array_equal(got, np.moveaxis(want.detach().numpy(), 1, -1))
    assert_array_equal(pullback(np.ones_like(got))[0], np.moveaxis(inputs.grad.numpy(), 1, -1))
