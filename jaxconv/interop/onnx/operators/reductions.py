"""Operators over axes: reductions, softmax, sorting, matrix products."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ShapeError
from jaxconv.fields import IDENTITY, Field
from jaxconv.interop.onnx.operators.base import Placed, Row, constant, integers
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Either, Order, Plan, Value, all_plain, as_axis, last, natural
from jaxconv.layers import Dense
from jaxconv.layers.base import Geometry
from jaxconv.ops.arrays import accumulator
from jaxconv.structs import struct_of


def without(order: Order, axes: set[int]) -> Order:
    """Returns the order of the remaining axes when ONNX axes are dropped."""
    left = sorted(set(order) - axes)
    return tuple(left.index(axis) for axis in order if axis not in axes)


# --- Reductions -------------------------------------------------------------------------------------------------------


def _reduction(traced: Callable[..., Any], plain: Callable[..., Any] | None = None) -> Row:
    function = traced if plain is None else Either(plain, traced)

    def plan(node: Node, x: Value, axes: Value | None = None) -> Plan:
        given = node.get("axes") if axes is None else integers(axes, "axes")
        if not given:
            given = () if node.get("noop_with_empty_axes", 0) else range(x.rank)
        dropped = {as_axis(axis, x.rank, "axes") for axis in given}
        keep = bool(node["keepdims"])
        positions = tuple(sorted(x.order.index(axis) for axis in dropped))
        options = {"function": function, "axes": positions, "keep": keep}
        order = x.order if keep else without(x.order, dropped)
        return Plan(_reduced, [x.plain()], [order], options, _reduced_fields(x, dropped, keep))

    return Row(plan, static=plain is not None)


def _reduced_fields(x: Value, axes: set[int], keep: bool) -> Geometry:
    spatial = set(range(2, x.rank))
    if x.order != last(x.rank) or x.rank < 3 or 0 in axes or not (keep or axes == spatial):
        return None
    return tuple(Field(x.shape[axis], 0, 0) if axis in axes else IDENTITY for axis in range(2, x.rank))


def _reduced(x: Any, *, function: Callable[..., Any], axes: tuple[int, ...], keep: bool) -> Any:
    wide = x if all_plain([x]) else x.astype(accumulator(x.dtype))
    return function(wide, axes, keep).astype(x.dtype)


def _sum(x: Any, axes: Any, keep: bool) -> Any:
    return jnp.sum(x, axes, keepdims=keep)


def _log_sum_exp(x: Any, axes: Any, keep: bool) -> Any:
    return jax.nn.logsumexp(x, axes, keepdims=keep) if axes else x


def _max(x: Any, axes: Any, keep: bool) -> Any:
    lowest = False if x.dtype == bool else -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return jnp.max(x, axes, keepdims=keep, initial=lowest)


def _min(x: Any, axes: Any, keep: bool) -> Any:
    highest = True if x.dtype == bool else jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).max
    return jnp.min(x, axes, keepdims=keep, initial=highest)


def _plain_max(x: Any, axes: Any, keep: bool) -> Any:
    found = np.max(x, axes, keepdims=True)
    return found if keep else np.squeeze(found, axes)


def _plain_min(x: Any, axes: Any, keep: bool) -> Any:
    found = np.min(x, axes, keepdims=True)
    return found if keep else np.squeeze(found, axes)


# --- Softmax, the greatest, running sums ------------------------------------------------------------------------------


def _softmax(function: Callable[..., Any]) -> Row:
    def plan(node: Node, x: Value) -> Plan:
        axis = as_axis(node["axis"], x.rank)
        # Before opset 13 all axes from this one on are one.
        axes = {axis} if node.opset >= 13 else set(range(axis, x.rank))
        positions = tuple(sorted(x.order.index(axis) for axis in axes))
        fields: Geometry = () if positions == (x.rank - 1,) else None
        return Plan(_over, [x.plain()], [x.order], {"function": function, "axes": positions}, fields)

    return Row(plan)


def _over(x: Any, *, function: Callable[..., Any], axes: tuple[int, ...]) -> Any:
    return function(x.astype(accumulator(x.dtype)), axes).astype(x.dtype)


def _softmax_of(x: Any, axes: tuple[int, ...]) -> Any:
    # XLA:CPU contracts a product before the softmax with the subtraction of the maximum, which is that of the rounded
    # products: elements of 1e10 then exceed their own maximum by hundreds. A maximum in between prevents that.
    return jax.nn.softmax(jnp.maximum(x, jnp.finfo(x.dtype).min), axes)


def _hardmax(x: Any, axes: tuple[int, ...]) -> Any:
    shape = [x.shape[axis] for axis in axes]
    moved = jnp.moveaxis(x, axes, range(-len(axes), 0))
    flat = moved.reshape(*moved.shape[: -len(axes)], math.prod(shape))
    ones = jax.nn.one_hot(jnp.argmax(flat, -1), flat.shape[-1], dtype=x.dtype)
    return jnp.moveaxis(ones.reshape(moved.shape), range(-len(axes), 0), axes)


def _arg(function: Callable[..., Any]) -> Row:
    def plan(node: Node, x: Value) -> Plan:
        axis = as_axis(node["axis"], x.rank)
        keep = bool(node["keepdims"])
        options = {"function": function, "axis": x.order.index(axis), "keep": keep}
        options["from_end"] = bool(node.get("select_last_index", 0))
        return Plan(_arg_of, [x.plain()], [x.order if keep else without(x.order, {axis})], options)

    return Row(plan)


def _arg_of(x: Any, *, function: Callable[..., Any], axis: int, keep: bool, from_end: bool) -> Any:
    if from_end:
        return x.shape[axis] - 1 - function(jnp.flip(x, axis), axis, keepdims=keep)
    return function(x, axis, keepdims=keep)


def _running(function: Callable[..., Any], neutral: int) -> Row:
    def plan(node: Node, x: Value, axis: Value) -> Plan:
        numbers = integers(axis, "axis") or (0,)
        options = {"function": function, "axis": x.position(numbers[0]), "neutral": neutral}
        options |= {name: bool(node[name]) for name in ("exclusive", "reverse")}
        return Plan(_running_of, [x.plain()], [x.order], options)

    return Row(plan)


def _running_of(
    x: Any, *, function: Callable[..., Any], axis: int, neutral: int, exclusive: bool, reverse: bool
) -> Any:
    x = jnp.flip(x, axis) if reverse else x
    if exclusive:
        before = [(0, 0)] * x.ndim
        before[axis] = (1, 0)
        x = jnp.pad(jax.lax.slice_in_dim(x, 0, x.shape[axis] - 1, axis=axis), before, constant_values=neutral)
    y = function(x, axis).astype(x.dtype)
    return jnp.flip(y, axis) if reverse else y


def _top_k(node: Node, x: Value, k: Value | None = None) -> Plan:
    count = node["k"] if k is None else (integers(k, "k") or (0,))[0]
    options = {"k": count, "axis": x.position(node["axis"]), "largest": bool(node.get("largest", 1))}
    return Plan(_top_k_of, [x.plain()], [x.order] * 2, options)


def _top_k_of(x: Any, *, k: int, axis: int, largest: bool) -> tuple[Any, Any]:
    indices = jnp.argsort(x, axis, stable=True, descending=largest)
    indices = jax.lax.slice_in_dim(indices, 0, k, axis=axis)
    return jnp.take_along_axis(x, indices, axis), indices


# --- Matrix products --------------------------------------------------------------------------------------------------


def _matmul(node: Node, a: Value, b: Value) -> Plan:
    args = [value.to(natural(value.rank)) for value in (a, b)]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows = a.shape[-2] if a.rank > 1 else 1
    columns = b.shape[-1] if b.rank > 1 else 1
    rank = max(len(batch) + 2, 2) - (a.rank == 1) - (b.rank == 1)
    macs = math.prod(batch) * rows * columns * a.shape[-1]
    return Plan(jnp.matmul, args, [natural(rank)], macs=macs)


def _matmul_layer(node: Node, rank: int | None, a: np.ndarray | None, b: np.ndarray | None) -> Placed | None:
    if b is None or b.ndim != 2 or rank is None or rank < 2:
        return None
    return Placed(Dense(b.shape[1], bias=False), {"kernel": b}, axes="tail")


def _gemm(node: Node, a: Value, b: Value, c: Value | None = None) -> Plan:
    values = [a, b] if c is None else [a, b, c]
    args = [value.to(natural(value.rank)) for value in values]
    options = {name: node[name] for name in ("alpha", "beta", "transA", "transB")}
    return Plan(_gemm_of, args, [natural(2)], options)


def _gemm_of(a: Any, b: Any, c: Any = None, *, alpha: float, beta: float, transA: int, transB: int) -> Any:
    y = jnp.matmul(a.T if transA else a, b.T if transB else b)
    y = y if alpha == 1 else alpha * y
    return y if c is None else y + (c if beta == 1 else beta * c)


def _gemm_layer(
    node: Node, rank: int | None, a: None, b: np.ndarray | None, c: np.ndarray | None = None
) -> Placed | None:
    if b is None or node["transA"] or (c is None and len(node.inputs) > 2 and node.inputs[2]):
        return None
    kernel = (b.T if node["transB"] else b) * np.asarray(node["alpha"], b.dtype)
    if c is not None and c.size not in (1, kernel.shape[1]):
        return None
    params = {"kernel": kernel}
    if c is not None:
        params["bias"] = np.broadcast_to(c.reshape(-1), kernel.shape[1:]) * np.asarray(node["beta"], c.dtype)
    return Placed(Dense(kernel.shape[1], bias=c is not None), params, axes="tail")


def _einsum(node: Node, *values: Value) -> Plan:
    equation = node["equation"].replace(" ", "")
    args = [value.to(natural(value.rank)) for value in values]
    structs = [struct_of(value.shape, value.dtype) for value in values]
    rank = len(jax.eval_shape(lambda *xs: jnp.einsum(equation, *xs), *structs).shape)
    return Plan(_einsum_of, args, [natural(rank)], {"equation": equation})


def _einsum_of(*arrays: Any, equation: str) -> Any:
    return jnp.einsum(equation, *arrays)


def _trilu(node: Node, x: Value, k: Value | None = None) -> Plan:
    diagonal = 0 if k is None else int(np.asarray(constant(k, "k")).reshape(()))
    options = {"k": diagonal, "upper": bool(node["upper"])}
    if x.rank < 2:
        raise ShapeError(f"input must have at least two axes, got shape {x.shape}")
    return Plan(_trilu_of, [x.to(natural(x.rank))], [natural(x.rank)], options)


def _trilu_of(x: Any, *, k: int, upper: bool) -> Any:
    return (jnp.triu if upper else jnp.tril)(x, k)


ROWS = {
    "ArgMax": _arg(jnp.argmax),
    "ArgMin": _arg(jnp.argmin),
    "CumProd": _running(jnp.cumprod, 1),
    "CumSum": _running(jnp.cumsum, 0),
    "Einsum": Row(_einsum),
    "Gemm": Row(_gemm, _gemm_layer),
    "Hardmax": _softmax(_hardmax),
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "MatMul": Row(_matmul, _matmul_layer),
    "ReduceL1": _reduction(lambda x, axes, keep: _sum(abs(x), axes, keep)),
    "ReduceL2": _reduction(lambda x, axes, keep: jnp.sqrt(_sum(jnp.square(x), axes, keep))),
    "ReduceLogSum": _reduction(lambda x, axes, keep: jnp.log(_sum(x, axes, keep))),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ReduceMax": _reduction(_max, _plain_max),
    "ReduceMean": _reduction(lambda x, axes, keep: jnp.mean(x, axes, keepdims=keep)),
    "ReduceMin": _reduction(_min, _plain_min),
    "ReduceProd": _reduction(
        lambda x, axes, keep: jnp.prod(x, axes, keepdims=keep),
        lambda x, axes, keep: np.prod(x, axes, keepdims=keep),
    ),
    "ReduceSum": _reduction(_sum, lambda x, axes, keep: np.sum(x, axes, keepdims=keep)),
    "ReduceSumSquare": _reduction(lambda x, axes, keep: _sum(jnp.square(x), axes, keep)),
    "Softmax": _softmax(_softmax_of),
    "TopK": Row(_top_k),
    "Trilu": Row(_trilu),
}
