"""Repeated, rematerialized and frozen layers, and mixed precision."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from tests.nets import Twice, normal, randomized, ready

KEY = jax.random.key(3)


def shapes(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def fresh_shapes(net, x):
    return tuple(map(shapes, jax.eval_shape(lambda key: net.init(key, x), KEY)))


def assert_trees(got, want, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), got, want)


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
    with pytest.raises(jc.ArgumentError, match="n must be"):
        jc.repeat(jc.Conv(4), n)


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


def mixed():
    return jc.serial(conv=jc.Conv(4, 2), bn=jc.BatchNorm(), act=jnp.tanh, dense=jc.Dense(3))


def test_a_repeated_layer_in_mixed_precision():
    body = jc.serial(jc.Conv(4), jc.BatchNorm(), jax.nn.relu)
    net, several = jc.mixed_precision(jc.repeat(body, 2)), jc.mixed_precision(jc.serial(body, body))
    x = normal((2, 6, 6, 4))
    params, state = net.init(0, x.shape)
    each = [jax.tree.map(lambda a, i=i: a[i], (params, state)) for i in range(2)]
    separate = [{str(i): tree[part] for i, tree in enumerate(each)} for part in (0, 1)]
    want = several.apply(*separate, x, train=True)[0]
    assert_allclose(net.apply(params, state, x, train=True)[0], want, atol=0.02)
    assert "Conv x2" in str(jc.summary(net, x.shape))
    with pytest.raises(jc.ShapeError, match=r"must return its input's shape and type, .*float32.*, got .*float16"):
        jc.repeat(lambda x: x.astype(jnp.float16), 2).apply({}, {}, x)


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
    program = jax.jit(net.apply).lower(params, state, jnp.ones((2, 4))).as_text()
    [(first, second)] = re.findall(r"dot_general.*: \(tensor<[\dx]+x(\w+)>, tensor<[\dx]+x(\w+)>\)", program)
    assert first == second == {2: "f16", 4: "f32"}[jnp.dtype(compute).itemsize]


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


def test_mixed_precision_gives_float32_whatever_the_layer_gives():
    class Half:
        def init(self, key, x):
            return {"scale": jnp.ones((), x.dtype)}, {"mean": jnp.zeros((), x.dtype)}

        def apply(self, params, state, x, *, train=False, key=None):
            return x * params["scale"], state

    params, state = jc.mixed_precision(Half()).init(KEY, (1, 3))
    assert params["scale"].dtype == state["mean"].dtype == jnp.float32


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
    with pytest.raises(
        jc.PathError, match=r"^but must name a layer of net, got 'layer1.cnv': nearest are 'layer1.conv'"
    ):
        jc.frozen(net, but=["layer1.cnv"])
    with pytest.raises(TypeError, match=r"^but must be a sequence of paths, got the string 'fc': write \['fc'\]$"):
        jc.frozen(net, but="fc")


def test_frozen_but_layers_inside_a_users_composite():
    net = jc.serial(twice=Twice((("a", jc.serial(one=jc.Dense(3), two=jc.Dense(3))),)))
    inner = jc.serial(one=jc.frozen(jc.Dense(3)), two=jc.Dense(3))
    assert jc.frozen(net, but=["twice.a.two"]) == jc.serial(twice=Twice((("a", inner),)))
