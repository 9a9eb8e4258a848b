"""Feature pyramids: sizes, sums, further levels, and what they refuse."""

from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from tests.nets import normal, ready

X = OrderedDict(a=normal((1, 9, 6, 3)), b=normal((1, 5, 3, 4), 1), c=normal((1, 3, 2, 5), 2))


def test_a_level_is_its_map_and_the_enlarged_sum_of_the_coarser_ones():
    net = jc.fpn(["a", "b", "c"], 8)
    params, state = net.init(0, X)
    y, _ = jax.jit(net.apply)(params, state, X)
    inner, layer = params["inner_blocks"], params["layer_blocks"]

    def conv(params, x, window):
        return jc.Conv(8, window).apply(params["0"], {}, x)[0]

    c = conv(inner["2"], X["c"], 1)
    b = conv(inner["1"], X["b"], 1) + jc.resize(c, (5, 3), method="nearest")
    a = conv(inner["0"], X["a"], 1) + jc.resize(b, (9, 6), method="nearest")
    assert list(y) == ["a", "b", "c"]
    for i, each in enumerate((a, b, c)):
        np.testing.assert_allclose(list(y.values())[i], conv(layer[str(i)], each, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("from_input", [False, True])
def test_further_levels_follow_the_coarsest(from_input):
    extra = jc.backbone(jc.serial(p6=jc.Conv(8, stride=2, padding=1), relu=jax.nn.relu), ["p6", "relu"])
    net = jc.fpn(["a", "b"], 8, extra=extra, extra_from_input=from_input)
    params, state = net.init(0, X)
    y, _ = net.apply(params, state, X)
    assert {name: each.shape for name, each in y.items()} == {
        "a": (1, 9, 6, 8), "b": (1, 5, 3, 8), "p6": (1, 3, 2, 8), "relu": (1, 3, 2, 8),
    }  # fmt: skip
    assert params["extra_blocks"]["p6"]["kernel"].shape == (3, 3, 4 if from_input else 8, 8)


def test_with_a_norm_convolutions_have_no_bias():
    net = jc.fpn(["a", "b"], 8, norm=jc.BatchNorm())
    params, state = net.init(0, X)
    assert set(params["inner_blocks"]["0"]["0"]) == {"kernel"}
    assert set(state["layer_blocks"]["1"]["1"]) == {"mean", "var"}


def test_it_stands_on_a_backbone_and_can_be_looked_into():
    trunk = jc.serial(stem=jc.Conv(4, stride=2), relu=jax.nn.relu, next=jc.Conv(4, stride=2), last=jax.nn.relu)
    net = jc.serial(body=jc.backbone(trunk, ["relu", "last"]), fpn=jc.fpn(["relu", "last"], 8))
    params, state, x = ready(net, (1, 16, 16, 3))
    _, found = jax.jit(lambda p, s: jc.inspect.activations(net, p, s, x))(params, state)
    assert found["fpn.layer_blocks.1.0"].shape == (1, 4, 4, 8)
    fields = jc.inspect.receptive_field(net, x.shape)
    assert fields["fpn.inner_blocks.0.0"][0].stride == 2
    assert "['relu', 'last'],\n    inner_blocks=each(" in repr(net)
    y, _ = net.apply(params, state, jnp.ones((1, 16, 16, 3)))
    assert [each.shape for each in y.values()] == [(1, 8, 8, 8), (1, 4, 4, 8)]


def test_wrong_names_are_refused():
    with pytest.raises(jc.ArgumentError, match="names must have at least one entry, without repetition"):
        jc.fpn([])
    with pytest.raises(jc.ArgumentError, match="names must have at least one entry, without repetition"):
        jc.fpn(["a", "a"])
    with pytest.raises(jc.ArgumentError, match="x must be a dict of feature maps with 'd' in it, got 'a', 'b', 'c'"):
        jc.fpn(["d"]).init(0, X)
