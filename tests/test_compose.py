"""Names and paths, the values of each composite, and random networks."""

import dataclasses
import itertools
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.child import child_key
from jaxconv.composite import Composite
from tests.nets import Shift, Twice, double, networks, normal, randomized, ready
from tests.ops.transforms import strict_flags

KEY = jax.random.key(3)


def shapes(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def fresh_shapes(net, x):
    return tuple(map(shapes, jax.eval_shape(lambda key: net.init(key, x), KEY)))


def assert_trees(got, want, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), got, want)


# --- Names and paths --------------------------------------------------------------------------------------------------


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
    with pytest.raises(jc.ShapeError, match=r'name of a child must be a non-empty string without "\." and "/"'):
        make(**{name: jc.Conv(4)})


def test_other_names_that_would_break_a_path_raise():
    with pytest.raises(jc.ShapeError, match="name of a child must be"):
        jc.residual(jc.Conv(4), jc.Conv(4), name="down.sample")
    with pytest.raises(jc.ShapeError, match="name of a child must be"):
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
    with pytest.raises(jc.ShapeError, match=r"names of children must be unique, got '.*' more than once"):
        make()


def test_leaves_that_share_entries_raise_in_init():
    net = jc.serial(jc.inline(jc.Dense(4)), jc.inline(jc.Dense(4)))
    with pytest.raises(jc.ShapeError, match=r"unique, got \['bias', 'kernel'\] from two children"):
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


# --- Values -----------------------------------------------------------------------------------------------------------


def run(net, x):
    """Returns the output and the params that gave it."""
    params, state = jax.eval_shape(lambda key: net.init(key, x), KEY)
    params = randomized(params)
    return net.apply(params, randomized(state, 0, 0.5, 1.5), x)[0], params


X = jnp.asarray(normal((2, 4, 4, 2)))


def test_serial_runs_one_after_the_other():
    y, params = run(jc.serial(jc.Conv(3), double, last=jc.Dense(2)), X)
    assert_array_equal(y, jc.dense(2 * jc.conv(X, **params["0"]), **params["last"]))
    assert_array_equal(jc.serial().apply({}, {}, X)[0], X)


def test_parallel_gives_a_tuple():
    y, params = run(jc.parallel(jc.Conv(3), last=double), X)
    assert isinstance(y, tuple)
    assert_array_equal(y[0], jc.conv(X, **params["0"]))
    assert_array_equal(y[1], 2 * X)


def test_concat_joins_channels():
    y, params = run(jc.concat(jc.Conv(3), jc.Identity(), double), X)
    assert_array_equal(y, np.concatenate([jc.conv(X, **params["0"]), X, 2 * X], -1))


def test_split_shares_channels_in_order():
    x = jnp.asarray(normal((2, 3, 6)))
    y, _ = run(jc.split(jc.Identity(), double, jnp.negative), x)
    assert_array_equal(y, np.concatenate([x[..., :2], 2 * x[..., 2:4], -x[..., 4:]], -1))


def test_gate_weighs_elements_or_channels():
    y, params = run(jc.gate(jc.Conv(2)), X)
    assert_array_equal(y, X * jc.conv(X, **params))
    y, params = run(jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(2))), X)
    weights = jc.dense(X.mean((1, 2)), **params["1"])
    assert_allclose(y, X * weights[:, None, None, :], rtol=1e-5, atol=1e-6)


