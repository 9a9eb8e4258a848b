"""Operators that read and write at indices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.interop.onnx.operators.base import Row, constant
from jaxconv.interop.onnx.operators.reductions import without
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import Plan, Value, as_axis, last, natural, numpy_for
from jaxconv.layers.base import Geometry


def _gather(node: Node, x: Value, indices: Value) -> Plan:
    axis = as_axis(node["axis"], x.rank)
    if indices.rank == 0 and x.rank > 1:
        # One slice of an axis: the other axes stay where they are.
        options = {"axis": x.order.index(axis)}
        return Plan(_taken, [x.plain(), indices.plain()], [without(x.order, {axis})], options)
    if indices.rank == 1:
        position = x.order.index(axis)
        fields: Geometry = () if x.order == last(x.rank) and position == x.rank - 1 else None
        return Plan(_taken, [x.plain(), indices.plain()], [x.order], {"axis": position}, fields)
    order = natural(x.rank + indices.rank - 1)
    return Plan(_taken, [x.to(natural(x.rank)), indices.to(natural(indices.rank))], [order], {"axis": axis})


def _counted(indices: Any, size: int) -> Any:
    """Returns indices that count from the front."""
    xp = numpy_for(indices)
    if isinstance(indices, np.ndarray) and indices.size and not (-size <= indices.min() and indices.max() < size):
        raise ArgumentError(f"indices must be between {-size} and {size - 1}, got {indices.min()} to {indices.max()}")
    return xp.where(indices < 0, indices + size, indices)


def _taken(x: Any, indices: Any, *, axis: int) -> Any:
    at = _counted(indices, x.shape[axis])
    if numpy_for(x, indices) is np:
        return np.take(x, at, axis)
    return jnp.take(x, at, axis, mode="clip")


def _gather_elements(node: Node, x: Value, indices: Value) -> Plan:
    args = [value.to(natural(value.rank)) for value in (x, indices)]
    return Plan(_elements, args, [natural(x.rank)], {"axis": as_axis(node["axis"], x.rank)})


def _grid(indices: Any, axis: int, size: int) -> tuple[Any, ...]:
    """Returns the index of each axis for elements whose index along one axis is given."""
    grid = list(jnp.indices(indices.shape, sparse=True))
    grid[axis] = _counted(indices, size)
    return tuple(grid)


def _elements(x: Any, indices: Any, *, axis: int) -> Any:
    return jnp.asarray(x)[_grid(indices, axis, x.shape[axis])]


def _gather_nd(node: Node, x: Value, indices: Value) -> Plan:
    batch = node.get("batch_dims", 0)
    args = [value.to(natural(value.rank)) for value in (x, indices)]
    rank = x.rank + indices.rank - indices.shape[-1] - 1 - batch
    return Plan(_gathered_nd, args, [natural(rank)], {"batch": batch})


def _gathered_nd(x: Any, indices: Any, *, batch: int) -> Any:
    def one(x: Any, indices: Any) -> Any:
        return x[tuple(_counted(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))]

    for _ in range(batch):
        one = jax.vmap(one)
    return one(jnp.asarray(x), jnp.asarray(indices))


def _scatter_nd(node: Node, x: Value, indices: Value, updates: Value) -> Plan:
    args = [value.to(natural(value.rank)) for value in (x, indices, updates)]
    return Plan(_scattered_nd, args, [natural(x.rank)], {"reduction": node.get("reduction", "none")})


_METHODS = {"none": "set", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _scattered_nd(x: Any, indices: Any, updates: Any, *, reduction: str) -> Any:
    x = jnp.asarray(x)
    at = tuple(_counted(indices[..., i], x.shape[i]) for i in range(indices.shape[-1]))
    return getattr(x.at[at], _METHODS[reduction])(updates)


def _scatter_elements(node: Node, x: Value, indices: Value, updates: Value) -> Plan:
    args = [value.to(natural(value.rank)) for value in (x, indices, updates)]
    options = {"axis": as_axis(node["axis"], x.rank), "reduction": node.get("reduction", "none")}
    return Plan(_scattered_elements, args, [natural(x.rank)], options)


def _scattered_elements(x: Any, indices: Any, updates: Any, *, axis: int, reduction: str) -> Any:
    x = jnp.asarray(x)
    return getattr(x.at[_grid(indices, axis, x.shape[axis])], _METHODS[reduction])(updates)


def _one_hot(node: Node, indices: Value, depth: Value, values: Value) -> Plan:
    count = int(np.asarray(constant(depth, "depth")).reshape(()))
    axis = as_axis(node["axis"], indices.rank + 1)
    args = [indices.to(natural(indices.rank)), values.plain()]
    return Plan(_one_hot_of, args, [natural(indices.rank + 1)], {"depth": count, "axis": axis})


def _one_hot_of(indices: Any, values: Any, *, depth: int, axis: int) -> Any:
    at = jnp.asarray(indices).astype(jnp.int32)
    at = jnp.expand_dims(jnp.where(at < 0, at + depth, at), axis)
    shape = [1] * at.ndim
    shape[axis] = depth
    return jnp.where(at == jnp.arange(depth).reshape(shape), values[1], values[0])


def _grid_sample(node: Node, x: Value, grid: Value) -> Plan:
    options: dict[str, Any] = {name: node[name] for name in ("mode", "padding_mode")}
    options["align_corners"] = bool(node["align_corners"])
    order = last(x.rank)
    return Plan(_sampled, [x.to(order), grid.to(natural(grid.rank))], [order], options)


def _sampled(x: Any, grid: Any, *, mode: str, padding_mode: str, align_corners: bool) -> Any:
    """Reads maps ``(batch, *spatial, channels)`` at points from -1 to 1, their coordinates last axis first."""
    sizes = x.shape[1:-1]
    points = []
    for i, n in enumerate(sizes):
        at = grid[..., len(sizes) - 1 - i]
        points.append((at + 1) / 2 * (n - 1) if align_corners else ((at + 1) * n - 1) / 2)
    if padding_mode != "zeros":
        bounds = [(0, n - 1) if align_corners or padding_mode == "border" else (-0.5, n - 0.5) for n in sizes]
        fold = jnp.clip if padding_mode == "border" else _mirrored
        if mode not in ("cubic", "bicubic"):
            points = [fold(at, *bound) for at, bound in zip(points, bounds, strict=True)]
    return jax.vmap(lambda x, *points: _read(x, list(points), mode, padding_mode, align_corners))(x, *points)


def _mirrored(at: Any, low: float, high: float) -> Any:
    extent = high - low
    if extent == 0:
        return jnp.full_like(at, low)
    beyond = jnp.mod(at - low, 2 * extent)
    return low + jnp.where(beyond > extent, 2 * extent - beyond, beyond)


def _read(x: Any, points: list[Any], mode: str, padding_mode: str, align_corners: bool) -> Any:
    taps = {"nearest": (0,), "linear": (0, 1), "bilinear": (0, 1)}.get(mode, (-1, 0, 1, 2))
    total: Any = 0
    bases = [jnp.round(at) if mode == "nearest" else jnp.floor(at) for at in points]
    for offsets in np.ndindex(*(len(taps),) * len(points)):
        weight: Any = 1
        index, inside = [], True
        for at, base, offset, n in zip(points, bases, offsets, x.shape, strict=False):
            position = base + taps[offset]
            weight = weight * _kernel(at - position, mode)
            if padding_mode == "reflection":
                bound = (0, n - 1) if align_corners else (-0.5, n - 0.5)
                position = _mirrored(position, *bound)
            inside = inside & (position >= 0) & (position <= n - 1)
            index.append(jnp.clip(position, 0, n - 1).astype(jnp.int32))
        value = x[tuple(index)]
        keep = weight * inside if padding_mode == "zeros" else weight
        total = total + value * jnp.asarray(keep, x.dtype)[..., None]
    return total


def _kernel(t: Any, mode: str) -> Any:
    if mode == "nearest":
        return jnp.ones_like(t)
    t = abs(t)
    if mode in ("linear", "bilinear"):
        return 1 - t
    near = ((-0.75 + 2) * t - (-0.75 + 3)) * t * t + 1
    far = ((-0.75 * t + 3.75) * t - 6) * t + 3
    return jnp.where(t <= 1, near, jnp.where(t < 2, far, 0))


ROWS = {
    "Gather": Row(_gather, static=True),
    "GatherElements": Row(_gather_elements),
    "GatherND": Row(_gather_nd),
    "GridSample": Row(_grid_sample),
    "OneHot": Row(_one_hot, trained=False),
    "ScatterElements": Row(_scatter_elements),
    "ScatterND": Row(_scatter_nd),
}
