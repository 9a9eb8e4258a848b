"""Nodes that are jaxconv's layers: those with weights, pools and activations. A table by operator, none by network."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.interop.tfjs.operators import UNARY
from jaxconv.interop.tfjs.read import Node
from jaxconv.layer import Layer
from jaxconv.layers import AvgPool, BatchNorm, Conv, ConvTranspose, Dense, Fn, Identity, MaxPool, PReLU

Constant = np.ndarray | None


@dataclass(frozen=True)
class Placed:
    """A node as one of jaxconv's layers, applied to one of the node's inputs: the layer, its arrays, which input."""

    layer: Layer
    params: dict[str, np.ndarray] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    of: int = 0


def _window(a: dict[str, Any]) -> dict[str, Any]:
    """Returns stride, padding and dilation of a node, which has them for the batch and the channels too."""
    if a.get("data_format", "NHWC") != "NHWC":
        raise ArgumentError(f"data_format must be NHWC, got {a['data_format']}")
    options: dict[str, Any] = {}
    for name, ours in (("strides", "stride"), ("dilations", "dilation")):
        values = a.get(name) or (1, 1, 1, 1)
        if len(values) != 4 or values[0] != 1 or values[3] != 1:
            raise ArgumentError(f"{name} must be 1 along the batch and the channels, got {values}")
        options[ours] = values[1:3]
    if a.get("padding") == "EXPLICIT":
        ends = np.reshape(a["explicit_paddings"], (4, 2))[1:3]
        return options | {"padding": tuple((int(low), int(high)) for low, high in ends)}
    if a.get("padding") not in ("SAME", "VALID"):
        raise ArgumentError(f"padding must be SAME, VALID or EXPLICIT, got {a.get('padding')!r}")
    return options | {"padding": a["padding"]}


def _weights(node: Node, kernel: np.ndarray, bias: list[Constant]) -> dict[str, np.ndarray]:
    if len(node.inputs) > 2 and (not bias or bias[0] is None):
        raise ArgumentError(f"the bias of {node.name!r} must be a constant")
    return {"kernel": kernel} | ({"bias": bias[0].reshape(-1)} if bias and bias[0] is not None else {})


def _conv(node: Node, x: Constant, kernel: Constant = None, *bias: Constant) -> Placed:
    if kernel is None:
        raise ArgumentError(f"the filter of {node.name!r} must be a constant")
    params = _weights(node, kernel, list(bias))
    layer = Conv(kernel.shape[3], kernel.shape[:2], bias="bias" in params, **_window(dict(node.attributes)))
    return Placed(layer, params)


def _depthwise(node: Node, x: Constant, kernel: Constant = None, *bias: Constant) -> Placed:
    """Returns a `Conv` with a group for each channel; TensorFlow's kernel is ``(height, width, in, multiplier)``."""
    if kernel is None:
        raise ArgumentError(f"the filter of {node.name!r} must be a constant")
    height, width, channels, multiplier = kernel.shape
    features = channels * multiplier
    params = _weights(node, kernel.reshape(height, width, 1, features), list(bias))
    options = _window(dict(node.attributes))
    return Placed(Conv(features, (height, width), groups=channels, bias="bias" in params, **options), params)


def _conv_transpose(node: Node, sizes: Constant, kernel: Constant, x: Constant) -> Placed:
    """Returns a `ConvTranspose`; of the sizes that the convolution maps to x's, the node must ask for the same one."""
    if kernel is None or sizes is None:
        raise ArgumentError(f"the filter and the input_sizes of {node.name!r} must be constants")
    options = _window(dict(node.attributes))
    for n, f, s in zip(sizes[1:3], kernel.shape[:2], options["stride"], strict=True):
        if (n if options["padding"] == "SAME" else n - f) % s:
            raise ArgumentError(f"input_sizes must be {s} times the size of x, got {sizes.tolist()} for stride {s}")
    layer = ConvTranspose(kernel.shape[2], kernel.shape[:2], bias=False, **options)
    return Placed(layer, {"kernel": kernel}, of=2)


def _dense(node: Node, x: Constant, kernel: Constant = None, *bias: Constant) -> Placed | None:
    a = dict(node.attributes)
    if kernel is None or a.get("transpose_a"):
        return None
    params = _weights(node, kernel.T if a.get("transpose_b") else kernel, list(bias))
    return Placed(Dense(params["kernel"].shape[1], bias="bias" in params), params)


def _norm(node: Node, x: Constant, *arrays: Constant) -> Placed:
    if len(arrays) < 4 or any(array is None for array in arrays) or dict(node.attributes).get("is_training"):
        raise ArgumentError(f"scale, offset, mean and variance of {node.name!r} must be constants, not in training")
    scale, bias, mean, var = (array for array in arrays[:4] if array is not None)
    layer = BatchNorm(eps=dict(node.attributes).get("epsilon", 1e-3))
    return Placed(layer, {"scale": scale, "bias": bias}, {"mean": mean, "var": var})


def _prelu(node: Node, x: Constant, slope: Constant) -> Placed | None:
    if slope is None or slope.size != slope.shape[-1]:
        return None
    return Placed(PReLU(shared=False), {"scale": slope.reshape(-1)})


def _pool(layer: Callable[..., Layer], **more: Any) -> Callable[..., Placed]:
    def place(node: Node, x: Constant) -> Placed:
        a = dict(node.attributes)
        size = a["ksize"]
        if len(size) != 4 or size[0] != 1 or size[3] != 1:
            raise ArgumentError(f"ksize must be 1 along the batch and the channels, got {size}")
        options = {name: value for name, value in _window(a).items() if name != "dilation"}
        return Placed(layer(size[1:3], **options, **more))

    return place


def _activation(function: Callable[..., Any]) -> Callable[..., Placed]:
    return lambda node, x: Placed(Fn(function))


LAYERS: dict[str, Callable[..., Placed | None]] = {
    **{name: _activation(function) for name, function in UNARY.items()},
    "AvgPool": _pool(AvgPool, count_include_pad=False),
    "Conv2D": _conv,
    "Conv2DBackpropInput": _conv_transpose,
    "DepthwiseConv2dNative": _depthwise,
    "FusedBatchNorm": _norm,
    "FusedBatchNormV3": _norm,
    "Identity": lambda node, x: Placed(Identity()),
    "MatMul": _dense,
    "MaxPool": _pool(MaxPool),
    "Prelu": _prelu,
}
