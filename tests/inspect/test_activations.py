"""The outputs of inner layers, and arrays added there."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.capture import CAPTURE
from jaxconv.inspect import activations
from jaxconv.tree import walk
from tests.nets import Shift, Twice, networks, normal, ready

KEY = jax.random.key(5)


def small():
    return jc.serial(
        stem=jc.Dense(3),
        block=jc.residual(jc.serial(conv1=jc.Dense(3), act=jnp.tanh, conv2=jc.Dense(3)), jc.Dense(3), name="down"),
        branches=jc.concat(jc.Dense(2), jnp.sin),
        head=jc.serial(jc.Dense(4)),
    )


SHAPE = (5, 3)


def nothing_is_left():
    return CAPTURE.get() is None


# --- What is found ----------------------------------------------------------------------------------------------------


def test_all_paths_with_their_values():
    net = small()
    params, state, x = ready(net, SHAPE)
    y, found = activations(net, params, state, x)
    assert_array_equal(y, net.apply(params, state, x)[0])
    stem = jc.dense(x, **params["stem"])
    inner = jc.dense(stem, **params["block"]["conv1"])
    block = jc.dense(jnp.tanh(inner), **params["block"]["conv2"]) + jc.dense(stem, **params["block"]["down"])
    want = {
        "stem": stem,
        "block.conv1": inner,
        "block.act": jnp.tanh(inner),
        "block.conv2": jc.dense(jnp.tanh(inner), **params["block"]["conv2"]),
        "block.down": jc.dense(stem, **params["block"]["down"]),
        "block": block,
        "branches.0": jc.dense(block, **params["branches"]["0"]),
        "branches.1": jnp.sin(block),
        "branches": jnp.concatenate([jc.dense(block, **params["branches"]["0"]), jnp.sin(block)], -1),
        "head.0": y,
        "head": y,
    }
    assert list(found) == list(want)
    for path, value in want.items():
        assert_array_equal(found[path], value, err_msg=path)


def test_given_paths_alone():
    net = small()
    params, state, x = ready(net, SHAPE)
    _, everything = activations(net, params, state, x)
    _, found = activations(net, params, state, x, paths=iter(["head", "block.act"]))
    assert list(found) == ["block.act", "head"]
    assert_array_equal(found["block.act"], everything["block.act"])
    assert activations(net, params, state, x, paths=[])[1] == {}


@pytest.mark.parametrize("argument", ["paths", "add"])
def test_a_path_that_names_no_layer_lists_the_nearest(argument):
    net = small()
    params, state, x = ready(net, SHAPE)
    given = {"paths": ["block.conv3"], "add": {"block.conv3": 0.0}}[argument]
    with pytest.raises(jc.PathError) as raised:
        activations(net, params, state, x, **{argument: given})
    assert str(raised.value).startswith(
        f"{argument} must name a layer of net, got 'block.conv3': nearest are 'block.conv"
    )
    assert "'block.conv1'" in str(raised.value)
    assert "'block.conv2'" in str(raised.value)


def test_other_wrong_paths():
    net = jc.serial(a=jc.Identity())
    x = jnp.ones(3)
    with pytest.raises(TypeError, match=r"paths must be a sequence of paths, got the string 'a': write \['a'\]"):
        activations(net, {}, {}, x, paths="a")
    with pytest.raises(jc.PathError, match=r"paths must name a layer of net, got 'xyz': there are 'a'"):
        activations(net, {}, {}, x, paths=["xyz"])
    with pytest.raises(jc.PathError, match="paths must name a layer of net, got 'a': there are none"):
        activations(jc.Identity(), {}, {}, x, paths=["a"])


def test_training_mode_with_a_key():
    net = jc.serial(bn=jc.BatchNorm(), noise=jc.Dropout(0.5), again=jc.Dropout(0.5))
    params, state, x = ready(net, SHAPE)
    y, found = activations(net, params, state, x, train=True, key=KEY)
    assert_array_equal(y, net.apply(params, state, x, train=True, key=KEY)[0])
    assert np.any(found["noise"] == 0)
    assert_array_equal(found["again"], y)
    assert np.any(activations(net, params, state, x)[0] != y)
    with pytest.raises(jc.MissingKeyError, match=r"^noise \(Dropout\): key must be given"):
        activations(net, params, state, x, train=True)


def test_trees_are_found_as_they_are():
    net = jc.serial(jc.parallel(jc.Identity(), jnp.sin), lambda xs: {"sum": xs[0] + xs[1]})
    x = jnp.ones(3)
    _, found = activations(net, {}, {}, x)
    assert isinstance(found["0"], tuple)
    assert_array_equal(found["0"][1], jnp.sin(x))
    assert_array_equal(found["1"]["sum"], x + jnp.sin(x))


# --- What is added ----------------------------------------------------------------------------------------------------


def test_what_is_added_goes_on_and_is_found():
    net = small()
    params, state, x = ready(net, SHAPE)
    extra = jnp.asarray(normal((5, 3), 3))
    y, found = activations(net, params, state, x, add={"block.conv1": extra})
    _, before = activations(net, params, state, x)
    assert_array_equal(found["stem"], before["stem"])
    assert_allclose(found["block.conv1"], before["block.conv1"] + extra, rtol=1e-6)
    assert_allclose(found["block.act"], np.tanh(before["block.conv1"] + extra), rtol=1e-5)
    assert np.any(y != net.apply(params, state, x)[0])
    # One number for each channel, and an array on the host, will do as well.
    _, found = activations(net, params, state, x, paths=["head"], add={"head": np.arange(4.0)})
    assert_allclose(found["head"], before["head"] + np.arange(4.0), rtol=1e-5, atol=1e-6)


def test_a_composite_and_its_last_layer_add_up():
    net = jc.serial(a=jc.serial(b=jc.Identity()))
    y, found = activations(net, {}, {}, jnp.zeros(2), add={"a.b": jnp.array([1.0, 2.0]), "a": 3.0})
    assert_array_equal(found["a.b"], [1, 2])
    assert_array_equal(found["a"], [4, 5])
    assert_array_equal(y, [4, 5])


@pytest.mark.parametrize("shape", [(4,), (5, 1, 3), (5, 3, 1), (6, 3)])
def test_what_is_added_fits(shape):
    net = small()
    params, state, x = ready(net, SHAPE)
    with pytest.raises(jc.ShapeError) as raised:
        activations(net, params, state, x, add={"block.act": jnp.zeros(shape)})
    assert (
        str(raised.value)
        == f"block.act (Fn): add must have the shape of the layer's output, (5, 3), or broadcast to it, got {shape}"
    )
    assert nothing_is_left()


def wrapped(kind):
    """The same function as `small`'s block under each thing that opens a trace or changes types."""
    body = jc.serial(conv1=jc.Dense(3), act=jnp.tanh, conv2=jc.Dense(3))
    return {
        "serial": jc.serial(body),
        "jit": jc.serial(body),
        "remat": jc.serial(jc.remat(body)),
        "mixed_precision": jc.serial(jc.mixed_precision(body, jnp.float32)),
        "remat of remat": jc.serial(jc.remat(jc.serial(inner=jc.remat(body)))),
        "everything": jc.remat(jc.serial(jc.mixed_precision(jc.remat(jc.residual(body)), jnp.float32))),
    }[kind]


