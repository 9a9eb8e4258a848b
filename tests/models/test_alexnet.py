"""AlexNet's arguments, and the paper's own network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from tests.models.shapes import by_shapes


def test_small_images_are_seen_without_stride():
    net = jc.models.alexnet(10, width=4, hidden=8, small_images=True)
    table = jc.summary(net, (2, 32, 32, 1))
    assert table.rows[-1].output.shape == (2, 10)
    maps = {row.path: row.output.shape[1:] for row in table.rows}
    assert maps["features.0"] == (32, 32, 4)
    assert maps["avgpool"] == (3, 3, 16)


def test_images_may_have_any_channels_and_sizes_from_63_on():
    net = jc.models.alexnet(width=4, hidden=8)
    assert jc.summary(net, (2, 63, 80, 5)).rows[-1].output.shape == (2, 1000)
    with pytest.raises(jc.ShapeError, match=r"features\.12 \(MaxPool\)"):
        jc.summary(net, (2, 62, 80, 5))


def test_dropout_draws_in_training_only():
    y, train = by_shapes(jc.models.alexnet(3, width=2, hidden=16, small_images=True), (2, 32, 32, 3))
    assert y.shape == (2, 3)
    with pytest.raises(jc.MissingKeyError, match=r"classifier\.0 \(Dropout\)"):
        train()
    assert train(jax.random.key(1)).shape == (2, 3)


def test_the_network_of_2012_has_the_papers_maps():
    table = jc.summary(jc.models.alexnet_2012(), (1, 227, 227, 3))
    maps = [row.output.shape[1:] for row in table.rows if isinstance(row.layer, jc.Conv)]
    assert maps == [(55, 55, 96), (27, 27, 256), (13, 13, 384), (13, 13, 384), (13, 13, 256)]
    sizes = {row.path: row.parameters for row in table.rows}
    assert sizes["conv1"] == 34_944  # The lecture's 35K.
    assert sizes["conv2"] == 256 * (5 * 5 * 48 + 1)


def test_responses_are_normalized_as_in_the_paper():
    layer = dict(jc.models.alexnet_2012().children)["norm1"]
    x = np.random.default_rng(0).uniform(0, 50, (1, 1, 1, 9))
    with jax.enable_x64(True):
        got = layer.apply({}, {}, jnp.asarray(x))[0]
    squares = np.array([(x[..., max(0, i - 2) : i + 3] ** 2).sum() for i in range(9)])
    np.testing.assert_allclose(got, x / (2 + 1e-4 * squares) ** 0.75, rtol=1e-12)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.alexnet(10) == jc.models.alexnet(10)
    assert hash(jc.models.alexnet(10)) == hash(jc.models.alexnet(10))
    assert len(repr(jc.models.alexnet()).splitlines()) < 40
