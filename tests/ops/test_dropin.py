"""The drop-in against lax, by itself and inside the frameworks that take one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxconv as jc
from jaxconv.ops.lowering.primitive import conv_p
from tests.ops.compare import assert_close
from tests.ops.draws import Searched, uniform
from tests.ops.transforms import quick_jit

SPATIAL = ["W", "HW", "DHW"]


def layouts(rank):
    s = SPATIAL[rank - 1]
    return [
        (f"N{s}C", f"{s}IO", f"N{s}C"),
        (f"NC{s}", f"OI{s}", f"NC{s}"),
        (f"{s}NC", f"I{s}O", f"C{s}N"),
        (f"N{s[::-1]}C", f"{s}OI", f"NC{s}"),
    ]


def placed(spec, sizes, batch, channels, names="NC"):
    return tuple({names[0]: batch, names[1]: channels}.get(c) or sizes[c] for c in spec)


def check(draws):
    rank = draws.integer(1, 3)
    s = SPATIAL[rank - 1]
    numbers = draws.choice(layouts(rank))
    window = dict(zip(s, draws.integers(1, 3, rank), strict=True))
    dilation, stride = draws.integers(1, 2, rank), draws.integers(1, 3, rank)
    spread = draws.integers(1, 3, rank) if draws.flag() else None
    if spread is not None and draws.flag():
        stride = (1,) * rank
    groups = draws.integer(1, 2)
    padding = draws.choice(["SAME", "VALID", "SAME_LOWER", "pairs", "pairs"])
    # Positive: lax itself reads out of bounds on CPU with negative low padding (openxla/xla#48713).
    pairs = tuple((draws.integer(0, 3), draws.integer(-1, 3)) for _ in range(rank))
    if padding == "pairs" or spread is not None:
        padding = pairs
    size = dict(zip(s, (7, 6, 7)[:rank], strict=True))
    x = uniform(1, placed(numbers[0], size, 2, 2 * groups)).astype(np.float32)
    kernel = uniform(2, placed(numbers[1], window, 2, 3 * groups, "IO")).astype(np.float32)
    options = {
        "window_strides": stride,
        "padding": padding,
        "lhs_dilation": spread,
        "rhs_dilation": dilation,
        "dimension_numbers": numbers,
        "feature_group_count": groups,
    }

    @quick_jit
    def both(x, kernel):
        results = []
        for op in (jc.conv_general_dilated, jax.lax.conv_general_dilated):
            out, pullback = jax.vjp(functools.partial(op, **options), x, kernel)
            results.append((out, *pullback(jnp.cos(out))))
        return results

    for got, want in zip(*both(x, kernel), strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want, what=str(options))


@given(st.data())
@settings(max_examples=12)
def test_values_and_gradients_are_those_of_lax(data):
    check(Searched(data))


@pytest.mark.slow
@given(st.data())
@settings(max_examples=50)
def test_values_and_gradients_are_those_of_lax_at_length(data):
    check(Searched(data))


NHWC = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def primitives(f, *args):
    return {e.primitive for e in jax.make_jaxpr(f)(*args).jaxpr.eqns}


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({}, True),
        ({"precision": "highest"}, True),
        (
            {"window_strides": np.array([1, 2]), "padding": np.ones((2, 2), int), "rhs_dilation": (np.int64(2),) * 2},
            True,
        ),
        ({"preferred_element_type": jnp.float32}, True),
        ({"preferred_element_type": jnp.int32}, False),
        ({"batch_group_count": 2}, False),
        ({"lhs_dilation": (2, 2), "padding": [(1, 1), (1, 1)]}, True),
        ({"lhs_dilation": (2, 2), "padding": [(5, 1), (1, 1)]}, False),
        ({"lhs_dilation": (2, 2), "padding": [(1, 1)] * 2, "window_strides": (2, 2)}, False),
    ],
    ids=str,
)
def test_what_is_ours_and_what_goes_to_lax(options, ours):
    x, k = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 6))
    f = functools.partial(jc.conv_general_dilated, **NHWC | options)
    try:
        found = primitives(f, x, k)
    except (TypeError, ValueError) as error:
        assert not ours
        with pytest.raises(type(error)):
            jax.eval_shape(functools.partial(jax.lax.conv_general_dilated, **NHWC | options), x, k)
        return
    assert (conv_p in found) == ours
    with jc.lowering("xla"):
        assert conv_p not in primitives(f, x, k)


@pytest.mark.parametrize("dtype", [np.int32, np.complex64], ids=lambda d: np.dtype(d).name)
def test_types_that_are_not_floats_go_to_lax(dtype):
    x, k = np.ones((1, 4, 4, 2), dtype), np.ones((3, 3, 2, 2), dtype)
    assert_close(np.abs(jc.conv_general_dilated(x, k, **NHWC)), np.abs(jax.lax.conv_general_dilated(x, k, **NHWC)))


@pytest.mark.parametrize(
    "bad",
    [
        {"window_strides": (1,)},
        {"padding": "SOME"},
        {"feature_group_count": 3},
        {"dimension_numbers": ("NHWC", "HWIO", "NHWD")},
        {"rhs_dilation": (0, 1)},
        {"lhs_dilation": (2, 2)},
    ],
    ids=str,
)
def test_errors_are_those_of_lax(bad):
    x, k = jnp.ones((2, 6, 6, 4)), jnp.ones((3, 3, 4, 6))
    caught = []
    for op in (jc.conv_general_dilated, jax.lax.conv_general_dilated):
        with pytest.raises(Exception) as error:
            jax.eval_shape(functools.partial(op, **NHWC | bad), x, k)
        caught.append((error.type, str(error.value)))
    assert caught[0] == caught[1]


def test_a_halfs_sum_is_taken_in_float32():
    x, k = jnp.ones((1, 2, 2, 2048), jnp.bfloat16), jnp.ones((1, 1, 2048, 1), jnp.bfloat16)
    assert jc.conv_general_dilated(x, k, **NHWC).dtype == jnp.bfloat16
    np.testing.assert_array_equal(jc.conv_general_dilated(x, k, **NHWC).astype(np.float32), 2048)


# ---------------------------------------------------------------------------------------------------------------------
# In frameworks

LAYERS = [
    {"kernel_size": (3, 3)},
    {"kernel_size": (1, 1), "strides": 2},
    {"kernel_size": (3, 3), "feature_group_count": 4, "padding": "VALID"},
    {"kernel_size": (3, 3), "kernel_dilation": 2, "strides": (2, 1), "padding": ((1, 2), (0, 1))},
    {"kernel_size": (3, 3), "padding": "CIRCULAR", "use_bias": False},
]


def outcome(apply, params, x):
    @quick_jit
    def everything(params, x):
        out, pullback = jax.vjp(apply, params, x)
        return out, pullback(jnp.cos(out))

    return jax.tree.leaves(everything(params, x))


@pytest.mark.parametrize("options", LAYERS, ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_inside_flax_linen(options, dtype):
    linen = pytest.importorskip("flax.linen", reason="wants flax")
    x = jnp.asarray(uniform(1, (2, 8, 7, 4)), jnp.float32)
    plain = linen.Conv(8, **options, dtype=dtype)
    ours = linen.Conv(8, **options, dtype=dtype, conv_general_dilated=jc.conv_general_dilated)
    params = plain.init(jax.random.key(0), x)
    assert conv_p in {e.primitive for e in jax.make_jaxpr(ours.apply)(params, x).jaxpr.eqns}
    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for got, want in zip(outcome(ours.apply, params, x), outcome(plain.apply, params, x), strict=True):
        assert got.dtype == want.dtype
        assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_inside_flax_nnx(options):
    nnx = pytest.importorskip("flax.nnx", reason="wants flax")
    x = jnp.asarray(uniform(1, (2, 8, 7, 4)), jnp.float32)
    results = []
    for op in (jc.conv_general_dilated, jax.lax.conv_general_dilated):
        layer = nnx.Conv(4, 8, **options, conv_general_dilated=op, rngs=nnx.Rngs(0))
        graph, params = nnx.split(layer)
        results.append(outcome(lambda params, x, graph=graph: nnx.merge(graph, params)(x), params, x))
    for got, want in zip(*results, strict=True):
        assert_close(got, want)


def test_inside_a_patched_equinox(monkeypatch):
    """Equinox has no argument for it: lax's function is replaced."""
    eqx = pytest.importorskip("equinox", reason="wants equinox")
    x = jnp.asarray(uniform(1, (2, 4, 8, 7)), jnp.float32)
    layer = eqx.nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2, key=jax.random.key(0))
    params, static = eqx.partition(layer, eqx.is_array)

    def apply(params, x):
        return jax.vmap(eqx.combine(params, static))(x)

    want = outcome(apply, params, x)
    monkeypatch.setattr(jax.lax, "conv_general_dilated", jc.conv_general_dilated)
    assert "jaxconv_conv" in str(jax.make_jaxpr(apply)(params, x))
    for got, wanted in zip(outcome(apply, params, x), want, strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_of_half_precision_that_is_summed_in_float32(groups):
    """The cotangent is float32, the other operand float16: no library has a program for two types."""
    x, kernel = uniform(0, (2, 6, 4)).astype(np.float16), uniform(1, (3, 4 // groups, 8)).astype(np.float16)

    def pulled(f):
        def both(x, kernel):
            y, pullback = jax.vjp(
                lambda x, kernel: f(
                    x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups,
                    preferred_element_type=jnp.float32,
                ),
                x, kernel,
            )  # fmt: skip
            return y, pullback(jnp.cos(y))

        return jax.jit(both)(x, kernel)

    for got, want in zip(
        *map(jax.tree.leaves, (pulled(jc.conv_general_dilated), pulled(jax.lax.conv_general_dilated))), strict=True
    ):
        assert got.dtype == want.dtype
        assert_close(got.astype(np.float32), want.astype(np.float32), rtol=3e-3, atol=3e-3)