def test_residual_adds_and_then_goes_on():
    y, params = run(jc.residual(jc.Conv(2)), X)
    assert_array_equal(y, jc.conv(X, **params) + X)
    net = jc.residual(jc.serial(jc.Conv(3), conv=jc.Conv(3)), jc.Conv(3, 1), after=jax.nn.relu, name="down")
    y, params = run(net, X)
    body = jc.conv(jc.conv(X, **params["0"]), **params["conv"])
    assert_array_equal(y, jax.nn.relu(body + jc.conv(X, **params["down"])))


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (jc.residual(jc.Conv(4)), (1, 4, 4, 3), "body and shortcut must return the same shape, got (1, 4, 4, 4)"),
        (jc.concat(jc.Conv(4), jc.MaxPool(2)), (1, 4, 4, 3), "branches must have equal shapes except for channels"),
        (jc.concat(jc.Conv(4), jc.Flatten()), (1, 4, 4, 3), "branches must have equal shapes except for channels"),
        (jc.split(jc.Conv(4), jc.Conv(4)), (1, 4, 4, 3), "x must have a number of channels divisible by the 2"),
        (jc.gate(jc.Conv(4)), (1, 4, 4, 3), "body must return one weight for each element or channel of x (1, 4,"),
        (jc.gate(jc.MaxPool(2)), (1, 4, 4, 3), "body must return one weight for each element or channel of x"),
        (jc.repeat(jc.Conv(4), 2), (1, 4, 4, 3), "a repeated layer must return its input's shape and type"),
    ],
)
def test_branches_that_do_not_meet_are_refused_with_the_path(net, shape, message):
    outer = jc.serial(block=net)
    for call in (lambda: outer.init(KEY, shape), lambda: jc.summary(outer, shape)):
        with pytest.raises(jc.ShapeError) as raised:
            call()
        assert str(raised.value).startswith(f"block ({type(net).__name__}): {message}")


def test_maps_may_be_any_tree():
    net = jc.serial(
        jc.Fn(lambda x: {"left": x["image"], "right": (x["image"], x["scale"])}),
        jc.parallel(jc.Fn(lambda x: x["left"]), jc.Fn(lambda x: x["right"][0] * x["right"][1])),
        jc.Fn(lambda ys: ys[0] + ys[1]),
        jc.Conv(3),
    )
    x = {"image": X, "scale": jnp.float32(2)}
    y, params = run(net, x)
    assert_allclose(y, jc.conv(3 * X, **params["3"]), rtol=1e-5, atol=1e-5)
    shape = {"image": X.shape, "scale": jax.ShapeDtypeStruct((), jnp.float32)}
    assert fresh_shapes(net, shape) == fresh_shapes(net, x)
    assert jc.summary(net, x).rows[-1].output.shape == (2, 4, 4, 3)


def test_a_layer_gets_what_is_its_own_alone():
    """Each child receives the keys, state and training flag that it would receive alone."""
    net = jc.serial(a=jc.serial(jc.BatchNorm(), jc.Dropout(0.5)), b=Shift())
    params, state, x = ready(net, (8, 3))
    y, new = net.apply(params, state, x, train=True, key=KEY)
    normed, bn = jc.BatchNorm().apply(params["a"]["0"], state["a"]["0"], x, train=True)
    dropped = jc.dropout(normed, 0.5, child_key(child_key(KEY, "a"), "1"))
    assert_array_equal(y, dropped + params["b"]["shift"])
    assert_trees(new, {"a": {"0": bn}, "b": {"passes": state["b"]["passes"] + 1}}, rtol=0)


# --- repeat -----------------------------------------------------------------------------------------------------------


def repeated():
    return jc.serial(conv=jc.Conv(2), bn=jc.BatchNorm(), noise=jc.Dropout(0.25), act=jnp.tanh)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def test_repeat_is_serial_of_n():
    n, x = 3, jnp.asarray(normal((4, 5, 5, 2)))
    row, loop = jc.serial(*[repeated()] * n), jc.repeat(repeated(), n)
    params, state = jax.jit(lambda key: row.init(key, x))(KEY)
    loop_params, loop_state = jax.jit(lambda key: loop.init(key, x))(KEY)
    assert_trees(loop_params, stacked([params[str(i)] for i in range(n)]), rtol=1e-6)
    assert_trees(loop_state, stacked([state[str(i)] for i in range(n)]), rtol=1e-6)
    params, state = randomized(params), randomized(state, 1, 0.5, 1.5)

    @jax.jit
    def both(params, state, key):
        def loss(net, params, state):
            y, new = net.apply(params, state, x, train=True, key=key)
            return jnp.sum(y * jnp.cos(y)), (y, new, net.apply(params, state, x)[0])

        def split(tree):
            return stacked([tree[str(i)] for i in range(n)])

        one = jax.value_and_grad(lambda p: loss(row, p, state), has_aux=True)(params)
        other = jax.value_and_grad(lambda p: loss(loop, p, split(state)), has_aux=True)(split(params))
        (value, (y, new, evaluated)), gradients = one
        return ((value, (y, split(new), evaluated)), split(gradients)), other

    want, got = both(params, state, KEY)
    assert_trees(got, want, rtol=1e-4, atol=1e-5)


