"""EfficientNet's arguments: scales, noise, small images, other channels."""

import jax
import pytest

import jaxconv as jc
from jaxconv.models.efficientnet import Stage
from jaxconv.tree import walk
from tests.models.shapes import before, drawn, outputs, rates, trained

STAGES = (Stage(1, 3, 1, 16, 1), Stage(4, 3, 2, 24, 2, fused=True), Stage(6, 5, 2, 40, 3))
SHAPE = (2, 32, 32, 5)


def small(classes=7, **options):
    return jc.models.efficientnet(STAGES, classes, **options)


def test_classes_and_channels_are_arguments():
    params, _ = drawn(small(), SHAPE)
    assert params["features"]["0"]["0"]["kernel"].shape == (3, 3, 5, 32)
    assert params["classifier"]["1"]["kernel"].shape == (160, 7)
    assert trained(small(), SHAPE, jax.random.key(0)) == (2, 7)


def test_width_and_depth_scale_the_table():
    found = outputs(small(width=1.5, depth=1.5), SHAPE)
    assert [found[f"features.{i}"][-1] for i in range(5)] == [48, 24, 40, 64, 256]
    assert [sum(path.count(".") == 2 and path.startswith(f"features.{i}.") for path in found) for i in (1, 2, 3)] == [
        2,
        3,
        5,
    ]


def test_a_fused_block_has_no_depthwise_convolution():
    groups = {path: layer.groups for path, layer in walk(small()) if isinstance(layer, jc.Conv)}
    assert {g for path, g in groups.items() if path.startswith("features.2.")} == {1}
    assert {g for path, g in groups.items() if path.startswith("features.3.")} == {1, 144, 240}


def test_the_head_has_the_width_it_is_given():
    assert outputs(small(head=48), SHAPE)["features.4"] == (2, 4, 4, 48)


@pytest.mark.parametrize("make", [small, jc.models.efficientnet_b0, jc.models.efficientnet_v2_s])
def test_small_images_pass_two_strides(make):
    usual, small_images = (before(make(small_images=s), (1, 32, 32, 3), "avgpool") for s in (False, True))
    assert small_images[1:3] == tuple(4 * n for n in usual[1:3])


def test_drop_path_grows_with_depth_where_there_is_a_shortcut():
    # Six blocks; the first, the second and the fourth change the shape.
    assert rates(small(drop_path=0.6), jc.DropPath) == pytest.approx([0.2, 0.4, 0.5])
    assert rates(small(drop_path=0), jc.DropPath) == []


def test_noise_is_drawn_in_training_and_wants_a_key():
    with pytest.raises(jc.MissingKeyError, match=r"^features\.2\.1\.stochastic_depth \(DropPath\): key must be given"):
        trained(small(), SHAPE)
    with pytest.raises(jc.MissingKeyError, match=r"^classifier\.0 \(Dropout\): key must be given"):
        trained(small(drop_path=0), SHAPE)
    assert trained(small(drop_path=0, dropout=0), SHAPE) == (2, 7)


def test_published_rates_and_norms():
    b0, b7, s = (getattr(jc.models, f"efficientnet_{name}")() for name in ("b0", "b7", "v2_s"))
    norms = [next(layer for _, layer in walk(net) if isinstance(layer, jc.BatchNorm)) for net in (b0, b7, s)]
    assert [(norm.eps, norm.momentum) for norm in norms] == [(1e-5, 0.1), (1e-3, 0.01), (1e-3, 0.1)]
    assert [rates(net, jc.Dropout) for net in (b0, b7, s)] == [[0.2], [0.5], [0.2]]
    assert max(rates(b0, jc.DropPath)) == pytest.approx(0.2 * 14 / 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be positive, got 0"),
        ({"depth": -1.0}, "depth must be positive, got -1.0"),
        ({"dropout": 1.5}, "rate must be between 0 and 1, got 1.5"),
        ({"drop_path": -0.5}, "drop_path must be between 0 and 1, got -"),
        ({"classes": 0}, "features must be"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(jc.ArgumentError, match=message):
        small(**options)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.efficientnet_b0(10) == jc.models.efficientnet_b0(10) != jc.models.efficientnet_b1(10)
    text = repr(small())
    assert "Conv(features=32" in text
    assert "0x" not in text
    assert len(text.splitlines()) < 400
