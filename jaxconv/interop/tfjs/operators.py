"""TensorFlow's operators as functions of their attributes and arrays; feature maps are channels last, as in jaxconv.

An array that is a constant, or follows from shapes, is a NumPy array; so arguments such as axes are known.
"""

import functools
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.fields import IDENTITY, Field, covering_field
from jaxconv.layers.base import Geometry
from jaxconv.ops.arrays import apply_along

Attributes = dict[str, Any]


class Row(NamedTuple):
    """How an operator runs.

    Attributes:
      function: takes the attributes and the arrays, returns an array or a tuple of arrays.
      geometry: takes the same, and returns what an output position sees of the arrays, or None where that is not known;
        None for an operator that may mix the examples of a batch.
      vector: the name of a parameter, for an operator that has vectors of weights among its constants.
    """

    function: Callable[..., Any]
    geometry: Callable[..., Geometry] | None = None
    vector: str = ""


def known(value: Any, name: str) -> tuple[int, ...]:
    """Returns the integers of an argument that must be known when the network is traced."""
    if not isinstance(value, np.ndarray):
        raise ArgumentError(f"{name} must be a constant or follow from shapes, got an array that depends on x")
    return tuple(int(n) for n in value.reshape(-1))


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise ArgumentError(f"axis must be between {-rank} and {rank - 1} for an array of rank {rank}, got {axis}")
    return axis % max(rank, 1)


# --- Element by element -----------------------------------------------------------------------------------------------


def _same_positions(a: Attributes, *arrays: Any) -> Geometry:
    """Returns () where all arrays that are not constants are feature maps of one rank."""
    ranks = {len(x.shape) for x in arrays if not isinstance(x, np.ndarray)}
    return () if len(ranks) == 1 and max(ranks) > 2 else None


def _each(function: Callable[..., Any], vector: str = "") -> Row:
    return Row(lambda a, *arrays: function(*arrays), _same_positions, vector)


def _cast(a: Attributes, x: Any) -> Any:
    return jnp.asarray(x).astype(a["DstT"])


def _divide(x: Any, y: Any) -> Any:
    if jnp.issubdtype(jnp.result_type(x, y), jnp.integer):
        raise ArgumentError(f"x must be floating-point, got {x.dtype} and {y.dtype}")
    return jnp.divide(x, y)


def _divide_no_nan(x: Any, y: Any) -> Any:
    return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))


def _add_all(*arrays: Any) -> Any:
    return functools.reduce(jnp.add, arrays)


def _leaky_relu(a: Attributes, x: Any) -> Any:
    return jax.nn.leaky_relu(x, a.get("alpha", 0.2))


def _prelu(x: Any, slope: Any) -> Any:
    return jnp.where(x < 0, slope * x, x)


UNARY: dict[str, Callable[..., Any]] = {
    "Abs": jnp.abs,
    "Ceil": jnp.ceil,
    "Cos": jnp.cos,
    "Elu": jax.nn.elu,
    "Erf": jax.lax.erf,
    "Exp": jnp.exp,
    "Floor": jnp.floor,
    "Log": jnp.log,
    "LogicalNot": jnp.logical_not,
    "Neg": jnp.negative,
    "Reciprocal": jnp.reciprocal,
    "Relu": jax.nn.relu,
    "Relu6": jax.nn.relu6,
    "Round": jnp.round,
    "Rsqrt": jax.lax.rsqrt,
    "Selu": jax.nn.selu,
    "Sigmoid": jax.nn.sigmoid,
    "Sign": jnp.sign,
    "Sin": jnp.sin,
    "Softplus": jax.nn.softplus,
    "Sqrt": jnp.sqrt,
    "Square": jnp.square,
    "Tanh": jnp.tanh,
}
_PAIRS: dict[str, tuple[Callable[..., Any], str]] = {
    "Add": (jnp.add, "bias"),
    "AddN": (_add_all, ""),
    "AddV2": (jnp.add, "bias"),
    "BiasAdd": (jnp.add, "bias"),
    "DivNoNan": (_divide_no_nan, ""),
    "Equal": (jnp.equal, ""),
    "FloorDiv": (jnp.floor_divide, ""),
    "FloorMod": (jnp.mod, ""),
    "Greater": (jnp.greater, ""),
    "GreaterEqual": (jnp.greater_equal, ""),
    "Less": (jnp.less, ""),
    "LessEqual": (jnp.less_equal, ""),
    "LogicalAnd": (jnp.logical_and, ""),
    "LogicalOr": (jnp.logical_or, ""),
    "Maximum": (jnp.maximum, ""),
    "Minimum": (jnp.minimum, ""),
    "Mul": (jnp.multiply, "scale"),
    "NotEqual": (jnp.not_equal, ""),
    "Pow": (jnp.power, ""),
    "Prelu": (_prelu, ""),
    "RealDiv": (_divide, "scale"),
    "Select": (jnp.where, ""),
    "SelectV2": (jnp.where, ""),
    "SquaredDifference": (lambda x, y: jnp.square(x - y), ""),
    "Sub": (jnp.subtract, "bias"),
}

