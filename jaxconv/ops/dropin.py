"""The drop-in for `jax.lax.conv_general_dilated`, for frameworks that accept a convolution."""

import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import window_extent
from jaxconv.ops.arrays import Array
from jaxconv.ops.conv import correlate, sum_types
from jaxconv.ops.lowering import original
from jaxconv.ops.lowering.modes import lowering_mode
from jaxconv.ops.lowering.primitive import convolve
from jaxconv.ops.lowering.problem import Geometry
from jaxconv.ops.lowering.windows import flipped, swapped

# The types that our forms support. lax has narrower ones, such as float8_e4m3fn, which promote to no others.
FLOATS = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """Computes `jax.lax.conv_general_dilated`: the same arguments, types and errors; values are equal up to rounding.

    Use it in ``flax.linen.Conv(..., conv_general_dilated=jaxconv.conv_general_dilated)``, in ``flax.nnx.Conv``, and in
    custom code. Arrays in other layouts are transposed to channels last. lax computes what `jaxconv.conv` cannot
    express: types other than float16, bfloat16, float32 and float64, ``batch_group_count``, ``out_sharding``, strides
    together with ``lhs_dilation``. Half precision is summed in float32.

    Args:
      lhs, rhs: image and kernel, in the layout of ``dimension_numbers``.
      window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers, feature_group_count, batch_group_count,
        precision, preferred_element_type, out_sharding: as in `jax.lax.conv_general_dilated`.

    >>> image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    >>> conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).shape
    (1, 8, 8, 4)
    """
    options = {
        "window_strides": window_strides,
        "padding": padding,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
        "dimension_numbers": dimension_numbers,
        "feature_group_count": feature_group_count,
        "batch_group_count": batch_group_count,
        "precision": precision,
        "preferred_element_type": preferred_element_type,
        "out_sharding": out_sharding,
    }
    dtype = jnp.result_type(lhs)
    plain = dtype in FLOATS and dtype == jnp.result_type(rhs)
    wanted = dtype if preferred_element_type is None else jnp.dtype(preferred_element_type)
    if (
        lowering_mode() == "xla"
        or not plain
        or wanted not in FLOATS
        or batch_group_count != 1
        or out_sharding is not None
        or jnp.ndim(lhs) != jnp.ndim(rhs)
        or jnp.ndim(lhs) < 3
    ):
        return original.conv_general_dilated(lhs, rhs, **options)
    # lax checks the arguments, with its own errors, and gives the result's shape.
    shape = jax.eval_shape(lambda x, k: original.conv_general_dilated(x, k, **options), lhs, rhs).shape
    found = _in_our_terms(lhs, rhs, shape, wanted, options)
    return original.conv_general_dilated(lhs, rhs, **options) if found is None else found


def _in_our_terms(lhs: Array, rhs: Array, shape: tuple[int, ...], wanted: Any, options: dict[str, Any]) -> Array | None:
    """Returns the convolution by our primitive, or None where it is not one of ours."""
    rank, groups = len(shape) - 2, operator.index(options["feature_group_count"])
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, options["dimension_numbers"])
    to_last = [(spec[0], *spec[2:], spec[1]) for spec in (numbers.lhs_spec, numbers.out_spec)]
    to_kernel = (*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    x, kernel = jnp.transpose(lhs, to_last[0]), jnp.transpose(rhs, to_kernel)
    size, out = x.shape[1:-1], tuple(shape[i] for i in to_last[1])[1:-1]
    window = kernel.shape[:rank]
    given = (options[name] for name in ("lhs_dilation", "window_strides", "rhs_dilation"))
    spread, strides, dilations = (tuple(map(operator.index, (1,) * rank if v is None else v)) for v in given)
    if not all(isinstance(n, int) and n > 0 for n in (*window, *size, *out)):
        return None
    reach = [window_extent(f, d) - 1 for f, d in zip(window, dilations, strict=True)]
    pads = options["padding"]
    if isinstance(pads, str):
        pads = lax.padtype_to_pads(size, [r + 1 for r in reach], strides, pads)
    pads = [(operator.index(low), operator.index(high)) for low, high in pads]
    if all(s == 1 for s in spread):
        y = correlate(x, kernel, strides, tuple(pads), dilations, groups, options["precision"], wanted)
    elif all(s == 1 for s in strides):
        # A transposed convolution: the gradient of the one with this kernel flipped and swapped.
        lows = [r - low for r, (low, _) in zip(reach, pads, strict=True)]
        highs = [(m - 1) * s + 1 + r - n - low for m, s, r, n, low in zip(size, spread, reach, out, lows, strict=True)]
        within = tuple((low, min(max(high, 0), r)) for low, high, r in zip(lows, highs, reach, strict=True))
        geometry = Geometry(out, window, spread, within, dilations, groups)
        if any(not 0 <= low <= r for low, r in zip(lows, reach, strict=True)) or geometry.out != size:
            return None
        kernel = flipped(swapped(kernel, groups), rank)
        y = convolve("input", kernel, x, geometry, **sum_types(x.dtype, wanted, options["precision"]))
    else:
        return None
    return jnp.transpose(y.astype(wanted), [to_last[1].index(i) for i in range(rank + 2)])


__all__ = ["conv_general_dilated"]
