"""Predictions in fixed batches."""

import copy
import dataclasses
import re
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

import jaxconv as jc
from jaxconv import folding
from jaxconv.compose.structure import Many
from jaxconv.fusing import fuse
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.cpu import CPU
from jaxconv.packing import pack

LIMIT = "jax_persistent_cache_min_compile_time_secs"
NET = jc.serial(jc.Conv(4), jc.BatchNorm(), jax.nn.relu, jc.GlobalAvgPool(), jc.Dense(3))


def aligned(values):
    """A copy at an address from which JAX's CPU backend shares the memory instead of copying it."""
    values = np.asarray(values)
    memory = np.empty(values.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


@pytest.fixture(scope="module")
def made():
    params, state = NET.init(0, (1, 6, 6, 2))
    state["1"] = {"mean": jnp.array([0.1, -0.2, 0.3, 0.0]), "var": jnp.array([0.5, 1.0, 2.0, 3.0])}
    return params, state


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_number_of_examples(made, count):
    predict = jc.predictor(NET, *made, batch_sizes=(3, 1))
    x = np.random.default_rng(count).normal(size=(count, 6, 6, 2))
    y = predict(x)
    np.testing.assert_allclose(y, NET.apply(*made, x.astype(np.float32))[0], atol=1e-5)
    assert y.shape == (count, 3)
    assert set(predict.memory) == {1: {1}, 2: {3}, 3: {3}}.get(count, {3} if count % 3 != 1 else {1, 3})


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_types(made, dtype):
    with jax.enable_x64(dtype == "float64"):
        params, state = made
        params = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
        x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype(dtype)
        predict = jc.predictor(NET, params, state, batch_sizes=(1, 2))
        y, want = predict(x), NET.apply(params, state, x)[0]
        assert y.dtype == want.dtype == dtype
        got, want = np.asarray(y, np.float64), np.asarray(want, np.float64)
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * float(jnp.finfo(dtype).eps))
        assert {a.dtype.name for a in jax.tree.leaves(predict.weights[0])} == {dtype}


def test_mixed_precision(made):
    net = jc.mixed_precision(NET)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 2)).astype("float32")
    y, want = jc.predictor(net, *made)(x), net.apply(*made, x)[0]
    assert y.dtype == want.dtype
    np.testing.assert_allclose(y, want, rtol=0, atol=0.02)


