"""RegNet's design space and arguments."""

import jax
import pytest

import jaxconv as jc
from tests.models.shapes import before, drawn, outputs, rates, trained

SHAPE = (2, 16, 16, 5)


def small(classes=7, **options):
    return jc.models.regnet(4, 8, 8.0, 2.0, 8, classes, **{"stem": 8, **options})


def test_widths_grow_by_the_step_and_share_groups():
    stages = jc.models.regnet_stages(4, 8, 8.0, 2.0, 16)
    # 8, 16, 24 and 32 are 2**0, 2**1, 2**1.6 and 2**2 times 8; the first stage is narrower than a group.
    assert stages == [(8, 1, 8), (16, 1, 16), (32, 2, 16)]


def test_widths_are_made_multiples_of_the_group():
    assert [s.features for s in jc.models.regnet_stages(27, 48, 20.71, 2.65, 24)] == [48, 120, 336, 888]


@pytest.mark.parametrize(
    "given", [(4, 8, -1.0, 2.0, 8), (4, 8, 8.0, 1.0, 8), (4, 0, 8.0, 2.0, 8), (4, 12, 8.0, 2.0, 8)], ids=str
)
def test_a_space_that_cannot_be_is_refused(given):
    with pytest.raises(jc.ArgumentError, match="slope must not be negative, step be greater than 1, start a positive"):
        jc.models.regnet_stages(*given)


def test_classes_and_channels_are_arguments():
    params, _ = drawn(small(squeeze=0.25), SHAPE)
    assert params["stem"]["0"]["kernel"].shape == (3, 3, 5, 8)
    block = params["trunk_output"]["block2"]["block2-0"]
    assert set(block) == {"f", "proj"}
    assert block["f"]["se"]["fc1"]["kernel"].shape == (1, 1, 16, 2)
    assert set(params["trunk_output"]["block3"]["block3-1"]) == {"f"}
    assert trained(small(), SHAPE) == (2, 7)
    assert outputs(small(), SHAPE)["trunk_output"] == (2, 1, 1, 32)


def test_small_images_pass_two_strides():
    assert before(small(small_images=True), SHAPE, "avgpool") == (2, 4, 4, 32)


def test_noise():
    assert rates(small(drop_path=0.3), jc.DropPath) == pytest.approx([0.1, 0.2, 0.3])
    assert rates(small(), jc.DropPath) == rates(small(), jc.Dropout) == []
    with pytest.raises(jc.MissingKeyError, match=r"^trunk_output\.block2\.block2-0\.stochastic_depth \(DropPath\)"):
        trained(small(drop_path=0.3), SHAPE)
    with pytest.raises(jc.MissingKeyError, match=r"^dropout \(Dropout\): key must be given"):
        trained(small(dropout=0.3), SHAPE)
    assert trained(small(dropout=0.3, drop_path=0.3), SHAPE, jax.random.key(0)) == (2, 7)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.regnet_x_400mf() == jc.models.regnet_x_400mf() != jc.models.regnet_y_400mf()
    assert len(repr(small()).splitlines()) < 250
