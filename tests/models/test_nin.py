"""Network in network: the authors' sizes, and its arguments."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.shapes import by_shapes, filled


def maps(net, shape, kinds):
    return [row.output.shape[1:] for row in jc.summary(net, shape).rows if isinstance(row.layer, kinds)]


def test_the_network_for_cifar_has_the_authors_sizes():
    net = jc.models.nin()
    shape = (1, 32, 32, 3)
    assert maps(net, shape, (jc.MaxPool, jc.AvgPool)) == [(16, 16, 96), (8, 8, 192)]
    assert [c for *_, c in maps(net, shape, jc.Conv)] == [192, 160, 96, 192, 192, 192, 192, 192, 10]


def test_the_network_for_imagenet_has_the_authors_sizes():
    net = jc.models.nin_imagenet()
    shape = (1, 224, 224, 3)
    assert maps(net, shape, jc.MaxPool) == [(27, 27, 96), (13, 13, 256), (6, 6, 384)]
    convs = maps(net, shape, jc.Conv)
    assert convs[0] == (54, 54, 96)
    assert [c for *_, c in convs] == [96, 96, 96, 256, 256, 256, 384, 384, 384, 1024, 1024, 1000]


def test_a_mlpconv_stage_is_a_small_network_at_each_place():
    """After its first convolution a stage is fully connected layers over the channels of one position."""
    stage = dict(jc.models.nin(width=6).children)["mlpconv1"]
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    params, state = filled(stage, x.shape)
    y, _ = stage.apply(params, state, x)
    z = jax.nn.relu(jc.conv(x, params["0"]["kernel"], params["0"]["bias"]))
    for name in ("2", "4"):
        z = jax.nn.relu(jc.dense(z, params[name]["kernel"][0, 0], params[name]["bias"]))
    np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-4)


def test_width_classes_and_channels_are_arguments_and_dropout_draws_in_training_only():
    net = jc.models.nin(100, width=12)
    y, train = by_shapes(net, (2, 16, 16, 1))
    assert y.shape == (2, 100)
    assert maps(net, (2, 16, 16, 1), jc.MaxPool) == [(8, 8, 6)]
    with pytest.raises(jc.MissingKeyError, match=r"dropout1 \(Dropout\)"):
        train()
