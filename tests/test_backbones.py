"""Feature maps by path, heads on one of them, heads for training only, top-down paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.fields import Field
from jaxconv.inspect import activations, receptive_field
from jaxconv.tree import walk
from tests.nets import ready

X = (2, 8, 8, 3)


def run(net, params, state, x, **options):
    return jax.jit(lambda p, s, x: net.apply(p, s, x, **options))(params, state, x)


def shapes(net, x=X):
    trees = jax.eval_shape(lambda key: net.init(key, x), jax.random.key(0))
    return tuple(by_path(tree) for tree in trees)


def by_path(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def output(net, x):
    return jax.eval_shape(lambda key: net.init_with_output(key, x)[2], jax.random.key(0))


def again(net):
    """What the network's own text makes."""
    names = {name: getattr(jc, name) for name in dir(jc)}
    return eval(repr(net), {**names, "jax": jax, "jaxconv": jc})


def deep():
    """A serial with serials inside, two of them inlined, with all types of children."""
    inner = jc.serial(jc.Conv(4), jax.nn.relu, deeper=jc.serial(jc.Conv(5), jc.BatchNorm()), last=jc.Conv(4))
    return jc.serial(
        jc.inline(jc.serial(stem=jc.serial(jc.Conv(3), jax.nn.relu), pool=jc.MaxPool(2))),
        body=inner,
        block=jc.residual(jc.serial(conv=jc.Conv(4)), after=jax.nn.relu),
        head=jc.serial(jc.GlobalAvgPool(), jc.Dense(2)),
    )


PATHS = [
    ["stem"],
    ["stem.1", "body"],
    ["body.deeper.0", "body.1", "body", "head.0"],
    ["body.deeper", "block"],
    ["pool", "stem.0", "body.last"],
    ["body.0", "block"],
    ["body.deeper.1"],
]


@pytest.mark.parametrize("paths", PATHS, ids=" ".join)
def test_a_backbones_maps_are_the_networks(paths):
    net = deep()
    params, state, x = ready(net, X)
    wanted = jax.jit(lambda p, s, x: activations(net, p, s, x, paths=paths, train=True)[1])(params, state, x)
    found, new = run(jc.backbone(net, paths), params, state, x, train=True)
    assert list(found) == list(paths)
    jax.tree.map(assert_array_equal, dict(found), wanted)
    moved = "body" in new and not np.array_equal(*(jax.tree.leaves(s["body"])[0] for s in (new, state)))
    assert moved == any(p in ("body", "body.last", "block", "head.0") or "deeper" in p for p in paths) - (
        paths == ["body.deeper.0"]
    )


@pytest.mark.parametrize("paths", PATHS, ids=" ".join)
def test_a_backbones_arrays_are_the_networks_under_their_paths(paths):
    ours, whole = shapes(jc.backbone(deep(), paths)), shapes(deep())
    for part, all_of_it in zip(ours, whole, strict=True):
        assert part.items() <= all_of_it.items()
    assert not any(path.startswith("head.1") for path in ours[0])


def test_a_backbone_starts_as_the_network_does():
    net = jc.serial(a=jc.serial(jc.Dense(2), jax.nn.relu), b=jax.nn.relu)
    ours, whole = (n.init(jax.random.key(3), (1, 4))[0] for n in (jc.backbone(net, ["a.0"]), net))
    jax.tree.map(assert_array_equal, ours, whole)


def test_what_comes_after_the_last_path_is_left_out():
    names = [path for path, _ in walk(jc.backbone(deep(), ["stem.0", "body.1"]))]
    assert names == ["stem", "stem.0", "stem.1", "pool", "body", "body.0", "body.1"]


def test_maps_have_the_names_that_they_are_given():
    net = jc.backbone(deep(), {"stem": "fine", "body.deeper": "coarse"})
    params, state, x = ready(net, X)
    y, _ = run(net, params, state, x)
    assert {name: a.shape for name, a in y.items()} == {"fine": (2, 8, 8, 3), "coarse": (2, 4, 4, 5)}


def test_gradients_reach_what_a_map_depends_on_and_nothing_else():
    net = jc.backbone(deep(), ["stem", "body.0"])
    params, state, x = ready(net, X)
    grads = jax.jit(jax.grad(lambda p: (net.apply(p, state, x)[0]["stem"] ** 2).sum()))(params)
    assert np.any(grads["stem"]["0"]["kernel"])
    assert not np.any(grads["body"]["0"]["kernel"])


