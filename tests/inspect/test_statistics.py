"""Dead units, and statistics of layers along a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from jaxconv.inspect import LayerStatistics, Recorder, activations, dead_units, layer_statistics
from tests.nets import ready

SHAPE = (4, 5, 3, 2)


def small():
    return jc.serial(
        conv=jc.Dense(3),
        relu=jax.nn.relu,
        block=jc.residual(jc.remat(jc.Dense(3))),
        twice=jc.repeat(jc.serial(inner=jc.Dense(3), act=jax.nn.relu), 2),
        mean=jc.GlobalAvgPool(),
        drop=jc.Dropout(0.5),
        scores=jc.Dense(2),
    )


@pytest.fixture(scope="module")
def made():
    net = small()
    return net, *ready(net, SHAPE)


# --- Dead units -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_a_hand_made_dead_unit_is_found(batch_size):
    net = jc.serial(
        conv=jc.Conv(3, 1), relu=jax.nn.relu, mean=jc.GlobalAvgPool(), fc=jc.Dense(2), act=jax.nn.relu6, out=jc.Dense(1)
    )
    params, state, _ = ready(net, (1, 4, 4, 2))
    params["conv"] = {"kernel": jnp.ones((1, 1, 2, 3)), "bias": jnp.array([0.0, -100.0, -1.9])}
    params["fc"] = {"kernel": jnp.ones((3, 2)), "bias": jnp.array([-50.0, 1.0])}
    images = np.zeros((7, 4, 4, 2), np.float32)
    # One position of the last image wakes the third channel.
    images[6, 3, 3] = 1
    got = dead_units(net, params, state, images, batch_size=batch_size)
    assert {path: dead.tolist() for path, dead in got.items()} == {"relu": [False, True, False], "act": [True, False]}
    asleep = dead_units(net, params, state, images[:6], paths=["relu"], batch_size=batch_size)
    assert asleep["relu"].tolist() == [True, True, True]


def test_dead_units_of_any_layer_and_inside_a_repeat(made):
    net, params, state, _ = made
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE[1:]), np.uint8)
    scaled = lambda x: x.astype(jnp.float32) / 255 - 0.5  # noqa: E731
    got = dead_units(net, params, state, images, paths=["conv", "twice.act"], preprocess=scaled, batch_size=4)
    _, found = activations(net, params, state, scaled(images))
    assert_array_equal(got["conv"], ~(np.asarray(found["conv"]) > 0).any((0, 1, 2)))
    assert_array_equal(got["twice.act"], ~(np.asarray(found["twice.act"]) > 0).any((1, 2, 3)))
    assert got["twice.act"].shape == (2, 3)
    assert list(dead_units(net, params, state, images, preprocess=scaled)) == ["relu", "twice.act"]


def test_wrong_paths_of_dead_units_are_named(made):
    net, params, state, x = made
    with pytest.raises(jc.PathError, match="path must name a layer of net, got 'rel': nearest are 'relu'"):
        dead_units(net, params, state, x, paths=["rel"])
    smooth = jc.serial(jc.Dense(2), jnp.tanh, lambda x: x.sum(-1), jc.parallel(jnp.sin, jnp.cos))
    params, state, x = ready(smooth, (2, 3))
    with pytest.raises(jc.ArgumentError, match="paths must name layers where net has no rectifier"):
        dead_units(smooth, params, state, x)
    with pytest.raises(
        jc.ShapeError, match=r"path '2' must name a layer that returns an array \(batch, ..., channels\), got \(2,\)"
    ):
        dead_units(smooth, params, state, x, paths=["2"])
    with pytest.raises(TypeError, match=r"paths must be a sequence of paths, got the string 'relu': write \['relu'"):
        dead_units(*made, paths="relu")
    with pytest.raises(jc.ShapeError, match="images must be an array with at least one item"):
        dead_units(smooth, params, state, x[:0], paths=["1"])


def test_bytes_ask_for_a_preprocess(made):
    net, params, state, _ = made
    with pytest.raises(
        jc.DTypeError,
        match=r"^images must have an element type .*, got uint8: pass preprocess=, .*\(conv \(Dense\): x",
    ):
        dead_units(net, params, state, np.zeros(SHAPE, np.uint8))


def test_a_network_of_nan_is_not_dead_but_named(made):
    net, params, state, x = made
    broken = params | {"conv": jax.tree.map(lambda a: a.at[..., 1].set(jnp.nan), params["conv"])}
    with pytest.raises(FloatingPointError, match="path 'relu' returns NaN in 1 of 3 channels"):
        dead_units(net, broken, state, x, paths=["relu"], batch_size=3)
    endless = params | {"conv": {"kernel": params["conv"]["kernel"], "bias": jnp.array([jnp.inf, -jnp.inf, 1e9])}}
    assert dead_units(net, endless, state, x, paths=["relu"])["relu"].tolist() == [False, True, False]


def test_the_networks_output_has_dead_units_too():
    net = jc.serial(jc.Dense(2), jax.nn.relu)
    params = {"0": {"kernel": jnp.ones((3, 2)), "bias": jnp.array([0.0, -9.0])}}
    assert dead_units(net, params, {}, jnp.ones((4, 3)), paths=[""])[""].tolist() == [False, True]


# --- Statistics of layers ---------------------------------------------------------------------------------------------


def test_statistics_by_numpy(made):
    net, params, state, x = made
    grads, updates = (jax.tree.map(lambda a, f=f: f * np.cos(a), params) for f in (1.0, 1e-3))
    got = jax.jit(lambda x: layer_statistics(net, params, state, x, grads=grads, updates=updates))(x)
    # The block's own level holds the weights of its body, which has no name.
    want = ("conv", "relu", "block", "twice.inner", "twice.act", "mean", "drop", "scores")
    assert got.paths == want
    _, found = activations(net, params, state, x)
    for i, path in enumerate(got.paths):
        a = np.asarray(found[path], np.float64)
        moments = [got.mean[i], got.std[i], got.zeros[i], got.largest[i]]
        assert_allclose(moments, [a.mean(), a.std(), (a == 0).mean(), np.abs(a).max()], rtol=1e-4, atol=1e-6)
    trees = {"conv": ("conv",), "block": ("block",), "twice.inner": ("twice", "inner"), "scores": ("scores",)}
    for i, path in enumerate(got.paths):
        norms = []
        for tree in (params, grads, updates):
            for name in trees.get(path, ("nothing",)):
                tree = tree.get(name, {})
            norms.append(np.sqrt(sum((np.asarray(a, np.float64) ** 2).sum() for a in jax.tree.leaves(tree))) or np.nan)
        weight, gradient, update = norms
        numbers = [got.weight_norm[i], got.gradient_norm[i], got.update_ratio[i]]
        assert_allclose(numbers, [weight, gradient, update / weight], rtol=1e-4)
    assert np.isnan(got.weight_norm[1])


def test_statistics_in_training_mode_and_without_gradients(made):
    net, params, state, x = made
    got = layer_statistics(net, params, state, x, train=True, key=jax.random.key(0))
    at = got.paths.index("drop")
    assert got.zeros[at] > layer_statistics(net, params, state, x).zeros[at]
    assert set(got.arrays()) == {"mean", "std", "zeros", "largest", "weight_norm"}


def test_a_lone_layer_and_weights_that_a_layer_nests():
    lone = jc.Dense(2)
    params, state, x = ready(lone, (3, 2))
    got = layer_statistics(lone, params, state, x)
    assert got.paths == ("",)
    assert_allclose(got.mean[0], lone.apply(params, state, x)[0].mean(), rtol=1e-5)

    class Nested:
        def init(self, key, x):
            return {"inner": {"a": jnp.zeros(2), "b": jnp.zeros(1)}}, {}

        def apply(self, params, state, x, *, train=False, key=None):
            return x + params["inner"]["a"] + params["inner"]["b"], {}

    net = jc.serial(jc.inline(jc.Dense(2)), nested=Nested())
    params = {
        "kernel": jnp.eye(2),
        "bias": jnp.zeros(2),
        "nested": {"inner": {"a": jnp.array([3.0, 0]), "b": jnp.ones(1)}},
    }
    got = layer_statistics(net, params, {}, x)
    assert got.paths == ("", "nested")
    assert_allclose(got.weight_norm, [np.sqrt(2), np.sqrt(10)], rtol=1e-6)


def test_layers_that_give_trees_and_layers_that_do_not_run():
    net = jc.serial(jc.parallel(jnp.negative, jnp.abs), lambda xs: {"sum": xs[0] + xs[1], "first": xs[0]})
    got = layer_statistics(net, {}, {}, jnp.array([[1.0, 2.0]]))
    assert got.paths == ("0.0", "0.1", "1")
    assert_allclose(got.mean, [-1.5, 1.5, -0.75])
    assert_allclose(got.zeros, [0, 0, 0.5])


def test_gradients_of_another_network_are_named(made):
    net, params, state, x = made
    wrong = {**params, "scores": {**params["scores"], "bias": jnp.ones(7)}}
    with pytest.raises(
        jc.ParameterError, match=r"grads must have the shapes of params, at .*'scores'.*'bias'.*\(2,\), got \(7,\)"
    ):
        layer_statistics(net, params, state, x, grads=wrong)
    less = {name: tree for name, tree in params.items() if name != "conv"}
    with pytest.raises(jc.ParameterError, match=r"updates must have the shapes of params, at .*'conv'.*, got nothing"):
        layer_statistics(net, params, state, x, updates=less)
    with pytest.raises(
        jc.ParameterError, match=r"updates must have the shapes of params, at .*'more'.* nothing, got \(\)"
    ):
        layer_statistics(net, params, state, x, updates={**params, "more": jnp.ones(())})


def test_what_is_measured_and_nan_shows(made):
    net, params, state, x = made
    nan = jax.tree.map(lambda a: a * jnp.nan, params)
    got = layer_statistics(net, nan, state, x, grads=nan, updates=nan)
    assert list(got.arrays()) == [
        "mean", "std", "zeros", "largest", "weight_norm", "gradient_norm", "update_ratio",
    ]  # fmt: skip
    lines = str(got).splitlines()
    conv, relu = lines[2].split(), lines[3].split()
    assert (conv, relu) == (["conv", *["nan"] * 7], ["relu", *["nan"] * 4])
    recorder = Recorder()
    recorder.add(0, got)
    rows = {row["path"]: row for row in recorder.rows()}
    assert np.isnan(rows["conv"]["update_ratio"])
    assert rows["relu"]["update_ratio"] is None


def test_updates_of_weights_that_are_zero(made):
    net, params, state, x = made
    zero = jax.tree.map(jnp.zeros_like, params)
    moved = layer_statistics(net, zero, state, x, updates=params)
    still = layer_statistics(net, zero, state, x, updates=zero)
    assert np.isinf(moved.update_ratio[0])
    assert still.update_ratio[0] == 0


# --- A run ------------------------------------------------------------------------------------------------------------


def test_a_recorder_collects_a_run(made):
    net, params, state, x = made
    optimizer = optax.sgd(0.1)

    def loss(params):
        return jnp.mean(net.apply(params, state, x)[0] ** 2)

    @jax.jit
    def step(params):
        grads = jax.grad(loss)(params)
        updates, _ = optimizer.update(grads, optimizer.init(params))
        seen = layer_statistics(net, params, state, x, grads=grads, updates=updates)
        return optax.apply_updates(params, updates), seen

    recorder, moved = Recorder(), params
    assert str(recorder) == "no steps"
    with pytest.raises(jc.ArgumentError, match="a recorder must have at least one step, added by add, got none"):
        recorder.rows()
    for i in range(3):
        moved, seen = step(moved)
        recorder.add(10 * i, seen)
    _, scanned = jax.lax.scan(lambda p, _: step(p), params, length=3)
    kept = recorder.statistics
    assert isinstance(kept, LayerStatistics)
    jax.tree.map(lambda a, b: assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept, scanned)
    assert kept.mean.shape == (3, len(kept.paths))
    ratio = 0.1 * kept.gradient_norm / kept.weight_norm
    assert_allclose(kept.update_ratio, ratio, rtol=1e-4)

    rows = recorder.rows()
    assert len(rows) == 3 * len(kept.paths)
    assert rows[len(kept.paths)] == {"step": 10, "path": "conv"} | {
        name: pytest.approx(float(a[1, 0])) for name, a in kept.arrays().items()
    }
    table = str(recorder).splitlines()
    assert table[0] == "step 20"
    assert table[1].split("  ")[0] == "path"
    assert f"{kept.std[2, 0]:.3g}" in table[3]
    assert table[4].split()[0] == "relu"
    assert len(table[4].split()) == 5
    assert repr(seen) == "LayerStatistics(8 layers, (8,))"

    with pytest.raises(jc.ShapeError, match=r"statistics must be of one step, with arrays \(8,\), got \(3, 8\)"):
        recorder.add(30, scanned)
    with pytest.raises(jc.ShapeError, match="statistics must have the statistics of earlier steps"):
        recorder.add(30, layer_statistics(net, params, state, x))
    with pytest.raises(jc.ShapeError, match="statistics must have the layers of earlier steps"):
        recorder.add(30, layer_statistics(jc.serial(jnp.sin), {}, {}, x))


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("where", ["params", "images"])
def test_nan_is_seen_among_many_numbers_too(size, where):
    # XLA:CPU's maximum of 4096 numbers or more loses it.
    net = jc.serial(conv=jc.Conv(4, 1), relu=jax.nn.relu)
    x = jnp.ones((8, size, size, 3))
    params, state, _ = ready(net, x.shape)
    if where == "params":
        params["conv"]["kernel"] = params["conv"]["kernel"].at[0, 0, 0, 1].set(jnp.nan)
    else:
        x = x.at[3, 4, 5, 0].set(jnp.nan)
    with pytest.raises(FloatingPointError, match=f"path 'relu' returns NaN in {1 if where == 'params' else 4} of 4"):
        dead_units(net, params, state, x)
    assert np.isnan(layer_statistics(net, params, state, x).largest).all()
