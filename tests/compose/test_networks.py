"""Networks of many composites, random ones among them."""

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
from tests.nets import networks, normal, ready
from tests.ops.transforms import strict_flags

KEY = jax.random.key(3)


def shapes(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}  # fmt: skip


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
