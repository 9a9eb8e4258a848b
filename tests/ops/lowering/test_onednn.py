"""Where oneDNN is called and where not, that it is the same from run to run, and what it computes in whole programs."""

import concurrent.futures
import dataclasses
import functools
import math

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxconv as jc
from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.problem import Geometry, Problem
from tests.ops.compare import assert_close
from tests.ops.draws import uniform
from tests.ops.lowering.targets import WITH_ONEDNN, chosen, solved

pytestmark = pytest.mark.skipif(not onednn.callable_here(), reason="oneDNN is not called here")

X, K = uniform(1, (8, 9, 8, 6)).astype(np.float32), uniform(2, (3, 3, 6, 5)).astype(np.float32)
NUMBERS = ("NHWC", "HWIO", "NHWC")


def loss(x, k):
    return jnp.sum(jnp.sin(jc.conv(jnp.cos(x), k)))


def text(f, *args) -> str:
    return jax.jit(f).lower(*args).as_text()


def calls(program: str) -> int:
    return program.count("@__onednn$")


def close(got, want) -> None:
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert_close(one, other)


def test_all_three_roles_call_it():
    assert calls(text(jc.conv, X, K)) == 1
    assert calls(text(jax.grad(loss, (0, 1)), X, K)) == 3
    (row,) = jc.explain(jc.conv, X, K, platform="cpu")
    assert row.form == "onednn"


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.complex64, jnp.int32])
def test_other_types_are_left_to_lax(dtype):
    with jax.enable_x64(True):
        x, k = jnp.ones((2, 5, 4, 3), dtype), jnp.ones((2, 2, 3, 4), dtype)
        conv = functools.partial(jc.conv_general_dilated, window_strides=(1, 1), padding="SAME")
        assert calls(text(functools.partial(conv, dimension_numbers=NUMBERS), x, k)) == 0


@pytest.mark.parametrize("window", [(1, 1), (3, 3)])
def test_float64_has_the_forms_of_a_machine_without_it(window):
    with jax.enable_x64(True):
        x, k = jnp.ones((8, 28, 28, 16), jnp.float64), jnp.ones((*window, 16, 32), jnp.float64)
        f = jax.grad(lambda x, k: jnp.sum(jc.conv(x, k) ** 2), (0, 1))
        rows = jc.explain(f, x, k, platform="cpu")
        with jc.lowering("portable"):
            assert rows == jc.explain(f, x, k, platform="cpu")


def test_an_ensemble_calls_it_for_each_member_and_batches_its_products():
    xs, ks = jnp.stack([X, X + 1]), jnp.stack([K, K - 1])
    assert calls(text(jax.vmap(jc.conv), xs, ks)) == 2
    assert_close(jax.vmap(jc.conv)(xs, ks), jnp.stack([jc.conv(x, k) for x, k in zip(xs, ks, strict=True)]))
    program = text(jax.grad(lambda k: jnp.sum(jax.vmap(jc.conv)(xs, k) ** 2)), ks[:, :1, :1])
    assert "@__onednn$matmul" not in program


def test_a_1x1_convolution_is_its_matrix_product_in_all_roles():
    """Of the same two-dimensional arrays, so that XLA computes what they are made of once."""
    f = jax.grad(loss, (0, 1))
    program = text(f, X, K[:1, :1])
    assert program.count("@__onednn$matmul") == calls(program) == 3
    assert jax.jit(f).lower(X, K[:1, :1]).compile().as_text().count(" cosine(") == 2
    with jc.lowering("xla"):
        want = jax.jit(f)(X, K[:1, :1])
    close(jax.jit(f)(X, K[:1, :1]), want)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_types_are_summed_in_float32(dtype):
    x, k = jnp.full((1, 1, 1, 4096), 0.1, dtype), jnp.ones((1, 1, 4096, 1), dtype)
    assert calls(text(jc.conv, x, k)) == 1
    want = np.float64(np.asarray(x, np.float64).sum())
    assert float(jc.conv(x, k)[0, 0, 0, 0]) == float(jnp.asarray(want, dtype))


def test_an_export_calls_nothing_that_it_may_not():
    exported = jax.export.export(jax.jit(jax.grad(loss, (0, 1))), platforms=("cpu", "cuda"))(X, K)
    assert calls(exported.mlir_module()) == 0
    got = jax.export.deserialize(exported.serialize()).call(X, K)
    close(got, jax.jit(jax.grad(loss, (0, 1)))(X, K))


