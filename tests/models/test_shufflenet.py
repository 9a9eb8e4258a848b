"""ShuffleNet's blocks and arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.models.shapes import before, drawn, outputs, rates, trained

SHAPE = (2, 16, 16, 5)


def small(classes=7, **options):
    return jc.models.shufflenet_v2((8, 12, 20, 32), classes, depths=(2, 1), **options)


def test_classes_channels_widths_and_depths_are_arguments():
    params, _ = drawn(small(), SHAPE)
    assert params["conv1"]["0"]["kernel"].shape == (3, 3, 5, 8)
    assert list(params["stage2"]) == ["0", "1"]
    found = outputs(small(), SHAPE)
    assert [found[path] for path in ("maxpool", "stage2", "stage3", "conv4")] == [
        (2, 4, 4, 8),
        (2, 2, 2, 12),
        (2, 1, 1, 20),
        (2, 1, 1, 32),
    ]
    assert trained(small(), SHAPE) == (2, 7)


def test_half_of_the_channels_pass_a_block_as_they_are_between_the_others():
    net = dict(dict(small().children)["stage2"].children)["1"]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 3, 12)), jnp.float32)
    params, state = net.init(jax.random.key(0), x)
    y, _ = net.apply(params, state, x)
    assert_array_equal(y[..., 0::2], x[..., :6])
    assert_array_equal(y[..., 1::2] >= 0, True)


def test_small_images_skip_stride_and_pool():
    assert before(small(small_images=True), (1, 16, 16, 3), "avgpool") == (1, 4, 4, 32)
    assert before(small(), (1, 16, 16, 3), "avgpool") == (1, 1, 1, 32)


def test_dropout_is_before_the_scores_and_draws_in_training():
    assert rates(small(), jc.Dropout) == []
    with pytest.raises(jc.MissingKeyError, match=r"^dropout \(Dropout\): key must be given"):
        trained(small(dropout=0.5), SHAPE)


@pytest.mark.parametrize("widths", [(8, 12, 32), (8, 13, 20, 32), (8, 12, 20, 24, 32)])
def test_widths_that_do_not_fit_are_refused(widths):
    with pytest.raises(
        jc.ArgumentError, match=r"^widths must be of the stem, 2 stages .* and the last convolution, got \(8"
    ):
        jc.models.shufflenet_v2(widths, depths=(2, 1))


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.shufflenet_v2_x0_5() == jc.models.shufflenet_v2_x0_5() != jc.models.shufflenet_v2_x1_0()
    assert len(repr(small()).splitlines()) < 200
