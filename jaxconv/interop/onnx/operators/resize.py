"""Resize and Upsample: each axis by a matrix, for every mode of ONNX.

`jaxconv.resize` has torch's modes, and accepts sizes. ONNX's modes differ in rounding, in the values at the border, and
in scales that are not the ratio of two sizes.
"""

import functools
from fractions import Fraction
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.fields import IDENTITY, Field, covering_field
from jaxconv.interop.onnx.operators.base import Row, constant, integers
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Plan, Value, as_axis, last
from jaxconv.layers.base import Geometry
from jaxconv.ops.arrays import accumulator, apply_along


class Sampling(NamedTuple):
    """How one axis is resized: from n to m elements, m about ``n * scale``."""

    n: int
    m: int
    scale: float
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic: float = -0.75
    outside: bool = True
    antialias: bool = False
    start: float = 0.0
    stop: float = 1.0


def _source(s: Sampling) -> np.ndarray:
    """Returns for each output where it is read from."""
    x = np.arange(s.m, dtype=np.float64)
    width = s.scale * s.n
    if s.coordinates == "align_corners":
        return np.zeros(s.m) if width == 1 else x * (s.n - 1) / (width - 1)
    if s.coordinates == "asymmetric":
        return x / s.scale
    if s.coordinates == "tf_crop_and_resize":
        extent = (s.stop - s.start) * (s.n - 1)
        inside = np.full(s.m, extent / 2) if width == 1 else x * extent / (width - 1)
        return inside + s.start * (s.n - 1)
    if s.coordinates == "pytorch_half_pixel" and width == 1:
        return np.full(s.m, -0.5)
    if s.coordinates == "half_pixel_symmetric":
        return s.n / 2 * (1 - s.m / width) + (x + 0.5) / s.scale - 0.5
    return (x + 0.5) / s.scale - 0.5


