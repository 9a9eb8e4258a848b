"""Bad input: an exception at the call that is wrong, one sentence naming the argument, what was wanted, what came."""

import jax
import numpy as np
import pytest

import jaxconv as jc


def f(*shape):
    return np.ones(shape, np.float32)


def ints(*shape):
    return np.ones(shape, np.int32)


def pixels(*shape):
    return np.ones(shape, np.uint8)


IMAGE, KERNEL = (1, 8, 8, 3), (3, 3, 3, 4)


def conv(x=IMAGE, kernel=KERNEL, *bias, **options):
    return lambda: jc.conv(f(*x), f(*kernel), *bias, **options)


def transposed(y=IMAGE, kernel=(3, 3, 4, 3), *bias, **options):
    return lambda: jc.conv_transpose(f(*y), f(*kernel), *bias, **options)


def call(op, *args, **options):
    return lambda: op(*args, **options)


SHAPE_ERRORS = [
    # Ranks
    (conv((8, 3)), r"x must have 2 spatial axes and channels, so at least 3 axes, got shape \(8, 3\)"),
    (conv(kernel=(3, 4)), r"kernel must have shape \(\*window, in // groups, out\).*got \(3, 4\)"),
    (
        call(jc.conv_local, f(1, 6, 6, 3), f(4, 3, 3, 3, 8)),
        r"kernel must have shape \(\*output, .*got \(4, 3, 3, 3, 8\)",
    ),
    (call(jc.dense, f(2, 3), f(3)), r"kernel must have shape \(in, out\), got \(3,\)"),
    (call(jc.dense, f(), f(3, 5)), r"kernel \(3, 5\) takes 3 inputs, x has none: shape \(\)"),
    (call(jc.max_pool, f(4, 1), 2), r"x must have 2 spatial axes .*got shape \(4, 1\)"),
    (call(jc.max_unpool, f(2, 1), ints(2, 1), 4), r"y must have 2 spatial axes .*got shape \(2, 1\)"),
    (call(jc.global_avg_pool, f(4, 1)), r"x must have 2 spatial axes .*got shape \(4, 1\)"),
    (call(jc.group_norm, f(3), 3), r"x must have 2 spatial axes .*got shape \(3,\)"),
    (call(jc.instance_norm, f(2, 3)), r"x must have 2 spatial axes .*got shape \(2, 3\)"),
    (call(jc.pad, f(4, 1), 1), r"x must have 2 spatial axes .*got shape \(4, 1\)"),
    (call(jc.resize, f(4, 1), 1), r"x must have 2 spatial axes .*got shape \(4, 1\)"),
    (call(jc.channel_shuffle, f(4, 4), 3), r"groups must divide the channels of x, got 3 groups for shape \(4, 4\)"),
    (call(jc.pixel_shuffle, f(4, 4), 2), r"x must have 2 spatial axes .*got shape \(4, 4\)"),
    (call(jc.batch_statistics, f()), r"x must have a channel axis, got shape \(\)"),
    # Channels and groups
    (conv(kernel=(3, 3, 2, 4)), r"kernel \(3, 3, 2, 4\) takes 2 input channels, x has 3: shape \(1, 8, 8, 3\)"),
    (conv(groups=2), r"kernel \(3, 3, 3, 4\) takes 6 input channels in 2 groups, x has 3"),
    (conv((1, 8, 8, 4), (3, 3, 2, 3), groups=2), r"groups must divide the output channels, got 2 groups for kernel"),
    (conv(IMAGE, KERNEL, f(3)), r"bias must have shape \(4,\).*got \(3,\)"),
    (conv(IMAGE, KERNEL, f()), r"bias must have shape \(4,\).*got \(\)"),
    (conv((1, 8, 8, 0), (3, 3, 0, 4)), r"kernel must have no empty axis, got shape \(3, 3, 0, 4\)"),
    (transposed(kernel=(3, 3, 4, 2)), r"kernel \(3, 3, 4, 2\) takes 2 input channels, y has 3: shape \(1, 8, 8, 3\)"),
    (transposed(groups=2), "groups must divide the input channels, got 2 groups for kernel"),
    (transposed((1, 8, 8, 4), (3, 3, 4, 4), f(4), groups=2), r"bias must have shape \(8,\).*got \(4,\)"),
    (call(jc.conv_local, f(1, 6, 6, 3), f(4, 4, 3, 3, 2, 8)), r"takes 2 input channels, x has 3"),
    (
        call(jc.conv_local, f(1, 6, 6, 3), f(5, 4, 3, 3, 3, 8)),
        r"kernel must have filters for the output \(4, 4\) of x .* got shape \(5, 4, 3, ",
    ),
    (
        call(jc.conv_local, f(1, 6, 6, 3), f(4, 4, 3, 3, 3, 8), f(4, 8)),
        r"bias must have shape \(8,\) or \(4, 4, 8\), got \(4, 8\)",
    ),
    (call(jc.dense, f(2, 3), f(4, 5)), r"kernel \(4, 5\) takes 4 inputs, x has 3: shape \(2, 3\)"),
    (call(jc.dense, f(2, 3), f(3, 5), f(3)), r"bias must have shape \(5,\), got \(3,\)"),
    (call(jc.batch_norm, f(2, 3), f(2), f(3)), r"mean must have shape \(3,\), the channels of x \(2, 3\), got \(2,\)"),
    (call(jc.batch_norm, f(2, 3), f(3), f(3), f()), r"scale must have shape \(3,\).*got \(\)"),
    (call(jc.layer_norm, f(2, 3), f(2)), r"scale must have shape \(3,\).*got \(2,\)"),
    (call(jc.instance_norm, f(2, 2, 3), bias=f(2)), r"bias must have shape \(3,\).*got \(2,\)"),
    (call(jc.group_norm, f(2, 2, 3), 2), r"groups must divide the channels of x, got 2 groups for shape \(2, 2, 3\)"),
    (
        call(jc.pixel_shuffle, f(4, 4, 6), 2),
        r"x must have channels divisible by 4 for factor 2, got 6: shape \(4, 4, 6\)",
    ),
    (
        call(jc.max_unpool, f(2, 2, 1), ints(2, 1, 1), 4),
        r"indices must have the shape of y, \(2, 2, 1\), got \(2, 1, 1\)",
    ),
    # Windows
    (
        conv((1, 2, 8, 3), padding="VALID"),
        r"window must be at most the padded input, 2 \+ 0 \+ 0 = 2, got 3 on spatial axis 0",
    ),
    (
        conv((1, 8, 4, 3), padding=0, dilation=2),
        r"window must be at most .* got 3 \(extent 5 at dilation 2\) on .* axis 1",
    ),
    (conv((1, 4, 8, 3), padding=-1), "window must be at most the padded input, 4 .* = 2, got 3 on spatial axis 0"),
    (
        conv((1, 2, 8, 3), padding=((-3, 4), 0)),
        r"padding must leave an element of spatial axis 0, of size 2, got \(-3, 4\)",
    ),
    (call(jc.max_pool, f(1, 4, 4, 1), 5), "window must be at most the padded input, 4 .* got 5 on spatial axis 0"),
    (call(jc.avg_pool, f(1, 4, 4, 1), (4, 5)), "window must be at most the padded input, 4 .* got 5 on spatial axis 1"),
    (
        transposed((1, 1, 1, 3), (1, 1, 4, 3), padding=1),
        r"padding must leave an element of the output, got \(1, 1\) on spatial axis 0: .*-1",
    ),
    # Padding
    (
        conv((1, 3, 8, 3), pad_mode="reflect", padding=3),
        r"padding must be at most 2 for pad_mode 'reflect' .* \(3, 3\)",
    ),
    (
        conv((1, 8, 3, 3), pad_mode="circular", padding=4),
        r"padding must be at most 3 for pad_mode 'circular' on spatial axis 1 .* \(4, 4\)",
    ),
    (
        call(jc.pad, f(4, 4, 1), (1, 4), mode="reflect"),
        r"padding must be at most 3 for mode 'reflect' on spatial axis 1 .* \(4, 4\)",
    ),
    (call(jc.pad, f(4, 4, 1), -2), r"padding must leave an element of spatial axis 0, of size 4, got \(-2, -2\)"),
    # Empty axes
    (conv((1, 0, 8, 3)), r"x must have no empty spatial axis, got shape \(1, 0, 8, 3\)"),
    (transposed((1, 0, 1, 3)), r"y must have no empty spatial axis, got shape \(1, 0, 1, 3\)"),
    (call(jc.max_pool, f(1, 0, 4, 1), 1), r"x must have no empty spatial axis, got shape \(1, 0, 4, 1\)"),
    (call(jc.global_avg_pool, f(0, 4, 1)), r"x must have no empty spatial axis, got shape \(0, 4, 1\)"),
    (call(jc.global_max_pool, f(0, 4, 1)), r"x must have no empty spatial axis, got shape \(0, 4, 1\)"),
    (call(jc.adaptive_avg_pool, f(0, 4, 1), 1), r"x must have no empty spatial axis, got shape \(0, 4, 1\)"),
    (call(jc.resize, f(0, 4, 1), 2), r"x must have no empty spatial axis, got shape \(0, 4, 1\)"),
    (call(jc.batch_statistics, f(0, 3)), r"x must have elements, got shape \(0, 3\)"),
    (call(jc.conv_local, f(1, 4, 1), f(5, 0, 1, 2)), r"kernel must have no empty axis, got shape \(5, 0, 1, 2\)"),
    (call(jc.drop_path, f(), 0.5, None), r"x must have a batch axis, got shape \(\)"),
]

