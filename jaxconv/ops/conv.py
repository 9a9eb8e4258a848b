"""Convolution, transposed convolution and locally connected maps, channels last, any number of spatial axes."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.geometry import (
    IntOrTuple,
    Padding,
    Pairs,
    as_int,
    as_tuple,
    output_sizes,
    resolve_padding,
    transpose_output_sizes,
    transpose_padding,
    window_extent,
)
from jaxconv.ops.arrays import (
    Array,
    ArrayLike,
    DType,
    accumulator,
    add_bias,
    as_floats,
    over_one_batch,
    pad_axes,
    spatial_sizes,
    wider,
)
from jaxconv.ops.lowering.native import in_sums
from jaxconv.ops.lowering.primitive import convolve
from jaxconv.ops.lowering.problem import Geometry
from jaxconv.ops.lowering.strided import strided
from jaxconv.ops.pad import pad_pairs


def _kernel_window(kernel: Array, tail: str) -> tuple[int, ...]:
    if kernel.ndim < 3:
        raise ShapeError(f"kernel must have shape (*window, {tail}) with at least one window axis, got {kernel.shape}")
    if 0 in kernel.shape:
        raise ShapeError(f"kernel must have no empty axis, got shape {kernel.shape}")
    return kernel.shape[:-2]


def _check_bias(bias: Array | None, features: int) -> None:
    if bias is not None and bias.shape != (features,):
        raise ShapeError(f"bias must have shape ({features},), one element for each output channel, got {bias.shape}")


def conv(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "SAME",
    dilation: IntOrTuple = 1,
    groups: int = 1,
    pad_mode: str = "zeros",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Slides the filters of ``kernel`` over ``x``: a dot product, plus a bias, at each position.

    A cross-correlation: the filter is not flipped. The kernel's rank says how many axes it slides along, so 1-D, 2-D
    and 3-D are one function.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, in)``; any number of batch axes, none included.
      kernel: array of shape ``(*window, in // groups, out)``.
      bias: array of shape ``(out,)``.
      stride: step of the window, an int or one for each axis.
      padding: "VALID", "SAME" (output is ``ceil(size / stride)``), "SAME_LOWER", an int for every side, or a sequence
        with an int or a (low, high) pair for each axis. Negative integers crop.
      dilation: distance between the taps of the window, an int or one for each axis.
      groups: the number of groups of channels, each with its own filters; ``groups == in`` is depthwise.
      pad_mode: the elements of the padding: "zeros", "reflect", "edge" or "circular".
      precision: as in `jax.lax.conv_general_dilated`.
      preferred_element_type: the type of the result. Without it the result has the type of the inputs; half precision
        accumulates in float32 either way. On CUDA a half-precision result is rounded before the bias is added.

    Returns:
      Array of shape ``(*batch, *output, out)``, sizes as in `jaxconv.conv_output_size`.

    Raises:
      ArgumentError: an option is not valid.
      ShapeError: ranks, channels or groups do not match, or the window is larger than the padded input.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.conv1d`` to ``conv3d`` with axes moved.

    >>> image, filters = jnp.ones((32, 32, 3)), jnp.ones((5, 5, 3, 6))
    >>> conv(image, filters, padding="VALID").shape
    (28, 28, 6)
    """
    x, kernel, bias = as_floats(x=x, kernel=kernel, bias=bias)
    window = _kernel_window(kernel, "in // groups, out")
    rank = len(window)
    size = spatial_sizes(x, rank)
    strides, dilations = as_tuple(stride, rank, "stride"), as_tuple(dilation, rank, "dilation")
    groups = as_int(groups, "groups", least=1)
    channels, features = kernel.shape[-2] * groups, kernel.shape[-1]
    if x.shape[-1] != channels:
        times = f" in {groups} groups" if groups > 1 else ""
        raise ShapeError(
            f"kernel {kernel.shape} takes {channels} input channels{times}, x has {x.shape[-1]}: shape {x.shape}"
        )
    if features % groups:
        raise ShapeError(f"groups must divide the output channels, got {groups} groups for kernel {kernel.shape}")
    _check_bias(bias, features)
    pairs = resolve_padding(padding, size, window, strides, dilations)
    output_sizes(size, window, strides, pairs, dilations)
    if pad_mode != "zeros":
        x, pairs = pad_pairs(x, pairs, pad_mode, argument="pad_mode"), ((0, 0),) * rank
    out_type = x.dtype if preferred_element_type is None else jnp.dtype(preferred_element_type)
    y = over_one_batch(lambda x: correlate(x, kernel, strides, pairs, dilations, groups, precision, out_type), rank, x)
    return add_bias(y, bias, out_type)


