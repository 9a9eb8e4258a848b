"""The values of composites that connect layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.child import child_key
from jaxconv.composite import Composite
from tests.nets import Shift, double, normal, randomized, ready

KEY = jax.random.key(3)


def shapes(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


def fresh_shapes(net, x):
    return tuple(map(shapes, jax.eval_shape(lambda key: net.init(key, x), KEY)))


def assert_trees(got, want, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), got, want)


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


@pytest.mark.parametrize("make", [jc.concat, jc.split])
def test_branches_of_nothing_are_refused(make):
    with pytest.raises(jc.ArgumentError, match="must have at least one layer"):
        make()


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
