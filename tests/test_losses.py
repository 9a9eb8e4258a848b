"""Losses against loops in float64, and live torch and torchvision."""

import importlib.util
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv import losses
from tests.ops import box_oracles as oracles
from tests.ops.box_oracles import draw_boxes

BOX_LOSSES = {
    "generalized": losses.generalized_box_iou_loss,
    "distance": losses.distance_box_iou_loss,
    "complete": losses.complete_box_iou_loss,
}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_losses_of_boxes_are_one_less_their_iou(kind):
    one, other = draw_boxes(RNG, 30), draw_boxes(RNG, 30)
    want = [1 - oracles.iou(np.float64(a), np.float64(b), kind) for a, b in zip(one, other, strict=True)]
    assert_allclose(jax.jit(BOX_LOSSES[kind])(one, other), want, rtol=1e-5, atol=1e-6)
    assert_allclose(jax.vmap(BOX_LOSSES[kind])(one[None], other[None])[0], want, rtol=1e-5, atol=1e-6)
    assert BOX_LOSSES[kind](one[:0], other[:0]).shape == (0,)
    half = BOX_LOSSES[kind](one.astype(jnp.bfloat16), other.astype(jnp.bfloat16))
    assert half.dtype == np.float32


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_losses_of_boxes_have_derivatives_of_both_orders(kind):
    with jax.enable_x64(True):
        one, other = draw_boxes(RNG, 6, dtype=np.float64), draw_boxes(RNG, 6, dtype=np.float64)
        loss = BOX_LOSSES["distance" if kind == "complete" else kind]  # whose weight is a constant in the gradient
        direction, step = RNG.normal(size=one.shape), 1e-6

        @jax.jit
        def slopes(a):
            def slope(a):
                return jax.jvp(lambda a: loss(a, other).sum(), (a,), (direction,))[1]

            return loss(a, other).sum(), *jax.value_and_grad(slope)(a)

        value, slope, gradient = slopes(one)
        ends = [slopes(one + s * direction) for s in (step, -step)]
        assert_allclose(slope, (ends[0][0] - ends[1][0]) / (2 * step), rtol=1e-5)
        assert value > 0
        assert_allclose((gradient * direction).sum(), (ends[0][1] - ends[1][1]) / (2 * step), rtol=1e-5)
    odd = np.array([[0, 0, 0, 0], [3, 3, 3, 3], [0, 0, 4, 4], [5, 5, 9, 9]], np.float32)
    hessian = jax.jit(jax.hessian(lambda a: BOX_LOSSES[kind](a, odd[::-1]).sum()))(odd)
    assert np.isfinite(hessian).all()


def test_focal_loss():
    x, t = RNG.normal(size=(5, 3)).astype(np.float32) * 4, (RNG.uniform(size=(5, 3)) > 0.5).astype(np.float32)
    for alpha, gamma in ((0.25, 2.0), (None, 0.0), (0.9, 1.5)):
        p = 1 / (1 + np.exp(-np.float64(x)))
        p = np.where(t > 0, p, 1 - p)
        weight = 1 if alpha is None else np.where(t > 0, alpha, 1 - alpha)
        want = -weight * (1 - p) ** gamma * np.log(p)
        assert_allclose(losses.sigmoid_focal_loss(x, t, alpha=alpha, gamma=gamma), want, rtol=1e-5)
    # Far from the decision nothing is lost, in neither direction.
    far = np.array([100.0, -100.0], np.float32)
    assert_allclose(losses.sigmoid_focal_loss(far, np.array([0, 1], np.float32), alpha=None), 100)
    assert np.isfinite(jax.jit(jax.hessian(lambda x: losses.sigmoid_focal_loss(x, t).sum()))(x)).all()