def correlate(
    x: Array,
    kernel: Array,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
    precision: Any,
    out_type: Any,
) -> Array:
    """Runs the primitive on one batch axis. The result stays in the type in which it was summed.

    Padding that crops, or that is beyond a window's reach, is applied to ``x`` itself: otherwise XLA:CPU would get a
    convolution with negative low padding, here or in the gradient, and read out of bounds (openxla/xla#48713).
    """
    window = kernel.shape[:-2]
    within, beyond = _split_padding(padding, _reach(window, dilation))
    x = pad_axes(x, beyond)
    geometry = Geometry(x.shape[1:-1], window, tuple(stride), within, tuple(dilation), groups)
    return convolve("output", x, kernel, geometry, **sum_types(x.dtype, out_type, precision))


def _reach(window: Sequence[int], dilation: Sequence[int]) -> list[int]:
    return [window_extent(f, d) - 1 for f, d in zip(window, dilation, strict=True)]


def sum_types(dtype: Any, out_type: Any, precision: Any) -> dict[str, Any]:
    """Sums are as wide as the result; a cotangent of a result rounded to ``dtype`` is exact in ``dtype``."""
    wide = wider(accumulator(dtype), out_type)
    return {"dtype": wide, "narrow": out_type == dtype, "precision": precision}


