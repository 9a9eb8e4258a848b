"""The loss of MoveNet's heads: least where decoding gives the targets, and blind to keypoints that do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc

STRIDE, SIZE = 4, (8, 10)
POINTS = np.array([[[5.5, 9.0], [30.0, 13.0], [21.0, 30.5]]], np.float32)


def net():
    return jc.detect.PoseNet(jc.Identity(), points=3, stride=STRIDE)


@jax.jit
def loss_of(outputs, points):
    return net().loss(outputs, {"points": points})


def perfect(points, sharpness=12.0):
    """Outputs that decode to the points, with logits of this size."""
    [at] = points / STRIDE
    person = np.floor(at.mean(0)).astype(int)
    outputs = {name: np.full((1, *SIZE, n), -sharpness, np.float32) for name, n in (("center", 1), ("heat", 3))}
    outputs |= {name: np.zeros((1, *SIZE, 6), np.float32) for name in ("regression", "offset")}
    outputs["center"][0, person[1], person[0]] = sharpness
    outputs["regression"][0, person[1], person[0]] = (at - person).reshape(-1)
    for k, (x, y) in enumerate(np.floor(at).astype(int)):
        outputs["heat"][0, y, x, k] = sharpness
        outputs["offset"][0, y, x, 2 * k : 2 * k + 2] = at[k] - [x, y]
    return jax.tree.map(jnp.asarray, outputs)


def test_targets_that_are_decoded_have_the_least_loss():
    outputs = perfect(POINTS)
    points, scores = net().decode(outputs)
    np.testing.assert_allclose(points, POINTS, atol=1e-5)
    assert (scores > 0.99).all()
    loss, parts = loss_of(outputs, POINTS)
    assert set(parts) == {"center", "heat", "regression", "offset"}
    assert float(loss) < 1e-3
    for name in parts:
        worse = outputs | {name: outputs[name] + 14.0}
        assert loss_of(worse, POINTS)[1][name] > parts[name] + 1e-4, name


def test_keypoints_that_are_missing_or_outside_do_not_count():
    random = np.random.default_rng(0)
    outputs = {name: random.normal(size=(1, *SIZE, n)).astype(np.float32) for name, n in (("center", 1), ("heat", 3))}
    outputs |= {name: random.normal(size=(1, *SIZE, 6)).astype(np.float32) for name in ("regression", "offset")}
    missing, outside = POINTS.copy(), POINTS.copy()
    missing[0, 1], outside[0, 1] = np.nan, (41.0, 5.0)
    loss = jax.jit(jax.value_and_grad(lambda outputs, points: loss_of(outputs, points)[0]))
    (value, gradient), (other, _) = loss(outputs, missing), loss(outputs, outside)
    assert value == other
    assert np.isfinite(value)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient))
    [none] = {float(loss(outputs, np.full_like(POINTS, np.nan))[0])}
    assert np.isfinite(none)


def test_targets_of_another_shape_are_refused():
    with pytest.raises(jc.ArgumentError, match=r"targets must be a dict of points \(1, 3, 2\), got points of shape"):
        net().loss(perfect(POINTS), {"points": POINTS[:, :2]})
    with pytest.raises(jc.ArgumentError, match=r"targets must be a dict of points .*, got ndarray"):
        net().loss(perfect(POINTS), POINTS)
