"""Names, paths, and what is a layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.child import child_key

KEY = jax.random.key(3)


def shapes(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def fresh_shapes(net, x):
    return tuple(map(shapes, jax.eval_shape(lambda key: net.init(key, x), KEY)))


def assert_trees(got, want, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), got, want)


def bottleneck(width, stride=1):
    body = jc.serial(
        conv1=jc.Conv(width, 1, bias=False),
        bn1=jc.BatchNorm(),
        relu1=jax.nn.relu,
        conv2=jc.Conv(4 * width, 3, stride=stride, bias=False),
        bn2=jc.BatchNorm(),
    )
    downsample = jc.serial(jc.Conv(4 * width, 1, stride=stride, bias=False), jc.BatchNorm())
    return jc.residual(body, downsample, after=jax.nn.relu, name="downsample")


def test_the_paths_are_those_of_torchvision():
    net = jc.serial(
        conv1=jc.Conv(4, 7, stride=2, bias=False),
        bn1=jc.BatchNorm(),
        layer1=jc.serial(bottleneck(2), bottleneck(2, 2)),
        fc=jc.serial(jc.GlobalAvgPool(), jc.Dropout(0.5), jc.Dense(10)),
    )
    params, state = fresh_shapes(net, (1, 16, 16, 3))
    assert params["layer1.0.conv1.kernel"] == (1, 1, 4, 2)
    assert params["layer1.1.downsample.0.kernel"] == (1, 1, 8, 8)
    blocks = [f"layer1.{i}.{name}" for i in (0, 1) for name in ("bn1", "bn2", "downsample.1")]
    assert set(state) == {f"{bn}.{leaf}" for bn in ("bn1", *blocks) for leaf in ("mean", "var")}
    kernels = [f"layer1.{i}.{name}.kernel" for i in (0, 1) for name in ("conv1", "conv2", "downsample.0")]
    assert {path for path in params if path.endswith("kernel")} == {"conv1.kernel", "fc.2.kernel", *kernels}
    assert params["fc.2.bias"] == (10,)


def test_positions_count_children_without_parameters_which_leave_no_key():
    params, state = fresh_shapes(jc.serial(jc.Conv(4), jax.nn.relu, jc.MaxPool(2), jc.BatchNorm()), (1, 8, 8, 3))
    assert {path.split(".")[0] for path in params} == {"0", "3"}
    assert {path.split(".")[0] for path in state} == {"3"}
    assert jc.serial(jax.nn.relu, jc.MaxPool(2)).init(KEY, (1, 8, 8, 3)) == ({}, {})


@pytest.mark.parametrize("make", [jc.serial, jc.parallel, jc.concat, jc.split])
def test_all_composites_name_alike(make):
    net = make(jc.Conv(4), jax.nn.relu, last=jc.Conv(4))
    assert [name for name, _ in net.children] == ["0", "1", "last"]
    assert net.children[1][1] == jc.Fn(jax.nn.relu)


@pytest.mark.parametrize("make", [jc.serial, jc.parallel, jc.concat, jc.split])
@pytest.mark.parametrize("name", ["a.b", "a/b", ""])
def test_names_that_would_break_a_path_raise(make, name):
    with pytest.raises(jc.ArgumentError, match=r'name of a child must be a non-empty string without "\." and "/"'):
        make(**{name: jc.Conv(4)})


def test_other_names_that_would_break_a_path_raise():
    with pytest.raises(jc.ArgumentError, match="name of a child must be"):
        jc.residual(jc.Conv(4), jc.Conv(4), name="down.sample")
    with pytest.raises(jc.ArgumentError, match="name of a child must be"):
        dataclasses.replace(jc.serial(jc.Conv(4)), children=(("a.b", jc.Conv(4)),))


@pytest.mark.parametrize(
    "make",
    [
        lambda: jc.serial(jc.Conv(4), **{"0": jc.Conv(4)}),
        lambda: jc.serial(jc.inline(jc.serial(a=jc.Conv(4))), a=jc.Conv(4)),
        lambda: jc.serial(jc.inline(jc.serial(jc.Conv(4))), jc.inline(jc.serial(jc.Conv(4)))),
        lambda: jc.residual(jc.serial(shortcut=jc.Conv(4)), jc.Conv(4)),
        lambda: jc.residual(jc.serial(after=jc.Conv(4)), after=jax.nn.relu),
        lambda: jc.serial(jc.inline(jc.remat(jc.repeat(jc.gate(jc.serial(a=jc.Conv(4))), 2))), a=jc.Dense(4)),
        lambda: jc.residual(jc.Conv(4), jc.Conv(4), after=jax.nn.relu, name="after"),
    ],
)
def test_names_used_twice_at_one_level_raise_at_construction(make):
    with pytest.raises(jc.ArgumentError, match=r"names of children must be unique, got '.*' more than once"):
        make()


def test_leaves_that_share_entries_raise_in_init():
    net = jc.serial(jc.inline(jc.Dense(4)), jc.inline(jc.Dense(4)))
    with pytest.raises(jc.ArgumentError, match=r"unique, got \['bias', 'kernel'\] from two children"):
        net.init(KEY, (1, 8))
    assert jc.residual(jc.serial(shortcut=jc.Conv(4)), jc.Conv(4), name="other")


@pytest.mark.parametrize("wrong", [8, None, "relu", [jc.Conv(4)]])
def test_what_is_no_layer_is_refused(wrong):
    with pytest.raises(TypeError, match="a layer must have init and apply, or be callable, got"):
        jc.serial(wrong)


def test_a_class_in_a_layers_place_is_refused():
    with pytest.raises(TypeError, match=r"a layer must be an instance, got the class BatchNorm: write BatchNorm"):
        jc.serial(jc.Conv(4), jc.BatchNorm)


def test_inline_puts_children_and_leaves_at_the_parents_level():
    net = jc.serial(
        jc.inline(jc.serial(conv=jc.Conv(4), bn=jc.BatchNorm())),
        jc.inline(jc.LayerScale()),
        jc.serial(jc.inline(jc.inline(jc.Dense(3)))),
    )
    params, state = fresh_shapes(net, (1, 8, 8, 3))
    assert params == {
        "conv.kernel": (3, 3, 3, 4), "conv.bias": (4,), "bn.scale": (4,), "bn.bias": (4,),
        "scale": (4,), "2.kernel": (4, 3), "2.bias": (3,),
    }  # fmt: skip
    assert set(state) == {"bn.mean", "bn.var"}


@pytest.mark.parametrize(
    "wrap", [jc.remat, jc.mixed_precision, jc.gate, jc.inline, jc.frozen, lambda layer: jc.residual(layer)]
)
def test_wrappers_add_no_level(wrap):
    body = jc.serial(conv=jc.Conv(3), bn=jc.BatchNorm())
    assert fresh_shapes(wrap(body), (1, 8, 8, 3)) == fresh_shapes(body, (1, 8, 8, 3))
    assert fresh_shapes(wrap(jc.Conv(3)), (1, 8, 8, 3)) == fresh_shapes(jc.Conv(3), (1, 8, 8, 3))


def test_adding_a_layer_changes_no_others_initial_weights():
    dense = jc.Dense(4, kernel_init=jax.nn.initializers.uniform())
    few = jc.serial(dense, block=jc.residual(jc.serial(a=dense)), head=jc.remat(dense))
    more = jc.serial(
        dense,
        jc.BatchNorm(),
        jc.LayerScale(),
        block=jc.residual(jc.serial(b=dense, a=dense), dense),
        head=jc.mixed_precision(dense),
    )
    old, new = (net.init(KEY, (1, 4))[0] for net in (few, more))
    assert_trees(new["0"], old["0"], rtol=0)
    assert_trees(new["head"], old["head"], rtol=0)
    assert_trees(new["block"]["a"], old["block"]["a"], rtol=0)
    # Each of the others is another draw.
    kernels = [new["0"], new["head"], *(new["block"][name] for name in ("a", "b", "shortcut"))]
    assert len({tuple(np.ravel(k["kernel"])) for k in kernels}) == 5
    assert_trees(old["0"], dense.init(child_key(KEY, "0"), (1, 4))[0], rtol=0)


def test_a_list_of_layers_is_told_how_to_be_a_network():
    with pytest.raises(TypeError, match=r"got a list: write \(\*layers\)"):
        jc.serial([jc.Identity(), jnp.abs])