@pytest.mark.parametrize("kind", ["serial", "jit", "remat", "mixed_precision", "remat of remat", "everything"])
def test_the_gradient_at_zeros_added_is_the_gradient_there(kind):
    net = wrapped(kind)
    params, state, x = ready(net, SHAPE)
    path = {"remat of remat": "0.inner.act"}.get(kind, "0.act")

    def loss(extra, params, x):
        y, found = activations(net, params, state, x, paths=[path], add={path: extra})
        return jnp.sum(jnp.sin(y)), found[path]

    gradient = jax.value_and_grad(loss, has_aux=True)
    ((value, act), got) = (jax.jit(gradient) if kind == "jit" else gradient)(jnp.zeros(SHAPE), params, x)

    def rest(act):
        """The network from that position on, split by hand."""
        inner = params["0"]["inner"] if kind == "remat of remat" else params["0"]
        y = jc.dense(act, **inner["conv2"])
        return jnp.sum(jnp.sin(y + x if kind == "everything" else y))

    want_value, want = jax.value_and_grad(rest)(act)
    assert_allclose(value, want_value, rtol=1e-5)
    assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    # Finite differences along one direction.
    direction = jnp.asarray(normal(SHAPE, 9))
    ahead, behind = (loss(step * 1e-2 * direction, params, x)[0] for step in (1, -1))
    assert_allclose((ahead - behind) / 2e-2, jnp.sum(got * direction), rtol=2e-2, atol=2e-3)
    assert nothing_is_left()


