"""ConvNeXt's blocks and arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.tree import walk
from tests.models.shapes import before, drawn, rates, trained

SHAPE = (2, 16, 16, 5)


def small(classes=7, **options):
    return jc.models.convnext((8, 12), (1, 2), classes, **options)


def test_classes_and_channels_are_arguments():
    params, state = drawn(small(), SHAPE)
    assert state == {}
    assert params["features"]["0"]["0"]["kernel"].shape == (4, 4, 5, 8)
    block = params["features"]["1"]["0"]
    weights, norm = {"kernel", "bias"}, {"scale", "bias"}
    assert {name: set(entries) for name, entries in block["block"].items()} == dict(
        zip("0235", (weights, norm, weights, weights), strict=True)
    )
    assert block["layer_scale"]["scale"].shape == (8,)
    assert params["classifier"]["2"]["kernel"].shape == (12, 7)
    assert trained(small(), SHAPE) == (2, 7)


def test_a_fresh_block_changes_almost_nothing():
    net = dict(dict(small(layer_scale=1e-3).children)["features"].children)["1"]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 8)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    assert_allclose(params["0"]["layer_scale"]["scale"], 1e-3)
    y, _ = jax.jit(net.apply)(params, state, x)
    assert 0 < np.abs(y - x).max() < 1e-3


def test_small_images_have_a_stem_without_stride():
    assert before(small(), SHAPE, "avgpool") == (2, 2, 2, 12)
    assert before(small(small_images=True), SHAPE, "avgpool") == (2, 8, 8, 12)


def test_noise():
    assert rates(small(drop_path=0.4), jc.DropPath) == pytest.approx([0.2, 0.4])
    assert max(rates(jc.models.convnext_tiny(), jc.DropPath)) == pytest.approx(0.1)
    assert max(rates(jc.models.convnext_small(), jc.DropPath)) == pytest.approx(0.4)
    with pytest.raises(jc.MissingKeyError, match=r"^features\.3\.0\.stochastic_depth \(DropPath\): key must be given"):
        trained(small(drop_path=0.4), SHAPE)
    with pytest.raises(jc.MissingKeyError, match=r"^dropout \(Dropout\): key must be given"):
        trained(small(dropout=0.3), SHAPE)
    assert trained(small(dropout=0.3, drop_path=0.4), SHAPE, jax.random.key(0)) == (2, 7)


def test_widths_and_depths_must_be_of_the_same_stages():
    with pytest.raises(jc.ArgumentError, match=r"^widths and depths must have the same length, got \(8, 12\) and"):
        jc.models.convnext((8, 12), (1,))


def test_kernels_are_drawn_as_torchvision_draws_them():
    drawers = {layer.kernel_init for _, layer in walk(small()) if isinstance(layer, jc.Conv | jc.Dense)}
    (draw,) = drawers
    assert np.std(draw(jax.random.key(0), (100, 100), jnp.float32)) == pytest.approx(0.02, rel=0.05)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.convnext_tiny() == jc.models.convnext_tiny() != jc.models.convnext_small()
    assert len(repr(small()).splitlines()) < 120