ARGUMENT_ERRORS = [
    (call(jc.global_avg_pool, f(4, 4, 1), rank=0), "rank must be at least 1, got 0"),
    (conv(groups=0), "groups must be at least 1, got 0"),
    (conv(groups=1.5), "groups must be an integer, got 1.5"),
    (call(jc.group_norm, f(2, 2, 3), 0), "groups must be at least 1, got 0"),
    (call(jc.max_pool, f(1, 4, 4, 1), 0), "window must be at least 1, got 0"),
    (call(jc.max_pool, f(1, 4, 4, 1), 2.0), "window must be an integer, got 2.0"),
    (call(jc.lp_pool, f(1, 4, 4, 1), ()), r"window must have at least one axis, got \(\)"),
    (conv(stride=0), "stride must be at least 1, got 0"),
    (conv(stride=(1, -1)), "stride must be at least 1, got -1"),
    (conv(stride=1.5), "stride must be an integer, got 1.5"),
    (conv(stride=True), "stride must be an integer, got True"),
    (conv(stride=(1, 1, 1)), r"stride must be an int or one int for each of the 2 spatial axes, got \(1, 1, 1\)"),
    (conv(dilation=0), "dilation must be at least 1, got 0"),
    (call(jc.max_pool, f(1, 4, 4, 1), 2, stride=-2), "stride must be at least 1, got -2"),
    (call(jc.adaptive_avg_pool, f(4, 4, 1), 0), "size must be at least 1, got 0"),
    (call(jc.adaptive_max_pool, f(4, 4, 1), (1,)), r"size must be an int or one int for each of the 2 .*got \(1,\)"),
    (call(jc.max_unpool, f(2, 2, 1), ints(2, 2, 1), (4, 0)), "size must be at least 1, got 0"),
    (call(jc.resize, f(4, 4, 1), 0), "size must be at least 1, got 0"),
    (call(jc.resize, f(4, 4, 1), 2.5), "size must be an integer, got 2.5"),
    (call(jc.local_response_norm, f(2, 3), 0), "size must be at least 1, got 0"),
    (call(jc.unit_norm, f(4, 3), eps=-1.0), "eps must not be negative, got -1"),
    (call(jc.pixel_shuffle, f(4, 4, 6), 0), "factor must be at least 1, got 0"),
    (conv(padding="FULL"), "padding must be one of VALID, SAME, SAME_LOWER, an int or a sequence, got 'FULL'"),
    (call(jc.max_pool, f(1, 4, 4, 1), 2, padding="SAME_UPPER"), "padding must be one of VALID, .*got 'SAME_UPPER'"),
    (conv(padding=1.0), "padding must be an integer, got 1.0"),
    (conv(padding=None), "padding must be an integer, got None"),
    (conv(padding=(1, 1, 1)), r"padding must have an int or a \(low, high\) pair for each of the 2 .*got \(1, 1, 1\)"),
    (conv(padding=((1, 1, 1), 1)), r"padding must have an int or a \(low, high\) pair for each axis, got \(1, 1, 1\)"),
    (transposed(stride=2, output_padding=1), "padding must be integers where output_padding is given, got 'SAME'"),
    (
        transposed(stride=2, padding=1, output_padding=2),
        "output_padding must be smaller than stride .*got 2 with stride 2",
    ),
    (transposed(stride=2, padding=1, output_padding=-1), "output_padding must be at least 0, got -1"),
    (conv(pad_mode="mirror"), "pad_mode must be one of zeros, reflect, edge, circular, got 'mirror'"),
    (conv(pad_mode="mirror", padding=0), "pad_mode must be one of zeros, .*got 'mirror'"),
    (call(jc.pad, f(4, 4, 1), 1, mode="mirror"), "mode must be one of zeros, reflect, edge, circular, got 'mirror'"),
    (call(jc.pad, f(4, 4, 1), "SAME"), r"padding must have an int or a \(low, high\) pair .*got 'SAME'"),
    (call(jc.lp_pool, f(1, 4, 4, 1), 2, p=0.5), "p must be at least 1 and finite, got 0.5"),
    (call(jc.lp_pool, f(1, 4, 4, 1), 2, p=float("inf")), "p must be at least 1 and finite, got inf"),
    (call(jc.global_avg_pool, f(4, 4, 1), rank=2.0), "rank must be an integer, got 2.0"),
    (call(jc.global_lp_pool, f(4, 4, 1), p=0), "p must be at least 1 and finite, got 0"),
    (call(jc.global_gem_pool, f(4, 4, 1), eps=0.0), "eps must be positive, got 0"),
    (call(jc.batch_norm, f(2, 3), f(3), f(3), eps=-1), "eps must not be negative, got -1"),
    (call(jc.resize, f(4, 4, 1), 2, method="lanczos3"), "method must be one of nearest, .*got 'lanczos3'"),
    (
        call(jc.resize, f(4, 4, 1), 2, method="nearest", align_corners=True),
        "method must be bilinear or bicubic for align_corners, got 'nearest'",
    ),
    (
        call(jc.resize, f(4, 4, 1), 2, method="area", antialias=True),
        "method must be bilinear or bicubic for antialias, got 'area'",
    ),
    (call(jc.dropout, f(4), 1.5, None), "rate must be between 0 and 1, got 1.5"),
    (call(jc.dropout, f(4), float("nan"), None), "rate must be between 0 and 1, got nan"),
    (call(jc.drop_path, f(4), -0.1, None), "rate must be between 0 and 1, got -0.1"),
]

