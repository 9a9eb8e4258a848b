"""GoogLeNet's and Inception v3's arguments: auxiliary heads, inputs, widths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.inspect.trace import trace
from tests.models.shapes import by_shapes

NARROW = functools.partial(jc.models.googlenet, 3, width=0.125, small_images=True)
SHAPE = (2, 16, 16, 3)


def count(net, side=224):
    return jc.summary(net, (1, side, side, 3)).parameters


def test_counts_with_and_without_auxiliary_heads():
    assert count(jc.models.googlenet()) == 13_004_888
    assert count(jc.models.inception_v3(aux_logits=False), 75) == 23_834_568


def test_auxiliary_heads_run_in_training_only():
    y, train = by_shapes(NARROW(dropout=0.0, dropout_aux=0.0), SHAPE)
    assert y.shape == (2, 3)
    y, heads = train()
    assert (y.shape, {name: h.shape for name, h in heads.items()}) == ((2, 3), {"aux1": (2, 3), "aux2": (2, 3)})


def test_without_auxiliary_heads_the_rest_is_the_same():
    wanted, without = (
        jax.eval_shape(lambda key, net=net: net.init(key, SHAPE)[0], jax.random.key(0))
        for net in (NARROW(), NARROW(aux_logits=False))
    )
    assert without == {name: p for name, p in wanted.items() if not name.startswith("aux")} != wanted
    assert by_shapes(NARROW(aux_logits=False, dropout=0.0), SHAPE)[1]().shape == (2, 3)


@pytest.mark.slow
def test_dropout_draws_in_training_only():
    with pytest.raises(jc.MissingKeyError, match=r"aux1\.dropout \(Dropout\)"):
        by_shapes(NARROW(), SHAPE)[1]()


def test_transform_input_takes_torchvisions_images():
    for make in (NARROW, functools.partial(jc.models.inception_v3, width=0.125)):
        name, layer = make(transform_input=True).children[0]
        assert name == "transform_input"
        images = np.random.default_rng(0).uniform(size=(2, 4, 4, 3))
        normalized = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        got, _ = layer.apply({}, {}, jnp.asarray(normalized, jnp.float32))
        np.testing.assert_allclose(got, (images - 0.5) / 0.5, atol=1e-6)


def test_transform_input_wants_colors():
    with pytest.raises(jc.ShapeError, match=r"transform_input \(Fn\): x must have 3 channels.*\(1, 9, 9, 1\)"):
        NARROW(transform_input=True).init(jax.random.key(0), (1, 9, 9, 1))


def test_other_channels_are_taken_without_it():
    assert jc.summary(NARROW(), (1, 16, 16, 5)).rows[-1].output.shape == (1, 3)


def test_inception_v3_has_the_papers_sizes():
    rows = {row.path: row for row in trace(jc.models.inception_v3(), (1, 299, 299, 3))}
    shapes = [rows[name].output.shape[1:] for name in ("maxpool1", "maxpool2", "Mixed_5d", "Mixed_6e", "Mixed_7c")]
    assert shapes == [(73, 73, 64), (35, 35, 192), (35, 35, 288), (17, 17, 768), (8, 8, 2048)]


def test_inception_v3_says_which_layer_an_image_is_too_small_for():
    with pytest.raises(jc.ShapeError, match=r"AuxLogits\.conv1\.conv \(Conv\)"):
        jc.summary(jc.models.inception_v3(width=0.125), (1, 160, 160, 3))
    assert jc.summary(jc.models.inception_v3(3, width=0.125, aux_logits=False), (1, 75, 75, 1)).parameters > 0


def test_networks_of_the_same_arguments_are_equal():
    assert jc.models.inception_v3(transform_input=True) == jc.models.inception_v3(transform_input=True)
    assert jc.models.googlenet() == jc.models.googlenet() != jc.models.googlenet(aux_logits=False)
