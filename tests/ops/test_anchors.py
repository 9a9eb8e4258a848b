"""Anchors, and which object each is matched to, against loops."""

import itertools
import math

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from tests.ops import box_oracles as oracles
from tests.ops.box_oracles import draw_boxes


def test_anchors_of_a_grid():
    got = jc.anchor_grid((2, 3), (8, 16), sizes=(16, 24), aspect_ratios=(0.5, 1.0))
    want = []
    for row, column in itertools.product(range(2), range(3)):
        for ratio, size in itertools.product((0.5, 1.0), (16, 24)):
            half_height, half_width = size * math.sqrt(ratio) / 2, size / math.sqrt(ratio) / 2
            x, y = 16 * column, 8 * row
            want.append([x - round(half_width), y - round(half_height), x + round(half_width), y + round(half_height)])
    assert_array_equal(got, want)


def test_default_boxes():
    got = jc.default_boxes([(2, 3), (1, 1)], (40, 60), [(2,), (2, 3)], min_ratio=0.2, max_ratio=0.9)
    scales, want = [0.2, 0.9, 1.0], []
    for k, (rows, columns) in enumerate([(2, 3), (1, 1)]):
        sides = [(scales[k],) * 2, (math.sqrt(scales[k] * scales[k + 1]),) * 2]
        for ratio in ((2,), (2, 3))[k]:
            wide, high = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
            sides += [(wide, high), (high, wide)]
        for row, column in itertools.product(range(rows), range(columns)):
            x, y = (column + 0.5) / columns, (row + 0.5) / rows
            for w, h in np.clip(sides, 0, 1):
                want.append([(x - w / 2) * 60, (y - h / 2) * 40, (x + w / 2) * 60, (y + h / 2) * 40])
    assert_allclose(got, want, rtol=1e-5, atol=1e-4)
    stepped = jc.default_boxes([(2, 3)], (40, 60), [()], scales=(0.1, 0.1), steps=[10])
    centers = np.array(list(itertools.product((0, 1), (0, 1, 2)))).repeat(2, 0)[:, ::-1] * 10 + 5
    assert_allclose((stepped[:, :2] + stepped[:, 2:]) / 2, centers, rtol=1e-5)


def test_a_program_with_many_anchors_holds_none_of_them():
    grid = jax.jit(lambda: jc.anchor_grid((200, 300), 4, sizes=32)).lower()
    assert len(grid.as_text()) < 20_000


