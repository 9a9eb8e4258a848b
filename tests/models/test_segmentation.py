"""Heads on any backbone, the scores' size, the auxiliary head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.models.resnet import bottleneck, resnet
from tests.nets import ready

MAPS = {"layer2": "aux", "layer3": "out"}


def trunk(maps=MAPS):
    return jc.backbone(resnet(bottleneck, (1, 1, 1), width=4, dilate=(False, True)), maps)


@pytest.mark.parametrize("make", [jc.models.fcn, jc.models.deeplabv3])
@pytest.mark.parametrize("size", [(17, 24), (32, 9)])
def test_each_pixel_gets_scores_and_in_training_a_second_set(make, size):
    net = make(trunk(), 5, width=8, aux_width=4)
    x = (2, *size, 1)
    params, state = jax.eval_shape(lambda key: net.init(key, x), jax.random.key(0))
    assert set(params) == {"backbone", "classifier", "aux_classifier"}

    def apply(train):
        key = jax.random.key(0)
        return jax.eval_shape(lambda p, s, x: net.apply(p, s, x, train=train, key=key)[0], params, state, jnp.ones(x))

    assert apply(train=False).shape == (2, *size, 5)
    scores, extra = apply(train=True)
    assert (scores.shape, extra["aux_classifier"].shape) == ((2, *size, 5), (2, *size, 5))


@pytest.mark.slow
@pytest.mark.parametrize("make", [jc.models.fcn, jc.models.deeplabv3])
def test_without_an_auxiliary_head_training_gives_the_scores_alone(make):
    net = make(trunk({"layer3": "out"}), 5, width=8, dropout=0.0)
    params, state, x = ready(net, (2, 17, 16, 3))
    y, _ = jax.jit(lambda p, s: net.apply(p, s, x, train=True))(params, state)
    assert y.shape == (2, 17, 16, 5)
    assert np.all(np.isfinite(y))


def test_the_branches_of_deeplab_dilate_at_the_given_rates():
    net = jc.models.deeplabv3(trunk({"layer3": "out"}), 5, width=8, rates=(2, 3))
    rows = jc.summary(net, (1, 32, 32, 3)).rows
    convs = [row.layer for row in rows if row.path.startswith("classifier.0.convs") and isinstance(row.layer, jc.Conv)]
    assert [(conv.window, conv.dilation) for conv in convs] == [(1, 1), (3, 2), (3, 3), (1, 1)]
    assert next(row for row in rows if row.path == "classifier.0.project.0").input.shape == (1, 4, 4, 4 * 8)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_the_auxiliary_head_is_left_out_by_default(name):
    params, _ = jax.eval_shape(lambda key: getattr(jc.models, name)(3).init(key, (1, 32, 32, 3)), jax.random.key(0))
    assert set(params) == {"backbone", "classifier"}


@pytest.mark.parametrize("make", [jc.models.fcn, jc.models.deeplabv3])
@pytest.mark.parametrize("wrap", [lambda net: net, jc.frozen], ids=["plain", "frozen"])
def test_a_backbone_without_the_map_that_a_head_wants_is_refused_when_made(make, wrap):
    with pytest.raises(
        jc.ArgumentError, match=r"^trunk must have a feature map 'out', got 'layer2', 'layer3': .*, \{path: 'out"
    ):
        make(wrap(trunk(["layer2", "layer3"])))
    with pytest.raises(
        jc.ArgumentError, match=r"^trunk must have a feature map 'aux', got 'out': .* mapping, \{path: 'aux'\}$"
    ):
        make(wrap(trunk({"layer3": "out"})), aux_width=4)
    with pytest.raises(jc.ArgumentError, match=r"^trunk must have a feature map 'out', got 'layer1\.0', 'aux': "):
        make(wrap(trunk({"layer1.0": "layer1.0", "layer2": "aux"})))


def test_what_gives_no_maps_is_refused_by_path():
    with pytest.raises(
        jc.ArgumentError,
        match=r"classifier \(OnMap\): x must be a dict of feature maps with 'out' in it, got one array",
    ):
        jc.summary(jc.models.fcn(jc.serial(jc.Conv(4)), 2, width=4), (1, 8, 8, 3))
    with pytest.raises(
        jc.ArgumentError, match=r"classifier \(OnMap\): x must be a dict of feature maps with 'out' in it, got 'a'"
    ):
        jc.models.fcn(jc.Fn(lambda x: {"a": x}), 2, width=4).init(jax.random.key(0), (1, 8, 8, 3))


def test_all_of_it_can_be_looked_into():
    net = jc.models.deeplabv3(trunk(), 5, width=8, aux_width=4)
    fields = jc.inspect.receptive_field(net, (1, 32, 32, 3))
    assert fields["backbone.layer3"][0].stride == 8
    assert fields["classifier.0.project.0"] is not None
    assert {"backbone.layer1.0.conv1", "classifier.0.convs.4.1", "aux_classifier.4"} <= fields.keys()
    params, state, x = ready(net, (1, 32, 32, 3))
    y, found = jax.jit(lambda p, s: jc.inspect.activations(net, p, s, x, paths=["classifier", "classifier.0.convs.1"]))(
        params, state
    )
    assert found["classifier"].shape == (1, 4, 4, 5)
    np.testing.assert_allclose(y, jc.resize(found["classifier"], (32, 32)), rtol=1e-5, atol=1e-5)
    assert found["classifier.0.convs.1"].shape == (1, 4, 4, 8)
    assert repr(net).startswith("resized(\n  auxiliary(\n    serial(\n      backbone=backbone(\n")