def test_the_gradient_through_what_is_found():
    net = wrapped("remat")
    params, state, x = ready(net, SHAPE)

    def energy(params):
        return jnp.sum(activations(net, params, state, x, paths=["0.act"])[1]["0.act"] ** 2)

    got = jax.grad(energy)(params)["0"]
    want = jax.grad(lambda p: jnp.sum(jnp.tanh(jc.dense(x, **p)) ** 2))(params["0"]["conv1"])
    jax.tree.map(functools.partial(assert_allclose, rtol=1e-5), got["conv1"], want)
    assert not np.any(got["conv2"]["kernel"])


# --- repeat -----------------------------------------------------------------------------------------------------------


def test_in_a_repeated_layer_all_is_stacked():
    n = 3
    body = jc.serial(dense=jc.Dense(3), act=jnp.tanh)
    loop, row = jc.serial(stage=jc.repeat(body, n)), jc.serial(stage=jc.serial(*[body] * n))
    params, state, x = ready(loop, SHAPE)
    split = {"stage": {str(i): jax.tree.map(lambda a, i=i: a[i], params["stage"]) for i in range(n)}}
    y, found = activations(loop, params, state, x)
    want_y, want = activations(row, split, state, x)
    assert set(found) == {"stage", "stage.dense", "stage.act"}
    assert_allclose(y, want_y, rtol=1e-5)
    for name in ("dense", "act"):
        stacked = jnp.stack([want[f"stage.{i}.{name}"] for i in range(n)])
        assert_allclose(found[f"stage.{name}"], stacked, rtol=1e-5, atol=1e-6)
    assert_allclose(found["stage"], want["stage"], rtol=1e-5)

    # What is added is stacked as well, and so is its gradient.
    extra = jnp.asarray(normal((n, *SHAPE), 4))

    @jax.jit
    @jax.value_and_grad
    def looped(extra):
        return jnp.sum(jnp.cos(activations(loop, params, state, x, paths=[], add={"stage.dense": extra})[0]))

    @jax.jit
    @jax.value_and_grad
    def unrolled(extra):
        add = {f"stage.{i}.dense": extra[i] for i in range(n)}
        return jnp.sum(jnp.cos(activations(row, split, state, x, paths=[], add=add)[0]))

    for got, wanted in zip(looped(extra), unrolled(extra), strict=True):
        assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(
        jc.ShapeError, match=r"^stage \(Repeat\): add\['stage.dense'\] must have a leading axis of n = 3"
    ):
        activations(loop, params, state, x, add={"stage.dense": jnp.zeros(SHAPE)})


def test_repeat_in_remat_in_repeat():
    net = jc.repeat(jc.remat(jc.serial(inner=jc.repeat(jc.serial(shift=Shift()), 2), act=jnp.sin)), 3)
    params, state, x = ready(net, (2,))
    y, found = activations(net, params, state, x)
    assert {path: a.shape for path, a in found.items()} == {
        "inner.shift": (3, 2, 2),
        "inner": (3, 2),
        "act": (3, 2),
    }
    assert_array_equal(found["act"][-1], y)
    extra = jnp.asarray(normal((3, 2, 2)))
    _, moved = activations(net, params, state, x, add={"inner.shift": extra})
    first = x + params["inner"]["shift"]["shift"][0, 0] + extra[0, 0]
    assert_allclose(moved["inner.shift"][0, 0], first, rtol=1e-6)
    second = first + params["inner"]["shift"]["shift"][0, 1] + extra[0, 1]
    assert_allclose(moved["inner.shift"][0, 1], second, rtol=1e-6)


# --- A layer with a trace of its own ----------------------------------------------------------------------------------

run_inside = jax.jit(lambda p, s, x, layer: layer.apply(p, s, x)[0], static_argnums=3)


@dataclasses.dataclass(frozen=True)
class Own:
    """A user's composite that runs its child in a separate trace; under jit it is compiled once."""

    children: tuple
    transform: str

    def init(self, key, x):
        ((name, layer),) = self.children
        return {name: layer.init(key, x)[0]}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        ((name, layer),) = self.children
        net = jc.serial(**{name: layer})
        if self.transform == "jit":
            return run_inside(params, {}, x, net), state
        if self.transform == "vmap":
            return jax.vmap(lambda x: net.apply(params, {}, x[None])[0][0])(x), state
        return jax.lax.map(lambda x: net.apply(params, {}, x[None])[0][0], x), state