def test_repeat_has_one_path_with_a_leading_axis():
    net = jc.serial(stage=jc.repeat(jc.residual(jc.serial(conv=jc.Conv(2), bn=jc.BatchNorm())), 5))
    params, state = fresh_shapes(net, (1, 4, 4, 2))
    assert params == {
        "stage.conv.kernel": (5, 3, 3, 2, 2),
        **{f"stage.{name}": (5, 2) for name in ("conv.bias", "bn.scale", "bn.bias")},
    }
    assert state == {"stage.bn.mean": (5, 2), "stage.bn.var": (5, 2)}


@pytest.mark.parametrize(
    ("params", "state", "message"),
    [
        (4, 3, "params['bn']['bias'] must have a leading axis of n = 3, got shape (4, 2)"),
        (None, 3, "params['bn']['bias'] must have a leading axis of n = 3, got shape (2,)"),
        (3, 4, "state['bn']['mean'] must have a leading axis of n = 3, got shape (4, 2)"),
    ],
)
def test_repeat_refuses_what_is_not_stacked(params, state, message):
    net = jc.serial(stage=jc.repeat(jc.serial(bn=jc.BatchNorm()), 3))

    def leaves(n, *names):
        return {"stage": {"bn": {name: jnp.ones((2,) if n is None else (n, 2)) for name in names}}}

    with pytest.raises(jc.ShapeError) as raised:
        net.apply(leaves(params, "bias", "scale"), leaves(state, "mean", "var"), jnp.ones((4, 2)))
    assert str(raised.value) == f"stage (Repeat): {message}"


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_repeat_wants_a_number_of_times(n):
    with pytest.raises(jc.ShapeError, match="n must be"):
        jc.repeat(jc.Conv(4), n)


# --- remat ------------------------------------------------------------------------------------------------------------


def test_remat_computes_the_same_and_keeps_less():
    body = jc.serial(jc.Dense(4), jnp.tanh, jc.Dropout(0.5), jc.Dense(4), jnp.tanh, jc.BatchNorm(), jnp.sin)
    x = jnp.asarray(normal((72, 4)))
    params, state, _ = ready(body, x.shape)

    def loss(net, params, x):
        y, new = net.apply(params, state, x, train=True, key=KEY)
        return jnp.sum(y**2), (y, new)

    def kept(net):
        pullback = jax.eval_shape(lambda p, x: jax.vjp(lambda p, x: loss(net, p, x)[0], p, x)[1], params, x)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    plain, less = (
        jax.jit(jax.value_and_grad(lambda p, x, net=net: loss(net, p, x), (0, 1), has_aux=True))(params, x)
        for net in (body, jc.remat(body))
    )
    assert_trees(less, plain, rtol=1e-4, atol=1e-5)
    assert kept(jc.remat(body)) < 0.5 * kept(body)
    policy = jax.checkpoint_policies.everything_saveable
    assert kept(jc.remat(body)) < kept(jc.remat(body, policy=policy))


# --- mixed precision --------------------------------------------------------------------------------------------------


def mixed():
    return jc.serial(conv=jc.Conv(4, 2), bn=jc.BatchNorm(), act=jnp.tanh, dense=jc.Dense(3))