def test_a_portable_program_can_be_written_to_a_disk():
    with jc.lowering("portable"):
        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(X, K).compile()
    assert "__onednn" not in compiled.as_text()
    got = deserialize_and_load(*serialize(compiled), execution_devices=jax.devices()[:1])(X, K)
    close(got, jax.jit(jax.grad(loss, (0, 1)))(X, K))


def test_programs_for_jaxs_cache_on_disk_are_portable(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        onednn.warn.cache_clear()
        with pytest.warns(UserWarning, match="no oneDNN in this process.*jax_compilation_cache_dir"):
            assert calls(text(lambda x, k: jc.conv(x, k) + 2, X, K)) == 0
        assert calls(text(lambda x, k: jc.conv(x, k) + 3, X, K)) == 0  # it warns once
        (row,) = jc.explain(jc.conv, X, K, platform="cpu")
        assert " oneDNN is not called, since jax_compilation_cache_dir is set" in row.why
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture(params=[AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def mesh(request):
    return jax.make_mesh((2,), ("batch",), axis_types=(request.param,), devices=jax.devices()[:2])


def test_what_the_compiler_divides_calls_it_on_each_device(mesh):
    """On its share, not on the whole."""
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("batch")))
        compiled = jax.jit(jc.conv).lower(x, K).compile()
        assert compiled.as_text().count('"__onednn$convolution') == 1
        assert "all-gather" not in compiled.as_text()
        assert_close(compiled(x, K), jc.conv(X, K))


def test_what_a_shard_map_divides_calls_it(mesh):
    with jax.set_mesh(mesh):
        x = jax.device_put(X, NamedSharding(mesh, P("batch")))
        f = jax.jit(jax.shard_map(jc.conv, in_specs=(P("batch"), P()), out_specs=P("batch")))
        assert calls(f.lower(x, K).as_text()) == 1
        assert_close(f(x, K), jc.conv(X, K))


@pytest.mark.parametrize(("names", "many"), [({"a"}, 0), ({"a", "b"}, 1)], ids=["one axis", "both"])
def test_a_shard_map_over_some_axes_alone_does_not_call_it(names, many):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices()[:4])
    f = jax.shard_map(jc.conv, mesh=mesh, in_specs=(P("a"), P()), out_specs=P("a"), axis_names=names, check_vma=False)
    assert calls(text(f, X, K)) == many
    assert_close(jax.jit(f)(X, K), jc.conv(X, K))