def _keys(t: np.ndarray, a: float) -> np.ndarray:
    """Returns the cubic kernel of Keys (1981)."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


@functools.lru_cache(maxsize=256)
def _matrix(s: Sampling) -> np.ndarray:
    """Returns the matrix ``(n, m)`` that resizes one axis."""
    source = _source(s)
    left = np.ceil(source) - 1
    ratio = source - left
    shrink = min(s.scale, 1.0) if s.antialias else 1.0
    reach = {"nearest": 1, "linear": 1, "cubic": 2}[s.mode]
    first = int(np.floor(-reach / shrink)) + 1
    taps = np.arange(first, 2 - first)[:, None]
    if s.mode == "nearest":
        upper = {
            "round_prefer_floor": ratio > 0.5,
            "round_prefer_ceil": ratio >= 0.5,
            "floor": ratio == 1,
            "ceil": ratio > 0,
        }[s.nearest]
        weights = np.where(taps == 1, upper, ~upper).astype(np.float64)
    elif s.mode == "linear":
        weights = np.maximum(1 - np.abs((taps - ratio) * shrink), 0)
    else:
        weights = _keys((taps - ratio) * shrink, s.cubic)
    if s.antialias:
        weights = weights / weights.sum(axis=0)
    at = (left + taps).astype(int)
    if not s.outside:
        weights = np.where((at >= 0) & (at < s.n), weights, 0)
        weights = weights / weights.sum(axis=0)
    matrix = np.zeros((s.n, s.m))
    np.add.at(matrix, (np.clip(at, 0, s.n - 1), np.broadcast_to(np.arange(s.m), at.shape)), weights)
    matrix.flags.writeable = False
    return matrix


def _resized(x: Any, *, axes: tuple[tuple[int, Sampling], ...], value: float | None) -> Any:
    wide = accumulator(x.dtype)
    dtype, beyond = x.dtype, None
    for axis, s in axes:
        matrix = _matrix(s)
        nearest = s.mode == "nearest"
        x = _taken(x, matrix.argmax(axis=0), axis) if nearest else apply_along(x.astype(wide), matrix, axis)
        if value is not None:
            source = _source(s)
            out = ((source < 0) | (source > s.n - 1)).reshape(-1, *(1,) * (x.ndim - 1 - axis))
            beyond = out if beyond is None else beyond | out
    x = x if beyond is None or value is None else jnp.where(beyond, value, x)
    return x.astype(dtype)


def _taken(x: Any, at: np.ndarray, axis: int) -> Any:
    n, m = x.shape[axis], len(at)
    if m % n == 0 and np.array_equal(at, np.repeat(np.arange(n), m // n)):
        return jnp.repeat(x, m // n, axis)
    return jnp.take(x, at, axis, mode="clip")


def _field(s: Sampling) -> Field:
    rows = (np.flatnonzero(column) for column in _matrix(s).T)
    spans = {i: (int(at[0]), int(at[-1]) + 1) for i, at in enumerate(rows)}
    return covering_field(spans, Fraction(s.n, s.m))


def _plan(x: Value, samplings: dict[int, Sampling], value: float | None = None) -> Plan:
    """Returns the plan of a resize of the given ONNX axes."""
    changed = {axis: s for axis, s in samplings.items() if not np.array_equal(_matrix(s), np.eye(s.n))}
    # Along the last axis first: so the arrays stay small the longest where a map grows.
    axes = tuple((x.order.index(axis), s) for axis, s in sorted(changed.items()))
    fields: Geometry = None
    if x.order == last(x.rank) and not {0, 1} & set(changed):
        fields = tuple(_field(changed[axis]) if axis in changed else IDENTITY for axis in range(2, x.rank))
    return Plan(_resized, [x.plain()], [x.order], {"axes": axes, "value": value}, fields)


def _resize(node: Node, x: Value, *others: Value | None) -> Plan:
    if node.opset < 11:
        scales = constant(others[0], "scales")
        return _plan(x, _scaled(x, scales, range(x.rank), node["mode"], "asymmetric", "floor"))
    roi, scales, sizes = (constant(v, name) for v, name in zip((*others, None, None, None)[:3], _INPUTS, strict=True))
    axes = [as_axis(axis, x.rank, "axes") for axis in node.get("axes") or range(x.rank)]
    shape = [x.shape[axis] for axis in axes]
    if sizes is not None and sizes.size:
        wanted = [int(n) for n in sizes]
        ratios = [m / n for m, n in zip(wanted, shape, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(ratios)
            wanted = [int(np.floor(ratio * n + 0.5)) for n in shape]
    elif scales is not None and scales.size:
        ratios = [float(scale) for scale in scales]
        wanted = [int(np.floor(n * ratio)) for n, ratio in zip(shape, ratios, strict=True)]
    else:
        raise ArgumentError("one of scales and sizes must be given, got neither")
    if len(ratios) != len(axes) or min(ratios) <= 0:
        raise ArgumentError(f"scales must be positive, one for each of the axes {axes}, got {ratios}")
    coordinates = node["coordinate_transformation_mode"]
    crop = coordinates == "tf_crop_and_resize"
    bounds = [float(n) for n in roi] if crop and roi is not None else [0.0] * len(axes) + [1.0] * len(axes)
    samplings = {
        axis: Sampling(
            n,
            m,
            ratio,
            node["mode"],
            coordinates,
            node["nearest_mode"],
            node["cubic_coeff_a"],
            not node["exclude_outside"],
            bool(node.get("antialias", 0)) and ratio < 1,
            bounds[i],
            bounds[i + len(axes)],
        )
        for i, (axis, n, m, ratio) in enumerate(zip(axes, shape, wanted, ratios, strict=True))
    }
    return _plan(x, samplings, node["extrapolation_value"] if crop else None)


_INPUTS = ("roi", "scales", "sizes")


def _scaled(x: Value, scales: Any, axes: Any, mode: str, coordinates: str, nearest: str) -> dict[int, Sampling]:
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    return {
        axis: Sampling(n, int(np.floor(n * scale)), float(scale), mode, coordinates, nearest)
        for axis, n, scale in zip(axes, x.shape, scales, strict=True)
    }


def _upsample(node: Node, x: Value, scales: Value | None = None) -> Plan:
    factors = node["scales"] if scales is None else constant(scales, "scales")
    return _plan(x, _scaled(x, factors, range(x.rank), node["mode"], "asymmetric", "floor"))


# Crops or pads from the middle: the sizes of the axes.
def _center_crop_pad(node: Node, x: Value, shape: Value) -> Plan:
    axes = [as_axis(axis, x.rank, "axes") for axis in node.get("axes") or range(x.rank)]
    amounts = [(0, 0)] * x.rank
    for axis, m in zip(axes, integers(shape, "shape") or (), strict=True):
        over = m - x.shape[axis]
        low = over // 2 if over >= 0 else -((-over) // 2)
        amounts[x.order.index(axis)] = (low, over - low)
    return Plan(_padded, [x.plain()], [x.order], {"amounts": tuple(amounts)})


def _padded(x: Any, *, amounts: tuple[tuple[int, int], ...]) -> Any:
    from jax import lax

    return lax.pad(x, jnp.zeros((), x.dtype), [(*pair, 0) for pair in amounts])


ROWS = {
    "CenterCropPad": Row(_center_crop_pad),
    "Resize": Row(_resize, trained=False),
    "Upsample": Row(_upsample, trained=False),
}