def test_dice_tversky_and_lovasz():
    p, t = RNG.uniform(size=(2, 4, 5, 3)), (RNG.uniform(size=(2, 4, 5, 3)) > 0.6).astype(float)
    t[0, ..., 1] = 0
    both, false, missed = (p * t).sum((1, 2)), (p * (1 - t)).sum((1, 2)), ((1 - p) * t).sum((1, 2))
    p32, t32 = p.astype(np.float32), t.astype(np.float32)
    for smooth in (0.0, 1.0):
        want = 1 - (2 * both + smooth) / (p.sum((1, 2)) + t.sum((1, 2)) + smooth)
        assert_allclose(losses.dice_loss(p32, t32, smooth=smooth), want, rtol=1e-5)
        want = 1 - (both + smooth) / (both + 0.3 * false + 0.7 * missed + smooth)
        got = jax.jit(lambda p, t, s=smooth: losses.tversky_loss(p, t, alpha=0.3, beta=0.7, smooth=s))(p32, t32)
        assert_allclose(got, want, rtol=1e-5)
    empty = jnp.zeros((1, 4, 3, 1))
    for smooth in (0.0, 1.0):
        assert losses.dice_loss(empty, empty, smooth=smooth) == 0
        assert np.isfinite(jax.grad(lambda p, s=smooth: losses.dice_loss(p, empty, smooth=s).sum())(empty)).all()


def lovasz(errors, truth):
    """The definition: the mean, over a threshold, of the Jaccard loss of what is at least as wrong."""
    total, levels = 0.0, np.sort(np.concatenate([[0], errors]))
    for low, high in itertools.pairwise(levels):
        wrong = errors > low
        right = (truth > 0) & ~wrong
        either = (truth > 0) | wrong
        total += (high - low) * (1 - right.sum() / either.sum() if either.any() else 0)
    return total


def test_lovasz_is_the_jaccard_loss_of_masks_and_its_closure_between():
    p, t = RNG.uniform(size=(2, 3, 4, 2)).astype(np.float32), (RNG.uniform(size=(2, 3, 4, 2)) > 0.5).astype(np.float32)
    t[1, ..., 1] = 0
    got = jax.jit(losses.lovasz_loss)(p, t)
    for n, c in itertools.product(range(2), range(2)):
        want = lovasz(np.abs(np.float64(t - p))[n, ..., c].ravel(), t[n, ..., c].ravel())
        assert_allclose(got[n, c], want, rtol=1e-5)
    hard = (p > 0.5).astype(np.float32)
    union = np.maximum(hard, t).sum((1, 2))
    assert_allclose(losses.lovasz_loss(hard, t), 1 - (hard * t).sum((1, 2)) / union, rtol=1e-6, atol=1e-6)
    assert np.isfinite(jax.grad(lambda p: losses.lovasz_loss(p, t).sum())(p)).all()


def test_the_hardest_triplets_of_a_batch():
    x, y = RNG.normal(size=(9, 4)).astype(np.float32), np.array([0, 0, 0, 1, 1, 2, 2, 2, 3])
    distance = np.linalg.norm(np.float64(x)[:, None] - x[None], axis=-1)
    want = []
    for i in range(9):
        same = [distance[i, j] for j in range(9) if j != i and y[j] == y[i]]
        others = [distance[i, j] for j in range(9) if y[j] != y[i]]
        want.append(max(0, max(same) - min(others) + 0.5) if same else 0)
    assert_allclose(jax.jit(lambda x: losses.triplet_loss(x, y, margin=0.5))(x), want, rtol=1e-5)
    assert_array_equal(losses.triplet_loss(x, np.zeros(9, int)), 0)
    assert losses.triplet_loss(x[:0], y[:0]).shape == (0,)
    # Two that are equal: the distance has no gradient there.
    x[1] = x[0]
    assert np.isfinite(jax.jit(jax.grad(lambda x: losses.triplet_loss(x, y).sum()))(x)).all()


def test_contrastive_loss_of_pairs():
    a, b, same = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3)) / 3, np.array([1, 0, 1, 0, 0, 1])
    distance = np.linalg.norm(a - b, axis=1)
    want = np.where(same, distance**2, np.maximum(2 - distance, 0) ** 2) / 2
    a, b = a.astype(np.float32), b.astype(np.float32)
    assert_allclose(losses.contrastive_loss(a, b, same, margin=2.0), want, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda a: losses.contrastive_loss(a, a, same).sum()))(a)
    assert np.isfinite(gradient).all()