def conv_transpose(
    y: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "SAME",
    output_padding: IntOrTuple = 0,
    dilation: IntOrTuple = 1,
    groups: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """Returns the adjoint of `conv` with the same kernel: the sum of the filters, each weighted by an element of ``y``.

    ``<conv(x, k), y> == <x, conv_transpose(y, k)>``. Also called fractionally strided convolution.

    Args:
      y: floating-point array of shape ``(*batch, *spatial, in)``.
      kernel: array of shape ``(*window, out // groups, in)``: that of the `conv` from ``out`` to ``in`` channels.
      bias: array of shape ``(out,)``.
      stride: the distance between the filters in the result, an int or one for each axis.
      padding: how much of the result's border is cut, in every form that `conv` accepts. "SAME" gives
        ``size * stride``, the adjoint of ``conv(padding="SAME")`` on that size, also where the window is smaller than
        the stride.
      output_padding: elements added at the high side, smaller than stride or dilation; only with padding given as
        integers.
      dilation, groups, precision, preferred_element_type: as in `conv`.

    Returns:
      Array of shape ``(*batch, *output, out)``, sizes as in `jaxconv.conv_transpose_output_size`.

    Raises:
      ArgumentError: an option is not valid.
      ShapeError: ranks, channels or groups do not match, or the output would be empty.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.conv_transpose1d`` to ``conv_transpose3d`` with axes moved.

    >>> conv_transpose(jnp.ones((7, 7, 8)), jnp.ones((4, 4, 3, 8)), stride=2).shape
    (14, 14, 3)
    """
    y, kernel, bias = as_floats(y=y, kernel=kernel, bias=bias)
    window = _kernel_window(kernel, "out // groups, in")
    rank = len(window)
    size = spatial_sizes(y, rank, "y")
    strides, dilations = as_tuple(stride, rank, "stride"), as_tuple(dilation, rank, "dilation")
    groups = as_int(groups, "groups", least=1)
    features = kernel.shape[-2] * groups
    if y.shape[-1] != kernel.shape[-1]:
        raise ShapeError(
            f"kernel {kernel.shape} takes {kernel.shape[-1]} input channels, y has {y.shape[-1]}: shape {y.shape}"
        )
    if kernel.shape[-1] % groups:
        raise ShapeError(f"groups must divide the input channels, got {groups} groups for kernel {kernel.shape}")
    _check_bias(bias, features)
    pairs, extra = transpose_padding(padding, window, strides, dilations, output_padding)
    transpose_output_sizes(size, window, strides, pairs, extra, dilations)
    # The convolution whose gradient this is pads by what is cut off here, at least 0 and at most its reach: the rest is
    # zeros, or is cropped.
    cut = tuple((low, high - e) for (low, high), e in zip(pairs, extra, strict=True))
    within, beyond = _split_padding(cut, _reach(window, dilations))
    out_type = y.dtype if preferred_element_type is None else jnp.dtype(preferred_element_type)
    full = transpose_output_sizes(size, window, strides, within, (0,) * rank, dilations)
    geometry = Geometry(full, window, strides, within, dilations, groups)

    def transposed(y: Array) -> Array:
        x = convolve("input", kernel, y, geometry, **sum_types(y.dtype, out_type, precision))
        return pad_axes(x, [(-low, -high) for low, high in beyond])

    x = over_one_batch(transposed, rank, y)
    return add_bias(x, bias, out_type)


def _split_padding(padding: Pairs, reach: Sequence[int]) -> tuple[Pairs, Pairs]:
    """Returns the part of the padding from 0 to ``reach``, and the rest: more zeros, or a crop if negative.

    Symbolic padding is all rest, so that no convolution needs to know it.
    """

    def inside(p: int, reach: int) -> int:
        return min(max(p, 0), reach) if isinstance(p, int) else 0

    within = tuple((inside(low, r), inside(high, r)) for (low, high), r in zip(padding, reach, strict=True))
    beyond = tuple((low - w0, high - w1) for (low, high), (w0, w1) in zip(padding, within, strict=True))
    return within, beyond


def conv_local(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    stride: IntOrTuple = 1,
    padding: Padding = "VALID",
    dilation: IntOrTuple = 1,
) -> Array:
    """Returns a locally connected feature map: as `conv`, with separate filters for each position.

    Args:
      x: floating-point array of shape ``(*batch, *spatial, in)``.
      kernel: array of shape ``(*output, *window, in, out)``.
      bias: array of shape ``(out,)`` or ``(*output, out)``.
      stride, padding, dilation: as in `conv`.

    Returns:
      Array of shape ``(*batch, *output, out)``.

    Raises:
      ArgumentError: an option is not valid.
      ShapeError: ranks or channels do not match, or the kernel's output axes do not have the sizes of the output.
      DTypeError: an argument is not floating-point.

    Equals Keras 2's ``LocallyConnected2D`` (its implementation 1) with the kernel's axes unfolded.

    >>> conv_local(jnp.ones((6, 6, 3)), jnp.ones((4, 4, 3, 3, 3, 8))).shape
    (4, 4, 8)
    """
    x, kernel, bias = as_floats(x=x, kernel=kernel, bias=bias)
    if kernel.ndim < 4 or kernel.ndim % 2:
        raise ShapeError(f"kernel must have shape (*output, *window, in, out), got {kernel.shape}")
    if 0 in kernel.shape:
        raise ShapeError(f"kernel must have no empty axis, got shape {kernel.shape}")
    rank = kernel.ndim // 2 - 1
    window = kernel.shape[rank:-2]
    size = spatial_sizes(x, rank)
    strides, dilations = as_tuple(stride, rank, "stride"), as_tuple(dilation, rank, "dilation")
    if x.shape[-1] != kernel.shape[-2]:
        raise ShapeError(
            f"kernel {kernel.shape} takes {kernel.shape[-2]} input channels, x has {x.shape[-1]}: shape {x.shape}"
        )
    pairs = resolve_padding(padding, size, window, strides, dilations)
    out = output_sizes(size, window, strides, pairs, dilations)
    if kernel.shape[:rank] != out:
        raise ShapeError(f"kernel must have filters for the output {out} of x {x.shape}, got shape {kernel.shape}")
    if bias is not None and bias.shape not in ((kernel.shape[-1],), (*out, kernel.shape[-1])):
        raise ShapeError(f"bias must have shape ({kernel.shape[-1]},) or {(*out, kernel.shape[-1])}, got {bias.shape}")
    taps = _taps(pad_axes(x, pairs), out, window, strides, dilations)
    patches, kernel = jnp.stack(taps, axis=-2), kernel.reshape(*out, len(taps), *kernel.shape[-2:])
    return in_sums(functools.partial(_local_products, rank), patches, kernel, *([] if bias is None else [bias]))


def _taps(
    x: Array, out: Sequence[int], window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Array]:
    """Returns, for each tap of the window in row-major order, the elements under it at every output position."""
    first = x.ndim - 1 - len(window)
    taps = []
    for offsets in itertools.product(*(range(f) for f in window)):
        tap = x
        for axis, (o, n, s, d) in enumerate(zip(offsets, out, stride, dilation, strict=True)):
            tap = strided(tap, first + axis - x.ndim, o * d, s, n)
        taps.append(tap)
    return taps


def _local_products(rank: int, sums: DType, patches: Array, kernel: Array, bias: Array | None = None) -> Array:
    """Sums ``tap @ kernel[position, tap]`` over the taps; positions are batch axes of one matrix product."""
    positions, batch = "abcdefg"[:rank], "..."
    terms = f"{batch}{positions}ti,{positions}tio->{batch}{positions}o"
    return add_bias(jnp.einsum(terms, patches, kernel, preferred_element_type=sums), bias, patches.dtype)


__all__ = ["conv", "conv_local", "conv_transpose"]
