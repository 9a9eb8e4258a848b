"""Operators with a window: convolutions, pools, and operators that move elements between channels and space."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxconv.ops as ops
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.interop.onnx.operators.base import Placed, Row, integers
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Plan, Value, last, natural
from jaxconv.layers import AvgPool, Conv, ConvTranspose, LocalResponseNorm, LpPool, MaxPool, PixelShuffle
from jaxconv.layers.base import whole_fields

_NAMES = {"SAME_UPPER": "SAME", "SAME_LOWER": "SAME_LOWER", "VALID": "VALID"}


def pairs(pads: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Returns (low, high) for each axis of ONNX's list: all starts, then all ends."""
    half = len(pads) // 2
    return tuple(zip(pads[:half], pads[half:], strict=True))


def _padding(node: Node) -> Any:
    pads = node.get("pads")
    name = node.get("auto_pad", "NOTSET")
    return _NAMES[name] if name in _NAMES else pairs(pads) if pads else 0


def _options(node: Node, rank: int) -> dict[str, Any]:
    """Returns the arguments of a window: ONNX's stride is 1 where it is left out."""
    for name in ("strides", "dilations", "kernel_shape"):
        if node.get(name) and len(node[name]) != rank:
            raise ArgumentError(f"{name} must have an integer for each of {rank} axes, got {node[name]}")
    if node.get("pads") and len(node["pads"]) != 2 * rank:
        raise ArgumentError(f"pads must have two integers for each of {rank} axes, got {node['pads']}")
    ones = (1,) * rank
    return {
        "stride": tuple(node.get("strides") or ones),
        "padding": _padding(node),
        "dilation": tuple(node.get("dilations") or ones),
    }


def kernel_last(kernel: Any) -> Any:
    """Returns ``(a, b, *window)`` as ``(*window, b, a)``."""
    return kernel.transpose((*range(2, kernel.ndim), 1, 0))


def _maps(function: Callable[..., Any], node: Node, *values: Value, options: dict[str, Any]) -> Plan:
    """Returns the plan of a function of maps, channels last, and further arrays in their natural order."""
    x, *others = values
    args = [x.to(last(x.rank)), *(value.to(natural(value.rank)) for value in others)]
    return Plan(function, args, [last(x.rank)], options)


# --- Convolution ------------------------------------------------------------------------------------------------------


def _conv_options(node: Node, kernel: tuple[int, ...]) -> dict[str, Any]:
    if node.get("kernel_shape") and tuple(node["kernel_shape"]) != kernel[2:]:
        raise ShapeError(f"kernel_shape must be the kernel's {kernel[2:]}, got {node['kernel_shape']}")
    return _options(node, len(kernel) - 2) | {"groups": node.get("group", 1)}


def _conv(node: Node, x: Value, kernel: Value, bias: Value | None = None) -> Plan:
    values = [x, kernel] if bias is None else [x, kernel, bias]
    return _maps(_conv_of, node, *values, options=_conv_options(node, kernel.shape))


def _conv_of(x: Any, kernel: Any, bias: Any = None, **options: Any) -> Any:
    return ops.conv(x, kernel_last(kernel), bias, **options)


def _conv_layer(
    node: Node, rank: int | None, x: None, kernel: np.ndarray | None, bias: np.ndarray | None = None
) -> Placed | None:
    if kernel is None or (bias is None and len(node.inputs) > 2 and node.inputs[2]):
        return None
    options = _conv_options(node, kernel.shape)
    layer = Conv(kernel.shape[0], kernel.shape[2:], bias=bias is not None, **options)
    return Placed(layer, _kernel_and_bias(kernel, bias), axes="last")


def _kernel_and_bias(kernel: np.ndarray, bias: np.ndarray | None) -> dict[str, Any]:
    return {"kernel": kernel_last(kernel)} | ({} if bias is None else {"bias": bias})


def _transposed_options(node: Node, kernel: tuple[int, ...], size: tuple[int, ...] | None) -> dict[str, Any]:
    """Returns the arguments of a transposed convolution; ``size`` is the map's, where ``output_shape`` needs it."""
    rank = len(kernel) - 2
    options = _options(node, rank) | {"groups": node.get("group", 1)}
    extra = tuple(node.get("output_padding") or (0,) * rank)
    wanted = node.get("output_shape")
    if wanted:
        assert size is not None
        # ONNX finds the pads that give this size; without SAME_UPPER the odd one goes low.
        upper = node.get("auto_pad") == "SAME_UPPER"
        found = []
        for n, f, s, d, e, out in zip(
            size, kernel[2:], options["stride"], options["dilation"], extra, wanted[-rank:], strict=True
        ):
            total = (n - 1) * s + (f - 1) * d + 1 + e - out
            low = total // 2 if upper else total - total // 2
            found.append((low, total - low))
        options["padding"] = tuple(found)
    return options | ({"output_padding": extra} if any(extra) else {})


