"""Arguments of residual networks, and those for CIFAR, which torchvision does not have."""

import functools

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.models.resnet import basic, bottleneck, resnet
from jaxconv.tree import walk
from tests.models.zoo import images
from tests.nets import ready


def sizes(net, shape):
    """The shape of each stage's map, without the batch."""
    rows = jc.inspect.trace(net, shape)
    return {row.path: row.output.shape[1:] for row in rows if row.path.startswith("layer") and "." not in row.path}


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_cifar_networks_have_the_papers_parameters(depth, millions):
    # Table 6 of He et al., 2016.
    net = getattr(jc.models, f"resnet{depth}")()
    assert net == jc.models.cifar_resnet(depth)
    parameters = jc.summary(net, (1, 32, 32, 3)).parameters
    assert round(parameters / 1e6, 1 if depth == 110 else 2) == millions
    weighted = [layer for _, layer in walk(net) if isinstance(layer, jc.Conv | jc.Dense)]
    assert len(weighted) == depth


def test_the_cifar_networks_have_the_papers_maps():
    net = jc.models.resnet20()
    assert sizes(net, (1, 32, 32, 3)) == {"layer1": (32, 32, 16), "layer2": (16, 16, 32), "layer3": (8, 8, 64)}


def test_a_shortcut_without_weights_leaves_out_places_and_adds_zeros():
    net = jc.models.cifar_resnet(8)
    block = dict(dict(net.children)["layer2"].children)["0"]
    x = jax.random.normal(jax.random.key(0), (2, 6, 6, 16))
    y, _ = block.shortcut.apply({}, {}, x)
    assert y.shape == (2, 3, 3, 32)
    np.testing.assert_array_equal(y[..., :16], x[:, ::2, ::2])
    assert not np.any(y[..., 16:])


@pytest.mark.parametrize("depth", [2, 7, 18, 21, -4])
def test_a_depth_that_is_not_6_n_plus_2_is_refused(depth):
    with pytest.raises(jc.ArgumentError, match=rf"depth must be 6 n \+ 2 \(20, 32, 44, 56, 110\), got {depth}"):
        jc.models.cifar_resnet(depth)


def test_a_stem_for_small_images_keeps_their_size():
    net = jc.models.resnet18(10, small_images=True)
    rows = {row.path: row.output.shape for row in jc.inspect.trace(net, (1, 32, 32, 3))}
    assert rows["conv1"] == rows["layer1"] == (1, 32, 32, 64)
    assert rows["layer4"] == (1, 4, 4, 512)
    assert rows["fc"] == (1, 10)
    usual = {row.path: row.output.shape for row in jc.inspect.trace(jc.models.resnet18(), (1, 64, 64, 3))}
    assert (usual["conv1"], usual["layer1"], usual["layer4"]) == ((1, 32, 32, 64), (1, 16, 16, 64), (1, 2, 2, 512))


def test_width_and_input_channels_are_free():
    net = jc.models.resnet50(3, width=8)
    table = jc.summary(net, (1, 64, 64, 1))
    assert table.rows[0].path == "conv1"
    assert table.rows[0].parameters == 7 * 7 * 1 * 8
    assert sizes(net, (1, 64, 64, 1))["layer4"] == (2, 2, 4 * 64)


def test_drop_path_grows_with_depth_and_wants_a_key_in_training_only():
    net = resnet(basic, (2, 2), 3, width=4, small_images=True, drop_path=0.3)
    rates = [layer.rate for _, layer in walk(net) if isinstance(layer, jc.DropPath)]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3])
    params, state, x = ready(net, (8, 8, 8, 3))
    plain = resnet(basic, (2, 2), 3, width=4, small_images=True)
    np.testing.assert_allclose(
        jax.jit(net.apply)(params, state, x)[0], jax.jit(plain.apply)(params, state, x)[0], rtol=1e-6
    )
    with pytest.raises(jc.MissingKeyError, match=r"layer1\.1\.drop_path"):
        net.apply(params, state, x, train=True)
    train = jax.jit(lambda key: net.apply(params, state, x, train=True, key=key)[0])
    assert np.any(train(jax.random.key(0)) != train(jax.random.key(1)))


@pytest.mark.parametrize(
    ("dilate", "wanted"),
    [((), [8, 4, 2]), ((False, True), [8, 8, 4]), ((True, False, True), [16, 8, 8]), ((True,) * 3, [16, 16, 16])],
)
def test_a_stage_that_dilates_keeps_its_maps_size_and_its_weights(dilate, wanted):
    net = resnet(bottleneck, (1, 1, 1, 1), 3, width=8, dilate=dilate)
    found = sizes(net, (1, 64, 64, 3))
    assert [found[f"layer{i}"][0] for i in (1, 2, 3, 4)] == [16, *wanted]
    plain = resnet(bottleneck, (1, 1, 1, 1), 3, width=8)
    assert jc.summary(net, (1, 64, 64, 3)).parameters == jc.summary(plain, (1, 64, 64, 3)).parameters


def test_more_dilations_than_stages_are_refused():
    with pytest.raises(
        jc.ArgumentError, match=r"dilate must have at most one entry for each of 3 stages, got \(False, "
    ):
        jc.models.resnet50(dilate=(False,) * 4)


@pytest.mark.torch
@pytest.mark.parametrize("dilate", [(False, True, True), (True, False, True)], ids=str)
def test_dilated_networks_give_torchvisions_numbers(dilate):
    pytest.importorskip("torch")
    from tests.record_torchvision import fill, run, torchvision

    theirs = torchvision().models.resnet
    model = theirs.ResNet(
        theirs.Bottleneck, [1, 2, 2, 2], 7, groups=4, width_per_group=8, replace_stride_with_dilation=list(dilate)
    ).eval()
    net = resnet(functools.partial(bottleneck, groups=4, group_width=8), (1, 2, 2, 2), 7, dilate=dilate)
    params, state = jc.weights.from_torch(net, fill(model))
    x = images((2, 64, 72, 3))
    y, _ = jax.jit(net.apply)(params, state, x)
    wanted = run(model, x)
    assert np.abs(y - wanted).max() <= 1e-4 * np.abs(wanted).max()
