"""What the families share."""

import jax
import jax.numpy as jnp
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from jaxconv.models.blocks import (
    conv_norm_act,
    divisible,
    flat,
    inverted_bottleneck,
    scaled,
    strides_for,
    with_shortcut,
)
from tests.models.shapes import outputs


@pytest.mark.parametrize(
    ("value", "wanted"), [(1, 8), (11, 16), (12, 16), (13.3, 16), (20, 24), (22.4, 24), (17.5, 16), (83, 80), (84, 88)]
)
def test_channels_are_rounded_to_multiples_of_8_and_lose_no_tenth(value, wanted):
    assert divisible(value) == wanted


@pytest.mark.parametrize("width", [0, -1, float("nan")])
def test_a_width_that_is_not_positive_is_refused(width):
    with pytest.raises(jc.ArgumentError, match=f"^width must be positive, got {width}$"):
        scaled(32, width)


def test_small_images_pass_the_first_stride():
    assert strides_for([1, 2, 1, 2], False) == [1, 2, 1, 2]
    assert strides_for([1, 2, 1, 2], True) == [1, 1, 1, 2]
    assert strides_for([1, 1], True) == [1, 1]


def test_flat_numbers_layers_as_one_row():
    net = jc.serial(*flat(conv_norm_act(4), conv_norm_act(2, 1, act=None), jc.Flatten()))
    params, state = net.init(jax.random.key(0), (1, 4, 4, 1))
    assert list(params) == ["0", "1", "3", "4"]
    assert list(state) == ["1", "4"]


@pytest.mark.parametrize("expand", [False, True])
def test_an_inverted_bottleneck_widens_filters_and_narrows(expand):
    excite = jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(8)))
    net = jc.serial(*inverted_bottleneck(2, 8, 5, expand=expand, stride=2, excite=excite))
    shape = (1, 6, 6, 4 if expand else 8)
    convs = [row for row in jc.summary(net, shape).rows if isinstance(row.layer, jc.Conv)]
    assert [row.output.shape[1:] for row in convs] == [(6, 6, 8)] * expand + [(3, 3, 8), (3, 3, 2)]
    assert [(row.layer.window, row.layer.groups) for row in convs] == [(1, 1)] * expand + [(5, 8), (1, 1)]
    assert outputs(net, shape)[str(1 + expand)] == (1, 3, 3, 8)


def test_a_dropped_block_leaves_its_shortcut():
    x = jnp.arange(6.0).reshape(2, 3)
    always, never = (with_shortcut(True, rate, dense=jc.Dense(3)) for rate in (1.0, 0.0))
    params, _ = always.init(jax.random.key(0), x)
    assert_array_equal(always.apply(params, {}, x, train=True, key=jax.random.key(0))[0], x)
    assert_array_equal(always.apply(params, {}, x)[0], never.apply(params, {}, x, train=True)[0])
    bare = with_shortcut(False, 1.0, dense=jc.Dense(3))
    assert_array_equal(bare.apply(params, {}, x, train=True)[0] + x, always.apply(params, {}, x)[0])