def _conv_transpose(node: Node, x: Value, kernel: Value, bias: Value | None = None) -> Plan:
    values = [x, kernel] if bias is None else [x, kernel, bias]
    options = _transposed_options(node, kernel.shape, x.shape[2:])
    return _maps(_conv_transpose_of, node, *values, options=options)


def _conv_transpose_of(x: Any, kernel: Any, bias: Any = None, **options: Any) -> Any:
    return ops.conv_transpose(x, kernel_last(kernel), bias, **options)


def _conv_transpose_layer(
    node: Node, rank: int | None, x: None, kernel: np.ndarray | None, bias: np.ndarray | None = None
) -> Placed | None:
    if kernel is None or node.get("output_shape") or (bias is None and len(node.inputs) > 2 and node.inputs[2]):
        return None
    options = _transposed_options(node, kernel.shape, None)
    layer = ConvTranspose(kernel.shape[1] * options["groups"], kernel.shape[2:], bias=bias is not None, **options)
    return Placed(layer, _kernel_and_bias(kernel, bias), axes="last")


# --- Pools ------------------------------------------------------------------------------------------------------------


def _pool_options(node: Node) -> dict[str, Any]:
    window = tuple(node["kernel_shape"])
    return {"window": window, **_options(node, len(window)), "ceil_mode": bool(node.get("ceil_mode", 0))}


def _indices_wanted(node: Node) -> bool:
    return len(node.outputs) > 1 and bool(node.outputs[1])


def _max_pool(node: Node, x: Value) -> Plan:
    order = last(x.rank)
    options = _pool_options(node)
    if not _indices_wanted(node):
        return _maps(ops.max_pool, node, x, options=options)
    options["columns_first"] = bool(node.get("storage_order", 0))
    return Plan(_max_pool_with_indices, [x.to(order)], [order, order], options)


def _max_pool_with_indices(x: Any, *, columns_first: bool, **options: Any) -> tuple[Any, Any]:
    """Returns indices as ONNX counts them: over the whole tensor, columns first if storage_order is 1."""
    y, indices = ops.max_pool_with_indices(x, **options)
    size = x.shape[1:-1]
    if columns_first:
        indices = jnp.ravel_multi_index(jnp.unravel_index(indices, size)[::-1], size[::-1], mode="wrap")
    return y, indices + _planes(x) * math.prod(size)


def _planes(x: Any) -> Any:
    """Returns the number of each (example, channel), of shape ``(batch, 1, ..., channels)``."""
    batch, channels = x.shape[0], x.shape[-1]
    return jnp.arange(batch * channels).reshape(batch, *(1,) * (x.ndim - 2), channels)


def _max_pool_layer(node: Node, rank: int | None, x: None) -> Placed | None:
    return None if _indices_wanted(node) else Placed(MaxPool(**_pool_options(node)), axes="last")


def _avg_pool(node: Node, x: Value) -> Plan:
    options = _pool_options(node) | {"count_include_pad": bool(node.get("count_include_pad", 0))}
    return _maps(ops.avg_pool, node, x, options=options)


def _avg_pool_layer(node: Node, rank: int | None, x: None) -> Placed:
    options = _pool_options(node) | {"count_include_pad": bool(node.get("count_include_pad", 0))}
    return Placed(AvgPool(**options), axes="last")


def _lp_pool(node: Node, x: Value) -> Plan:
    return _maps(ops.lp_pool, node, x, options=_pool_options(node) | {"p": node.get("p", 2)})


def _lp_pool_layer(node: Node, rank: int | None, x: None) -> Placed:
    return Placed(LpPool(**_pool_options(node), p=node.get("p", 2)), axes="last")


def _global(pool: Callable[..., Any]) -> Row:
    def plan(node: Node, x: Value) -> Plan:
        order = last(x.rank)
        options = {"pool": pool} | ({"p": node["p"]} if "p" in dict(node.attributes) else {})
        arg = x.to(order)
        fields = None if arg.moved else whole_fields(np.empty(arg.stored, bool), x.rank - 2)
        return Plan(_global_of, [arg], [order], options, fields)

    return Row(plan)