NOT_FLOATS = "x must be a floating-point array, got "

TYPE_ERRORS = [
    (call(jc.conv, pixels(*IMAGE), f(*KERNEL)), NOT_FLOATS + "uint8"),
    (call(jc.conv, f(*IMAGE), ints(*KERNEL)), "kernel must be a floating-point array, got int32"),
    (call(jc.conv, f(*IMAGE), f(*KERNEL), ints(4)), "bias must be a floating-point array, got int32"),
    (call(jc.conv, f(*IMAGE) > 0, f(*KERNEL)), NOT_FLOATS + "bool"),
    (call(jc.conv, f(*IMAGE).astype(np.complex64), f(*KERNEL)), NOT_FLOATS + "complex64"),
    (call(jc.conv, None, f(*KERNEL)), "x must be an array, got None"),
    (call(jc.conv_transpose, ints(*IMAGE), f(3, 3, 4, 3)), "y must be a floating-point array, got int32"),
    (call(jc.conv_local, pixels(1, 2, 1), f(2, 1, 1, 1)), NOT_FLOATS + "uint8"),
    (call(jc.dense, ints(2, 3), f(3, 5)), NOT_FLOATS + "int32"),
    (call(jc.avg_pool, pixels(4, 4, 1), 2), NOT_FLOATS + "uint8"),
    (call(jc.lp_pool, ints(4, 4, 1), 2), NOT_FLOATS + "int32"),
    (call(jc.global_avg_pool, pixels(4, 4, 1)), NOT_FLOATS + "uint8"),
    (call(jc.global_lp_pool, pixels(4, 4, 1)), NOT_FLOATS + "uint8"),
    (call(jc.global_gem_pool, pixels(4, 4, 1)), NOT_FLOATS + "uint8"),
    (call(jc.adaptive_avg_pool, pixels(4, 4, 1), 2), NOT_FLOATS + "uint8"),
    (call(jc.batch_norm, pixels(4, 3), f(3), f(3)), NOT_FLOATS + "uint8"),
    (call(jc.batch_norm, f(4, 3), ints(3), f(3)), "mean must be a floating-point array, got int32"),
    (call(jc.batch_statistics, pixels(4, 3)), NOT_FLOATS + "uint8"),
    (call(jc.layer_norm, ints(4, 3)), NOT_FLOATS + "int32"),
    (call(jc.group_norm, pixels(4, 4, 3), 3), NOT_FLOATS + "uint8"),
    (call(jc.instance_norm, pixels(4, 4, 3)), NOT_FLOATS + "uint8"),
    (call(jc.local_response_norm, pixels(4, 3), 3), NOT_FLOATS + "uint8"),
    (call(jc.unit_norm, pixels(4, 3)), NOT_FLOATS + "uint8"),
    (call(jc.resize, pixels(4, 4, 1), 2), NOT_FLOATS + "uint8"),
    (call(jc.dropout, ints(4), 0.5, None), NOT_FLOATS + "int32"),
    (call(jc.drop_path, ints(4), 0.5, None), NOT_FLOATS + "int32"),
    (call(jc.max_pool, f(4, 4, 1) > 0, 2), "x must be a floating-point or an integer array, got bool"),
    (call(jc.adaptive_max_pool, f(4, 4, 1) > 0, 2), "x must be a floating-point or an integer array, got bool"),
    (call(jc.max_unpool, f(2, 2, 1), f(2, 2, 1), 4), "indices must be integers, got float32"),
    (call(jc.pad, pixels(4, 4, 1), 1, value=-1), "value must fit into x's type uint8, got -1"),
    (call(jc.pad, pixels(4, 4, 1), 1, value=0.5), "value must fit into x's type uint8, got 0.5"),
    (call(jc.pad, pixels(4, 4, 1), 1, value=float("inf")), "value must fit into x's type uint8, got inf"),
]