def test_the_body_of_a_network_with_heads_is_a_backbone_without_them():
    net = jc.auxiliary(jc.serial(a=jc.serial(jc.Conv(4), jax.nn.relu), b=jc.Conv(2)), aux=("a", jc.Conv(1)))
    params, _ = shapes(jc.backbone(net, ["a.0", "b"]))
    assert {path.split(".")[0] for path in params} == {"a", "b"}


def test_a_backbone_in_a_backbone_gives_one_of_several_maps():
    inner = jc.backbone(jc.serial(jc.Conv(2), jc.Conv(3)), ["0", "1"])
    net = jc.backbone(jc.serial(maps=inner, head=jc.on_map("1", jc.Conv(4, 1))), ["maps", "head"])
    params, state, x = ready(net, X)
    y, _ = run(net, params, state, x)
    assert jax.tree.map(jnp.shape, y) == {"maps": {"0": (2, 8, 8, 2), "1": (2, 8, 8, 3)}, "head": (2, 8, 8, 4)}
    assert again(net) == net


@pytest.mark.parametrize("paths", PATHS, ids=" ".join)
def test_a_backbone_reads_as_the_call_that_makes_it(paths):
    net = jc.backbone(deep(), paths)
    assert again(net) == net
    assert repr(net).count("backbone") == 1


def test_layers_of_a_backbone_are_replaced_in_place():
    net = jc.backbone(deep(), ["stem.1", "body.deeper"])
    smooth = jc.map_layers(net, lambda l: jc.Fn(jnp.tanh) if l == jc.Fn(jax.nn.relu) else l)
    assert smooth == jc.backbone(jc.map_layers(deep(), lambda l: jc.Fn(jnp.tanh) if l == jc.Fn(jax.nn.relu) else l),
                                 ["stem.1", "body.deeper"])  # fmt: skip
    assert "relu" not in repr(smooth)


AROUND = [jc.frozen, jc.remat, jc.mixed_precision, lambda net: jc.frozen(jc.remat(net))]
AROUND_IDS = ["frozen", "remat", "mixed_precision", "frozen remat"]


@pytest.mark.parametrize("wrap", AROUND, ids=AROUND_IDS)
@pytest.mark.parametrize("paths", PATHS[:4], ids=" ".join)
def test_what_stands_around_a_network_stands_around_its_backbone(wrap, paths):
    maps = jc.backbone(wrap(deep()), paths)
    assert maps == wrap(jc.backbone(deep(), paths))
    assert again(maps) == maps
    assert shapes(maps) == shapes(jc.backbone(deep(), paths))


@pytest.mark.parametrize("wrap", AROUND, ids=AROUND_IDS)
def test_a_backbone_goes_through_what_stands_around_a_part(wrap):
    def net(wrap):
        row = jc.serial(jc.Conv(4), jax.nn.relu, deeper=jc.serial(jc.Conv(5, 1), jc.Identity()))
        return jc.serial(stem=jc.Conv(3), body=wrap(row), head=jc.Conv(2, 1))

    paths = {"stem": "stem", "body.1": "mid", "body.deeper.0": "deep", "head": "out"}
    maps, plain = (jc.backbone(net(w), paths) for w in (wrap, lambda layer: layer))
    assert again(maps) == maps
    assert maps.source() == (net(wrap), paths)
    params, state, x = ready(plain, X)
    found, wanted = (run(maps, params, state, x)[0], run(plain, params, state, x)[0])
    assert found.keys() == wanted.keys() == {"stem", "mid", "deep", "out"}
    for name, y in wanted.items():
        atol = (0.02 if wrap is jc.mixed_precision else 1e-6) * np.abs(y).max()
        assert_allclose(found[name], y, atol=atol)


def test_the_backbone_of_a_frozen_network_is_frozen():
    net = jc.serial(maps=jc.backbone(jc.frozen(deep()), ["body.deeper"]), head=jc.on_map("body.deeper", jc.Dense(2)))
    params, state, x = ready(net, X)

    @jax.jit
    @jax.grad
    def grads(params):
        return (net.apply(params, state, x, train=True)[0] ** 2).sum()

    found = grads(params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(found["maps"]))
    assert found["head"]["kernel"].any()
    _, new = run(net, params, state, x, train=True)
    jax.tree.map(assert_array_equal, new, state)
    some = jc.backbone(jc.frozen(deep(), but=["body.deeper"]), ["body.deeper"])
    assert isinstance(dict(some.children)["body"], jc.backbones.Backbone)


