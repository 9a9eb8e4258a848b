"""Quantization: int8 models with QuantizeLinear and DequantizeLinear compute in floating point.

A pair of these operators around an activation rounds the activation as the file says; the gradient ignores this.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.interop.onnx.operators.base import Row
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.tensors import dtype_of
from jaxconv.interop.onnx.values import Arg, Plan, Value, as_axis


def _along(node: Node, x: Value, value: Value) -> Arg:
    """Returns a scale or zero point so that it broadcasts: one number, one for each slice of an axis, or each block."""
    block = node.get("block_size", 0)
    if value.rank == 0 or value.shape == (1,):
        shape: tuple[int, ...] = (1,) * x.rank
        return Arg(value, shape)
    axis = as_axis(node["axis"], x.rank)
    if value.rank == 1 and (x.rank != 1 or not block):
        shape = tuple(x.shape[a] if a == axis else 1 for a in x.order)
        return Arg(value, shape)
    if value.rank != x.rank or not block:
        raise ShapeError(f"scale must have one number, or one for each slice of axis {axis}, got shape {value.shape}")
    return value.to(x.order)


def _options(node: Node, x: Value, scale: Value) -> dict[str, Any]:
    block = node.get("block_size", 0)
    return {"block": (x.order.index(as_axis(node["axis"], x.rank)), block) if block else None}


def _blocked(parameter: Any, x: Any, block: tuple[int, int] | None) -> Any:
    if block is None or parameter.size == 1:
        return parameter
    repeated = jnp.repeat(parameter, block[1], block[0])
    return jax.lax.slice_in_dim(repeated, 0, x.shape[block[0]], axis=block[0])


def _quantize(node: Node, x: Value, scale: Value, zero: Value | None = None) -> Plan:
    kind = node.get("output_dtype", 0)
    dtype = zero.dtype if zero is not None else dtype_of(kind, "output_dtype") if kind else np.dtype(np.uint8)
    args = [x.plain(), _along(node, x, scale)] + ([] if zero is None else [_along(node, x, zero)])
    return Plan(_quantized, args, [x.order], {"dtype": dtype.name, **_options(node, x, scale)}, ())


def _quantized(x: Any, scale: Any, zero: Any = None, *, dtype: str, block: tuple[int, int] | None) -> Any:
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise ArgumentError(f"the quantized type must be of integers, got {dtype}")
    steps = jnp.round(x / _blocked(scale, x, block).astype(x.dtype))
    shifted = steps if zero is None else steps + _blocked(zero, x, block).astype(x.dtype)
    limits = np.iinfo(kind)
    return jnp.clip(shifted, limits.min, limits.max).astype(kind)


def _dequantize(node: Node, x: Value, scale: Value, zero: Value | None = None) -> Plan:
    args = [x.plain(), _along(node, x, scale)] + ([] if zero is None else [_along(node, x, zero)])
    return Plan(_dequantized, args, [x.order], _options(node, x, scale), ())


def _dequantized(x: Any, scale: Any, zero: Any = None, *, block: tuple[int, int] | None) -> Any:
    scale = _blocked(scale, x, block)
    wide = np.float32
    shifted = x.astype(wide) if zero is None else x.astype(wide) - _blocked(zero, x, block).astype(wide)
    return (shifted * scale.astype(wide)).astype(scale.dtype)


def _round_trip(node: Node, x: Value, scale: Value, zero: Value | None = None) -> Plan:
    """What import makes of QuantizeLinear and DequantizeLinear with the same scale."""
    plan = _quantize(node, x, scale, zero)
    return Plan(_rounded, plan.args, plan.orders, plan.options, ())


def _rounded(x: Any, scale: Any, zero: Any = None, *, dtype: str, block: tuple[int, int] | None) -> Any:
    limits = np.iinfo(np.dtype(dtype))
    step = _blocked(scale, x, block)
    offset = 0 if zero is None else _blocked(zero, x, block).astype(x.dtype)
    # Outside of the range of the integers the gradient is 0, inside it is 1.
    x = jnp.clip(x, (limits.min - offset) * step, (limits.max - offset) * step)
    return x + jax.lax.stop_gradient(jnp.round(x / step) * step - x)


ROWS = {
    "DequantizeLinear": Row(_dequantize, trained=False),
    "QuantizeLinear": Row(_quantize, trained=False),
    "RoundTrip": Row(_round_trip, trained=False),
}