def test_arcface_adds_a_margin_to_the_angle():
    x, w, y = RNG.normal(size=(8, 5)), RNG.normal(size=(5, 4)), RNG.integers(0, 4, 8)
    x[0] = -3 * w[:, y[0]]  # opposite: angle and margin exceed pi
    cosines = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=0))
    want = []
    for n in range(8):
        own = cosines[n, y[n]]
        angle = math.acos(np.clip(own, -1, 1))
        moved = math.cos(angle + 0.5) if angle + 0.5 < math.pi else own - 0.5 * math.sin(0.5)
        logits = 10 * cosines[n]
        logits[y[n]] = 10 * moved
        want.append(np.log(np.exp(logits).sum()) - logits[y[n]])
    f = jax.jit(lambda x, w: losses.arcface_loss(x, w, y, margin=0.5, scale=10.0))
    assert_allclose(f(x.astype(np.float32), w.astype(np.float32)), want, rtol=1e-4)
    plain = jax.jit(lambda x, w: losses.arcface_loss(x, w, y, margin=0.0, scale=10.0))(
        x.astype(np.float32), w.astype(np.float32)
    )
    entropy = np.log(np.exp(10 * cosines).sum(1)) - 10 * cosines[np.arange(8), y]
    assert_allclose(plain, entropy, rtol=1e-3, atol=1e-4)
    aligned = w[:, y].T.astype(np.float32)
    gradients = jax.jit(jax.grad(lambda *a: losses.arcface_loss(*a, y).sum(), (0, 1)))(aligned, w.astype(np.float32))
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_doubly_stochastic_loss_is_its_formula_and_does_not_see_masked_words():
    attention = RNG.dirichlet(np.ones(12), (3, 5)).reshape(3, 5, 3, 4)
    mask = np.arange(5) < np.array([[5], [2], [0]])
    want = [np.mean((1 - attention[i, : mask[i].sum()].sum(0)) ** 2) for i in range(3)]
    assert_allclose(losses.doubly_stochastic_loss(attention, mask), want, rtol=1e-6)
    assert_allclose(losses.doubly_stochastic_loss(attention.reshape(3, 5, 12), mask * 1), want, rtol=1e-6)
    broken = np.where(mask[..., None, None], attention, np.nan)
    gradient = jax.grad(lambda a: losses.doubly_stochastic_loss(a, mask).sum())(broken.astype(np.float32))
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~mask] == 0).all()


B, P, E, L = np.ones((3, 4)), np.ones((1, 4, 4, 2)), np.ones((3, 5)), np.zeros(3, int)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: losses.generalized_box_iou_loss(B, B[:2]), jc.ShapeError, r"boxes2 must have the shape of boxes1"),
        (lambda: losses.complete_box_iou_loss(B[:, :3], B), jc.ShapeError, r"boxes1 must have shape \(..., 4\), got"),
        (lambda: losses.sigmoid_focal_loss(B, B[0]), jc.ShapeError, r"targets must have the shape of logits, \(3, 4\)"),
        (lambda: losses.sigmoid_focal_loss(B, B, alpha=2), jc.ArgumentError, "alpha must be a number from 0 to 1 or"),
        (lambda: losses.sigmoid_focal_loss(B, B, gamma=-1), jc.ArgumentError, "gamma must not be negative, got -1"),
        # A mask of another size than the image.
        (lambda: losses.dice_loss(P, P[:, :3]), jc.ShapeError, r"targets must have the shape of probabilities, \(1, 4"),
        (lambda: losses.lovasz_loss(P, P[:, :3]), jc.ShapeError, "targets must have the shape of probabilities"),
        (
            lambda: losses.dice_loss(B, B),
            jc.ShapeError,
            r"probabilities must have shape \(N, \*spatial, classes\), got",
        ),
        (lambda: losses.triplet_loss(E, L[:2]), jc.ShapeError, r"labels must have shape \(3,\), .*got \(2,\)"),
        (lambda: losses.triplet_loss(E, E[:, 0]), jc.DTypeError, "labels must be integers, got float"),
        (
            lambda: losses.triplet_loss(E[0], L),
            jc.ShapeError,
            r"embeddings must have shape \(N, features\), got \(5,\)",
        ),
        (lambda: losses.contrastive_loss(E, E, L[:2]), jc.ShapeError, r"same must have shape \(N,\) for .*got \(2,\)"),
        (lambda: losses.arcface_loss(E, np.ones((4, 2)), L), jc.ShapeError, r"kernel must have shape \(5, classes\)"),
        (lambda: losses.arcface_loss(E, E.T, L, margin=4), jc.ArgumentError, "margin must be a number from 0 to pi"),
        (lambda: losses.doubly_stochastic_loss(P, L), jc.ShapeError, r"mask must have shape \(N, T\) for .*got \(3,\)"),
        (lambda: losses.arcface_loss(E, E.T, L, scale=0), jc.ArgumentError, "scale must be positive, got 0"),
    ],
)
def test_bad_input_is_one_clear_error(wrong, error, message):
    with pytest.raises(error, match=message):
        wrong()