# --- Over axes --------------------------------------------------------------------------------------------------------


def _reduction(function: Callable[..., Any]) -> Row:
    def axes_of(x: Any, axes: Any) -> tuple[int, ...]:
        return tuple(_axis(axis, len(x.shape)) for axis in known(axes, "reduction_indices"))

    def run(a: Attributes, x: Any, axes: Any) -> Any:
        return function(x, axis=axes_of(x, axes), keepdims=bool(a.get("keep_dims")))

    def geometry(a: Attributes, x: Any, axes: Any) -> Geometry:
        rank, dropped = len(x.shape), axes_of(x, axes)
        spatial = tuple(range(1, rank - 1))
        if rank < 3 or 0 in dropped or not (a.get("keep_dims") or dropped == spatial):
            return None
        return tuple(Field(x.shape[axis], 0, 0) if axis in dropped else IDENTITY for axis in spatial)

    return Row(run, geometry)


def _arg(function: Callable[..., Any]) -> Row:
    def run(a: Attributes, x: Any, axis: Any) -> Any:
        return function(x, _axis(known(axis, "dimension")[0], x.ndim)).astype(jnp.int32)

    return Row(run)


def _top_k(a: Attributes, x: Any, k: Any) -> Any:
    return tuple(jax.lax.top_k(x, known(k, "k")[0]))


def _softmax(function: Callable[..., Any]) -> Row:
    return Row(lambda a, x: function(x, axis=-1), _same_positions)


def _unknown(a: Attributes, *arrays: Any) -> Geometry:
    return None


def _matmul(a: Attributes, x: Any, y: Any, bias: Any = None) -> Any:
    x = jnp.swapaxes(x, -1, -2) if a.get("transpose_a") or a.get("adj_x") else x
    y = jnp.swapaxes(y, -1, -2) if a.get("transpose_b") or a.get("adj_y") else y
    product = jnp.matmul(x, y)
    return product if bias is None else product + bias


# --- Shapes -----------------------------------------------------------------------------------------------------------


def _reshape(a: Attributes, x: Any, shape: Any) -> Any:
    return jnp.reshape(x, known(shape, "shape"))


def _squeeze(a: Attributes, x: Any) -> Any:
    axes = a.get("squeeze_dims") or [axis for axis, n in enumerate(x.shape) if n == 1]
    axes = tuple(_axis(axis, x.ndim) for axis in axes)
    if any(x.shape[axis] != 1 for axis in axes):
        raise ShapeError(f"squeeze_dims must be of length 1, got {axes} for shape {x.shape}")
    return jnp.squeeze(x, axes)


def _expand(a: Attributes, x: Any, dim: Any) -> Any:
    return jnp.expand_dims(x, known(dim, "dim")[0])


def _transpose(a: Attributes, x: Any, perm: Any) -> Any:
    return jnp.transpose(x, known(perm, "perm"))


def _concat(a: Attributes, *arrays: Any) -> Any:
    return jnp.concatenate(arrays[:-1], known(arrays[-1], "axis")[0])


