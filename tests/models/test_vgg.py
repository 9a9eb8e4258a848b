"""VGG's arguments."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from tests.models.shapes import by_shapes


def small(**options):
    return jc.models.vgg((1, 2), 7, width=4, hidden=8, small_images=True, **options)


def test_blocks_double_their_filters_up_to_eight_times_as_many():
    table = jc.summary(jc.models.vgg11(), (1, 224, 224, 3))
    convs = [row.output.shape[1:] for row in table.rows if isinstance(row.layer, jc.Conv)]
    assert [c for *_, c in convs] == [64, 128, 256, 256, 512, 512, 512, 512]
    assert [h for h, *_ in convs] == [224, 112, 56, 56, 28, 28, 14, 14]
    assert [row.output.shape for row in table.rows if isinstance(row.layer, jc.Dense)] == [
        (1, 4096),
        (1, 4096),
        (1, 1000),
    ]


@pytest.mark.parametrize("norm", [False, True])
def test_width_classes_and_channels_are_arguments(norm):
    net = small(norm=norm)
    params, state = jax.eval_shape(lambda key: net.init(key, (2, 8, 12, 5)), jax.random.key(0))
    assert params["features"]["0"]["kernel"].shape == (3, 3, 5, 4)
    assert params["classifier"]["0"]["kernel"].shape == (8, 8)
    assert bool(state) == norm
    assert by_shapes(net, (2, 8, 12, 5))[0].shape == (2, 7)


def test_dropout_draws_in_training_only():
    with pytest.raises(jc.MissingKeyError, match=r"classifier\.2 \(Dropout\)"):
        by_shapes(small(), (2, 8, 8, 3))[1]()
    assert by_shapes(small(dropout=0.0), (2, 8, 8, 3))[1]().shape == (2, 7)


def test_kernels_are_drawn_as_torchvision_draws_them():
    net = jc.models.vgg((1,), width=64, hidden=256, small_images=True)

    @jax.jit
    def kernels(key):
        params, _ = net.init(key, (1, 8, 8, 3))
        return params["features"]["0"]["kernel"], params["classifier"]["0"]["kernel"]

    conv, dense = kernels(jax.random.key(0))
    assert np.std(conv) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert np.std(dense) == pytest.approx(0.01, rel=0.05)


def test_networks_of_the_same_arguments_are_equal_and_can_be_read():
    assert jc.models.vgg16_bn(10) == jc.models.vgg16_bn(10) != jc.models.vgg16(10)
    assert len(repr(jc.models.vgg16()).splitlines()) < 55
