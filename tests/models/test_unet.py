"""The paper's numbers, sizes that are odd, and the way up on another network's maps."""

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.tree import walk
from tests.nets import ready


def output(net, x):
    return jax.eval_shape(lambda key: net.init_with_output(key, x)[2], jax.random.key(0)).shape


def test_the_maps_are_those_of_the_papers_figure():
    rows = {row.path: row.output.shape[1:] for row in jc.summary(jc.models.unet(), (1, 572, 572, 1)).rows}
    # The second ReLU of each block, figure 1 of Ronneberger et al., 2015.
    down = [rows[f"encoder.level{i}.3"] for i in (1, 2, 3, 4, 5)]
    assert down == [(568, 568, 64), (280, 280, 128), (136, 136, 256), (64, 64, 512), (28, 28, 1024)]
    up = [rows[f"decoder.level{i}_up"] for i in (4, 3, 2, 1)]
    assert up == [(56, 56, 512), (104, 104, 256), (200, 200, 128), (392, 392, 64)]
    assert [rows[f"decoder.level{i}.3"] for i in (4, 3, 2, 1)] == [
        (52, 52, 512), (100, 100, 256), (196, 196, 128), (388, 388, 64),
    ]  # fmt: skip
    assert rows["head"] == (388, 388, 2)


@pytest.mark.parametrize(
    ("options", "channels", "parameters"),
    [({}, 1, 31_030_658), ({"padding": "SAME"}, 1, 31_030_658), ({"classes": 1}, 3, 31_031_745)],
    ids=str,
)
def test_parameters(options, channels, parameters):
    # 31,031,745 is what implementations in torch and Keras count for three channels and one class.
    assert jc.summary(jc.models.unet(**options), (1, 572, 572, channels)).parameters == parameters


def test_a_network_without_padding_is_the_middle_of_one_that_sees_more():
    net = jc.models.unet(width=2, depth=2)
    params, state, x = ready(net, (1, 60, 60, 1))
    whole, part = (jax.jit(net.apply)(params, state, x)[0] for x in (x, x[:, 8:-8, 8:-8]))
    assert whole.shape == (1, 20, 20, 2)
    np.testing.assert_allclose(part, whole[:, 8:-8, 8:-8], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(571, 572), (574, 572)])
def test_sizes_that_the_paper_excludes_are_refused(size):
    with pytest.raises(jc.ShapeError, match=r"decoder \(TopDown\): feature map .* sizes that are even"):
        output(jc.models.unet(), (1, *size, 1))


@pytest.mark.parametrize("upsampling", ["transpose", "resize"])
@pytest.mark.parametrize("size", [(31, 44), (16, 17), (33, 63)])
def test_with_padding_every_pixel_gets_scores(size, upsampling):
    net = jc.models.unet(3, width=4, padding="SAME", norm=jc.BatchNorm(), upsampling=upsampling)
    assert output(net, (2, *size, 3)) == (2, *size, 3)


def test_arguments():
    net = jc.models.unet(3, width=4, depth=2, norm=jc.GroupNorm(2), upsampling="resize", dropout=0.5, padding="SAME")
    layers = [layer for _, layer in walk(net)]
    assert sum(isinstance(layer, jc.GroupNorm) for layer in layers) == 2 * (3 + 2)
    assert sum(isinstance(layer, jc.Resize) for layer in layers) == 2
    assert not any(layer.bias for path, layer in walk(net) if isinstance(layer, jc.Conv) and "level1." in path)
    assert [path for path, layer in walk(net) if isinstance(layer, jc.Dropout)] == ["encoder.level3.6"]
    params, state, x = ready(net, (1, 13, 16, 1))
    with pytest.raises(jc.MissingKeyError, match=r"encoder\.level3\.6"):
        jax.eval_shape(lambda p: net.apply(p, state, x, train=True), params)
    apply = jax.jit(lambda p, key: net.apply(p, state, x, train=key is not None, key=key)[0])
    assert np.any(apply(params, jax.random.key(0)) != apply(params, jax.random.key(1)))
    assert apply(params, None).shape == (1, 13, 16, 3)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"padding": "SAME_LOWER"}, "padding must be VALID or SAME, got 'SAME_LOWER'"),
        ({"upsampling": "nearest"}, "upsampling must be one of transpose, resize, got 'nearest'"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
    ],
)
def test_other_arguments_are_refused(options, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        jc.models.unet(**options)


STAGES = ("relu", "layer1", "layer2", "layer3", "layer4")


@pytest.mark.parametrize("size", [(64, 96), (61, 75)])
def test_the_way_up_on_another_networks_maps(size):
    net = jc.models.unet_on(jc.models.resnet18(width=8), STAGES, 5, width=4)
    assert output(net, (1, *size, 3)) == (1, *size, 5)
    rows = {row.path: row.output.shape[1:] for row in jc.summary(net, (1, 64, 96, 3)).rows}
    assert rows["decoder.relu.3"] == (32, 48, 4)
    assert rows["decoder.layer3.3"] == (4, 6, 32)
    params, _ = jax.eval_shape(lambda key: net.init(key, (1, 64, 96, 3)), jax.random.key(0))
    own, _ = jax.eval_shape(lambda key: jc.models.resnet18(width=8).init(key, (1, 64, 96, 3)), jax.random.key(0))
    assert params["backbone"] == {name: value for name, value in own.items() if name != "fc"}


def test_maps_on_paths_with_dots_have_names():
    net = jc.serial(a=jc.serial(jc.Conv(4), jax.nn.relu), b=jc.serial(jc.Conv(4, stride=2), jax.nn.relu))
    paths = [path for path, _ in walk(jc.models.unet_on(net, ["a.1", "b.1"]))]
    assert {"backbone.a.1", "decoder.a_1_up", "decoder.a_1.0"} <= set(paths)
    named = [path for path, _ in walk(jc.models.unet_on(net, {"a.1": "fine", "b.1": "coarse"}))]
    assert {"decoder.fine_up", "decoder.fine.0"} <= set(named)


@pytest.mark.parametrize(
    ("paths", "options", "sentence"),
    [
        (["layer1"], {}, r"paths must have at least two entries, got \['layer1'\]"),
        (["layer1", "layer9"], {}, "paths must name layers of net, .* got 'layer9'"),
        (["layer1", "layer2"], {"upsampling": "cubic"}, "upsampling must be one of"),
    ],
)
def test_other_paths_are_refused(paths, options, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        jc.models.unet_on(jc.models.resnet18(), paths, **options)


def test_maps_in_the_wrong_order_are_refused():
    net = jc.models.unet_on(jc.models.resnet18(width=8), STAGES[::-1])
    with pytest.raises(jc.ShapeError, match=r"the upsampled map must have the size of feature map 'layer1'"):
        output(net, (1, 64, 64, 3))


def test_a_step_downhill_changes_the_backbone_too():
    body = jc.serial(a=jc.Conv(4), pool=jc.MaxPool(2), b=jc.Conv(4))
    net = jc.models.unet_on(body, ["a", "b"], 2, width=4)
    params, state, x = ready(net, (2, 9, 8, 1))
    grads = jax.jit(jax.grad(lambda p: (net.apply(p, state, x, train=True)[0] ** 2).mean()))(params)
    assert all(np.any(g) for g in jax.tree.leaves(grads["backbone"]))
