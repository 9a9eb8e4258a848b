"""Sizes and padding: the lecture's numbers, counting by hand, and lax."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from jax import lax

import jaxconv as jc
from jaxconv import geometry as geo
from tests.ops.draws import Searched, geometry

# --- The lecture ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "window", "options", "out"),
    [
        (7, 3, {}, 5),
        (7, 3, {"stride": 2}, 3),
        (7, 3, {"padding": 1}, 7),
        (32, 5, {}, 28),
        (28, 5, {}, 24),
        (32, 5, {"padding": 2}, 32),
        (227, 11, {"stride": 4}, 55),
        ((224, 224), 2, {"stride": 2}, (112, 112)),
        *[(n, window, {"padding": pad}, n) for window, pad in ((3, 1), (5, 2), (7, 3)) for n in (7, 32)],
    ],
)
def test_the_lectures_sizes(size, window, options, out):
    assert jc.conv_output_size(size, window, **options) == out
    assert jc.conv_output_size(size, window, **options, exact=True) == out


def test_exact_says_why_a_filter_does_not_fit():
    with pytest.raises(ValueError) as raised:
        jc.conv_output_size(7, 3, stride=3, exact=True)
    assert str(raised.value) == (
        "window must tile 7 + 0 + 0 = 7 at stride 3, got 3 on spatial axis 0: "
        "(7 - 3) / 3 + 1 is not a whole number, 1 element is left over"
    )
    assert jc.conv_output_size(7, 3, stride=3) == 2


def test_exact_names_the_axis_and_counts_what_is_left():
    with pytest.raises(jc.ShapeError, match=r"7 \+ 1 \+ 0 = 8 at stride 4, got 2 on spatial axis 1: .* 2 elements are"):
        jc.conv_output_size((7, 7), (3, 2), stride=(2, 4), padding=((0, 0), (1, 0)), exact=True)


def test_ten_5x5_filters_have_760_parameters():
    layer = jc.Conv(10, 5, padding=2)
    params, _ = jax.eval_shape(lambda key: layer.init(key, (1, 32, 32, 3)), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 760
    assert sum(leaf.size // leaf.shape[-1] for leaf in jax.tree.leaves(params)) == 76
    table = jc.summary(layer, (1, 32, 32, 3))
    assert table.parameters == 760
    assert table.rows[-1].output.shape == (1, 32, 32, 10)


@pytest.mark.parametrize(
    ("layer", "shape", "out"),
    [
        (jc.Conv(6, 5, padding="VALID"), (1, 32, 32, 3), (1, 28, 28, 6)),
        (jc.MaxPool(2), (1, 224, 224, 64), (1, 112, 112, 64)),
        (jc.MaxPool(3, stride=2), (1, 55, 55, 96), (1, 27, 27, 96)),
        (jc.Conv(96, 11, stride=4, padding="VALID"), (1, 227, 227, 3), (1, 55, 55, 96)),
        (jc.serial(jc.Flatten(), jc.Dense(10)), (1, 32, 32, 3), (1, 10)),
    ],
)
def test_the_lectures_layers(layer, shape, out):
    assert jc.summary(layer, shape).rows[-1].output.shape == out


# --- Output sizes -----------------------------------------------------------------------------------------------------


def count_windows(n, window, stride, low, high, dilation, ceil_mode=False):
    """Counts the windows that fit, one by one; with ceil_mode also one that hangs over, if it starts early enough."""
    count, covered = 0, None
    for start in itertools.count(-low, stride):
        stop = start + (window - 1) * dilation + 1
        if stop <= n + high:
            count, covered = count + 1, stop
        else:
            more = ceil_mode and covered < n + high and start < n + min(high, 0)
            return count + more


@given(st.data())
def test_size_is_the_number_of_windows(data):
    case = geometry(Searched(data))
    out = jc.conv_output_size(case.size, case.window, **case.options())
    rank = len(case.size)
    strides, dilations = geo.as_tuple(case.stride, rank, "stride"), geo.as_tuple(case.dilation, rank, "dilation")
    pads = geo.resolve_padding(case.padding, case.size, case.window, strides, dilations)
    for ceil_mode in (False, True):
        out = jc.conv_output_size(case.size, case.window, **case.options(), ceil_mode=ceil_mode)
        assert out == tuple(
            count_windows(n, f, s, low, high, d, ceil_mode)
            for n, f, s, (low, high), d in zip(case.size, case.window, strides, pads, dilations, strict=True)
        )


@given(st.data())
def test_size_is_that_of_lax(data):
    case = geometry(Searched(data))
    rank = len(case.size)
    dims = f"N{'DHW'[-rank:]}C", f"{'DHW'[-rank:]}IO", f"N{'DHW'[-rank:]}C"
    strides, dilations = geo.as_tuple(case.stride, rank, "stride"), geo.as_tuple(case.dilation, rank, "dilation")
    padding = case.padding if isinstance(case.padding, str) else geo.explicit_padding(case.padding, rank)
    want = jax.eval_shape(
        lambda x, k: lax.conv_general_dilated(x, k, strides, padding, None, dilations, dims),
        jax.ShapeDtypeStruct((1, *case.size, 1), jnp.float32),
        jax.ShapeDtypeStruct((*case.window, 1, 1), jnp.float32),
    )
    assert jc.conv_output_size(case.size, case.window, **case.options()) == want.shape[1:-1]


@given(st.data())
def test_exact_agrees_with_the_remainder(data):
    n, window, stride = (data.draw(st.integers(1, most)) for most in (12, 5, 4))
    pad = data.draw(st.integers(0, 3))
    assume(n + 2 * pad >= window)
    if (n + 2 * pad - window) % stride:
        with pytest.raises(jc.ShapeError, match="window must tile"):
            jc.conv_output_size(n, window, stride=stride, padding=pad, exact=True)
    else:
        assert jc.conv_output_size(n, window, stride=stride, padding=pad, exact=True) == 1 + (
            (n + 2 * pad - window) // stride
        )


def test_ints_give_an_int_and_any_tuple_gives_a_tuple():
    assert jc.conv_output_size(7, 3) == 5
    assert jc.conv_output_size((7,), 3) == (5,)
    assert jc.conv_output_size(7, (3, 5)) == (5, 3)
    assert jc.conv_output_size(7, 3, stride=(1, 2)) == (5, 3)
    assert jc.conv_transpose_output_size(7, 3) == 9
    assert jc.conv_transpose_output_size(7, 3, output_padding=(0,)) == (9,)


@pytest.mark.parametrize("function", [jc.conv_output_size, jc.conv_transpose_output_size])
@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8])
def test_numpy_integers_are_integers(function, number):
    out = function(number(7), number(3), stride=number(2), padding=number(1), dilation=number(1))
    assert out == function(7, 3, stride=2, padding=1)
    assert type(out) is int


@pytest.mark.parametrize("wrong", [True, np.True_, 2.0, np.float32(2), "2", None, 1j])
@pytest.mark.parametrize("argument", ["size", "window", "stride", "dilation", "output_padding"])
def test_nothing_but_integers(argument, wrong):
    transposed = argument == "output_padding"
    arguments = {"size": 8, "window": 3, "stride": 2, "dilation": 1} | {argument: wrong}
    function = jc.conv_transpose_output_size if transposed else jc.conv_output_size
    with pytest.raises(jc.ArgumentError, match=f"{argument} must be an int"):
        function(**arguments)
    with pytest.raises(jc.ArgumentError, match=f"{argument} must be an int"):
        function(**arguments | {"size": (8, 8), argument: (1, wrong)})


@pytest.mark.parametrize("wrong", [True, 1.0, (1.0,), ((0, 1.5),), ((True, 0),), [("1", 0)], ("SAME",)])
def test_padding_in_numbers_is_integers(wrong):
    with pytest.raises(jc.ArgumentError, match=r"padding must be an integer, got"):
        jc.conv_output_size(8, 3, padding=wrong)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (
            jc.ShapeError,
            {"window": 9},
            "window must be at most the padded input, 8 + 0 + 0 = 8, got 9 on spatial axis 0",
        ),
        (
            jc.ShapeError,
            {"window": 3, "dilation": 4},
            "window must be at most the padded input, 8 + 0 + 0 = 8, got 3 (extent 9 at dilation 4) on",
        ),
        (
            jc.ShapeError,
            {"window": 8, "padding": ((-1, 0),)},
            "window must be at most the padded input, 8 + -1 + 0",
        ),
        (jc.ShapeError, {"size": 0, "window": 1, "padding": 1}, "spatial sizes must be at least 1, got (0,)"),
        (
            jc.ShapeError,
            {"window": 1, "padding": ((2, -8),)},
            "padding must leave an element of spatial axis 0, of size 8, got (2, -8)",
        ),
        (jc.ShapeError, {"size": (4, 0), "window": 1}, "spatial sizes must be at least 1, got (4, 0)"),
        (jc.ArgumentError, {"window": 0}, "window must be at least 1, got 0"),
        (jc.ArgumentError, {"window": 3, "stride": 0}, "stride must be at least 1, got 0"),
        (jc.ArgumentError, {"window": 3, "stride": -1}, "stride must be at least 1, got -1"),
        (jc.ArgumentError, {"window": 3, "dilation": 0}, "dilation must be at least 1, got 0"),
        (
            jc.ArgumentError,
            {"window": 3, "padding": "FULL"},
            "padding must be one of VALID, SAME, SAME_LOWER, an int or a sequence, got",
        ),
        (
            jc.ArgumentError,
            {"window": 3, "padding": (1, 1)},
            "padding must have an int or a (low, high) pair for each of the 1 spatial",
        ),
        (
            jc.ArgumentError,
            {"window": 3, "padding": ((1, 1, 1),)},
            "padding must have an int or a (low, high) pair for each axis",
        ),
        (
            jc.ArgumentError,
            {"size": (8, 8), "window": (3, 3, 3)},
            "size, window, stride and dilation must have one number of axes, got [2, 3]",
        ),
    ],
)
def test_what_cannot_be_is_said(error, arguments, message):
    with pytest.raises(error) as raised:
        jc.conv_output_size(**{"size": 8} | arguments)
    assert message in str(raised.value)


# --- Padding ----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_same_is_that_of_lax(data):
    case = geometry(Searched(data))
    rank = len(case.size)
    strides, dilations = geo.as_tuple(case.stride, rank, "stride"), geo.as_tuple(case.dilation, rank, "dilation")
    extents = [geo.window_extent(f, d) for f, d in zip(case.window, dilations, strict=True)]
    for name in ("VALID", "SAME", "SAME_LOWER"):
        got = geo.resolve_padding(name, case.size, case.window, strides, dilations)
        assert got == tuple(lax.padtype_to_pads(case.size, extents, strides, name))
        assert got == geo.resolve_padding(name.lower(), case.size, case.window, strides, dilations)


@given(n=st.integers(1, 30), window=st.integers(1, 6), stride=st.integers(1, 4), dilation=st.integers(1, 3))
def test_same_gives_the_ceiling_and_differs_in_the_odd_element(n, window, stride, dilation):
    options = {"stride": stride, "dilation": dilation}
    for name in ("SAME", "SAME_LOWER"):
        assert jc.conv_output_size(n, window, padding=name, **options) == -(-n // stride)
    ((low, high),) = geo.resolve_padding("SAME", (n,), (window,), (stride,), (dilation,))
    ((low_first, high_first),) = geo.resolve_padding("SAME_LOWER", (n,), (window,), (stride,), (dilation,))
    assert 0 <= high - low <= 1
    assert (low_first, high_first) == (high, low)


@pytest.mark.parametrize(
    ("padding", "pairs"),
    [
        ("VALID", ((0, 0), (0, 0))),
        ("SAME", ((1, 1), (0, 1))),
        ("SAME_LOWER", ((1, 1), (1, 0))),
        (2, ((2, 2), (2, 2))),
        (-1, ((-1, -1), (-1, -1))),
        ((1, 2), ((1, 1), (2, 2))),
        ([1, (0, 3)], ((1, 1), (0, 3))),
        (((1, 2), (3, 4)), ((1, 2), (3, 4))),
        ([[1, 2], [-3, 4]], ((1, 2), (-3, 4))),
        ((np.int32(1), np.int64(2)), ((1, 1), (2, 2))),
    ],
)
def test_every_form_of_padding(padding, pairs):
    assert geo.resolve_padding(padding, (7, 8), (3, 3), (2, 2), (1, 1)) == pairs


# --- Transposed sizes -------------------------------------------------------------------------------------------------


@st.composite
def transposes(draw):
    """Size, window and options of a transposed convolution with a result that is not empty."""
    n, window, stride, dilation = (draw(st.integers(1, most)) for most in (6, 5, 4, 3))
    extra = draw(st.integers(0, stride - 1))
    padding = ((draw(st.integers(-2, 3)), draw(st.integers(-2, 3))),)
    size = (n - 1) * stride - sum(padding[0]) + geo.window_extent(window, dilation) + extra
    # The convolution that it is the adjoint of crops by negative padding, and not all.
    assume(size > 0 and size + sum(min(p, 0) for p in padding[0]) > 0)
    return n, window, {"stride": stride, "dilation": dilation, "padding": padding, "output_padding": extra}


@given(transposes())
def test_transposed_size_is_the_adjoints(case):
    n, window, options = case
    size = jc.conv_transpose_output_size(n, window, **options)
    options.pop("output_padding")
    # The convolution that this one is the adjoint of takes that size back to n.
    assert jc.conv_output_size(size, window, **options) == n


@given(transposes())
def test_transposed_size_is_that_of_the_op(case):
    n, window, options = case
    y = jax.ShapeDtypeStruct((n, 1), jnp.float32)
    kernel = jax.ShapeDtypeStruct((window, 1, 1), jnp.float32)
    x = jax.eval_shape(lambda y, k: jc.conv_transpose(y, k, **options), y, kernel)
    assert x.shape == (jc.conv_transpose_output_size(n, window, **options), 1)


@given(n=st.integers(1, 8), window=st.integers(1, 6), stride=st.integers(1, 5), dilation=st.integers(1, 3))
def test_transposed_same_gives_n_times_stride(n, window, stride, dilation):
    options = {"stride": stride, "dilation": dilation}
    for name in ("SAME", "SAME_LOWER"):
        assert jc.conv_transpose_output_size(n, window, padding=name, **options) == n * stride
        assert jc.conv_output_size(n * stride, window, padding=name, **options) == n
    valid = jc.conv_transpose_output_size(n, window, padding="VALID", **options)
    assert valid == (n - 1) * stride + geo.window_extent(window, dilation)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (
            jc.ArgumentError,
            {"padding": "SAME", "output_padding": 1},
            "padding must be integers where output_padding is given, got 'SA",
        ),
        (
            jc.ArgumentError,
            {"padding": "VALID", "output_padding": 1},
            "padding must be integers where output_padding is given",
        ),
        (
            jc.ArgumentError,
            {"stride": 2, "output_padding": 2},
            "output_padding must be smaller than stride or dilation, got 2 with stride",
        ),
        (jc.ArgumentError, {"output_padding": -1}, "output_padding must be at least 0, got -1"),
        (
            jc.ShapeError,
            {"padding": 5},
            "padding must leave an element of the output, got (5, 5) on spatial axis 0: size 4, window 3, stride 1 and",
        ),
        (jc.ShapeError, {"size": 0}, "spatial sizes must be at least 1, got (0,)"),
        (jc.ArgumentError, {"padding": "FULL"}, "padding must be one of VALID, SAME, SAME_LOWER"),
    ],
)
def test_what_cannot_be_transposed_is_said(error, arguments, message):
    with pytest.raises(error) as raised:
        jc.conv_transpose_output_size(**{"size": 4, "window": 3} | arguments)
    assert message in str(raised.value)


@given(st.integers(1, 30), st.integers(1, 12))
def test_adaptive_bins_are_torchs(n, m):
    bins = geo.adaptive_bins(n, m)
    assert bins == tuple((int(np.floor(i * n / m)), int(np.ceil((i + 1) * n / m))) for i in range(m))