def _global_of(x: Any, *, pool: Callable[..., Any], **options: Any) -> Any:
    y = pool(x, rank=x.ndim - 2, **options)
    return y.reshape(x.shape[0], *(1,) * (x.ndim - 2), x.shape[-1])


def _max_unpool(node: Node, y: Value, indices: Value, output_shape: Value | None = None) -> Plan:
    """ONNX's indices count in the size that the windows cover; a larger output_shape adds zeros behind it."""
    window = node["kernel_shape"]
    options = _options(node, len(window))
    pads = options["padding"] or ((0, 0),) * len(window)
    size = tuple(
        (n - 1) * s + f - sum(p) for n, s, f, p in zip(y.shape[2:], options["stride"], window, pads, strict=True)
    )
    wanted = integers(output_shape, "output_shape")
    more = tuple(m - n for m, n in zip(wanted[2:], size, strict=True)) if wanted else (0,) * len(size)
    order = last(y.rank)
    return Plan(_max_unpool_of, [y.to(order), indices.to(order)], [order], {"size": size, "more": more})


def _max_unpool_of(y: Any, indices: Any, *, size: tuple[int, ...], more: tuple[int, ...]) -> Any:
    x = ops.max_unpool(y, indices - _planes(y) * math.prod(size), size)
    return ops.pad(x, [(0, n) for n in more], rank=len(size))


def _lrn_options(node: Node) -> dict[str, Any]:
    return {"alpha": node["alpha"], "beta": node["beta"], "k": node["bias"]}


def _lrn(node: Node, x: Value) -> Plan:
    return _maps(ops.local_response_norm, node, x, options={"size": node["size"], **_lrn_options(node)})


def _lrn_layer(node: Node, rank: int | None, x: None) -> Placed:
    return Placed(LocalResponseNorm(node["size"], **_lrn_options(node)), axes="last")


# --- Channels and space -----------------------------------------------------------------------------------------------


def _depth_to_space(node: Node, x: Value) -> Plan:
    order = last(x.rank)
    options = {"factor": node["blocksize"], "columns": node.get("mode", "DCR") == "CRD"}
    return Plan(_depth_to_space_of, [x.to(order)], [order], options)


def _depth_to_space_of(x: Any, *, factor: int, columns: bool) -> Any:
    if not columns:
        # DCR has the factors before the channels, CRD behind them.
        channels = x.shape[-1] // factor**2
        x = x.reshape(*x.shape[:-1], factor**2, channels).swapaxes(-1, -2).reshape(x.shape)
    return ops.pixel_shuffle(x, factor)


def _depth_to_space_layer(node: Node, rank: int | None, x: None) -> Placed | None:
    return Placed(PixelShuffle(node["blocksize"]), axes="last") if node.get("mode", "DCR") == "CRD" else None


def _space_to_depth(node: Node, x: Value) -> Plan:
    order = last(x.rank)
    options = {"factor": node["blocksize"], "columns": node.get("mode", "DCR") == "CRD"}
    return Plan(_space_to_depth_of, [x.to(order)], [order], options)


def _space_to_depth_of(x: Any, *, factor: int, columns: bool) -> Any:
    batch, height, width, channels = x.shape
    if height % factor or width % factor:
        raise ShapeError(f"blocksize must divide height and width, got {factor} for {height} and {width}")
    blocks = x.reshape(batch, height // factor, factor, width // factor, factor, channels)
    perm = (0, 1, 3, 5, 2, 4) if columns else (0, 1, 3, 2, 4, 5)
    return blocks.transpose(perm).reshape(batch, height // factor, width // factor, -1)


ROWS = {
    "AveragePool": Row(_avg_pool, _avg_pool_layer),
    "Conv": Row(_conv, _conv_layer),
    "ConvTranspose": Row(_conv_transpose, _conv_transpose_layer),
    "DepthToSpace": Row(_depth_to_space, _depth_to_space_layer),
    "GlobalAveragePool": _global(ops.global_avg_pool),
    "GlobalLpPool": _global(ops.global_lp_pool),
    "GlobalMaxPool": _global(ops.global_max_pool),
    "LRN": Row(_lrn, _lrn_layer),
    "LpPool": Row(_lp_pool, _lp_pool_layer),
    "MaxPool": Row(_max_pool, _max_pool_layer),
    "MaxUnpool": Row(_max_unpool),
    "SpaceToDepth": Row(_space_to_depth),
}
