"""The MobileNets' arguments: width, dilation, noise, small images, other channels."""

import jax
import pytest

import jaxconv as jc
from jaxconv.tree import walk
from tests.models.shapes import before, drawn, outputs, rates, trained

SHAPE = (2, 32, 32, 5)
MAKERS = [jc.models.mobilenet_v2, jc.models.mobilenet_v3_small, jc.models.mobilenet_v3_large]
each = pytest.mark.parametrize("make", MAKERS)


@each
def test_classes_and_channels_are_arguments(make):
    params, _ = drawn(make(7), SHAPE)
    assert params["features"]["0"]["0"]["kernel"].shape[:3] == (3, 3, 5)
    assert trained(make(7), SHAPE, jax.random.key(0)) == (2, 7)


def test_width_scales_the_channels():
    v2 = outputs(jc.models.mobilenet_v2(width=0.5), SHAPE)
    assert [v2[f"features.{i}"][-1] for i in (0, 1, 2, 17, 18)] == [16, 8, 16, 160, 1280]
    assert outputs(jc.models.mobilenet_v2(width=1.4), SHAPE)["features.18"][-1] == 1792
    v3 = outputs(jc.models.mobilenet_v3_small(width=0.5), SHAPE)
    assert [v3[f"features.{i}"][-1] for i in (0, 1, 2, 11, 12)] == [8, 8, 16, 48, 288]
    assert v3["classifier.0"][-1] == 512


def test_published_counts_of_other_widths():
    # The trainable parameters of Keras's MobileNetV2 of alpha 0.5 and 1.4.
    assert jc.summary(jc.models.mobilenet_v2(width=0.5), (1, 64, 64, 3)).parameters == 1_968_680
    assert jc.summary(jc.models.mobilenet_v2(width=1.4), (1, 64, 64, 3)).parameters == 6_108_776


@each
def test_small_images_pass_two_strides(make):
    usual, small_images = (before(make(small_images=s), (1, 64, 64, 3), "avgpool") for s in (False, True))
    assert usual[1:3] == (2, 2)
    assert small_images[1:3] == (8, 8)


def test_dilation_keeps_the_last_maps_large():
    usual, dilated = (jc.models.mobilenet_v3_large(dilate=d) for d in (False, True))
    assert before(usual, (1, 64, 64, 3), "avgpool")[1:3] == (2, 2)
    assert before(dilated, (1, 64, 64, 3), "avgpool")[1:3] == (4, 4)
    dilations = {path: layer.dilation for path, layer in walk(dilated) if isinstance(layer, jc.Conv)}
    assert [path for path, d in dilations.items() if d == 2] == [f"features.{i}.block.1.0" for i in (13, 14, 15)]
    shapes = [jax.tree.map(lambda a: a.shape, drawn(net, (1, 32, 32, 3))) for net in (usual, dilated)]
    assert shapes[0] == shapes[1]


@each
def test_noise(make):
    assert rates(make(), jc.DropPath) == []
    dropped = rates(make(drop_path=0.5), jc.DropPath)
    assert 0 < min(dropped) < max(dropped) < 0.5
    assert dropped == sorted(dropped)
    with pytest.raises(jc.MissingKeyError, match=r"^classifier\.[02] \(Dropout\): key must be given"):
        trained(make(), SHAPE)
    assert trained(make(7, dropout=0), SHAPE) == (2, 7)


@each
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be positive, got 0"),
        ({"dropout": 1.5}, "rate must be between 0 and 1, got 1.5"),
        ({"drop_path": 3}, r"drop_path must be between 0 and 1, got 1\.[0-9]+"),
    ],
)
def test_what_cannot_be_is_refused(make, options, message):
    with pytest.raises(jc.ArgumentError, match=message):
        make(**options)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.mobilenet_v3_small() == jc.models.mobilenet_v3_small() != jc.models.mobilenet_v3_large()
    assert "0x" not in repr(jc.models.mobilenet_v3_large())
    assert len(repr(jc.models.mobilenet_v2()).splitlines()) < 1000