def networks(x, ks):
    """Convolutions that do not wait for each other, and some in a loop."""
    maps = [jc.conv(x * (i + 1), k, groups=6 // k.shape[-2]) for i, k in enumerate(ks)]
    chain = jax.lax.scan(lambda y, _: (jnp.tanh(jc.conv(y, ks[0])), None), x, length=3)[0]
    return sum(jnp.mean(jnp.sin(y)) for y in maps) + jnp.mean(chain)


def test_it_gives_the_same_bits_whatever_runs_beside_it():
    """Four threads run the same program at once, on the two or more threads that it shares out its work to."""
    ks = [uniform(i, shape).astype(np.float32) for i, shape in enumerate([(3, 3, 6, 6), (1, 1, 6, 4), (5, 3, 1, 12)])]
    run = jax.jit(jax.value_and_grad(networks, (0, 1)))
    first = jax.tree.map(np.asarray, run(X, ks))
    with jc.lowering("xla"):
        close(first, jax.jit(jax.value_and_grad(networks, (0, 1)))(X, ks))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: jax.tree.map(np.asarray, run(X, ks)), range(40)):
            jax.tree.map(np.testing.assert_array_equal, got, first)


@pytest.mark.parametrize(
    ("size", "window", "dilation", "groups"),
    [((2, 2), 5, 2, 6), ((1, 3), 3, 1, 6), ((9, 9), 3, 2, 6)],
    ids=["as in a test of DeepLab", "flat", "grouped and dilated"],
)
def test_it_is_not_called_for_what_breaks_it(size, window, dilation, groups):
    """oneDNN's grouped programs wrote past their memory, or never ended, where the padding is larger than the map."""
    x, k = jnp.ones((2, *size, 6)), jnp.ones((window, window, 6 // groups, 6))
    assert calls(text(functools.partial(jc.conv, dilation=dilation, groups=groups), x, k)) == 0


def test_one_channel_with_a_stride_is_right():
    """oneDNN has wrong numbers for it where the output's last axis is of length one."""
    x, k = uniform(5, (2, 9, 12, 1)).astype(np.float32), uniform(6, (1, 10, 1, 6)).astype(np.float32)
    f = functools.partial(jc.conv, stride=(1, 3), padding="VALID")
    with jc.lowering("xla"):
        want = jax.jit(f)(x, k)
    for mode in ("auto", ("onednn",)):
        with jc.lowering(mode):
            assert_close(jax.jit(f)(x, k), want)


def test_a_kernels_gradient_takes_some_of_many_examples_at_a_time(monkeypatch):
    """As many as a cache holds, and at least eight."""
    f = jax.grad(lambda k, x: jnp.sum(jnp.sin(jc.conv(x, k))))
    x = uniform(7, (24, 9, 8, 6)).astype(np.float32)
    whole = jax.jit(f)(K, x)
    assert "while" not in text(f, K, x)
    monkeypatch.setattr(onednn, "HELD", 8 * 9 * 8 * (6 + 5))
    jax.clear_caches()
    assert "while" in text(f, K, x)
    assert_close(jax.jit(f)(K, x), whole)
    jax.clear_caches()


@pytest.mark.parametrize(
    ("batch", "held", "many"),
    [(24, 100, 12), (24, 90, 8), (24, 250, 24), (36, 10, 9), (36, 125, 12), (7, 1, 7), (37, 1, 37)],
)
def test_so_many_examples_are_taken_at_a_time(batch, held, many, monkeypatch):
    monkeypatch.setattr(onednn, "HELD", held)
    geometry = Geometry((4,), (3,), (1,), ((1, 1),), (1,))
    assert onednn.at_a_time(Problem("kernel", geometry, batch, 1, 1, jnp.dtype(jnp.float32))) == many


@pytest.mark.parametrize(
    ("batch", "held", "chain", "many"),
    [(24, 1, 96, 24), (24, 1, 95, 1), (24, 90, 95, 4), (24, 1000, 60, 12), (7, 9, 3, 1)],
)
def test_so_many_examples_are_added_up_in_a_depthwise_chain(batch, held, chain, many, monkeypatch):
    monkeypatch.setattr(onednn, "HELD", held)
    monkeypatch.setattr(onednn, "CHAIN", chain)
    geometry = Geometry((4,), (3,), (1,), ((1, 1),), (1,), 2)
    assert onednn.at_a_time(Problem("kernel", geometry, batch, 2, 2, jnp.dtype(jnp.float32))) == many


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("outer", [1, 2])
@pytest.mark.parametrize("large", [False, True])
def test_a_depthwise_kernels_gradient_is_a_call(rank, outer, large, monkeypatch):
    """One for all examples, an axis of the map like the others; of three axes, or of large maps, one for each."""
    size = (9, 8, 7)[:rank]
    if large:
        monkeypatch.setattr(onednn, "CHAIN", math.prod(size))
    jax.clear_caches()
    x = uniform(8, (3, *size, 6)).astype(np.float32)
    k = uniform(9, (*(5, 3, 3)[:rank], 1, 6 * outer)).astype(np.float32)
    f = jax.grad(lambda x, k: jnp.sum(jnp.sin(jc.conv(jnp.cos(x), k, groups=6))), (0, 1))
    program = text(f, x, k)
    assert calls(program) == 3
    assert ("while" in program) == (rank == 3 or large)
    if rank < 3 and outer == 1 and not large:
        # What has one shape for all three is computed once: the cosine of x, and that of the derivative of the sine.
        assert jax.jit(f).lower(x, k).compile().as_text().count(" cosine(") == 2
    with jc.lowering("xla"):
        want = jax.jit(f)(x, k)
    close(jax.jit(f)(x, k), want)
    jax.clear_caches()


@pytest.mark.parametrize(("kind", "steps"), [("same", 1000), ("positive", 100)])
def test_a_depthwise_chain_loses_few_digits(kind, steps):
    """Adding up what is all the same, one after the other, is the worst: each step is rounded the same way."""
    rng = np.random.default_rng(0)
    draw = {"same": lambda: np.full((4, 64, 64, 8), 0.1), "positive": lambda: rng.uniform(size=(4, 64, 64, 8))}[kind]
    x, y = (draw().astype(np.float32) for _ in range(2))
    geometry = Geometry((64, 64), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 8)
    p = Problem("kernel", geometry, 4, 8, 8, jnp.dtype(jnp.float32))
    assert p.positions == onednn.CHAIN
    assert onednn.at_a_time(p) == 4
    got = np.asarray(jax.jit(solved(("onednn",), p, WITH_ONEDNN))(x, y))[1, 1, 0]
    want = np.sum(np.float64(x) * y, (0, 1, 2))
    assert np.max(np.abs(got - want) / want) <= steps * np.finfo(np.float32).eps


@pytest.mark.parametrize(
    ("size", "groups", "form"),
    [
        ((128, 128), 4, "onednn"),
        ((128, 129), 4, "shift_add"),
        ((2**14,), 4, "onednn"),
        ((2**14 + 1,), 4, "shift_add"),
        ((25, 25, 27), 4, "shift_add"),
        ((2**14,), 1, "onednn"),
        ((2**14 + 1,), 1, "xla_prelayout"),
    ],
)
def test_a_longer_chain_is_computed_otherwise(size, groups, form):
    rank = len(size)
    geometry = Geometry(size, (5,) * rank, (1,) * rank, ((2, 2),) * rank, (1,) * rank, groups)
    p = Problem("kernel", geometry, 3, 16, 16, jnp.dtype(jnp.float32))
    p = p if groups == 1 else dataclasses.replace(p, channels=4, features=4)
    assert chosen(p, WITH_ONEDNN) == form


@pytest.mark.parametrize("channels", [4, 6])
@pytest.mark.parametrize("padding", ["SAME", "full"])
@pytest.mark.parametrize("rank", [1, 2])
def test_a_window_may_reach_past_the_map(rank, padding, channels):
    """Where it has no groups: its taps see numbers and padding."""
    x = uniform(10, (2, *(5, 6)[:rank], channels)).astype(np.float32)
    k = uniform(11, (*(4, 3)[:rank], channels, 5)).astype(np.float32)
    pads = "SAME" if padding == "SAME" else [(9, 8), (6, 5)][:rank]
    f = jax.grad(lambda x, k: jnp.sum(jnp.sin(jc.conv(x, k, padding=pads, dilation=3))), (0, 1))
    assert calls(text(f, x, k)) == 3
    with jc.lowering("xla"):
        want = jax.jit(f)(x, k)
    close(jax.jit(f)(x, k), want)


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "groups", "channels", "dilation"),
    [
        (5, 5, 5, (4, 0), 2, 5, 1),
        (9, 9, 6, (8, 0), 2, 5, 1),
        (600, 3, 3, (0, 0), 1, 1, 12),
        (40, 3, 1, (2, 2), 1, 7, 2),
    ],
    ids=["cropped to one place", "cropped to three", "one channel, dilated", "dilated"],
)
def test_kernels_gradients_that_want_care(size, window, stride, padding, groups, channels, dilation):
    """Grouped programs must not pad more than there is; nor may there be a stride to an axis of length one."""
    geometry = Geometry((size,), (window,), (stride,), (padding,), (dilation,), groups)
    p = Problem("kernel", geometry, 33, groups * channels, groups * 17, jnp.dtype(jnp.float32))
    x, y = (uniform(i, p.shape(name)).astype(np.float32) for i, name in enumerate(("input", "output")))
    got, want = (jax.jit(solved(mode, p, WITH_ONEDNN))(x, y) for mode in (("onednn",), "xla"))
    assert_close(got, want)


@pytest.mark.parametrize("taps", [4, 9])
def test_one_axis_with_groups_is_computed_as_two(taps):
    x, k = uniform(3, (2, 11, 6)).astype(np.float32), uniform(4, (taps, 1, 12)).astype(np.float32)
    f = functools.partial(jc.conv, groups=6)
    with jc.lowering(("onednn",)):
        got = jax.jit(f)(x, k)
        assert calls(jax.jit(f).lower(x, k).as_text()) == 1
    with jc.lowering("xla"):
        assert_close(got, jax.jit(f)(x, k))


def test_an_ensembles_depthwise_kernel_gradient_is_a_call_for_each_member():
    """Batched sums of shifted maps were up to twelve times slower than a loop over the members."""
    xs, ks = uniform(1, (3, 2, 9, 8, 6)).astype(np.float32), uniform(2, (3, 3, 3, 1, 6)).astype(np.float32)
    f = jax.grad(lambda ks: jnp.sum(jax.vmap(lambda x, k: jc.conv(x, k, groups=6))(xs, ks) ** 2))
    assert jc.explain(f, ks, platform="cpu")[-1].form == "per_member > onednn"
    with jc.lowering("xla"):
        want = jax.jit(f)(ks)
    assert_close(jax.jit(f)(ks), want)
