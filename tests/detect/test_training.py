"""Small detectors learn generated scenes, by `fit` with their loss; their wrappers stay detectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxconv as jc
from tests.nets import ready

SIZE = 32


def scenes(seed, count):
    """Images with one bright square of 8 or 14 pixels; the class is the size."""
    random = np.random.default_rng(seed)
    images = random.normal(0, 0.1, (count, SIZE, SIZE, 3)).astype(np.float32)
    boxes, labels = [], []
    for image in images:
        label = random.integers(0, 2)
        side = (8, 14)[label]
        x, y = random.integers(0, SIZE - side, 2)
        image[y : y + side, x : x + side] += 1
        boxes.append([[x, y, x + side, y + side]])
        labels.append([label])
    return images, boxes, labels


def trunk(width=16):
    def block(stride):
        return jc.serial(jc.Conv(width, stride=stride), jc.GroupNorm(4), jax.nn.relu)

    net = jc.serial(stem=block(2), next=block(2), fine=block(1), coarse=block(2))
    maps = {"fine": "0", "coarse": "1"}
    return jc.serial(body=jc.backbone(net, maps), fpn=jc.fpn(["0", "1"], width))


SQUARES = jc.detect.AnchorGrid(((8,), (14,)), (1.0,), stride=4)


def detector(name):
    if name == "retinanet":
        return jc.models.retinanet(trunk(), 2, width=16, convs=1, anchors=SQUARES)
    if name == "fcos":
        anchors = jc.detect.AnchorGrid(((4,), (8,)), (1.0,), stride=4)
        return jc.models.fcos(trunk(), 2, width=16, convs=1, norm=None, anchors=anchors)
    if name == "nanodet":
        return jc.models.nanodet(trunk(), 2, width=16, convs=1, strides=(4, 8), scale=2)
    if name == "ssd":
        boxes = jc.detect.DefaultBoxes(((2,), (2,)), (0.25, 0.44, 0.6), (SIZE, SIZE))
        return jc.models.ssd(trunk(), 3, anchors=boxes)
    if name == "centernet":
        finest = jc.serial(pyramid=trunk(), finest=jc.on_map("0", jc.Identity()))
        return jc.models.centernet(finest, 2, width=16)
    rules = jc.detect.RegionRules(
        before=40, after=12, training_before=40, training_after=12, anchor_samples=32, region_samples=16
    )
    return jc.models.rcnn(trunk(), 3, width=16, hidden=32, anchors=SQUARES, levels=("0", "1"), rules=rules)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["retinanet", "fcos", "nanodet", "ssd", "centernet", "rcnn"])
def test_a_detector_learns_by_fit_to_find_squares(name):
    net = detector(name)
    # With a background, classes begin with 1.
    first = int(name in ("ssd", "rcnn"))
    images, boxes, labels = scenes(0, 64)
    targets = jc.detect.pad_targets(boxes, [[label[0] + first] for label in labels], 2)
    inputs = {"image": images, **targets} if name == "rcnn" else images
    result = jc.train.fit(
        net, inputs, targets, optax.adam(3e-3), loss=net.loss, epochs=25, batch_size=16, progress=False
    )
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2
    x, boxes, labels = scenes(1, 16)
    y, _ = jax.jit(lambda p, s, x: net.apply(p, s, x)[0:2])(result.params, result.state, x)
    found = jax.jit(lambda y: net.decode(y))(y) if name == "rcnn" else net.decode(y, score_threshold=0.05)
    best = jc.box_iou(found.boxes[:, :1], jnp.asarray(boxes, jnp.float32))[:, 0, 0]
    right = np.asarray(best) > 0.5
    assert right.mean() > 0.8
    assert (np.asarray(found.labels)[:, 0] == np.asarray(labels)[:, 0] + first)[right].mean() > 0.8


def test_a_detector_is_a_layer_like_others():
    net = detector("retinanet")
    params, state, x = ready(net, (1, SIZE, SIZE, 3))
    paths = ["head.regression_head.bbox_reg"]
    y, found = jax.jit(lambda p, s: jc.inspect.activations(net, p, s, x, paths=paths))(params, state)
    assert found["head.regression_head.bbox_reg"].shape == (1, 8, 8, 4)
    plain = jc.map_layers(net, lambda layer: layer)
    assert plain == net
    quick = jc.map_layers(net, lambda layer: jc.Identity() if isinstance(layer, jc.GroupNorm) else layer)
    assert isinstance(quick, jc.detect.RetinaNet)
    assert jc.summary(net, x.shape).parameters == sum(a.size for a in jax.tree.leaves(params))
    assert repr(net).startswith("RetinaNet(\n")
    tensors = jc.weights.to_torch(net, params, state)
    back = jc.weights.from_torch(net, tensors)
    jax.tree.map(np.testing.assert_array_equal, back, (params, state))
    sizes = [a.shape for a in net.anchor_boxes(y)]
    assert sizes == [(64, 4), (16, 4)]


def test_decode_is_the_same_for_each_image_and_under_vmap():
    net = detector("fcos")
    structs = jax.eval_shape(lambda x: net.apply(*net.init(0, x), x)[0], scenes(0, 3)[0])
    y = jax.tree.map(lambda s: np.random.default_rng(0).normal(size=s.shape).astype(np.float32), structs)
    decode = jax.jit(functools.partial(net.decode, score_threshold=0.0, max_detections=7))
    whole = decode(y)
    one = jax.vmap(lambda y: decode(jax.tree.map(lambda a: a[None], y)))(y)
    np.testing.assert_allclose(whole.boxes, one.boxes[:, 0], rtol=1e-5, atol=1e-4)
    assert whole.boxes.shape == (3, 7, 4)
    small = decode(y, sizes=np.array([[16, 20]] * 3))
    assert float(small.boxes[..., 2].max()) <= 20
    assert float(small.boxes[..., 3].max()) <= 16


def test_losses_do_not_depend_on_rows_that_are_padding():
    images, boxes, labels = scenes(0, 4)
    for name in ("retinanet", "nanodet", "ssd"):
        net = detector(name)
        structs = jax.eval_shape(lambda x, net=net: net.apply(*net.init(0, x), x)[0], images)
        random = np.random.default_rng(0)
        y = jax.tree.map(lambda s, random=random: random.normal(size=s.shape).astype(np.float32), structs)
        targets = jc.detect.pad_targets(boxes, labels)
        more = jc.detect.pad_targets(boxes, labels, 5)
        more["boxes"][:, 1:] = [1, 2, 3, 9]
        loss = jax.jit(net.loss)
        np.testing.assert_allclose(loss(y, targets)[0], loss(y, more)[0], rtol=1e-5)


def test_pose_points_are_those_of_the_person_in_the_middle():
    net = jc.detect.PoseNet(jc.Identity(), 2, 4)
    outputs = {
        "center": np.full((1, 12, 12, 1), -9.0), "heat": np.full((1, 12, 12, 2), -9.0),
        "regression": np.zeros((1, 12, 12, 4)), "offset": np.zeros((1, 12, 12, 4)),
    }  # fmt: skip
    outputs["center"][0, 6, 5] = 3
    outputs["center"][0, 0, 0] = 4
    outputs["regression"][0, 6, 5] = [-2, -3, 2, 3]
    outputs["heat"][0, 3, 3, 0] = 5
    outputs["heat"][0, 9, 7, 1] = 5
    outputs["heat"][0, 0, 0] = 6
    outputs["offset"][0, 3, 3, :2] = [0.5, 0.25]
    points, scores = jax.jit(net.decode)(outputs)
    np.testing.assert_allclose(points[0], [[14, 13], [28, 36]])
    np.testing.assert_allclose(scores[0], jax.nn.sigmoid(5.0), rtol=1e-5)
