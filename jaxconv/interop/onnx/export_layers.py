"""How each of jaxconv's layers is written: a table from its class to a function that adds nodes."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from onnx import helper

import jaxconv.layers as nn
from jaxconv import geometry as geo
from jaxconv.interop.onnx.errors import Unsupported
from jaxconv.interop.onnx.export_pointwise import pointwise
from jaxconv.layers.base import batched_sizes
from jaxconv.ops.arrays import accumulator

# Functions that are one node.
_FUNCTIONS: dict[Any, str] = {
    jax.nn.relu: "Relu",
    jax.nn.sigmoid: "Sigmoid",
    jax.nn.softplus: "Softplus",
    jax.nn.soft_sign: "Softsign",
    jax.nn.hard_swish: "HardSwish",
    jnp.tanh: "Tanh",
    jnp.exp: "Exp",
    jnp.abs: "Abs",
}
_MODES = {"zeros": "constant", "reflect": "reflect", "edge": "edge", "circular": "wrap"}

Written = tuple[str, bool]


def _flat(pairs: Any) -> list[int]:
    return [low for low, _ in pairs] + [high for _, high in pairs]


def _one_batch(x: Any, rank: int) -> None:
    if x.ndim != rank + 2:
        raise Unsupported(f"x must have one batch axis, got shape {x.shape}")


def _array(writer: Any, name: str) -> np.ndarray:
    return np.asarray(writer.params[name])


def _kernel(writer: Any) -> str:
    """Returns ``(*window, b, a)`` as ``(a, b, *window)``."""
    kernel = _array(writer, "kernel")
    return writer.constant(kernel.transpose((kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))), "kernel")


def _bias(writer: Any, layer: Any) -> list[str]:
    return [writer.constant(_array(writer, "bias"), "bias")] if layer.bias else []


def _window(layer: Any) -> dict[str, Any]:
    window, strides, dilations = layer.axes()
    return {"kernel_shape": list(window), "strides": list(strides), "dilations": list(dilations)}


def _conv(writer: Any, layer: nn.Conv, x: Any) -> Written:
    _one_batch(x, layer.rank)
    name = writer.first(x)
    pads = layer.pairs(x.struct)
    if layer.pad_mode != "zeros" and any(map(any, pads)):
        amounts = [(0, 0), (0, 0), *pads]
        name = writer.add("Pad", [name, writer.constant(np.array(_flat(amounts)))], mode=_MODES[layer.pad_mode])
        pads = ((0, 0),) * layer.rank
    inputs = [name, _kernel(writer), *_bias(writer, layer)]
    return writer.add("Conv", inputs, pads=_flat(pads), group=layer.groups, **_window(layer)), True


def _conv_transpose(writer: Any, layer: nn.ConvTranspose, x: Any) -> Written:
    _one_batch(x, layer.rank)
    window, strides, dilations = layer.axes()
    pads, extra = geo.transpose_padding(layer.padding, window, strides, dilations, layer.output_padding)
    more = {"output_padding": list(extra)} if any(extra) else {}
    inputs = [writer.first(x), _kernel(writer), *_bias(writer, layer)]
    node = writer.add("ConvTranspose", inputs, pads=_flat(pads), group=layer.groups, **_window(layer), **more)
    return node, True


def _dense(writer: Any, layer: nn.Dense, x: Any) -> Written:
    kernel, bias = _array(writer, "kernel"), _bias(writer, layer)
    if x.ndim == 2:
        return writer.add("Gemm", [x.name, writer.constant(kernel, "kernel"), *bias]), False
    if x.first:
        # On a map it is a convolution with a window of 1.
        taps = kernel.T.reshape(*kernel.T.shape, *(1,) * (x.ndim - 2))
        return writer.add("Conv", [x.name, writer.constant(taps, "kernel"), *bias]), True
    product = writer.add("MatMul", [x.name, writer.constant(kernel, "kernel")])
    return (writer.add("Add", [product, *bias]) if bias else product), False


def _pool(op: str, **options: Callable[[Any], Any]) -> Callable[..., Written]:
    def write(writer: Any, layer: Any, x: Any) -> Written:
        _one_batch(x, layer.rank)
        attributes = {name: value(layer) for name, value in options.items()}
        pads = _flat(layer.pairs(x.struct))
        if op == "AveragePool" and not any(pads):
            # The same without padding; onnxruntime counts what hangs over the rim where it is to count padding.
            attributes["count_include_pad"] = 0
        ceil = int(layer.ceil_mode)
        return writer.add(op, [writer.first(x)], pads=pads, ceil_mode=ceil, **_window(layer), **attributes), True

    return write


def _global(op: str) -> Callable[..., Written]:
    def write(writer: Any, layer: Any, x: Any) -> Written:
        _one_batch(x, layer.rank)
        return writer.add("Flatten", [writer.add(op, [writer.first(x)])], axis=1), False

    return write


def _adaptive(op: str) -> Callable[..., Written]:
    def write(writer: Any, layer: Any, x: Any) -> Written:
        _one_batch(x, layer.rank)
        sizes, wanted = batched_sizes(x, layer.rank), geo.as_tuple(layer.size, layer.rank, "size")
        pairs = list(zip(sizes, wanted, strict=True))
        if all(n % m == 0 for n, m in pairs):
            window = [n // m for n, m in pairs]
            return writer.add(op, [writer.first(x)], kernel_shape=window, strides=window), True
        if all(m % n == 0 for n, m in pairs):
            # Bins of one element, each several times.
            inputs = [writer.first(x), "", "", writer.constant(np.array(wanted))]
            return writer.add("Resize", inputs, axes=list(range(2, x.ndim)), **_METHODS["nearest"]), True
        if op == "MaxPool":
            raise Unsupported(f"its bins must tile the map: {wanted} of {sizes}")
        olds, news = "abcd"[: layer.rank], "efgh"[: layer.rank]
        terms = ",".join([f"yz{olds}", *(old + new for old, new in zip(olds, news, strict=True))])
        matrices = [writer.constant(_means(n, m).astype(x.dtype)) for n, m in pairs]
        return writer.add("Einsum", [writer.first(x), *matrices], equation=f"{terms}->yz{news}"), True

    return write


def _means(n: int, m: int) -> np.ndarray:
    """Returns the matrix that takes the means of m bins of n elements."""
    matrix = np.zeros((n, m))
    for i, (start, stop) in enumerate(geo.adaptive_bins(n, m)):
        matrix[start:stop, i] = 1 / (stop - start)
    return matrix


def _flatten(writer: Any, layer: nn.Flatten, x: Any) -> Written:
    _one_batch(x, layer.rank)
    name = writer.first(x) if layer.channels_first else writer.last(x)
    return writer.add("Flatten", [name], axis=1), False


def _affine(writer: Any, layer: Any, channels: int) -> list[str]:
    scale = _array(writer, "scale") if layer.scale else np.ones(channels, np.float32)
    bias = _array(writer, "bias") if layer.bias else np.zeros(channels, np.float32)
    return [writer.constant(scale, "scale"), writer.constant(bias, "bias")]


def _batch_norm(writer: Any, layer: nn.BatchNorm, x: Any) -> Written:
    mean, var = (np.asarray(writer.state[name]) for name in ("mean", "var"))
    inputs = [writer.first(x), *_affine(writer, layer, len(mean))]
    inputs += [writer.constant(mean, "mean"), writer.constant(var, "var")]
    momentum = 1 - layer.momentum
    return writer.add("BatchNormalization", inputs, epsilon=layer.eps, momentum=momentum), True


def _layer_norm(writer: Any, layer: nn.LayerNorm, x: Any) -> Written:
    scale, bias = _affine(writer, layer, x.shape[-1])
    inputs = [writer.last(x), scale, *([bias] if layer.bias else [])]
    name = writer.add("LayerNormalization", inputs, axis=-1, epsilon=layer.eps)
    if x.ndim < 3 or not x.first:
        return name, False
    return writer.add("Transpose", [name], perm=[0, x.ndim - 1, *range(1, x.ndim - 1)]), True


def _instance_norm(writer: Any, layer: nn.InstanceNorm, x: Any) -> Written:
    inputs = [writer.first(x), *_affine(writer, layer, x.shape[-1])]
    return writer.add("InstanceNormalization", inputs, epsilon=layer.eps), True


def _group_norm(writer: Any, layer: nn.GroupNorm, x: Any) -> Written:
    inputs = [writer.first(x), *_affine(writer, layer, x.shape[-1])]
    return writer.add("GroupNormalization", inputs, num_groups=layer.groups, epsilon=layer.eps), True


def _local_response_norm(writer: Any, layer: nn.LocalResponseNorm, x: Any) -> Written:
    options = {"alpha": layer.alpha, "beta": layer.beta, "bias": layer.k}
    return writer.add("LRN", [writer.first(x)], size=layer.size, **options), True


def _over_channels(array: np.ndarray, x: Any) -> np.ndarray:
    return array.reshape(-1, *(1,) * (x.ndim - 2)) if x.first else array


def _layer_scale(writer: Any, layer: nn.LayerScale, x: Any) -> Written:
    scale = writer.constant(_over_channels(_array(writer, "scale"), x), "scale")
    return writer.add("Mul", [x.name, scale]), x.first


def _prelu(writer: Any, layer: nn.PReLU, x: Any) -> Written:
    slope = writer.constant(_over_channels(_array(writer, "scale"), x), "scale")
    return writer.add("PRelu", [x.name, slope]), x.first


def _cast(writer: Any, name: str, given: Any, wanted: Any) -> str:
    """Returns the name of an array of another type."""
    to = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
    return name if given == wanted else writer.add("Cast", [name], to=to)


def _unit_norm(writer: Any, layer: nn.UnitNorm, x: Any) -> Written:
    axis = writer.constant(np.array([1 if x.first else x.ndim - 1]))
    wide = accumulator(x.dtype)
    y = _cast(writer, x.name, x.dtype, wide)
    norm = writer.add("ReduceL2", [y, axis], keepdims=1)
    norm = writer.add("Max", [norm, writer.constant(np.asarray(layer.eps, wide))])
    y = _cast(writer, writer.add("Div", [y, norm]), wide, x.dtype)
    if layer.value is not None:
        y = writer.add("Mul", [y, writer.constant(_over_channels(_array(writer, "scale"), x), "scale")])
    return y, x.first


def _same(writer: Any, layer: Any, x: Any) -> Written:
    return x.name, x.first


def _pad(writer: Any, layer: nn.Pad, x: Any) -> Written:
    _one_batch(x, layer.rank)
    amounts = [(0, 0), (0, 0), *geo.explicit_padding(layer.padding, layer.rank)]
    inputs = [writer.first(x), writer.constant(np.array(_flat(amounts)))]
    if layer.mode == "zeros":
        inputs.append(writer.constant(np.asarray(layer.value, x.dtype)))
    return writer.add("Pad", inputs, mode=_MODES[layer.mode]), True


_METHODS = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "nearest_exact": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
    "bilinear": {"mode": "linear"},
    "linear": {"mode": "linear"},
    "trilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic"},
    "cubic": {"mode": "cubic"},
}


def _resize(writer: Any, layer: nn.Resize, x: Any) -> Written:
    _one_batch(x, layer.rank)
    sizes, wanted = batched_sizes(x, layer.rank), layer._sizes(x)
    if layer.method not in _METHODS or (layer.antialias and any(m < n for n, m in zip(sizes, wanted, strict=True))):
        raise Unsupported(f"ONNX's method differs from {layer.method}{' with antialias' * layer.antialias}")
    options = dict(_METHODS[layer.method])
    if layer.align_corners:
        options["coordinate_transformation_mode"] = "align_corners"
    axes = list(range(2, x.ndim))
    inputs = [writer.first(x), "", "", writer.constant(np.array(wanted))]
    return writer.add("Resize", inputs, axes=axes, **options), True


def _pixel_shuffle(writer: Any, layer: nn.PixelShuffle, x: Any) -> Written:
    _one_batch(x, layer.rank)
    if layer.rank != 2:
        raise Unsupported("DepthToSpace has two spatial axes")
    return writer.add("DepthToSpace", [writer.first(x)], blocksize=layer.factor, mode="CRD"), True


def _channel_shuffle(writer: Any, layer: nn.ChannelShuffle, x: Any) -> Written:
    channels, rest = x.shape[-1], math.prod(x.shape[1:-1])
    groups = writer.constant(np.array([0, layer.groups, channels // layer.groups, rest]))
    split = writer.add("Reshape", [writer.first(x), groups])
    swapped = writer.add("Transpose", [split], perm=[0, 2, 1, 3])
    shape = writer.constant(np.array([0, channels, *x.shape[1:-1]]))
    return writer.add("Reshape", [swapped, shape]), x.ndim > 2


def _function(writer: Any, layer: nn.Fn, x: Any) -> Written:
    softmax = {jax.nn.softmax: "Softmax", jax.nn.log_softmax: "LogSoftmax"}
    name = getattr(layer.function, "__qualname__", "")
    if name in _BY_NAME and _BY_NAME[name][0] is layer.function:
        return writer.add(_BY_NAME[name][1], [x.name]), x.first
    for function, op in softmax.items():
        if layer.function is function:
            return writer.add(op, [x.name], axis=1 if x.first else -1), x.first
    return pointwise(writer, layer.function, [x.struct], [x.name]), x.first


_BY_NAME = {getattr(function, "__qualname__", ""): (function, op) for function, op in _FUNCTIONS.items()}

LAYERS: dict[type, Callable[..., Written]] = {
    nn.AdaptiveAvgPool: _adaptive("AveragePool"),
    nn.AdaptiveMaxPool: _adaptive("MaxPool"),
    nn.AvgPool: _pool("AveragePool", count_include_pad=lambda layer: int(layer.count_include_pad)),
    nn.BatchNorm: _batch_norm,
    nn.ChannelShuffle: _channel_shuffle,
    nn.Conv: _conv,
    nn.ConvTranspose: _conv_transpose,
    nn.Dense: _dense,
    nn.DropPath: _same,
    nn.Dropout: _same,
    nn.Flatten: _flatten,
    nn.Fn: _function,
    nn.GlobalAvgPool: _global("GlobalAveragePool"),
    nn.GlobalMaxPool: _global("GlobalMaxPool"),
    nn.GroupNorm: _group_norm,
    nn.Identity: _same,
    nn.InstanceNorm: _instance_norm,
    nn.LayerNorm: _layer_norm,
    nn.LayerScale: _layer_scale,
    nn.LocalResponseNorm: _local_response_norm,
    nn.LpPool: _pool("LpPool", p=lambda layer: int(layer.p)),
    nn.MaxPool: _pool("MaxPool"),
    nn.PReLU: _prelu,
    nn.Pad: _pad,
    nn.PixelShuffle: _pixel_shuffle,
    nn.Resize: _resize,
    nn.UnitNorm: _unit_norm,
}
