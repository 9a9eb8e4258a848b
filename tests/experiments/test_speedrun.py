"""The speedrun's parts against NumPy, and a run of a few images."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from experiments import speedrun

GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def stripes():
    """96 images of stripes along rows or columns, which are learned in a few steps."""
    labels = np.arange(96, dtype=np.int32) % 2
    images = GENERATOR.integers(0, 60, (96, 12, 12, 1)).astype(np.uint8)
    images[labels == 0, ::2] += 190
    images[labels == 1, :, ::2] += 190
    return jc.data.Dataset("stripes", images, labels, images[:48], labels[:48], ("rows", "columns"))


RECIPE = speedrun.Recipe(None, 0.9, epochs=4, widths=(4, 6), whiten=2, shift=1, batch=16)


def test_a_run_learns_and_says_what_it_found(stripes, tmp_path, monkeypatch):
    monkeypatch.setitem(speedrun.RECIPES, "fashion_mnist", RECIPE._replace(load=lambda folder: stripes))
    result = speedrun.main(["--runs", "2", "--out", str(tmp_path / "a.json"), "--note", "shared"])
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads(json.dumps(result))
    assert result["mean_accuracy"] > 0.9
    assert [found["seed"] for found in result["runs"]] == [0, 1]
    assert result["runs"][0]["last_loss"] != result["runs"][1]["last_loss"]
    assert result["runs"][0]["train_and_test_seconds"] > 0
    assert result["note"] == "shared"


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_have_a_covariance_of_one(channels):
    images = GENERATOR.normal(size=(40, 12, 12, channels)).cumsum(1).cumsum(2).astype(np.float32)
    kernel = speedrun.whitening(images, 3, eps=0.0)
    patches = 9 * channels
    assert kernel.shape == (3, 3, channels, 2 * patches)
    found = np.asarray(jc.conv(images - images.mean(), kernel, padding="VALID"), np.float64).reshape(-1, 2 * patches)
    np.testing.assert_allclose(np.cov(found[:, :patches], rowvar=False), np.eye(patches), atol=0.05)
    np.testing.assert_allclose(found[:, patches:], -found[:, :patches], atol=1e-4)


def test_whitening_stays_and_the_rest_moves():
    net = speedrun.network(RECIPE, 1, 2)
    params, _ = net.init(jax.random.key(0), (2, 12, 12, 1))
    rule = speedrun.optimizer(0.1, 10)
    gradient = jax.tree.map(lambda a: jnp.asarray(GENERATOR.normal(size=a.shape), a.dtype), params)
    change, _ = jax.jit(rule.update)(gradient, rule.init(params), params)
    moved = jax.tree.map(lambda a: bool(abs(a).max() > 0), change)
    assert not moved.pop("whiten")["kernel"]
    assert all(jax.tree.leaves(moved))
    # Muon's step is orthogonal, up to the accuracy of its iteration: all singular values about the same.
    kernel = np.asarray(change["block2"]["conv2"]["kernel"]).reshape(-1, 6)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert values.max() < 2.5 * values.min()


def test_an_image_is_seen_in_both_directions_in_two_epochs(stripes):
    # A network that returns its input as the gradient of its one parameter: what was seen is in the parameter.
    seen = []

    class Recorder:
        def apply(self, params, state, x, train):
            jax.debug.callback(lambda x: seen.append(np.array(x)), x)
            return params["whiten"] + params["scores"] * x.mean((1, 2)), state

    recipe = RECIPE._replace(epochs=2, shift=0)
    images = np.stack([np.full((2, 2, 1), i) + np.array([0.0, 0.5])[:, None] for i in range(96)]).astype(np.float32)
    params = {"whiten": jnp.zeros(2), "scores": jnp.zeros(2)}
    images, labels = jnp.asarray(images), jnp.asarray(stripes.train_labels)
    out = jax.jit(lambda: speedrun.train(Recorder(), recipe, params, {}, images, labels, jax.random.key(0)))()
    jax.block_until_ready(out)
    jax.effects_barrier()
    seen = np.concatenate(seen)[..., 0]
    assert len(seen) == 2 * 96
    index, flipped = np.floor(seen.min((1, 2))).astype(int), seen[:, 0, 0] > seen[:, 0, 1]
    for epoch in (index[:96], index[96:]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(96))
    directions = np.stack([flipped[:96][np.argsort(index[:96])], flipped[96:][np.argsort(index[96:])]])
    assert (directions[0] != directions[1]).all()
    assert 0 < directions[0].sum() < 96


def test_cifar_has_a_recipe_that_fits_its_images():
    recipe = speedrun.RECIPES["cifar10"]
    assert recipe.load is jc.data.cifar10
    net = speedrun.network(recipe, 3, 10)
    shapes = jax.eval_shape(lambda key: net.init(key, (2, 32, 32, 3)), jax.random.key(0))
    scores = jax.eval_shape(
        lambda p, s, x: net.apply(p, s, x)[0], *shapes, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    )
    assert scores.shape == (2, 10)
    assert dataclasses.is_dataclass(net)