@pytest.mark.parametrize(("wrong", "message"), SHAPE_ERRORS, ids=[message for _, message in SHAPE_ERRORS])
def test_shapes_that_do_not_fit(wrong, message):
    with pytest.raises(jc.ShapeError, match=message) as caught:
        wrong()
    assert_one_sentence(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("wrong", "message"), ARGUMENT_ERRORS, ids=[message for _, message in ARGUMENT_ERRORS])
def test_options_that_are_not_valid(wrong, message):
    with pytest.raises(jc.ArgumentError, match=message) as caught:
        wrong()
    assert_one_sentence(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("wrong", "message"), TYPE_ERRORS, ids=[message for _, message in TYPE_ERRORS])
def test_element_types_that_an_op_does_not_take(wrong, message):
    with pytest.raises(jc.DTypeError, match=message) as caught:
        wrong()
    assert_one_sentence(caught.value)
    assert isinstance(caught.value, TypeError)


def assert_one_sentence(error):
    text = str(error)
    assert "\n" not in text
    assert len(text) < 200


def test_errors_are_the_same_under_a_trace():
    for transform in (jax.jit, jax.vmap, jax.grad, lambda f: lambda x: jax.eval_shape(f, x)):
        with pytest.raises(jc.ShapeError, match="takes 2 input channels, x has 3"):
            transform(lambda x: jc.conv(x, f(3, 3, 2, 4)).sum())(f(*IMAGE))