@pytest.mark.parametrize("transform", ["jit", "vmap", "map"])
@pytest.mark.parametrize(
    "child", [jc.Dense(3), jc.remat(jc.serial(d=jc.Dense(3))), jc.repeat(jc.serial(d=jc.Dense(3)), 2)]
)
def test_what_cannot_be_seen_is_not_leaked(transform, child):
    net = jc.serial(own=Own((("inner", child),), transform), out=jc.Dense(2))
    params, state, x = ready(net, SHAPE)
    want, _ = net.apply(params, state, x)
    y, found = activations(net, params, state, x)
    assert set(found) == {"own", "out"}
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((y, found)))
    assert_array_equal(y, want)
    for argument in ({"paths": ["own.inner"]}, {"add": {"own.inner": jnp.ones((1, 3))}}):
        with pytest.raises(
            jc.PathError,
            match=r"must name layers that run in this call's own trace, got 'own\.inner', which did not run",
        ):
            activations(net, params, state, x, **argument)
    # Nothing of it stays behind in the function that the layer has compiled.
    assert_array_equal(net.apply(params, state, x)[0], want)
    assert nothing_is_left()


def test_a_look_compiled_first_adds_nothing_later():
    net = jc.serial(own=Own((("inner", jc.Dense(3)),), "jit"))
    params, state, x = ready(net, (4, 3))
    with pytest.raises(jc.PathError, match="which did not run"):
        activations(net, params, state, x, add={"own.inner": jnp.full((4, 3), 100.0)})
    assert_allclose(net.apply(params, state, x)[0], jc.dense(x, **params["own"]["inner"]), rtol=1e-6)


def test_a_layer_run_twice_is_found_as_it_was_last():
    net = jc.serial(twice=Twice((("dense", jc.Dense(3)),)))
    params, state, x = ready(net, SHAPE)
    y, found = activations(net, params, state, x)
    assert_array_equal(found["twice.dense"], y)


# --- Nothing is kept --------------------------------------------------------------------------------------------------


def test_no_tracer_leaks():
    net = jc.serial(wrapped("everything"), jc.repeat(jc.serial(dense=jc.Dense(3), act=jnp.tanh), 2))
    params, state, x = ready(net, SHAPE)

    def loss(extra, x):
        y, found = activations(net, params, state, x, add={"1.dense": extra})
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves((y, found)))

    with jax.checking_leaks():
        jax.jit(jax.grad(loss))(jnp.zeros((2, *SHAPE)), x)
        jax.vmap(lambda x: activations(net, params, state, x[None])[1]["1.act"])(x)
    assert nothing_is_left()


def test_nothing_is_kept_after_an_exception():
    def fail(x):
        raise ZeroDivisionError

    net = jc.serial(a=jc.remat(jc.serial(jc.Identity(), fail)))
    with pytest.raises(ZeroDivisionError):
        activations(net, {}, {}, jnp.ones(3))
    assert nothing_is_left()
    assert_array_equal(jc.serial(a=jc.Identity()).apply({}, {}, jnp.ones(3))[0], np.ones(3))


def test_a_look_inside_a_look_keeps_to_itself():
    inner = jc.serial(a=jc.Identity())
    seen = []

    def look(x):
        y, found = activations(inner, {}, {}, x)
        seen.append(sorted(found))
        return y

    _, found = activations(jc.serial(outer=jc.Fn(look)), {}, {}, jnp.ones(3))
    assert seen == [["a"]]
    assert list(found) == ["outer"]


@given(networks(sizes=(8, 10), ranks=(1,), depth=3))
@settings(max_examples=25)
def test_every_layer_of_a_network_is_found_with_the_tables_shapes(case):
    net, shape = case
    params, state = jax.eval_shape(lambda key: net.init(key, shape), KEY)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    _, found = jax.eval_shape(lambda p, s, x: activations(net, p, s, x), params, state, x)
    assert set(found) == {path for path, _ in walk(net)}
    if "repeat(" not in repr(net):
        shapes = {row.path: row.output.shape for row in jc.inspect.trace(net, shape)}
        assert {path: a.shape for path, a in found.items()} == {path: shapes[path] for path in found}
