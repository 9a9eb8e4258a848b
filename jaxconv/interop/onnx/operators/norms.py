"""Normalizations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv.ops as ops
from jaxconv.errors import ArgumentError
from jaxconv.interop.onnx.operators.base import Placed, Row
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Plan, Value, as_axis, last, natural
from jaxconv.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm
from jaxconv.ops.arrays import accumulator


def _affine(node: Node, function: Any, x: Value, *others: Value, **options: Any) -> Plan:
    order = last(x.rank)
    return Plan(function, [x.to(order), *(value.to(natural(value.rank)) for value in others)], [order], options)


# --- Batches ----------------------------------------------------------------------------------------------------------


def _batch_norm(node: Node, x: Value, scale: Value, bias: Value, mean: Value, var: Value) -> Plan:
    if not node.get("spatial", 1):
        raise ArgumentError("spatial must be 1: one mean for each channel, got 0")
    args = (x, scale, bias, mean, var)
    if node.get("training_mode"):
        options = {"eps": node["epsilon"], "momentum": node["momentum"]}
        plan = _affine(node, _batch_norm_in_training, *args, **options)
        return Plan(plan.function, plan.args, [*plan.orders, natural(1), natural(1)], plan.options)
    return _affine(node, _batch_norm_of, *args, eps=node["epsilon"])


def _batch_norm_of(x: Any, scale: Any, bias: Any, mean: Any, var: Any, *, eps: float) -> Any:
    return ops.batch_norm(x, mean, var, scale, bias, eps=eps)


def _batch_norm_in_training(
    x: Any, scale: Any, bias: Any, mean: Any, var: Any, *, eps: float, momentum: float
) -> tuple[Any, Any, Any]:
    now = ops.batch_statistics(x)
    y = ops.batch_norm(x, *now, scale, bias, eps=eps)
    # ONNX's momentum is the weight of the old value, and its running variance is biased.
    moved = (old * momentum + new * (1 - momentum) for old, new in zip((mean, var), now, strict=True))
    return y, *moved


def _batch_norm_layer(node: Node, rank: int | None, x: None, *arrays: np.ndarray | None) -> Placed | None:
    if any(array is None for array in arrays) or node.get("training_mode") or not node.get("spatial", 1):
        return None
    scale, bias, mean, var = arrays
    layer = BatchNorm(momentum=round(1 - node["momentum"], 7), eps=node["epsilon"])
    return Placed(layer, {"scale": scale, "bias": bias}, {"mean": mean, "var": var}, axes="last")


# --- Examples ---------------------------------------------------------------------------------------------------------


def _instance_norm(node: Node, x: Value, scale: Value, bias: Value) -> Plan:
    return _affine(node, _instance_norm_of, x, scale, bias, eps=node["epsilon"])


def _instance_norm_of(x: Any, scale: Any, bias: Any, *, eps: float) -> Any:
    return ops.instance_norm(x, scale, bias, eps=eps, rank=x.ndim - 2)


def _instance_norm_layer(node: Node, rank: int | None, x: None, *arrays: np.ndarray | None) -> Placed | None:
    if any(array is None for array in arrays) or rank is None or rank < 3:
        return None
    layer = InstanceNorm(eps=node["epsilon"], rank=rank - 2)
    return Placed(layer, {"scale": arrays[0], "bias": arrays[1]}, axes="last")


def _group_norm(node: Node, x: Value, scale: Value, bias: Value) -> Plan:
    options = {"eps": node["epsilon"], "groups": node["num_groups"]}
    return _affine(node, _group_norm_of, x, scale, bias, **options)


def _group_norm_of(x: Any, scale: Any, bias: Any, *, eps: float, groups: int) -> Any:
    if len(scale) != x.shape[-1]:  # opset 18 has one for each group
        scale, bias = (jnp.repeat(array, x.shape[-1] // groups) for array in (scale, bias))
    return ops.group_norm(x, groups, scale, bias, eps=eps, rank=x.ndim - 2)


def _group_norm_layer(node: Node, rank: int | None, x: None, *arrays: np.ndarray | None) -> Placed | None:
    if any(array is None for array in arrays) or rank is None or rank < 3 or node.opset < 21:
        return None
    layer = GroupNorm(node["num_groups"], eps=node["epsilon"], rank=rank - 2)
    return Placed(layer, {"scale": arrays[0], "bias": arrays[1]}, axes="last")


# --- Axes -------------------------------------------------------------------------------------------------------------


def _layer_norm(node: Node, x: Value, scale: Value, bias: Value | None = None) -> Plan:
    """All axes from ``axis`` on are normalized."""
    order = natural(x.rank)
    others = [value.to(natural(value.rank)) for value in (scale, bias) if value is not None]
    options = {"axis": as_axis(node["axis"], x.rank), "eps": node["epsilon"]}
    return Plan(_layer_norm_of, [x.to(order), *others], [order] * 3, options)


def _layer_norm_of(x: Any, scale: Any, bias: Any = None, *, axis: int, eps: float) -> tuple[Any, Any, Any]:
    axes = tuple(range(axis, x.ndim))
    wide = x.astype(accumulator(x.dtype))
    mean = jnp.mean(wide, axes, keepdims=True)
    deviation = jax.lax.rsqrt(jnp.mean(jnp.square(wide - mean), axes, keepdims=True) + eps)
    y = ((wide - mean) * deviation).astype(x.dtype) * scale
    return (y if bias is None else y + bias), mean, deviation


def _layer_norm_layer(
    node: Node, rank: int | None, x: None, scale: np.ndarray | None, bias: np.ndarray | None = None
) -> Placed | None:
    over_last = node["axis"] == -1 or (rank is not None and node["axis"] == rank - 1)
    if scale is None or scale.ndim != 1 or not over_last or len([name for name in node.outputs if name]) > 1:
        return None
    if bias is None and len(node.inputs) > 2 and node.inputs[2]:
        return None
    params = {"scale": scale} | ({} if bias is None else {"bias": bias})
    return Placed(LayerNorm(eps=node["epsilon"], bias=bias is not None), params, axes="tail")


def _rms_norm(node: Node, x: Value, scale: Value) -> Plan:
    order = natural(x.rank)
    options = {"axis": as_axis(node["axis"], x.rank), "eps": node["epsilon"]}
    return Plan(_rms_norm_of, [x.to(order), scale.to(natural(scale.rank))], [order], options)


def _rms_norm_of(x: Any, scale: Any, *, axis: int, eps: float) -> Any:
    axes = tuple(range(axis, x.ndim))
    wide = x.astype(accumulator(x.dtype))
    y = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axes, keepdims=True) + eps)
    return y.astype(x.dtype) * scale


def _lp_norm(node: Node, x: Value) -> Plan:
    options = {"axis": x.position(node["axis"]), "p": node["p"]}
    return Plan(_lp_norm_of, [x.plain()], [x.order], options)


def _lp_norm_of(x: Any, *, axis: int, p: int) -> Any:
    norm = jnp.sum(abs(x), axis, keepdims=True) if p == 1 else jnp.sqrt(jnp.sum(jnp.square(x), axis, keepdims=True))
    return jnp.where(norm == 0, 0, x / jnp.where(norm == 0, 1, norm))


def _mean_variance_norm(node: Node, x: Value) -> Plan:
    axes = tuple(x.position(axis) for axis in node.get("axes", (0, 2, 3)))
    return Plan(_mean_variance_norm_of, [x.plain()], [x.order], {"axes": axes})


def _mean_variance_norm_of(x: Any, *, axes: tuple[int, ...]) -> Any:
    mean = jnp.mean(x, axes, keepdims=True)
    return (x - mean) / (jnp.sqrt(jnp.mean(jnp.square(x - mean), axes, keepdims=True)) + 1e-9)


ROWS = {
    "BatchNormalization": Row(_batch_norm, _batch_norm_layer),
    "GroupNormalization": Row(_group_norm, _group_norm_layer),
    "InstanceNormalization": Row(_instance_norm, _instance_norm_layer),
    "LayerNormalization": Row(_layer_norm, _layer_norm_layer),
    "LpNormalization": Row(_lp_norm),
    "MeanVarianceNormalization": Row(_mean_variance_norm),
    "RMSNormalization": Row(_rms_norm),
}