def _concat_geometry(a: Attributes, *arrays: Any) -> Geometry:
    rank = len(arrays[0].shape)
    [axis] = known(arrays[-1], "axis")
    return _same_positions(a, *arrays[:-1]) if _axis(axis, rank) in (0, rank - 1) else None


def _pack(a: Attributes, *arrays: Any) -> Any:
    return jnp.stack(arrays, a.get("axis", 0))


def _unpack(a: Attributes, x: Any) -> Any:
    axis = _axis(a.get("axis", 0), x.ndim)
    if x.shape[axis] != a["num"]:
        raise ShapeError(f"x must have length {a['num']} along axis {axis}, got shape {x.shape}")
    return tuple(jnp.take(x, i, axis) for i in range(a["num"]))


def _split(a: Attributes, axis: Any, x: Any) -> Any:
    return tuple(jnp.split(x, a["num_split"], known(axis, "split_dim")[0]))


def _split_sizes(a: Attributes, x: Any, sizes: Any, axis: Any) -> Any:
    ends = np.cumsum(known(sizes, "size_splits"))[:-1]
    return tuple(jnp.split(x, [int(n) for n in ends], known(axis, "split_dim")[0]))


def _slice(a: Attributes, x: Any, begin: Any, size: Any) -> Any:
    starts, sizes = known(begin, "begin"), known(size, "size")
    return x[tuple(slice(i, None if n < 0 else i + n) for i, n in zip(starts, sizes, strict=True))]


def _strided_slice(a: Attributes, x: Any, begin: Any, end: Any, strides: Any) -> Any:
    at: list[Any] = []
    for i, cut in enumerate(zip(*(known(v, "begin, end and strides") for v in (begin, end, strides)), strict=True)):

        def has(mask: str, i: int = i) -> bool:
            return bool(a.get(mask, 0) >> i & 1)

        if has("ellipsis_mask"):
            at.append(Ellipsis)
        elif has("new_axis_mask"):
            at.append(None)
        elif has("shrink_axis_mask"):
            at.append(cut[0])
        else:
            at.append(slice(None if has("begin_mask") else cut[0], None if has("end_mask") else cut[1], cut[2]))
    return x[tuple(at)]


def _pad(a: Attributes, x: Any, paddings: Any, value: Any = None) -> Any:
    amounts = np.reshape(known(paddings, "paddings"), (-1, 2)).tolist()
    fill = 0 if value is None else value
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), [(low, high, 0) for low, high in amounts])


def _mirror_pad(a: Attributes, x: Any, paddings: Any) -> Any:
    amounts = np.reshape(known(paddings, "paddings"), (-1, 2)).tolist()
    return jnp.pad(x, amounts, {"REFLECT": "reflect", "SYMMETRIC": "symmetric"}[a["mode"].upper()])


def _pad_geometry(a: Attributes, x: Any, paddings: Any, value: Any = None) -> Geometry:
    amounts = np.reshape(known(paddings, "paddings"), (-1, 2)).tolist()
    if len(amounts) < 3 or any((*amounts[0], *amounts[-1])):
        return None
    return tuple(Field(1, 1, -low) for low, _ in amounts[1:-1])


def _shape(a: Attributes, x: Any) -> Any:
    return np.array(x.shape, np.int32)


# --- At indices -------------------------------------------------------------------------------------------------------


def _gather(a: Attributes, x: Any, indices: Any, axis: Any = None) -> Any:
    if a.get("batch_dims"):
        raise ArgumentError(f"batch_dims must be 0, got {a['batch_dims']}")
    return jnp.take(x, indices, 0 if axis is None else known(axis, "axis")[0], mode="clip")


def _gather_nd(a: Attributes, x: Any, indices: Any) -> Any:
    return jnp.asarray(x)[tuple(jnp.moveaxis(jnp.asarray(indices), -1, 0))]


# --- Resizing ---------------------------------------------------------------------------------------------------------


