"""MNASNet's arguments: width, noise, small images, other channels."""

import jax
import pytest

import jaxconv as jc
from jaxconv.tree import walk
from tests.models.shapes import before, drawn, outputs, rates, trained

SHAPE = (2, 32, 32, 5)


def test_classes_channels_and_width_are_arguments():
    net = jc.models.mnasnet(7, width=0.35)
    params, _ = drawn(net, SHAPE)
    assert params["layers"]["0"]["kernel"].shape == (3, 3, 5, 16)
    found = outputs(net, SHAPE)
    assert [found[f"layers.{i}"][-1] for i in (6, 8, 9, 13, 14)] == [8, 8, 16, 112, 1280]
    assert trained(net, SHAPE, jax.random.key(0)) == (2, 7)


def test_small_images_pass_two_strides():
    usual, small_images = (
        before(jc.models.mnasnet0_5(small_images=s), (1, 64, 64, 3), "avgpool") for s in (False, True)
    )
    assert usual == (1, 2, 2, 1280)
    assert small_images == (1, 8, 8, 1280)


def test_noise():
    assert rates(jc.models.mnasnet(), jc.DropPath) == []
    # Of 16 blocks the first of each of six stages has no shortcut.
    wanted = [0.8 * i / 16 for i in (1, 2, 4, 5, 7, 8, 10, 12, 13, 14)]
    assert rates(jc.models.mnasnet(drop_path=0.8), jc.DropPath) == pytest.approx(wanted)
    with pytest.raises(jc.MissingKeyError, match=r"^classifier\.0 \(Dropout\): key must be given"):
        trained(jc.models.mnasnet0_5(), SHAPE)


def test_the_momentum_is_the_papers():
    norms = {layer for _, layer in walk(jc.models.mnasnet0_5()) if isinstance(layer, jc.BatchNorm)}
    assert {(norm.momentum, norm.eps) for norm in norms} == {(3e-4, 1e-5)}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": -1}, "width must be positive, got -1"), ({"dropout": 2}, "rate must be between 0 and 1, got 2")],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(jc.ArgumentError, match=message):
        jc.models.mnasnet(**options)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.mnasnet() == jc.models.mnasnet1_0() != jc.models.mnasnet1_3()
    assert len(repr(jc.models.mnasnet()).splitlines()) < 700
