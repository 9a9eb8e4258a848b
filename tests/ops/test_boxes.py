"""Formats, limits, overlaps and offsets of boxes, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from tests.ops import box_oracles as oracles
from tests.ops.box_oracles import draw_boxes

KINDS = {
    "iou": jc.box_iou,
    "generalized": jc.generalized_box_iou,
    "distance": jc.distance_box_iou,
    "complete": jc.complete_box_iou,
}
# Without area, on a line, the same box twice, far apart, touching, one inside the other.
ODD = np.array(
    [
        [0, 0, 0, 0],
        [3, 3, 3, 3],
        [1, 1, 5, 1],
        [0, 0, 4, 4],
        [0, 0, 4, 4],
        [90, 90, 95, 99],
        [4, 0, 8, 4],
        [1, 1, 2, 3],
    ],
    np.float32,
)


@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_of_drawn_and_odd_boxes(kind):
    rng = np.random.default_rng(0)
    one, other = np.concatenate([draw_boxes(rng, 12), ODD]), np.concatenate([ODD, draw_boxes(rng, 9)])
    assert_allclose(jax.jit(KINDS[kind])(one, other), oracles.ious(one, other, kind), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_with_no_box_and_with_batch_axes(kind):
    rng = np.random.default_rng(1)
    one = draw_boxes(rng, 3)
    assert KINDS[kind](one, np.zeros((0, 4), np.float32)).shape == (3, 0)
    assert KINDS[kind](np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)).shape == (0, 0)
    batch = np.stack([draw_boxes(rng, 4), draw_boxes(rng, 4)])
    overlap = jax.jit(KINDS[kind])
    got = overlap(batch, one)
    assert_allclose(got, np.stack([overlap(b, one) for b in batch]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_overlaps_are_finite_and_those_of_differences(kind):
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        one, other = draw_boxes(rng, 4, dtype=np.float64), draw_boxes(rng, 5, dtype=np.float64)
        weights = rng.normal(size=(4, 5))
        # Of complete IoU the weight of the aspect ratios is a constant in the gradient.
        overlap = KINDS["distance" if kind == "complete" else kind]
        value_and_gradient = jax.jit(jax.value_and_grad(lambda a: (weights * overlap(a, other)).sum()))
        gradient = value_and_gradient(one)[1]
        direction = rng.normal(size=one.shape)
        step = 1e-6
        ends = [value_and_gradient(one + s * direction)[0] for s in (step, -step)]
        assert_allclose((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-5)
    assert np.isfinite(jax.jit(jax.grad(lambda a: KINDS[kind](a, ODD).sum()))(ODD)).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_overlaps_in_half_precision_are_rounded_once(kind, dtype):
    rng = np.random.default_rng(3)
    one, other = (draw_boxes(rng, 6, 1000).astype(dtype) for _ in range(2))
    got = KINDS[kind](one, other)
    assert got.dtype == dtype
    want = oracles.ious(np.asarray(one, np.float64), np.asarray(other, np.float64), kind)
    eps = float(jnp.finfo(dtype).eps)
    assert_allclose(np.asarray(got, np.float64), want, rtol=0.51 * eps + 1e-5, atol=2e-6)
    with jax.enable_x64(True):
        assert KINDS[kind](np.asarray(one, np.float64), np.asarray(other, np.float64)).dtype == np.float64


def test_areas_of_half_precision_are_float32():
    boxes = np.array([[0, 0, 300, 300]], np.float16)
    assert jc.box_area(boxes).dtype == np.float32
    assert jc.box_area(boxes)[0] == 90000
    assert_array_equal(jc.box_area(ODD), [0, 0, 0, 16, 16, 45, 16, 2])


FORMATS = ("xyxy", "xywh", "cxcywh")


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_formats(source, target):
    x1, y1, x2, y2 = draw_boxes(np.random.default_rng(4), 5).T
    forms = {
        "xyxy": (x1, y1, x2, y2),
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "cxcywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }
    got = jc.box_convert(np.stack(forms[source], -1), source, target)
    assert_allclose(got, np.stack(forms[target], -1), rtol=1e-5, atol=1e-5)


def test_clipping():
    boxes = np.array([[-3, -4, 5, 6], [40, 50, 60, 70], [1, 2, 3, 4]], np.float32)
    want = [[0, 0, 5, 6], [30, 20, 30, 20], [1, 2, 3, 4]]
    assert_array_equal(jc.clip_boxes(boxes, (20, 30)), want)
    # Sizes may be arrays, as those of a padded batch are.
    assert_array_equal(jax.jit(lambda b, h, w: jc.clip_boxes(b, (h, w)))(boxes, 20, 30), want)
    assert_array_equal(jax.vmap(jc.clip_boxes, (0, None))(boxes, (20, 30)), want)


def test_boxes_of_masks():
    masks = np.zeros((4, 6, 7), np.uint8)
    masks[0, 2, 3] = 1
    masks[1, 1:4, 0:5] = 255
    masks[2, [0, 5], [6, 1]] = 1
    assert_array_equal(jc.masks_to_boxes(masks), [[3, 2, 3, 2], [0, 1, 4, 3], [1, 0, 6, 5], [0, 0, 0, 0]])
    assert jc.masks_to_boxes(np.zeros((0, 6, 7))).shape == (0, 4)


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (10, 10, 5, 5)])
def test_offsets_to_anchors_and_back(weights):
    rng = np.random.default_rng(5)
    boxes, anchors = draw_boxes(rng, 20), draw_boxes(rng, 20)
    offsets = jc.encode_boxes(boxes, anchors, weights=weights)
    b, a = np.float64(boxes), np.float64(anchors)
    own, theirs = b[:, 2:] - b[:, :2], a[:, 2:] - a[:, :2]
    centers = (b[:, :2] + b[:, 2:] - a[:, :2] - a[:, 2:]) / 2
    want = np.concatenate([centers / theirs, np.log(own / theirs)], 1) * weights
    assert_allclose(offsets, want, rtol=1e-4, atol=1e-5)
    assert_allclose(jc.decode_boxes(offsets, anchors, weights=weights), boxes, rtol=1e-4, atol=1e-4)


def test_offsets_for_each_class_and_large_ones():
    anchors = np.array([[0, 0, 10, 10]], np.float32)
    offsets = np.zeros((1, 3, 4), np.float32)
    offsets[0, 1, 2] = 100
    boxes = jc.decode_boxes(offsets, anchors[:, None])
    assert_allclose(boxes[0, 1], [5 - 312.5, 0, 5 + 312.5, 10], rtol=1e-5)
    assert_allclose(boxes[0, 2], anchors[0])


def test_offsets_of_a_box_without_area_are_finite_with_finite_gradients():
    def loss(predicted):
        targets = jc.encode_boxes(np.zeros((1, 4), np.float32), np.array([[0, 0, 8, 8]], np.float32))
        return jnp.where(False, (predicted - targets) ** 2, 0).sum()

    assert np.isfinite(jax.grad(loss)(jnp.zeros((1, 4)))).all()


@pytest.mark.parametrize("normalize", [True, False])
def test_distances_and_back(normalize):
    rng = np.random.default_rng(6)
    boxes, anchors = draw_boxes(rng, 20), draw_boxes(rng, 20)
    distances = jc.encode_distances(boxes, anchors, normalize_by_size=normalize)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    want = np.concatenate([centers - boxes[:, :2], boxes[:, 2:] - centers], 1)
    if normalize:
        want = want / np.tile(anchors[:, 2:] - anchors[:, :2], 2)
    assert_allclose(distances, want, rtol=1e-4, atol=1e-4)
    assert_allclose(jc.decode_distances(distances, anchors, normalize_by_size=normalize), boxes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_offsets_keep_half_precision(dtype):
    boxes, anchors = (draw_boxes(np.random.default_rng(7), 5).astype(dtype) for _ in range(2))
    for encode, decode in ((jc.encode_boxes, jc.decode_boxes), (jc.encode_distances, jc.decode_distances)):
        assert encode(boxes, anchors).dtype == dtype
        assert decode(encode(boxes, anchors), anchors).dtype == dtype


@pytest.mark.parametrize(
    ("boxes", "options", "message"),
    [
        ([[5, 0, 1, 2]], {}, r"boxes must have x1 <= x2 and y1 <= y2, got \[5.0, 0.0, 1.0, 2.0\] at index \(0,\)"),
        ([[0, 0, 1, 1], [0, 9, 1, 2]], {}, r"x1 <= x2 and y1 <= y2, got .* at index \(1,\)"),
        ([[0, 0, np.nan, 1]], {}, r"boxes must be finite, got \[0.0, 0.0, nan, 1.0\]"),
        ([[0, 0, 31, 5]], {"size": (20, 30)}, "boxes must be inside the image of height 20 and width 30, got"),
        ([[-1, 0, 3, 5]], {"size": (20, 30)}, "boxes must be inside the image"),
        ([[25, 5, 6, 6]], {"size": (20, 30), "fmt": "xywh"}, "boxes must be inside the image"),
        ([[1, 5, -6, 6]], {"fmt": "cxcywh"}, "boxes must have sides that are not negative"),
        ([[1, 5, 6, 6]], {"fmt": "yxyx"}, "fmt must be one of xyxy, xywh, cxcywh, got 'yxyx'"),
    ],
)
def test_values_that_no_box_has_are_named(boxes, options, message):
    with pytest.raises(jc.ArgumentError, match=message):
        jc.check_boxes(np.array(boxes, np.float32), **options)


def test_right_boxes_pass_the_check():
    boxes = draw_boxes(np.random.default_rng(8), 5, 50)
    assert_array_equal(jc.check_boxes(boxes, (100, 100)), boxes)
    assert jc.check_boxes(np.zeros((0, 4))).shape == (0, 4)


F = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: jc.box_area(F[:, :3]), jc.ShapeError, r"boxes must have shape \(..., 4\), got \(3, 3\)"),
        (lambda: jc.box_area(F.astype(int)), jc.DTypeError, "boxes must be a floating-point array, got int"),
        (lambda: jc.box_iou(F, F[:, :2]), jc.ShapeError, r"boxes2 must have shape \(..., 4\), got \(3, 2\)"),
        (lambda: jc.box_iou(F[0], F), jc.ShapeError, r"boxes1 must have shape \(..., N, 4\), got \(4,\)"),
        (lambda: jc.box_convert(F, "xyxy", "xyx"), jc.ArgumentError, "out_fmt must be one of xyxy, .*got 'xyx'"),
        (lambda: jc.box_convert(F, "yx", "xyxy"), jc.ArgumentError, "in_fmt must be one of xyxy, .*got 'yx'"),
        (lambda: jc.clip_boxes(F, (3,)), jc.ShapeError, r"size must be the height and width .*got \(3,\)"),
        (lambda: jc.encode_boxes(F, F, weights=(1, 1)), jc.ArgumentError, r"weights must be four positive .*\(1, 1\)"),
        (lambda: jc.decode_boxes(F, F, weights=(1, 1, 0, 1)), jc.ArgumentError, "weights must be four positive"),
        (lambda: jc.masks_to_boxes(F[0]), jc.ShapeError, r"masks must have shape \(..., height, width\), got \(4,\)"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