@pytest.mark.torch
def test_losses_and_gradients_are_those_of_torchvision():
    torch = pytest.importorskip("torch")
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is not installed")
    from tests.record_torchvision import torchvision

    ops = torchvision().ops
    one, other = draw_boxes(RNG, 40), draw_boxes(RNG, 40)
    cases = {f"{kind}_box_iou_loss": (BOX_LOSSES[kind], one, other) for kind in BOX_LOSSES}
    logits, targets = RNG.normal(size=(40, 3)).astype(np.float32), RNG.integers(0, 2, (40, 3)).astype(np.float32)
    cases["sigmoid_focal_loss"] = (losses.sigmoid_focal_loss, logits, targets)
    for name, (ours, a, b) in cases.items():
        x = torch.tensor(a, requires_grad=True)
        want = getattr(ops, name)(x, torch.tensor(b))
        want.sum().backward()
        assert_allclose(ours(a, b), want.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
        gradient = jax.grad(lambda a, b=b, ours=ours: ours(a, b).sum())(a)
        assert_allclose(gradient, x.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


def stardist_in_numpy(logits, distances, probabilities, targets, weight, background):
    """`prob_loss` and `masked_loss_mae` of stardist/models/base.py, in float64."""
    known = probabilities >= 0
    p = 1 / (1 + np.exp(-logits[known]))
    entropy = -(probabilities[known] * np.log(p) + (1 - probabilities[known]) * np.log(1 - p)).mean()
    mask = np.maximum(probabilities, 0)
    actual = (mask * np.abs(targets - distances)).mean(-1)
    regular = ((1 - mask) * np.abs(distances)).mean(-1)
    return entropy + weight * (actual / (mask.mean() + 1e-7) + background * regular).mean()


def test_stardists_loss_is_that_of_stardist():
    rng = np.random.default_rng(5)
    logits, distances = rng.normal(size=(3, 6, 7, 1)), rng.uniform(-1, 5, (3, 6, 7, 8))
    probabilities = np.where(rng.random((3, 6, 7, 1)) < 0.4, rng.random((3, 6, 7, 1)), 0.0)
    probabilities[1] = 0  # an image without objects
    targets = rng.uniform(0, 5, (3, 6, 7, 8))
    for ignored in (False, True):
        if ignored:
            probabilities[2, :3] = -1
        got = jax.jit(losses.stardist_loss)(*(np.float32(a) for a in (logits, distances, probabilities, targets)))
        assert got.shape == (3,)
        want = stardist_in_numpy(logits, distances, probabilities, targets, 0.2, 1e-4)
        assert_allclose(got.mean(), want, rtol=1e-5)
    other = losses.stardist_loss(logits, distances, probabilities, targets, weight=2.0, background=0.5)
    assert_allclose(other.mean(), stardist_in_numpy(logits, distances, probabilities, targets, 2.0, 0.5), rtol=1e-5)
    none = jax.grad(lambda d: losses.stardist_loss(logits, d, np.full_like(logits, -1.0), targets).sum())(distances)
    assert np.isfinite(none).all()
    half = losses.stardist_loss(*(jnp.asarray(a, jnp.bfloat16) for a in (logits, distances, probabilities, targets)))
    assert half.dtype == np.float32


def test_stardists_loss_refuses_shapes_that_do_not_fit():
    x, d = np.ones((2, 4, 4, 1)), np.ones((2, 4, 4, 8))
    with pytest.raises(jc.ShapeError, match=r"logits must have shape \(N, \*spatial, 1\) and distances"):
        losses.stardist_loss(d, x, d, x)
    with pytest.raises(jc.ShapeError, match=r"probabilities must have the shape of logits, \(2, 4, 4, 1\), got"):
        losses.stardist_loss(x, d, d, d)
    with pytest.raises(jc.ShapeError, match=r"target_distances must have the shape of distances"):
        losses.stardist_loss(x, d, x, x)