@pytest.mark.parametrize(("size", "batch_sizes"), [((50, 37), (2,)), ((50, 37), (1, 8)), ((11, 9), (4,))])
def test_an_image_of_any_size_in_tiles(size, batch_sizes):
    net = jc.serial(jc.Conv(4), jc.BatchNorm(), jax.nn.relu, jc.MaxPool(2), jc.Conv(3))
    params, state = net.init(0, (1, 16, 16, 2))
    state["1"] = {"mean": jnp.array([0.1, -0.2, 0.3, 0.0]), "var": jnp.array([0.5, 1.0, 2.0, 3.0])}
    image = np.random.default_rng(0).normal(size=(*size, 2)).astype("float32")
    predict = jc.predictor(net, params, state, batch_sizes=batch_sizes)
    for more in ({}, {"blend": 4}, {"batch_size": 1}):
        y = predict.tiled(image, tile=16, overlap=8, **more)
        want = jc.train.predict_tiled(net, params, state, image, tile=16, overlap=8, **more)
        assert y.shape == (-(-size[0] // 2), -(-size[1] // 2), 3)
        np.testing.assert_allclose(y, want, atol=1e-5)
    with pytest.raises(jc.ArgumentError, match="overlap must be less than tile"):
        predict.tiled(image, tile=16, overlap=16)


def test_programs_are_compiled_once_and_ahead_with_a_shape(made):
    predict = jc.predictor(NET, *made, batch_sizes=(1, 2), x=(1, 6, 6, 2))
    assert set(predict.memory) == {1, 2}
    assert predict.memory[2] > predict.memory[1] > 0
    programs = dict(predict._programs)
    predict(np.ones((5, 6, 6, 2)))
    assert predict._programs == programs


def test_later_changes_of_the_weights_have_no_effect():
    net = jc.serial(jc.Dense(4))
    params, state = net.init(0, (1, 3))
    params = jax.tree.map(aligned, params)
    predict = jc.predictor(net, params, state, batch_sizes=(1,))
    before = np.array(predict(np.ones((1, 3))))
    for array in params["0"].values():
        array[...] = 0
    np.testing.assert_array_equal(predict(np.ones((1, 3))), before)


def test_weights_cannot_be_written_to(made):
    predict = jc.predictor(NET, *made)
    for when in ("before", "after"):
        for array in jax.tree.leaves(predict.weights):
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        if when == "before":
            predict(np.ones((1, 6, 6, 2)))


def test_arrays_that_only_the_predictor_refers_to_are_dropped_one_by_one(monkeypatch):
    net = jc.serial(*[layer for _ in range(4) for layer in (jc.Conv(8), jc.BatchNorm())], jc.Dense(5))
    trees = [jax.tree.map(np.array, tree) for tree in net.init(0, (1, 6, 6, 2))]
    sources = [weakref.ref(layer["kernel"]) for layer in trees[0].values() if "kernel" in layer]
    left = []

    def counting(*args, function=folding._with_arrays):
        left.append(sum(source() is not None for source in sources))
        return function(*args)

    monkeypatch.setattr(folding, "_with_arrays", counting)
    state, params = trees.pop(), trees.pop()
    want = net.apply(params, state, np.ones((1, 6, 6, 2), np.float32))[0]
    predict = jc.predictor(net, params, state, batch_sizes=(1,))
    assert left == [5, 5, 5, 5]  # this test refers to them
    trees, left[:] = [params, state], []
    del params, state
    jc.predictor(net, trees.pop(0), trees.pop(), batch_sizes=(1,))
    assert left == [5, 4, 3, 2]
    np.testing.assert_allclose(predict(np.ones((1, 6, 6, 2))), want, atol=1e-5)


def test_weights_are_those_folded_after_programs_store_them_in_other_orders():
    net = jc.serial(jc.Conv(64, 1), jc.BatchNorm(), jax.nn.relu, jc.GlobalAvgPool(), jc.Dense(70))
    params, state = net.init(0, (1, 16, 16, 48))
    predict = jc.predictor(net, params, state, batch_sizes=(1, 2))
    before = jax.tree.map(np.array, predict.weights)
    for count in (1, 2, 1):
        predict(np.ones((count, 16, 16, 48)))
        jax.tree.map(np.testing.assert_array_equal, predict.weights, before)
    if onednn.carried():
        assert any(stored.order for stored in predict._stored)
        assert not predict._waiting.keys() & {stored.leaf for stored in predict._stored}


class _Twice(Many):
    call = "Twice"

    def route(self, run, x):
        (child,) = self.children
        return run(*child, run(*child, x))


def test_kernels_whose_first_axis_has_the_features():
    """The order of the programs for CUDA, computed here by the CPU's algorithms."""
    net = jc.serial(
        _Twice((("conv", jc.Conv(6)),)),
        jc.residual(jc.Conv(6, 1)),
        jc.Conv(6, (3, 2), groups=3, bias=False),
        jc.GlobalAvgPool(),
        jc.Dense(5),
    )
    params, state = net.init(0, (2, 9, 8, 6))
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 6)).astype("float32")
    traced = jax.jit(fuse(lambda weights, x: net.apply(*weights, x)[0])).trace((params, state), x)
    run, wanted = pack(traced, dataclasses.replace(CPU, onednn=False, features_first=True))
    leaves = [np.asarray(a) for a in jax.tree.leaves((params, state))]
    arrays = [stored.array(leaves[stored.leaf]) for stored in wanted]
    moved = {array.shape for stored, array in zip(wanted, arrays, strict=True) if stored.order}
    assert moved == {(6, 3, 3, 6), (6, 1, 1, 6), (6, 3, 2, 2)}
    assert len(wanted) == 7  # three kernels, two biases, and the dense layer's arrays
    for stored, array in zip(wanted, arrays, strict=True):
        np.testing.assert_array_equal(stored.weight(array, leaves[stored.leaf].shape), leaves[stored.leaf])
    np.testing.assert_allclose(jax.jit(run)(arrays, x), net.apply(params, state, x)[0], atol=1e-5)
    text = jax.jit(run).trace(arrays, x).lower(lowering_platforms=("cuda",)).as_text()
    # All kernels are read in this order, without an array of another order in between.
    assert len(re.findall(r"stablehlo.transpose .*dims = \[1, 2, 3, 0\]", text)) == 4


def test_what_explain_describes_is_what_runs(made):
    net = jc.serial(jc.Dense(64), jax.nn.relu)
    params, state = net.init(0, (1, 64))
    predict = jc.predictor(net, params, state, batch_sizes=(1, 4))
    for given, size in (((4096, 64), 4), ((2, 64), 4), (np.ones((1, 64), np.float32), 1)):
        [row] = predict.explain(given)
        assert row.shapes[0] == (size, 64)


def test_batches_larger_than_memory_are_divided(made):
    predict = jc.predictor(NET, *made, batch_sizes=(2**40,))
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 2)).astype("float32")
    if jax.default_backend() == "cpu":
        np.testing.assert_allclose(predict(x), NET.apply(*made, x)[0], atol=1e-5)
        assert max(predict.memory.values()) < 2**27


