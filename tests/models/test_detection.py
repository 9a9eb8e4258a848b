"""Detectors against what was recorded of torchvision's: names, raw outputs, boxes and losses."""

import functools

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.detectors import SMALL, images, raw, targets
from tests.models.zoo import tensors
from tests.record_detectors import EVERY, MOST, RECORD

# The first version differs from the second by the loss of boxes and where further levels begin.
PAIRS = [pytest.param(pair, marks=pytest.mark.slow) if pair is SMALL[0] else pair for pair in SMALL]


@functools.cache
def recorded():
    with np.load(RECORD) as arrays:
        return dict(arrays)


def of(pair, what):
    """The recorded arrays of a detector, by the rest of their names."""
    start = f"{pair}/{what}"
    return {name.removeprefix(start).strip("/"): a for name, a in recorded().items() if name.startswith(start)}


@functools.cache
def made(pair):
    """The network with the weights that its tensors' names draw."""
    net, x = pair.ours(), images(pair)
    structs = jax.eval_shape(lambda key: net.init(key, x.shape), jax.random.key(0))
    zeros = jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), structs)
    shapes = {name: a.shape for name, a in jc.weights.to_torch(net, *zeros).items()}
    drawn = tensors(shapes)
    for module, factor in zip(of(pair, "scaled")[""], of(pair, "factors")[""], strict=True):
        for name in (f"{module}.weight", f"{module}.bias"):
            drawn[name] = (drawn[name] * factor).astype(np.float32)
    return net, *jc.weights.from_torch(net, drawn), x


@functools.cache
def outputs(pair):
    net, params, state, x = made(pair)
    return jax.jit(lambda p, s, x: net.apply(p, s, x)[0])(params, state, x)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_names_and_raw_outputs_are_torchvisions(pair):
    net, params, state, _ = made(pair)
    assert sorted(jc.weights.to_torch(net, params, state)) == of(pair, "names")[""].tolist()
    got = raw(net, outputs(pair))
    wanted = of(pair, "raw")
    assert len(got) == len(wanted)
    for i, array in enumerate(got):
        assert np.abs(array.reshape(-1)[::EVERY] - wanted[str(i)]).max() <= 1e-4 * np.abs(wanted[str(i)]).max()


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_final_boxes_are_torchvisions(pair):
    net, _, _, x = made(pair)
    decoded = jax.jit(net.decode)(outputs(pair))
    for i in range(len(x)):
        wanted = of(pair, f"found{i}")
        found = jc.detect.found_in(decoded, i, image_size=x.shape[1:3])
        assert len(wanted["boxes"]) > 2
        same(found, wanted)


def same(found, wanted, tolerance=1e-2):
    found = {name: array[:MOST] for name, array in found.items()}
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=tolerance)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-4)
    if "masks" in wanted:
        np.testing.assert_allclose(found["masks"][:, ::8, ::8], wanted["masks"][:, 0], atol=1e-3)
    if "keypoints" in wanted:
        np.testing.assert_allclose(found["keypoints"], wanted["keypoints"], atol=tolerance)
        np.testing.assert_allclose(found["keypoint_scores"], wanted["keypoints_scores"], rtol=1e-3, atol=1e-3)


@functools.cache
def training_pass(net, two_stages):
    """Returns a compiled function of params, state, images and targets: the outputs in training."""

    @jax.jit
    def apply(params, state, x, given):
        x = {"image": x, **{k: given[k] for k in ("boxes", "labels", "valid")}} if two_stages else x
        return net.apply(params, state, x, train=True, key=jax.random.key(0))[0]

    return apply


@functools.cache
def loss_gradient(net):
    """Returns a compiled function of outputs and targets: the losses, and their gradients with respect to outputs."""

    def loss(y, given):
        total, parts = net.loss(y, given)
        return total.mean(), parts

    return jax.jit(jax.value_and_grad(loss, has_aux=True, allow_int=True))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_losses_in_training_are_torchvisions(pair):
    net, params, state, x = made(pair)
    given = targets(pair)
    (total, parts), _ = loss_gradient(net)(training_pass(net, pair.two_stages)(params, state, x, given), given)
    wanted = of(pair, "loss")
    assert set(parts) == set(wanted)
    for name, value in wanted.items():
        assert np.mean(parts[name]) == pytest.approx(float(value), rel=2e-3), name
    assert total == pytest.approx(sum(map(float, wanted.values())), rel=2e-3)


# --- What they refuse, and cases without objects ---------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_images_without_objects_have_finite_losses_and_gradients(pair):
    net, params, state, x = made(pair)
    given = {name: np.zeros_like(a) for name, a in targets(pair).items()}
    y = training_pass(net, pair.two_stages)(params, state, x, given)
    (total, parts), grads = loss_gradient(net)(y, given)
    assert np.isfinite(total)
    boxes = [name for name in parts if name not in ("classification", "loss_objectness", "loss_classifier")]
    assert not any(np.any(parts[name]) for name in boxes)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads) if g.dtype == np.float32)


def test_nothing_above_the_threshold_is_no_detection():
    net, _, _, x = made(SMALL[1])
    found = jax.jit(functools.partial(net.decode, score_threshold=1.0))(outputs(SMALL[1]))
    assert not found.valid.any()
    assert np.all(found.labels == -1)
    assert len(jc.detect.found_in(found)["boxes"]) == 0
    assert found.boxes.shape == (len(x), 300, 4)


def test_targets_of_the_wrong_form_are_refused():
    net = SMALL[0].ours()
    with pytest.raises(
        jc.ArgumentError, match=r"targets must be a dict of boxes, labels, valid, see .*, got \['boxes'"
    ):
        net.loss(outputs(SMALL[0]), {"boxes": np.zeros((2, 1, 4))})
    with pytest.raises(jc.ArgumentError, match="outputs must be what the network returns, an OrderedDict with"):
        net.decode({"a": np.zeros((1, 8, 8, 3))})
    with pytest.raises(jc.ArgumentError, match=r"boxes must have x1 < x2 and y1 < y2, got \[5.0, 0.0, 4.0, 4.0\]"):
        jc.detect.pad_targets([[[5, 0, 4, 4]]], [[1]])
    with pytest.raises(jc.ArgumentError, match=r"labels must have one entry for each box, got \[2\] labels for \[1\]"):
        jc.detect.pad_targets([[[0, 0, 4, 4]]], [[1, 2]])
    with pytest.raises(jc.ArgumentError, match="n must be at least the number of boxes of each image, got 1 for 2"):
        jc.detect.pad_targets([[[0, 0, 4, 4], [0, 0, 2, 2]]], [[1, 2]], 1)
    mask = SMALL[4].ours()
    with pytest.raises(jc.ArgumentError, match="x must be images or a dict with image, got a dict with"):
        mask.init(0, {"boxes": (1, 2, 4)})
    with pytest.raises(jc.ArgumentError, match="outputs must be of images without targets"):
        mask.decode({"samples": 1})
    with pytest.raises(jc.ArgumentError, match="outputs must be of a dict of image, boxes"):
        mask.loss({"detections": 1})
