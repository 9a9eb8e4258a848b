"""Non-maximum suppression against a loop in float64: ties, empty boxes, NaN, no boxes, many boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.ops.nms import _at_most
from tests.ops import box_oracles as oracles
from tests.ops.box_oracles import draw_boxes


def kept(result):
    """The indices that count, after a look at those that do not."""
    indices, valid = map(np.asarray, result)
    assert indices.dtype == np.int32
    assert (np.diff(valid.astype(int)) <= 0).all(), "those that count come first"
    assert (indices[~valid] == -1).all()
    return indices[valid].tolist()


def cases():
    rng = np.random.default_rng(0)
    boxes, scores = draw_boxes(rng, 60), rng.uniform(size=60).astype(np.float32)
    yield "drawn", boxes, scores
    yield "ties", np.concatenate([boxes[:20]] * 3), np.tile(scores[:5], 12)
    yield "all equal", np.tile(boxes[:1], (7, 1)), np.full(7, 0.5, np.float32)
    empty = boxes.copy()
    empty[::3, 2:] = empty[::3, :2]
    yield "empty boxes", empty, scores
    flipped = boxes.copy()
    flipped[::4] = flipped[::4][:, [2, 3, 0, 1]]
    yield "wrong order", flipped, scores
    lost = scores.copy()
    lost[[3, 17, 40]] = np.nan
    yield "NaN scores", boxes, lost
    yield "infinite scores", boxes, np.where(scores > 0.9, np.inf, np.where(scores < 0.2, -np.inf, scores))
    yield "outside", boxes - 200, scores
    yield "one", boxes[:1], scores[:1]
    yield "none", boxes[:0], scores[:0]
    whole = np.array([[0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 4, 2], [1, 0, 3, 2]], np.float32)
    yield "IoU at the threshold", whole, np.array([0.4, 0.3, 0.2, 0.1], np.float32)


CASES = list(cases())


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("boxes", "scores"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_kept(boxes, scores, threshold):
    want = oracles.nms(boxes, scores, threshold)
    assert kept(jc.nms(boxes, scores, threshold, max(len(boxes), 1))) == want
    assert kept(jc.nms(boxes, scores, threshold, 3)) == want[:3]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_a_threshold_that_float32_rounds_is_compared_as_given(threshold):
    """0.3 is greater in float32 than in float64: an IoU of this number is greater than 0.3, as in torch."""
    rounded = np.float32(threshold)
    limit = np.float32(_at_most(threshold, np.dtype(np.float32)))
    assert (rounded > limit) == (float(rounded) > threshold)
    assert float(limit) <= threshold < float(np.nextafter(limit, np.float32(2)))


def test_only_labels_that_are_equal_suppress_each_other():
    rng = np.random.default_rng(1)
    boxes, scores = draw_boxes(rng, 50, 40), rng.uniform(size=50).astype(np.float32)
    labels = rng.integers(-1, 3, 50)
    want = oracles.nms(boxes, scores, 0.3, labels)
    assert want != oracles.nms(boxes, scores, 0.3)
    assert kept(jc.batched_nms(boxes, scores, labels, 0.3, 50)) == want
    assert kept(jc.batched_nms(boxes, scores, np.zeros(50, np.uint8), 0.3, 50)) == oracles.nms(boxes, scores, 0.3)


def test_scores_at_the_threshold_and_boxes_that_do_not_count_are_left_out():
    boxes = np.arange(5, dtype=np.float32)[:, None] * 10 + np.array([0, 0, 5, 5], np.float32)
    scores = np.array([0.5, 0.9, np.nan, 0.6, 0.7], np.float32)
    assert kept(jc.nms(boxes, scores, 0.5, 5, score_threshold=0.5)) == [1, 4, 3]
    valid = np.array([True, False, True, True, False])
    assert kept(jc.nms(boxes, scores, 0.5, 5, valid=valid)) == [2, 3, 0]
    assert kept(jc.nms(boxes, scores, 0.5, 5, valid=np.zeros(5, bool))) == []


def test_under_jit_vmap_and_grad():
    rng = np.random.default_rng(2)
    boxes = np.stack([draw_boxes(rng, 30) for _ in range(3)])
    scores = rng.uniform(size=(3, 30)).astype(np.float32)
    indices, valid = jax.jit(jax.vmap(lambda b, s: jc.nms(b, s, 0.4, 12)))(boxes, scores)
    for i in range(3):
        assert kept((indices[i], valid[i])) == oracles.nms(boxes[i], scores[i], 0.4)[:12]

    def total(boxes, scores):
        indices, valid = jc.nms(boxes, scores, 0.4, 12)
        return jnp.where(valid, scores[indices] * jc.box_area(boxes)[indices], 0).sum()

    over_boxes, over_scores = jax.jit(jax.grad(total, (0, 1)))(boxes[0], scores[0])
    chosen = oracles.nms(boxes[0], scores[0], 0.4)[:12]
    assert set(np.flatnonzero(over_scores)) == set(chosen)
    assert set(np.flatnonzero(np.abs(over_boxes).sum(1))) == set(chosen)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, np.float64])
def test_other_types(dtype):
    rng = np.random.default_rng(3)
    with jax.enable_x64(dtype == np.float64):
        boxes = draw_boxes(rng, 40).astype(dtype)
        scores = rng.uniform(size=40).astype(dtype)
        want = oracles.nms(np.asarray(boxes, np.float64), np.asarray(scores, np.float64), 0.5)
        assert kept(jc.nms(boxes, scores, 0.5, 40)) == want


def test_ten_thousand_boxes_take_memory_of_their_number():
    rng = np.random.default_rng(4)
    boxes, scores = draw_boxes(rng, 10_000, 300), rng.uniform(size=10_000).astype(np.float32)
    assert kept(jc.nms(boxes, scores, 0.5, 200)) == oracles.nms(boxes, scores, 0.5)[:200]
    compiled = jax.jit(lambda b, s: jc.nms(b, s, 0.5, 10_000)).lower(boxes, scores).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * 10_000
    assert kept(compiled(boxes, scores)) == oracles.nms(boxes, scores, 0.5)


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_suppression(method):
    rng = np.random.default_rng(5)
    boxes, scores = draw_boxes(rng, 25, 40), rng.uniform(size=25).astype(np.float32)
    scores[4] = np.nan
    boxes[7] = boxes[8]
    indices, lowered, valid = jax.jit(lambda b, s: jc.soft_nms(b, s, 30, method=method, score_threshold=0.05))(
        boxes, scores
    )
    want = oracles.soft_nms(boxes, scores, 30, method, least=0.05)
    assert kept((indices, valid)) == [i for i, _ in want]
    assert_allclose(lowered[valid], [s for _, s in want], rtol=1e-5)
    assert_array_equal(lowered[~valid], 0)


def test_soft_scores_have_gradients():
    rng = np.random.default_rng(6)
    with jax.enable_x64(True):
        boxes, scores = draw_boxes(rng, 8, 30, dtype=np.float64), rng.uniform(0.1, 1, 8)
        for method in ("gaussian", "linear"):

            @jax.jit
            def total(boxes, scores, method=method):
                return (jnp.arange(1, 9) * jc.soft_nms(boxes, scores, 8, method=method)[1]).sum()

            gradients = jax.jit(jax.grad(total, (0, 1)))(boxes, scores)
            moves = rng.normal(size=boxes.shape), rng.normal(size=8)
            step = 1e-7
            ends = [total(boxes + s * moves[0], scores + s * moves[1]) for s in (step, -step)]
            slope = (ends[0] - ends[1]) / (2 * step)
            assert_allclose(sum((g * m).sum() for g, m in zip(gradients, moves, strict=True)), slope, rtol=1e-4)


def test_soft_suppression_of_nothing():
    indices, scores, valid = jc.soft_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 2)
    assert (indices.tolist(), scores.tolist(), valid.tolist()) == ([-1, -1], [0, 0], [False, False])


B, S = np.ones((3, 4), np.float32), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: jc.nms(B[:, :3], S, 0.5, 1), jc.ShapeError, r"boxes must have shape \(..., 4\), got \(3, 3\)"),
        (lambda: jc.nms(B[None], S, 0.5, 1), jc.ShapeError, r"boxes must have shape \(N, 4\), got \(1, 3, 4\)"),
        (lambda: jc.nms(B, S[:2], 0.5, 1), jc.ShapeError, r"scores must have shape \(3,\), .*got \(2,\)"),
        (lambda: jc.nms(B, S.astype(int), 0.5, 1), jc.DTypeError, "scores must be a floating-point array, got int"),
        (lambda: jc.nms(B, S, 1.5, 1), jc.ArgumentError, "iou_threshold must be a number from 0 to 1, got 1.5"),
        (lambda: jc.nms(B, S, float("nan"), 1), jc.ArgumentError, "iou_threshold must be .*got nan"),
        (lambda: jc.nms(B, S, -0.1, 1), jc.ArgumentError, "iou_threshold must be .*got -0.1"),
        (lambda: jc.nms(B, S, 0.5, 0), jc.ArgumentError, "max_outputs must be at least 1, got 0"),
        (lambda: jc.nms(B, S, 0.5, 1.5), jc.ArgumentError, "max_outputs must be an integer, got 1.5"),
        (lambda: jc.nms(B, S, 0.5, 1, valid=S), jc.DTypeError, "valid must be bool, got float32"),
        (lambda: jc.nms(B, S, 0.5, 1, valid=S[:1] > 0), jc.ShapeError, r"valid must have shape \(3,\), .*got \(1,\)"),
        (lambda: jc.batched_nms(B, S, S, 0.5, 1), jc.DTypeError, "labels must be integers, got float32"),
        (lambda: jc.batched_nms(B, S, np.ones(2, int), 0.5, 1), jc.ShapeError, r"labels must have shape \(3,\)"),
        (lambda: jc.soft_nms(B, S, 1, method="hard"), jc.ArgumentError, "method must be one of gaussian, linear, got"),
        (lambda: jc.soft_nms(B, S, 1, sigma=0), jc.ArgumentError, "sigma must be positive, got 0"),
        (lambda: jc.soft_nms(B, S, 0), jc.ArgumentError, "max_outputs must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()
