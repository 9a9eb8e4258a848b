"""The convolutions against loops, their adjoints, and what the loops do not show."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.ops import oracle
from tests.ops.compare import assert_close, assert_gradient, value_and_pullback
from tests.ops.draws import Draws, Searched, geometry, uniform


def check_conv(draws: Draws):
    pad_mode = draws.choice(["zeros", "zeros", "zeros", "reflect", "edge", "circular"])
    place = geometry(draws)
    groups = draws.integer(1, 3)
    x_shape = (draws.integer(1, 2), *place.size, groups * draws.integer(1, 2))
    kernel_shape = (*place.window, x_shape[-1] // groups, groups * draws.integer(1, 2))
    options = {**place.options(), "groups": groups, "pad_mode": pad_mode}
    if pad_mode in ("reflect", "circular"):
        # These take less than there is of the map after cropping; "edge" takes any amount.
        stride, dilation = (oracle.per_axis(options[k], len(place.size)) for k in ("stride", "dilation"))
        pads = oracle.pairs(place.padding, place.size, place.window, stride, dilation)
        if any(max(p) >= n + min(p[0], 0) + min(p[1], 0) for p, n in zip(pads, place.size, strict=True)):
            options["pad_mode"] = "edge"
    check_against_loops(jc.conv, oracle.conv, x_shape, kernel_shape, (kernel_shape[-1],), options, draws)


def check_conv_transpose(draws: Draws):
    rank = draws.integer(1, 3)
    window = draws.integers(1, (4, 3, 2)[rank - 1], rank)
    size = draws.integers(1, (5, 3, 2)[rank - 1], rank)
    stride, dilation = draws.integers(1, 3, rank), draws.integers(1, 2, rank)
    full = [(n - 1) * s + (f - 1) * d + 1 for n, s, f, d in zip(size, stride, window, dilation, strict=True)]
    options = {"stride": stride, "dilation": dilation, "groups": draws.integer(1, 3)}
    form = draws.choice(["VALID", "SAME", "SAME_LOWER", "pairs", "pairs", "pairs"])
    if form == "pairs":
        low = [draws.integer(-2, min(2, n - 1)) for n in full]
        high = [draws.integer(-2, min(2, n - 1 - max(a, 0))) for a, n in zip(low, full, strict=True)]
        options["padding"] = tuple(zip(low, high, strict=True))
        options["output_padding"] = tuple(
            draws.integer(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True)
        )
    else:
        options["padding"] = form
    groups = options["groups"]
    y_shape = (draws.integer(1, 2), *size, groups * draws.integer(1, 2))
    kernel_shape = (*window, draws.integer(1, 2), y_shape[-1])
    bias_shape = (kernel_shape[-2] * groups,)
    check_against_loops(jc.conv_transpose, oracle.conv_transpose, y_shape, kernel_shape, bias_shape, options, draws)


def check_conv_local(draws: Draws):
    place = geometry(draws)
    x_shape = (draws.integer(1, 2), *place.size, draws.integer(1, 2))
    rank, out = len(place.size), draws.integer(1, 2)
    stride, dilation = oracle.per_axis(place.stride, rank), oracle.per_axis(place.dilation, rank)
    pads = oracle.pairs(place.padding, place.size, place.window, stride, dilation)
    size = oracle.windows_that_fit(place.size, place.window, stride, pads, dilation)
    kernel_shape = (*size, *place.window, x_shape[-1], out)
    bias_shape = (*size, out) if draws.flag() else (out,)
    check_against_loops(jc.conv_local, oracle.conv_local, x_shape, kernel_shape, bias_shape, place.options(), draws)


def check_against_loops(op, loops, x_shape, kernel_shape, bias_shape, options, draws):
    """Values, and the gradients of image, kernel and bias; the loops are linear in each of them."""
    has_bias = draws.flag()
    shapes = {"image": x_shape, "kernel": kernel_shape} | ({"bias": bias_shape} if has_bias else {})
    args = {name: uniform(i, shape).astype(np.float32) for i, (name, shape) in enumerate(shapes.items())}
    want = loops(*(a.astype(np.float64) for a in args.values()), **options)
    cotangent = uniform(10, want.shape)
    y, gradients = value_and_pullback(lambda *args: op(*args, **options), args.values(), cotangent)
    assert_close(y, want, what=str(options))
    for i, (name, gradient) in enumerate(zip(args, gradients, strict=True)):
        direction = uniform(20 + i, args[name].shape)
        # The other summand away: no bias with image and kernel, a blank image with the bias.
        moved = {**args, name: direction}
        if name == "bias":
            moved["image"] = np.zeros(x_shape)
        else:
            moved.pop("bias", None)
        moved = loops(*moved.values(), **options)
        assert_gradient(gradient, moved, direction, cotangent, f"{name} with {options}")


@given(st.data())
@settings(max_examples=10)
def test_conv_equals_the_loop(data):
    check_conv(Searched(data))


@given(st.data())
@settings(max_examples=10)
def test_conv_transpose_equals_the_scatter(data):
    check_conv_transpose(Searched(data))


@given(st.data())
@settings(max_examples=12)
def test_conv_local_equals_the_loop(data):
    check_conv_local(Searched(data))


@pytest.mark.slow
@pytest.mark.parametrize("check", [check_conv, check_conv_transpose, check_conv_local])
@given(st.data())
@settings(max_examples=200)
def test_convolutions_equal_the_loops_at_length(check, data):
    check(Searched(data))


@given(st.data())
@settings(max_examples=12)
def test_conv_transpose_is_the_adjoint_of_conv(data):
    """<conv(x, k), y> == <x, conv_transpose(y, k)>: the leftover of the stride is the output_padding."""
    draws = Searched(data)
    place = geometry(draws)
    groups = draws.integer(1, 2)
    rank = len(place.size)
    stride, dilation = oracle.per_axis(place.stride, rank), oracle.per_axis(place.dilation, rank)
    size = place.size
    options = {**place.options(), "groups": groups}
    back = dict(options)
    if place.padding in ("SAME", "SAME_LOWER"):
        size = tuple(n * s for n, s in zip(size, stride, strict=True))
    else:
        pads = oracle.pairs(place.padding, size, place.window, stride, dilation)
        extents = [(f - 1) * d + 1 for f, d in zip(place.window, dilation, strict=True)]
        left = [(n + low + high - e) % s for n, (low, high), e, s in zip(size, pads, extents, stride, strict=True)]
        back |= {"padding": pads, "output_padding": left}
    x = jnp.asarray(uniform(1, (2, *size, 2 * groups)), jnp.float32)
    kernel = jnp.asarray(uniform(2, (*place.window, 2, 3 * groups)), jnp.float32)
    y = uniform(3, jax.eval_shape(lambda: jc.conv(x, kernel, **options)).shape)
    forward, (adjoint, _) = value_and_pullback(lambda x, k: jc.conv(x, k, **options), (x, kernel), y)
    back_again = jax.jit(lambda y, k: jc.conv_transpose(y, k, **back))(y.astype(np.float32), kernel)
    assert_close(np.vdot(forward, y), np.vdot(x, back_again), atol=1e-4)
    assert_close(back_again, adjoint)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_transposed_multiplies_the_size_by_the_stride(window, stride):
    y = jnp.ones((1, 4, 1))
    for padding in ("SAME", "SAME_LOWER"):
        x = jc.conv_transpose(y, jnp.ones((window, 1, 1)), stride=stride, padding=padding)
        assert x.shape == (1, 4 * stride, 1)


def test_conv_pads_to_the_same_size_by_default():
    assert jc.conv(jnp.ones((1, 7, 6, 2)), jnp.ones((3, 3, 2, 5))).shape == (1, 7, 6, 5)


def test_the_filter_is_not_flipped():
    x, kernel = jnp.arange(4.0)[:, None], jnp.array([1.0, 10.0])[:, None, None]
    assert_array_equal(jc.conv(x, kernel, padding="VALID")[:, 0], [10, 21, 32])


def test_padding_takes_names_in_any_case_ints_and_pairs():
    x, kernel = jnp.ones((1, 6, 5, 1)), jnp.ones((3, 3, 1, 1))
    want = jc.conv(x, kernel, padding=((1, 1), (1, 1)))
    for padding in ("SAME", "same", 1, (1, 1), [1, (1, 1)]):
        assert_array_equal(jc.conv(x, kernel, padding=padding), want)


def test_mixed_inputs_are_promoted():
    x, kernel = jnp.ones((4, 1), jnp.bfloat16), jnp.ones((3, 1, 1), jnp.float32)
    assert jc.conv(x, kernel).dtype == jnp.float32
    assert jc.conv(x, kernel.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert jc.conv(x, kernel.astype(jnp.float16)).dtype == jnp.promote_types(jnp.bfloat16, jnp.float16)


def test_preferred_element_type_is_the_type_of_the_result():
    x, kernel = jnp.ones((4, 1), jnp.bfloat16), jnp.ones((3, 1, 1), jnp.bfloat16)
    for op in (jc.conv, jc.conv_transpose):
        y = op(x, kernel, jnp.ones(1, jnp.bfloat16), preferred_element_type=jnp.float32)
        assert y.dtype == jnp.float32


def test_half_sums_of_many_channels_are_exact():
    """257 ones: a bfloat16 accumulator stops at 256."""
    for dtype in (jnp.bfloat16, jnp.float16):
        x, kernel = jnp.ones((1, 2, 2048), dtype), jnp.ones((1, 2048, 1), dtype)
        assert_array_equal(jc.conv(x, kernel).astype(jnp.float32), 2048 * np.ones((1, 2, 1)))
        assert_array_equal(jc.conv_transpose(x, kernel.swapaxes(1, 2)).astype(jnp.float32), 2048 * np.ones((1, 2, 1)))
        local = jnp.ones((2, 1, 2048, 1), dtype)
        assert_array_equal(jc.conv_local(x, local).astype(jnp.float32), 2048 * np.ones((1, 2, 1)))


def test_drop_in_has_the_values_of_lax():
    x, kernel = jnp.asarray(uniform(1, (2, 4, 6, 5)), jnp.float32), jnp.asarray(uniform(2, (6, 2, 3, 2)), jnp.float32)
    options = {
        "window_strides": (2, 1),
        "padding": [(1, 2), (0, 1)],
        "lhs_dilation": (1, 2),
        "rhs_dilation": (2, 1),
        "dimension_numbers": ("NCHW", "OIHW", "NCHW"),
        "feature_group_count": 2,
    }
    assert_close(jc.conv_general_dilated(x, kernel, **options), jax.lax.conv_general_dilated(x, kernel, **options))
    nhwc = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    x, kernel = jnp.moveaxis(x, 1, -1), jnp.asarray(uniform(3, (3, 3, 4, 2)), jnp.float32)
    assert_close(jc.conv_general_dilated(x, kernel, **nhwc), jax.lax.conv_general_dilated(x, kernel, **nhwc))


def test_drop_in_raises_on_mixed_types_as_lax():
    x, kernel = jnp.ones((1, 4, 1), jnp.bfloat16), jnp.ones((3, 1, 1), jnp.float32)
    numbers = ("NHC", "HIO", "NHC")
    with pytest.raises(TypeError, match="dtype"):
        jc.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=numbers)


@pytest.mark.parametrize(
    ("image", "kernel"),
    [
        (P("data"), P()),
        (P(None, "data"), P()),
        (P(None, None, None, "data"), P()),
        (P(None, None, None, "data"), P(None, None, "data")),
        (P(), P(None, None, None, "data")),
        (P("data"), P(None, None, None, "data")),
    ],
    ids=str,
)
def test_explicit_shardings_are_those_of_lax(image, kernel):
    """The same type of the result, or the same refusal."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    given = [
        jax.ShapeDtypeStruct(shape, np.float32, sharding=NamedSharding(mesh, spec))
        for shape, spec in (((4, 8, 8, 4), image), ((3, 3, 4, 8), kernel))
    ]
    numbers = ("NHWC", "HWIO", "NHWC")
    outcomes = []
    for op in (jc.conv, lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=numbers)):
        with jax.set_mesh(mesh):
            try:
                outcomes.append(jax.eval_shape(op, *given).sharding)
            except Exception as error:
                outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]