OPTIONS = [
    {"high": 0.5, "low": 0.4},
    {"high": 0.5, "low": 0.5},
    {"high": 0.7, "low": 0.3, "allow_low_quality": True},
    {"high": 0.5, "low": 0.5, "force_best": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_matches_by_overlap(options):
    rng = np.random.default_rng(0)
    boxes, anchors = draw_boxes(rng, 6), draw_boxes(rng, 80)
    anchors[:6] = boxes + rng.normal(size=boxes.shape).astype(np.float32)
    anchors[10] = anchors[11] = boxes[3]  # ties
    boxes[5] = boxes[4]
    want = oracles.match(oracles.ious(boxes, anchors), **options)
    got = jax.jit(lambda b, a: jc.match_boxes(b, a, **options))(boxes, anchors)
    assert got.dtype == np.int32
    assert_array_equal(got, want)
    assert {-1, 3} <= set(want)
    # Boxes that pad to a number change nothing.
    padded = np.concatenate([boxes, np.zeros((3, 4), np.float32), boxes[:1]])
    valid = np.arange(10) < 6
    assert_array_equal(jc.match_boxes(padded, anchors, valid=valid, **options), want)
    batch = jax.vmap(lambda b, v: jc.match_boxes(b, anchors, valid=v, **options))(padded[None], valid[None])
    assert_array_equal(batch[0], want)


@pytest.mark.parametrize("options", [*OPTIONS, {"high": 0.0, "low": 0.0, "allow_low_quality": True}], ids=str)
def test_without_objects_all_is_background(options):
    anchors = draw_boxes(np.random.default_rng(1), 5)
    for boxes, valid in ((np.zeros((0, 4), np.float32), None), (anchors[:2], np.zeros(2, bool))):
        assert_array_equal(jc.match_boxes(boxes, anchors, valid=valid, **options), [-1] * 5)
    assert jc.match_boxes(anchors, np.zeros((0, 4), np.float32), **options).shape == (0,)


def test_a_box_that_overlaps_no_anchor_matches_none():
    anchors = draw_boxes(np.random.default_rng(2), 5)
    far = np.array([[500, 500, 510, 510]], np.float32)
    assert_array_equal(jc.match_boxes(far, anchors, high=0.5, low=0.4, allow_low_quality=True), [-1] * 5)


SIZES = [8 * 8, 4 * 4, 2 * 2]


def pyramid():
    levels = [jc.anchor_grid(n, 64 // n, sizes=64 // n, aspect_ratios=1) for n in (8, 4, 2)]
    return np.concatenate([np.asarray(a) for a in levels])


def test_matches_by_adaptive_selection():
    rng = np.random.default_rng(3)
    boxes = draw_boxes(rng, 7, 60, least=8) + rng.normal(size=(7, 1)).astype(np.float32)
    want = oracles.match_atss(boxes, pyramid(), SIZES, 9)
    got = jax.jit(lambda b, a: jc.match_atss(b, a, SIZES))(boxes, pyramid())
    assert_array_equal(got, want)
    assert len(set(want)) > 4
    valid = np.arange(7) < 4
    assert_array_equal(
        jc.match_atss(boxes, pyramid(), SIZES, valid=valid), oracles.match_atss(boxes[:4], pyramid(), SIZES, 9)
    )
    assert_array_equal(jc.match_atss(boxes[:0], pyramid(), SIZES), [-1] * 84)


def test_matches_by_center_sampling():
    rng = np.random.default_rng(4)
    boxes = draw_boxes(rng, 9, 60, least=8)
    boxes[6:] = [[0, 0, 60, 62], [-40, -50, 110, 100], [-90, -80, 150, 160]]
    want = oracles.match_centers(boxes, pyramid(), SIZES, 1.5)
    got = jax.jit(lambda b, a: jc.match_centers(b, a, SIZES))(boxes, pyramid())
    assert_array_equal(got, want)
    assert len(set(want)) > 4
    valid = np.arange(9) < 5
    assert_array_equal(
        jc.match_centers(boxes, pyramid(), SIZES, valid=valid), oracles.match_centers(boxes[:5], pyramid(), SIZES, 1.5)
    )
    assert_array_equal(jc.match_centers(boxes[:0], pyramid(), SIZES), [-1] * 84)


B = np.ones((3, 4), np.float32)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: jc.anchor_grid((2, 0), 8, sizes=1), jc.ArgumentError, "grid_size must be at least 1, got 0"),
        (lambda: jc.anchor_grid((2, 2), 8, sizes=()), jc.ArgumentError, r"sizes must be positive numbers, got \(\)"),
        (lambda: jc.anchor_grid(2, 8, sizes=1, aspect_ratios=-1), jc.ArgumentError, "aspect_ratios must be positive"),
        (lambda: jc.default_boxes([(1, 1)], (8, 8), []), jc.ArgumentError, "aspect_ratios and steps must have one"),
        (lambda: jc.default_boxes([(1, 1)], (8, 8), [()], scales=(1,)), jc.ArgumentError, "scales must be 2 numbers"),
        (lambda: jc.match_boxes(B, B, high=2, low=0), jc.ArgumentError, "high must be a number from 0 to 1, got 2"),
        (lambda: jc.match_boxes(B, B, high=0.3, low=0.5), jc.ArgumentError, "low must not be greater than high"),
        (lambda: jc.match_boxes(B[None], B, high=1, low=0), jc.ShapeError, r"boxes must have shape \(N, 4\), got"),
        (
            lambda: jc.match_boxes(B, B, high=1, low=0, valid=np.ones(2, bool)),
            jc.ShapeError,
            r"valid must have shape \(3,\), one for each of the boxes, got \(2,\)",
        ),
        (lambda: jc.match_boxes(B, B, high=1, low=0, valid=np.ones(3)), jc.DTypeError, "valid must be bool, got float"),
        (lambda: jc.match_atss(B, B, [2]), jc.ShapeError, r"level_sizes must sum to the number of anchors, 3, got"),
        (lambda: jc.match_centers(B, B, [2, 2]), jc.ShapeError, r"level_sizes must sum to .*got \(2, 2\)"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