def test_maps_in_mixed_precision_keep_fields_of_their_own():
    maps = jc.mixed_precision(jc.backbone(jc.serial(jc.Conv(2, 3), jc.Conv(2, 5)), ["0", "1"]))
    net = jc.serial(maps=maps, head=jc.on_map("0", jc.Conv(2, 1)))
    assert receptive_field(net, X)["head"][0].size == 3


def test_a_backbone_can_be_looked_into():
    net = jc.backbone(deep(), {"stem.0": "fine", "body": "coarse"})
    table = jc.summary(net, X)
    assert [row.path for row in table.rows] == [
        "stem.0", "stem.1", "pool", "body.0", "body.1", "body.deeper.0", "body.deeper.1", "body.last",
    ]  # fmt: skip
    assert receptive_field(net, X)["body.0"] == (Field(8, 2, -3),) * 2
    params, state, x = ready(net, X)
    _, found = activations(net, params, state, x, paths=["body.1"])
    assert found["body.1"].shape == (2, 4, 4, 4)


@pytest.mark.parametrize(
    ("paths", "sentence"),
    [
        ([], "paths must have at least one entry, with unique names"),
        ({"stem": "a", "pool": "a"}, "paths must have at least one entry, with unique names"),
        (["nothing"], "paths must name layers of net, one of 'stem', 'pool', 'body', 'block', 'head', got 'nothing'"),
        (["stem", "body.7"], "paths must name layers of body, one of '0', '1', 'deeper', 'last', got '7'"),
        (["block.conv"], r"'block' must be made by serial to reach the paths \['conv'\], got Residual"),
        (["stem.0.kernel"], r"'stem.0' must be made by serial to reach the paths \['kernel'\], got Conv"),
    ],
)
def test_paths_that_lead_nowhere_are_refused(paths, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        jc.backbone(deep(), paths)


def test_a_string_is_no_sequence_of_paths():
    with pytest.raises(TypeError, match="paths must be a sequence of paths, got the string 'stem'"):
        jc.backbone(deep(), "stem")


def test_what_is_no_row_has_no_paths():
    with pytest.raises(jc.ArgumentError, match="net must be made by serial"):
        jc.backbone(jc.Conv(3), ["0"])


def test_a_head_takes_the_map_of_its_name_at_its_own_level():
    head = jc.on_map("b", jc.serial(conv=jc.Conv(2, 1)))
    x = {"a": jnp.ones((1, 4, 4, 3)), "b": jnp.ones((1, 2, 2, 5))}
    assert shapes(head, x)[0] == {"conv.kernel": (1, 1, 5, 2), "conv.bias": (2,)}
    assert again(head) == head
    assert (
        jc.map_layers(head, lambda l: jc.Conv(7, 1) if isinstance(l, jc.Conv) else l).layer.children[0][1].features == 7
    )


@pytest.mark.parametrize(
    ("x", "got"), [({"a": (1, 4, 4, 3)}, "got 'a'"), ((1, 4, 4, 3), "got one array of shape"), ({}, "got none")]
)
def test_a_map_that_is_not_there_is_named(x, got):
    with pytest.raises(jc.ArgumentError, match=f"x must be a dict of feature maps with 'b' in it, {got}"):
        jc.on_map("b", jc.Conv(2)).init(jax.random.key(0), x)


def with_heads():
    body = jc.serial(a=jc.serial(jc.Conv(4), jc.BatchNorm()), b=jc.Conv(3), c=jc.GlobalAvgPool())
    head = jc.serial(jc.BatchNorm(), jc.GlobalAvgPool())
    return jc.auxiliary(body, one=("a", head), two=("b", jc.Dense(2)))


def test_heads_are_initialized_always_and_run_in_training_only():
    net = with_heads()
    assert {path.split(".")[0] for path in shapes(net)[0]} == {"a", "b", "one", "two"}
    params, state, x = ready(net, X)
    y, same = run(net, params, state, x)
    assert y.shape == (2, 3)
    jax.tree.map(assert_array_equal, same, state)
    (y, extra), new = run(net, params, state, x, train=True)
    assert y.shape == (2, 3)
    assert {name: a.shape for name, a in extra.items()} == {"one": (2, 4), "two": (2, 8, 8, 2)}
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert not np.array_equal(new["one"]["0"]["mean"], state["one"]["0"]["mean"])


def test_a_head_takes_the_output_of_the_layer_that_it_stands_after():
    net = with_heads()
    params, state, x = ready(net, X)
    (_, extra), _ = run(net, params, state, x, train=True)
    _, found = activations(net, params, state, x, paths=["b", "two"], train=True)
    want = jc.dense(found["b"], params["two"]["kernel"], params["two"]["bias"])
    assert_allclose(extra["two"], want, rtol=1e-5, atol=1e-6)
    assert_allclose(found["two"], want, rtol=1e-5, atol=1e-6)
    grads = jax.jit(jax.grad(lambda p: (net.apply(p, state, x, train=True)[0][1]["two"] ** 2).sum()))(params)
    assert np.any(grads["b"]["kernel"])
    assert not np.any(grads["one"]["0"]["scale"])


def test_heads_are_in_the_table_and_the_output_is_the_networks():
    rows = jc.summary(with_heads(), X).rows
    assert {"one.0", "two"} <= {row.path for row in rows}
    assert receptive_field(with_heads(), X)["two"] == (Field(5, 1, -2),) * 2
    assert receptive_field(with_heads(), X)[""] == (Field(8, 0, 0),) * 2


def test_a_network_with_heads_reads_as_its_call_and_is_rebuilt():
    net = with_heads()
    assert again(net) == net
    wider = jc.map_layers(net, lambda l: jc.Dense(7) if isinstance(l, jc.Dense) else l)
    assert wider == jc.auxiliary(net.body, one=("a", net.heads[0][1]), two=("b", jc.Dense(7)))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: jc.auxiliary(jc.Conv(3)), "body must be made by serial, got Conv"),
        (lambda: jc.auxiliary(jc.serial(a=jc.Conv(3)), h=("b", jc.Conv(1))), "h must name a child of body whose"),
        (lambda: jc.auxiliary(jc.serial(a=jc.Conv(3)), a=("a", jc.Conv(1))), "names of children must be unique"),
        (lambda: jc.auxiliary(jc.serial(a=jc.Conv(3)), **{"b.c": ("a", jc.Conv(1))}), "name of a child must be"),
    ],
)  # fmt: skip
def test_heads_that_cannot_stand_are_refused(make, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        make()


def decoder(**options):
    up = jc.ConvTranspose(2, 2, stride=2)
    return jc.top_down("c", {"b": (up, jc.Conv(3)), "a": (up, jc.Conv(4))}, **options)


def maps(a, b, c):
    return {"a": (1, *a, 5), "b": (1, *b, 6), "c": (1, *c, 7)}


def test_the_way_up_joins_map_after_map():
    net = decoder()
    sizes = maps((8, 8), (4, 4), (2, 2))
    params = jax.eval_shape(lambda key: net.init(key, sizes), jax.random.key(0))[0]
    params = jax.tree.map(lambda s: jnp.asarray(np.random.default_rng(0).normal(size=s.shape), s.dtype), params)
    x = {name: jnp.asarray(np.random.default_rng(1).normal(size=s), jnp.float32) for name, s in sizes.items()}
    y, _ = run(net, params, {}, x)
    want = x["c"]
    for name in "ba":
        up, block = params[f"{name}_up"], params[name]
        want = jc.conv_transpose(want, up["kernel"], up["bias"], stride=2)
        want = jc.conv(jnp.concatenate([x[name], want], -1), block["kernel"], block["bias"])
    assert_allclose(y, want, rtol=1e-5, atol=1e-4)
    assert list(params) == ["a", "a_up", "b", "b_up"]


@pytest.mark.parametrize("sizes", [((7, 9), (4, 5), (2, 3)), ((7, 9), (3, 4), (1, 2)), ((8, 7), (4, 3), (2, 2))])
def test_odd_sizes_that_were_halved_up_or_down_come_back(sizes):
    assert output(decoder(), maps(*sizes)).shape == (1, *sizes[0], 4)


def test_what_is_missing_at_the_end_is_zero_and_what_is_over_is_cut():
    net = jc.top_down("c", {"a": (jc.Resize(factor=2, method="nearest", rank=1), jc.Identity())}, rank=1)
    x = {"a": jnp.zeros((1, 5, 1)), "c": jnp.arange(1.0, 3)[None, :, None]}
    assert_array_equal(net.apply({}, {}, x)[0][0, :, 1], [1, 1, 2, 2, 0])
    x["a"] = jnp.zeros((1, 3, 1))
    assert_array_equal(net.apply({}, {}, x)[0][0, :, 1], [1, 1, 2])
    assert again(net) == net


def test_cropping_takes_the_middle():
    net = jc.top_down("c", {"a": (jc.Resize(factor=2, method="nearest", rank=1), jc.Identity())}, crop=True, rank=1)
    x = {"a": jnp.arange(8.0)[None, :, None], "c": jnp.ones((1, 2, 1))}
    assert_array_equal(net.apply({}, {}, x)[0][0, :, 0], [2, 3, 4, 5])
    assert again(net) == net


@pytest.mark.parametrize("sizes", [((8, 8), (5, 4), (2, 2)), ((6, 8), (4, 4), (2, 2))])
def test_cropping_refuses_what_has_no_middle(sizes):
    with pytest.raises(jc.ShapeError, match=r"must be larger than the upsampled map by even numbers for its center"):
        output(decoder(crop=True), maps(*sizes))


def test_maps_in_the_wrong_order_are_refused():
    with pytest.raises(jc.ShapeError, match=r"must have the size of feature map 'b', \(8, 8\), .*got \(4, 4\)"):
        output(decoder(), maps((4, 4), (8, 8), (2, 2)))


@pytest.mark.parametrize(
    ("steps", "options", "sentence"),
    [
        ({"a.b": (jc.Identity(), jc.Identity())}, {}, "name of a child must be"),
        ({"a": (jc.Identity(), jc.Identity()), "a_up": (jc.Identity(), jc.Identity())}, {}, "names of children"),
        ({}, {"rank": 0}, "rank must be at least 1"),
    ],
)
def test_steps_that_cannot_be_are_refused_at_construction(steps, options, sentence):
    with pytest.raises(jc.ArgumentError, match=sentence):
        jc.top_down("c", steps, **options)


def test_the_way_up_can_be_looked_into_and_rebuilt():
    row = jc.serial(a=jc.Conv(4), pool1=jc.MaxPool(2), b=jc.Conv(4), pool2=jc.MaxPool(2), c=jc.Conv(4))
    net = jc.serial(down=jc.backbone(row, ["a", "b", "c"]), up=decoder())
    assert again(net) == net
    x = (1, 7, 7, 3)
    assert [row.path for row in jc.summary(net, x).rows][-6:] == ["up.b_up", "up", "up.b", "up.a_up", "up", "up.a"]
    field, _ = receptive_field(net, x)["up.a"]
    assert field.stride == 1
    assert not field.exact
    params, state, x = ready(net, x)
    _, found = activations(net, params, state, x, paths=["up.b_up", "up.b", "up"])
    assert {path: a.shape[1:] for path, a in found.items()} == {
        "up.b_up": (2, 2, 2),
        "up.b": (3, 3, 3),
        "up": (7, 7, 4),
    }
    plain = jc.map_layers(net, lambda l: jc.Resize(factor=2) if isinstance(l, jc.ConvTranspose) else l)
    assert "ConvTranspose" not in repr(plain)
    assert {path.split(".")[1] for path in shapes(plain, (1, 8, 8, 3))[0]} == {"a", "b", "c"}


def test_the_order_of_maps_survives_jit_and_printing():
    """jit returns a plain dict sorted by name."""
    net = jc.serial(stem=jc.Conv(2), body=jc.serial(a=jc.Conv(3), b=jc.Conv(4)))
    for paths in (["body.b", "stem", "body.a"], {"stem": "z", "body.a": "y", "body": "x"}):
        trunk = jc.frozen(jc.backbone(net, paths))
        names = list(paths.values()) if isinstance(paths, dict) else paths
        params, state = trunk.init(jax.random.key(0), (1, 4, 4, 3))
        maps, _ = jax.jit(trunk.apply)(params, state, jnp.ones((1, 4, 4, 3)))
        assert list(maps) == names
        assert list(jax.tree.map(jnp.shape, maps)) == names
        printed = eval(
            repr(trunk), {"frozen": jc.frozen, "backbone": jc.backbone, "serial": jc.serial, "Conv": jc.Conv}
        )
        assert printed == trunk


def test_top_down_adds():
    maps = {"fine": jnp.ones((1, 4, 4, 3)), "coarse": jnp.full((1, 2, 2, 3), 2.0)}
    net = jc.top_down("coarse", {"fine": (lambda y: jc.resize(y, 4, method="nearest"), jc.Identity())}, join="add")
    y, _ = net.apply(*net.init(jax.random.key(0), maps), maps)
    assert_array_equal(y, jnp.full((1, 4, 4, 3), 3.0))
    assert "join='add'" in repr(net)
    with pytest.raises(jc.ShapeError, match="feature maps must have equal shapes for join"):
        net.init(jax.random.key(0), maps | {"fine": jnp.ones((1, 4, 4, 2))})
    with pytest.raises(jc.ArgumentError, match="join must be one of 'concatenate', 'add', got 'sum'"):
        jc.top_down("coarse", {}, join="sum")