def test_mixed_precision_computes_small_and_keeps_large():
    net, x = jc.mixed_precision(mixed()), jnp.asarray(normal((4, 3, 3, 2)))
    params, state = jax.eval_shape(lambda key: net.init(key, x), KEY)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, state))} == {"float32"}
    params, state = randomized(params), randomized(state, 0, 0.5, 1.5)

    def loss(params, x):
        y, new = net.apply(params, state, x, train=True)
        return jnp.sum(y**2), (y, new)

    gradients, (y, new) = jax.eval_shape(jax.grad(loss, (0, 1), has_aux=True), params, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((gradients, y, new))} == {"float32"}
    _, found = jc.inspect.activations(net, params, state, x)
    assert {path: a.dtype.name for path, a in found.items()} == dict.fromkeys(
        ["conv", "bn", "act", "dense"], "bfloat16"
    )
    want, _ = mixed().apply(params, state, x)
    got, _ = net.apply(params, state, x)
    assert got.dtype == jnp.float32
    assert_allclose(got, want, rtol=0.1, atol=0.1)
    assert np.any(got != want)


@pytest.mark.parametrize(
    ("compute", "output"), [("float16", "float32"), (jnp.float32, jnp.bfloat16), (jnp.float16, jnp.float16)]
)
def test_mixed_precision_in_other_types(compute, output):
    net = jc.mixed_precision(jc.Dense(3), compute, output)
    params, state = net.init(KEY, jax.ShapeDtypeStruct((2, 4), jnp.bfloat16))
    assert params["kernel"].dtype == jnp.float32
    y, _ = net.apply(params, state, jnp.ones((2, 4)))
    assert y.dtype == jnp.dtype(output)
    assert y.dtype == jc.mixed_precision(jc.Dense(3), compute, output).output
    program = jax.make_jaxpr(net.apply)(params, state, jnp.ones((2, 4)))
    products = [eqn for eqn in program.jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert {v.aval.dtype for eqn in products for v in eqn.invars} == {jnp.dtype(compute)}


def test_mixed_precision_leaves_integers_alone():
    tokens = {"ids": jnp.arange(3), "x": jnp.ones(3)}
    net = jc.mixed_precision(jc.Identity())
    y, _ = net.apply({}, {}, tokens)
    assert (y["ids"].dtype, y["x"].dtype) == (jnp.int32, jnp.float32)
    with pytest.raises(jc.DTypeError, match="compute must be a floating-point type, got int8"):
        jc.mixed_precision(jc.Dense(3), jnp.int8)
    with pytest.raises(jc.DTypeError, match="output must be a floating-point type, got int32"):
        jc.mixed_precision(jc.Dense(3), output="int32")


def test_mixed_precision_prints_and_compares_by_type():
    assert jc.mixed_precision(jc.Dense(3), "bfloat16") == jc.mixed_precision(jc.Dense(3))
    assert repr(jc.mixed_precision(jc.Dense(3))) == "mixed_precision(Dense(features=3))"
    shown = repr(jc.mixed_precision(jc.Dense(3), "float16"))
    assert shown == "mixed_precision(Dense(features=3), compute='float16')"


# --- Printing ---------------------------------------------------------------------------------------------------------


def test_a_network_prints_as_the_call_that_makes_it():
    net = jc.serial(jc.Conv(8), jc.inline(jc.MaxPool(2)), head=jc.Dense(3), **{"in": jc.Identity()})
    assert (
        repr(net) == "serial(Conv(features=8), inline(MaxPool(window=2)), head=Dense(features=3), **{'in': Identity()})"
    )


def test_long_networks_print_in_lines():
    net = jc.serial(stem=jc.Conv(8), body=jc.serial(*[jc.Conv(16, 5, stride=2, padding="VALID")] * 3))
    assert (
        repr(net)
        == """serial(
  stem=Conv(features=8),
  body=serial(
    Conv(features=16, window=5, stride=2, padding='VALID'),
    Conv(features=16, window=5, stride=2, padding='VALID'),
    Conv(features=16, window=5, stride=2, padding='VALID'),
  ),
)"""
    )


# --- Profiles ---------------------------------------------------------------------------------------------------------


def test_the_layers_path_stands_in_the_compiled_program():
    net = jc.serial(
        layer1=jc.serial(jc.residual(jc.serial(dense1=jc.Dense(2), act=jnp.tanh))),
        loop=jc.repeat(jc.serial(dense2=jc.Dense(2)), 2),
        again=jc.remat(jc.serial(dense3=jc.Dense(2))),
    )
    params, state, x = ready(net, (4, 2))
    program = jax.jit(lambda p: net.apply(p, state, x)[0]).lower(params).compile().as_text()
    names = re.findall(r'op_name="([^"]*)"', program)
    # jax puts the name of its own call between those of a loop or a rematerialized layer.
    for path in ("layer1/0/dense1/dot_general", "layer1/0/act/tanh", "loop/.*dense2/.*", "again/.*dense3/.*"):
        assert any(re.search(rf"/{path}$", name) for name in names), (path, names)


# --- Random networks --------------------------------------------------------------------------------------------------

NAMES = {name: getattr(jc, name) for name in dir(jc) if not name.startswith("_")} | {"jax": jax}


@given(networks())
@settings(max_examples=40)
def test_a_network_is_data(case):
    net, _ = case
    again = eval(repr(net), NAMES)
    assert repr(again) == repr(net)
    assert again == net
    assert hash(again) == hash(net)
    assert dataclasses.replace(net) == net
    assert jc.serial(net, jc.Identity()) != net
    assert jc.map_layers(net, lambda layer: layer) is net


@given(networks())
@settings(max_examples=40)
def test_shapes_of_init_are_those_of_apply(case):
    net, shape = case
    params, state = jax.eval_shape(lambda key: net.init(key, shape), KEY)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    y, same = jax.eval_shape(net.apply, params, state, x)
    trained, moved = jax.eval_shape(lambda p, s, x: net.apply(p, s, x, train=True, key=KEY), params, state, x)
    assert (trained.shape, trained.dtype) == (y.shape, y.dtype)
    assert shapes(same) == shapes(moved) == shapes(state)
    assert y.shape == jc.inspect.trace(net, shape)[-1].output.shape
    assert {leaf.dtype.name for leaf in jax.tree.leaves((params, state, y))} <= {"float32"}


def check_values(net, shape, folder):
    """jit(apply) equals apply; what is saved and loaded gives the same logits to the bit."""
    params, state, x = ready(net, shape)
    apply = jax.jit(net.apply)
    logits, _ = apply(params, state, x)
    eager, _ = net.apply(params, state, x)
    scale = max(1.0, float(np.abs(eager).max()))
    half = "mixed_precision" in repr(net)
    assert_allclose(logits / scale, eager / scale, rtol=0, atol=0.05 if half else 2e-5)
    leaves, structure = jax.tree_util.tree_flatten((params, state))
    np.savez(folder / "net.npz", *leaves)
    (folder / "net.pickle").write_bytes(pickle.dumps(jax.tree.unflatten(structure, range(len(leaves)))))
    with np.load(folder / "net.npz") as file:
        indices = pickle.loads((folder / "net.pickle").read_bytes())
        loaded = jax.tree.map(lambda i: file[f"arr_{i}"], indices)
    again, _ = apply(*loaded, x)
    assert_array_equal(again, logits)


counter = itertools.count()


@given(case=networks(sizes=(8, 10), depth=3))
@settings(max_examples=5)
def test_values_of_a_network(tmp_path_factory, case):
    check_values(*case, tmp_path_factory.mktemp(f"net{next(counter)}"))


@pytest.mark.slow
@given(case=networks())
@settings(max_examples=150)
def test_values_of_many_networks(tmp_path_factory, case):
    check_values(*case, tmp_path_factory.mktemp(f"net{next(counter)}"))


@dataclasses.dataclass(frozen=True)
class WithHead(Composite):
    """A body, and a head that runs in training only."""

    children: tuple

    def route(self, run, x):
        (name, body), (head_name, head) = self.children
        y = run(name, body, x)
        return (y, run(head_name, head, y)) if run.train else (y, None)


def test_a_head_for_training_only_is_initialized_and_keeps_its_state():
    net = WithHead((("body", jc.Conv(4)), ("head", jc.serial(jc.BatchNorm(), jc.GlobalAvgPool()))))
    x = jnp.ones((2, 4, 4, 3))
    params, state = net.init(KEY, x)
    assert set(params) == {"body", "head"}
    (_, head), moved = net.apply(params, state, x, train=True)
    assert head.shape == (2, 4)
    (_, head), kept = net.apply(params, moved, x)
    assert head is None
    assert jax.tree.all(jax.tree.map(jnp.array_equal, kept, moved))


def test_mixed_precision_gives_float32_whatever_the_layer_gives():
    class Half:
        def init(self, key, x):
            return {"scale": jnp.ones((), x.dtype)}, {"mean": jnp.zeros((), x.dtype)}

        def apply(self, params, state, x, *, train=False, key=None):
            return x * params["scale"], state

    params, state = jc.mixed_precision(Half()).init(KEY, (1, 3))
    assert params["scale"].dtype == state["mean"].dtype == jnp.float32


@pytest.mark.parametrize("make", [jc.concat, jc.split])
def test_branches_of_nothing_are_refused(make):
    with pytest.raises(jc.ShapeError, match="must have at least one layer"):
        make()


def test_a_checkpoint_gives_the_same_scores(tmp_path):
    train = pytest.importorskip("jaxconv.train")
    optax = pytest.importorskip("optax")
    net = jc.serial(jc.residual(jc.serial(jc.Conv(3), jc.BatchNorm())), jc.repeat(jc.Conv(3), 2), jc.GlobalAvgPool())
    x = jax.random.normal(KEY, (2, 6, 6, 3))
    before = train.TrainState.create(net, optax.adam(1e-3), 0, x)
    train.save(tmp_path / "saved", before, [{"epoch": 1}])
    after = train.restore(tmp_path / "saved", "last", like=before)
    scores = [net.apply(s.params, s.state, x)[0] for s in (before, after)]
    np.testing.assert_array_equal(*scores)


def test_an_int_is_a_seed_wherever_a_key_is_taken():
    net = jc.serial(
        jc.Conv(3), jc.Dropout(0.5), body=jc.residual(jc.serial(jc.Conv(3))), twice=jc.repeat(jc.Conv(3), 2)
    )
    x = jnp.ones((2, 4, 4, 3))
    params, state = net.init(7, x)
    jax.tree.map(np.testing.assert_array_equal, params, net.init(jax.random.key(7), x)[0])
    for layer, values in ((net, params), (jc.Dropout(0.5), {}), (jc.DropPath(0.5), {})):
        seeded, keyed = (layer.apply(values, state, x, train=True, key=key)[0] for key in (7, jax.random.key(7)))
        np.testing.assert_array_equal(seeded, keyed)
    for layer in (jc.Conv(3), jc.Dense(3), jc.BatchNorm(), jc.PReLU()):
        seeded = layer.init(np.int64(7), x)[0]
        jax.tree.map(np.testing.assert_array_equal, seeded, layer.init(jax.random.key(7), x)[0])


def test_a_list_of_layers_is_told_how_to_be_a_network():
    with pytest.raises(TypeError, match=r"got a list: write \(\*layers\)"):
        jc.serial([jc.Identity(), jnp.abs])


def test_frozen_runs_as_in_evaluation_and_stops_gradients_by_params_only():
    inner = jc.serial(jc.Conv(3, 1), jc.BatchNorm(), jc.Dropout(0.5))
    net = jc.serial(features=jc.frozen(inner), head=jc.serial(jc.BatchNorm(), jc.Dense(2)))
    params, state, x = ready(net, (4, 3, 3, 2))

    def loss(params, x):
        y, new = net.apply(params, state, x, train=True)
        return (y**2).sum(), (y, new)

    (by_params, by_x), (y, new) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    assert_trees(new["features"], state["features"])
    assert not np.allclose(new["head"]["0"]["mean"], state["head"]["0"]["mean"])
    assert not any(leaf.any() for leaf in jax.tree.leaves(by_params["features"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(by_params["head"]["1"]))
    assert by_x.any()
    features, _ = inner.apply(params["features"], state["features"], x)
    head = net.children[1][1]
    assert_allclose(y, head.apply(params["head"], state["head"], features, train=True)[0], rtol=1e-5, atol=1e-5)
    assert repr(jc.frozen(jc.Dense(3))) == "frozen(Dense(features=3))"


def test_frozen_but_what_is_named():
    block = jc.residual(jc.serial(conv=jc.Conv(3, 1), bn=jc.BatchNorm(), more=jc.inline(jc.PReLU())), jc.Conv(3, 1))
    net = jc.serial(block, jc.repeat(jc.serial(a=jc.Dense(3), b=jc.Dense(3)), 2), noise=jc.Dropout(0.5), fc=jc.Dense(2))
    trained = ["0.bn", "1.b", "fc"]
    frozen = jc.frozen(net, but=trained)
    params, state, x = ready(net, (4, 3, 3, 2))
    assert fresh_shapes(frozen, x.shape) == fresh_shapes(net, x.shape)

    def loss(params):
        y, new = frozen.apply(params, state, x, train=True)
        return (y**2).sum(), new

    grads, new = jax.grad(loss, has_aux=True)(params)
    for keys, gradient in jax.tree_util.tree_leaves_with_path(grads):
        path = jax.tree_util.keystr(keys, simple=True, separator=".")
        assert bool(gradient.any()) == path.startswith(tuple(f"{name}." for name in trained)), path
    assert (new["0"]["bn"]["mean"] != state["0"]["bn"]["mean"]).any()
    assert jc.frozen(net, but=[]) == jc.frozen(net)
    assert jc.frozen(net, but=[*trained, "0", "1", "noise"]) == net


def test_frozen_but_a_path_that_is_not_there():
    net = jc.serial(layer1=jc.serial(conv=jc.Conv(2)), fc=jc.Dense(2))
    with pytest.raises(jc.ShapeError, match=r"^but has 'layer1.cnv', which names no layer: nearest are 'layer1.conv'"):
        jc.frozen(net, but=["layer1.cnv"])
    with pytest.raises(TypeError, match=r"^but must be a sequence of paths, got the string 'fc': write \['fc'\]$"):
        jc.frozen(net, but="fc")


def test_frozen_but_layers_inside_a_users_composite():
    net = jc.serial(twice=Twice((("a", jc.serial(one=jc.Dense(3), two=jc.Dense(3))),)))
    inner = jc.serial(one=jc.frozen(jc.Dense(3)), two=jc.Dense(3))
    assert jc.frozen(net, but=["twice.a.two"]) == jc.serial(twice=Twice((("a", inner),)))


# --- Flags ------------------------------------------------------------------------------------------------------------


def test_strict_flags_stop_no_composite():
    block = jc.residual(
        jc.serial(conv=jc.Conv(4), bn=jc.BatchNorm(), relu=jax.nn.relu),
        jc.serial(conv=jc.Conv(4, 1, bias=False), scale=jc.LayerScale()),
        after=jc.PReLU(shared=False),
    )
    gate = jc.gate(jc.serial(jc.GlobalAvgPool(), jc.Dense(4), jax.nn.sigmoid))
    paths = jc.concat(jc.MaxPool(3, stride=1, padding=1), jc.AvgPool(3, stride=1, padding=1, count_include_pad=False))
    head = jc.serial(
        jc.GroupNorm(2), jc.Dropout(0.5), jc.split(jc.Identity(), jnp.negative), jc.GlobalMaxPool(), jc.Dense(3)
    )
    net = jc.serial(block, jc.remat(jc.repeat(jc.Conv(4), 2)), gate, jc.frozen(jc.BatchNorm()), paths, head)
    x = jnp.asarray(normal((2, 6, 6, 4)))
    params, state = net.init(KEY, x)
    for wrapped in (net, jc.mixed_precision(net), jc.mixed_precision(net, jnp.float16, jnp.float16)):

        def everything(params, state, x, key, net=wrapped):
            y, pullback, new = jax.vjp(
                lambda p, x: net.apply(p, state, x, train=True, key=key), params, x, has_aux=True
            )
            return net.init(key, x), net.apply(params, state, x), pullback(y), new

        with strict_flags():
            jax.jit(everything).lower(params, state, x, KEY)
            jc.summary(wrapped, x)