def test_nan_reaches_the_output_without_fused_calls(made):
    x = np.ones((1, 6, 6, 2), np.float32)
    x[0, 3, 3, 0] = np.nan
    with jc.lowering("exact"):
        assert np.isnan(jc.predictor(NET, *made)(x)).all()


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_inside_a_transformation_the_error_says_what_to_call(made, transform):
    predict = jc.predictor(NET, *made)
    x = np.ones((2, 6, 6, 2), np.float32)
    with pytest.raises(TypeError, match=r"x must not be traced: .* call predict.function\(predict.weights, x\)"):
        transform(lambda x: predict(x).sum())(x)
    assert jax.jit(predict.function)(predict.weights, x).shape == (2, 3)


def test_a_predictor_is_not_copied(made):
    with pytest.raises(TypeError, match="cannot be copied or pickled: copy net, params and state"):
        copy.deepcopy(jc.predictor(NET, *made))


def test_what_it_says(made):
    predict = jc.predictor(NET, *made, batch_sizes=(2,), x=(1, 6, 6, 2))
    assert predict.threads >= 1
    assert predict.report.folded == {"1": "0"}
    assert repr(predict).startswith(
        f"predictor(batch_sizes=(2,), threads={predict.threads}, memory={{2: 0 MiB}}, folded=1"
    )


def test_trees_in_and_out():
    net = jc.parallel(a=jc.serial(lambda x: x["left"] + x["right"]), b=jc.serial(lambda x: 2 * x["left"]))
    predict = jc.predictor(net, {}, {}, batch_sizes=(2,))
    x = {"left": np.arange(6.0).reshape(3, 2), "right": np.ones((3, 2))}
    a, b = predict(x)
    np.testing.assert_array_equal(a, x["left"] + 1)
    np.testing.assert_array_equal(b, 2 * x["left"])


@pytest.mark.parametrize("x", [np.ones((0, 6, 6, 2)), np.float32(1), {"a": np.ones((2, 1)), "b": np.ones((3, 1))}])
def test_inputs_without_one_number_of_examples(made, x):
    with pytest.raises(jc.ShapeError, match="x must have arrays with one number of examples"):
        jc.predictor(NET, *made)(x)


@pytest.mark.parametrize(
    ("sizes", "error"), [((), jc.ArgumentError), ((0,), jc.ArgumentError), ((1, -2), jc.ArgumentError)]
)
def test_batches_that_are_none(made, sizes, error):
    with pytest.raises(error, match="batch_sizes must"):
        jc.predictor(NET, *made, batch_sizes=sizes)


def test_outputs_without_a_batch(made):
    with pytest.raises(jc.ShapeError, match="outputs must have one entry for each of 2 examples"):
        jc.predictor(jc.serial(jnp.sum), {}, {}, batch_sizes=(2,))(np.ones((2, 3)))


def test_explain_shows_what_is_compiled(made):
    predict = jc.predictor(NET, *made)
    rows = jc.explain(predict.function, predict.weights, jnp.ones((1, 6, 6, 2)))
    assert rows[0].op == "conv + bias + relu"


@pytest.mark.skipif(not onednn.carried(), reason="this jaxlib's oneDNN is not called")
def test_with_the_cache_on_a_disk_programs_call_onednn_and_are_not_stored(made, tmp_path):
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", LIMIT)}
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update(LIMIT, 0.0)
    try:
        predict = jc.predictor(NET, *made, batch_sizes=(1,), x=(1, 6, 6, 2))
        assert predict.left_out == ""
        (program,) = predict._programs.values()
        assert "__onednn$" in program.run.as_text()
        assert getattr(jax.config, LIMIT) == 0.0
        assert [row.form for row in predict.explain(np.ones((1, 6, 6, 2)))] == ["onednn", "xla"]
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()  # JAX goes on with the folder that it has used once
    assert not list(tmp_path.glob("jit_run*"))
    x = np.ones((1, 6, 6, 2), np.float32)
    np.testing.assert_allclose(predict(x), NET.apply(*made, x)[0], atol=1e-5)


def test_large_arrays_are_computed_for_fewer_examples_at_a_time():
    net = jc.serial(jc.Conv(64, 1), jax.nn.relu, jc.GlobalAvgPool())
    x = np.random.default_rng(0).normal(size=(5, 200, 200, 1)).astype(np.float32)
    params, state = net.init(0, x)
    predict = jc.predictor(net, params, state, batch_sizes=(4,))
    # Of one example 9.8 MiB, of which 1.5 times as much is allocated.
    np.testing.assert_allclose(predict(x), net.apply(params, state, x)[0], atol=1e-5)
    assert set(predict.memory) == ({2} if jax.default_backend() == "cpu" else {4})