def _sources(n: int, m: int, a: Attributes) -> np.ndarray:
    """Returns for each of m elements the position among n that it is read from."""
    at = np.arange(m, dtype=np.float64)
    if a.get("align_corners"):
        return at * (n - 1) / max(m - 1, 1)
    return (at + 0.5) * n / m - 0.5 if a.get("half_pixel_centers") else at * n / m


def _bilinear(n: int, m: int, a: Attributes) -> np.ndarray:
    """Returns the matrix ``(n, m)`` that resizes one axis."""
    source = np.clip(_sources(n, m, a), 0, n - 1)
    return np.maximum(1 - np.abs(np.arange(n)[:, None] - source), 0)


def _resize_bilinear(a: Attributes, x: Any, size: Any) -> Any:
    for axis, m in zip((1, 2), known(size, "size"), strict=True):
        x = apply_along(x, _bilinear(x.shape[axis], m, a), axis)
    return x


def _resize_bilinear_geometry(a: Attributes, x: Any, size: Any) -> Geometry:
    fields = []
    for n, m in zip(x.shape[1:3], known(size, "size"), strict=True):
        rows = (np.flatnonzero(column) for column in _bilinear(n, m, a).T)
        spans = {i: (int(at[0]), int(at[-1]) + 1) for i, at in enumerate(rows)}
        fields.append(covering_field(spans, Fraction(n, m)))
    return tuple(fields)


def _resize_nearest(a: Attributes, x: Any, size: Any) -> Any:
    for axis, m in zip((1, 2), known(size, "size"), strict=True):
        n = x.shape[axis]
        source = _sources(n, m, a) + 0.5 * bool(a.get("half_pixel_centers") or a.get("align_corners"))
        x = jnp.take(x, np.clip(np.floor(source), 0, n - 1).astype(np.int32), axis)
    return x


def _blocks_to_space(a: Attributes, x: Any) -> Any:
    size = a["block_size"]
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height, width, size, size, channels // size**2).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, height * size, width * size, -1)


TABLE: dict[str, Row] = {
    **{name: _each(function) for name, function in UNARY.items()},
    **{name: _each(*pair) for name, pair in _PAIRS.items()},
    "All": _reduction(jnp.all),
    "Any": _reduction(jnp.any),
    "ArgMax": _arg(jnp.argmax),
    "ArgMin": _arg(jnp.argmin),
    "BatchMatMul": Row(_matmul),
    "BatchMatMulV2": Row(_matmul),
    "Cast": Row(_cast, _same_positions),
    "ConcatV2": Row(_concat, _concat_geometry),
    "DepthToSpace": Row(_blocks_to_space, _unknown),
    "ExpandDims": Row(_expand),
    "Gather": Row(_gather),
    "GatherNd": Row(_gather_nd),
    "GatherV2": Row(_gather),
    "Identity": Row(lambda a, x: x, _same_positions),
    "LeakyRelu": Row(_leaky_relu, _same_positions),
    "LogSoftmax": _softmax(jax.nn.log_softmax),
    "MatMul": Row(_matmul, _unknown),
    "Max": _reduction(jnp.max),
    "Mean": _reduction(jnp.mean),
    "Min": _reduction(jnp.min),
    "MirrorPad": Row(_mirror_pad, _unknown),
    "Pack": Row(_pack),
    "Pad": Row(_pad, _pad_geometry),
    "PadV2": Row(_pad, _pad_geometry),
    "Prod": _reduction(jnp.prod),
    "Reshape": Row(_reshape),
    "ResizeBilinear": Row(_resize_bilinear, _resize_bilinear_geometry),
    "ResizeNearestNeighbor": Row(_resize_nearest, _unknown),
    "Shape": Row(_shape),
    "Slice": Row(_slice),
    "Softmax": _softmax(jax.nn.softmax),
    "Split": Row(_split),
    "SplitV": Row(_split_sizes),
    "Squeeze": Row(_squeeze),
    "StopGradient": Row(lambda a, x: jax.lax.stop_gradient(x), _same_positions),
    "StridedSlice": Row(_strided_slice),
    "Sum": _reduction(jnp.sum),
    "TopKV2": Row(_top_k),
    "Transpose": Row(_transpose),
    "Unpack": Row(_unpack),
}
