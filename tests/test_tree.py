"""A network as a tree of layers."""

import dataclasses

import jax
import pytest

import jaxconv as jc
from jaxconv.tree import visits, walk
from tests.nets import Pass, Twice


def block():
    return jc.serial(conv1=jc.Conv(4), relu=jax.nn.relu, conv2=jc.Conv(4))


def network():
    return jc.serial(
        jc.Conv(4),
        layer1=jc.serial(jc.residual(block(), jc.Conv(4, 1), after=jc.MaxPool(2), name="downsample")),
        more=jc.repeat(block(), 2),
        mixed=jc.mixed_precision(jc.remat(jc.gate(block()))),
        head=jc.serial(jc.inline(jc.serial(pool=jc.GlobalAvgPool())), jc.Dense(3)),
    )


def test_walk_gives_each_named_layer_with_its_path():
    places = dict(walk(network()))
    assert list(places) == [
        "0",
        *("layer1", "layer1.0", "layer1.0.conv1", "layer1.0.relu", "layer1.0.conv2", "layer1.0.downsample"),
        "layer1.0.after",
        *("more", "more.conv1", "more.relu", "more.conv2"),
        *("mixed", "mixed.conv1", "mixed.relu", "mixed.conv2"),
        *("head", "head.pool", "head.1"),
    ]
    assert places["layer1.0.after"] == jc.MaxPool(2)
    assert places["head.1"] == jc.Dense(3)


def test_map_layers_rebuilds_with_names_kept():
    def change(layer):
        if isinstance(layer, jc.Conv):
            return dataclasses.replace(layer, features=2 * layer.features)
        return jc.AvgPool(layer.window) if isinstance(layer, jc.MaxPool) else layer

    net, changed = network(), jc.map_layers(network(), change)
    assert [path for path, _ in walk(changed)] == [path for path, _ in walk(net)]
    for (path, old), (_, new) in zip(walk(net), walk(changed), strict=True):
        if not hasattr(old, "children"):
            assert new == change(old), path
        else:
            assert type(new) is type(old), path
    assert dict(walk(changed))["layer1.0.conv1"] == jc.Conv(8)
    assert dict(walk(changed))["layer1.0.after"] == jc.AvgPool(2)
    assert dict(walk(changed))["more"].n == 2
    assert net == network()


def test_map_layers_returns_the_same_network_where_nothing_changes():
    net = network()
    assert jc.map_layers(net, lambda layer: layer) is net
    assert jc.map_layers(jc.Conv(4), lambda layer: jc.Conv(8)) == jc.Conv(8)


def test_map_layers_goes_from_the_inside_out():
    seen = []
    jc.map_layers(jc.serial(a=jc.serial(jc.Conv(4))), lambda layer: seen.append(type(layer).__name__) or layer)
    assert seen == ["Conv", "Serial", "Serial"]


def test_map_layers_rebuilds_a_users_composite():
    net = jc.serial(Twice((("conv", jc.Conv(4)),)))
    changed = jc.map_layers(net, lambda layer: jc.Dense(4) if isinstance(layer, jc.Conv) else layer)
    assert changed == jc.serial(Twice((("conv", jc.Dense(4)),)))


class Closed(Pass):
    """A composite that is no dataclass."""

    children = (("conv", jc.Conv(4)),)


def test_map_layers_says_what_it_cannot_rebuild():
    assert jc.map_layers(jc.serial(Closed()), lambda layer: layer)
    with pytest.raises(TypeError, match=r"must be a dataclass with a field children for .*, got Closed"):
        jc.map_layers(jc.serial(Closed()), lambda layer: jc.Dense(4) if isinstance(layer, jc.Conv) else layer)


def test_visits_have_the_parents_and_the_names():
    found = {(visit.path, type(visit.layer).__name__): visit for visit in visits(network())}
    assert found[(), "Serial"].parents == ()
    conv = found[("more", "conv1"), "Conv"]
    assert [type(layer).__name__ for layer in conv.parents] == ["Serial", "Repeat", "Serial"]
    assert (conv.name, conv.parents[0]) == ("conv1", network())
    assert found[("mixed",), "Gate"].name == ""
    entered = [visit.path for visit in visits(network(), lambda visit: not visit.path)]
    assert entered == [(), ("0",), ("layer1",), ("more",), ("mixed",), ("head",)]
