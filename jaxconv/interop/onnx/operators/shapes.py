"""Operators that move, cut and join arrays, and operators that return shapes.

They work on arrays in any order of axes: a transpose changes the order alone, and a reshape permutes only the axes that
it merges.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.fields import IDENTITY, Field
from jaxconv.interop.constants import Fixed
from jaxconv.interop.onnx.operators.base import Row, constant, integers
from jaxconv.interop.onnx.operators.elementwise import same
from jaxconv.interop.onnx.operators.reductions import without
from jaxconv.interop.onnx.operators.windows import pairs
from jaxconv.interop.onnx.read import Node
from jaxconv.interop.onnx.values import (
    Arg,
    Order,
    Plan,
    Value,
    as_axis,
    check_size,
    common_order,
    last,
    natural,
    numpy_for,
    pointwise,
)
from jaxconv.layers.base import Geometry, copied_fields

# --- Reshape ----------------------------------------------------------------------------------------------------------


def _groups(shape: Sequence[int], target: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Returns which axes become which: the shortest runs of equal size, axes of length 1 left out."""
    old = [axis for axis, n in enumerate(shape) if n != 1]
    new = [axis for axis, n in enumerate(target) if n != 1]
    groups = []
    while old or new:
        ours, theirs = [old.pop(0)] if old else [], [new.pop(0)] if new else []
        while (a := math.prod(shape[i] for i in ours)) != (b := math.prod(target[i] for i in theirs)):
            if a < b:
                ours.append(old.pop(0))
            else:
                theirs.append(new.pop(0))
        groups.append((ours, theirs))
    return groups


def _with_ones(order: list[int], rank: int, x: Value) -> Order:
    """Returns an order of all axes with these, the ones longer than 1, in this sequence: a usual one if it can be.

    Of two that can be, the one that leaves x's last stored axis last, or the one that x has.
    """
    usual = [natural(rank), last(rank)] if x.order == natural(x.rank) and x.rank > 2 else [last(rank), natural(rank)]
    fitting = [o for o in usual if [axis for axis in o if axis in order] == order]
    if order and x.data.shape[-1:] != (1,):
        fitting.sort(key=lambda o: o[-1] != order[-1])
    return fitting[0] if fitting else (*(axis for axis in range(rank) if axis not in order), *order)


def reshaped(x: Value, target: Sequence[int]) -> Plan:
    """Returns the plan of a reshape to a shape in ONNX's order of axes."""
    target = tuple(target)
    if 0 in target or 0 in x.shape:
        return Plan(_reshape, [x.to(natural(x.rank))], [natural(len(target))], {"shape": target})
    groups = _groups(x.shape, target)
    of = {axis: group for group in groups for axis in group[0]}
    wanted: list[int] = []
    result: list[int] = []
    for axis in x.order:
        if axis in of and axis not in wanted:
            wanted += of[axis][0]
            result += of[axis][1]
    ones = [axis for axis in x.order if axis not in wanted]
    held = [axis for axis in x.order if axis in wanted]
    # Where no axis moves, the array is reshaped as it is stored.
    arg = x.plain() if held == wanted else x.to((*ones, *wanted))
    order = _with_ones(result, len(target), x)
    shape = tuple(target[axis] for axis in order)
    return Plan(_reshape, [arg], [order], {"shape": shape}, _reshaped_fields(x, arg, order, shape))


def _reshaped_fields(x: Value, arg: Arg, order: Order, shape: Sequence[int]) -> Geometry:
    """Returns () where only channels are split or merged, or axes of length 1 dropped; else None."""
    old, new = x.data.shape, shape
    if x.rank < 2:
        return None
    if x.order == last(x.rank) and len(new) >= x.rank:
        kept = x.rank - 1
    elif order == last(len(new)) and (x.rank > len(new) or math.prod(old[1:-1]) == 1):
        kept = len(new) - 1
    else:
        return None
    dropped = math.prod(old[1:-1]) == 1 and len(new) == 2
    stay = tuple(old[:kept]) == tuple(new[:kept]) and (arg.perm or natural(x.rank))[:kept] == natural(kept)
    return () if dropped or stay else None


def _reshape(x: Any, *, shape: tuple[int, ...]) -> Any:
    return x.reshape(shape)


def _reshape_to(node: Node, x: Value, shape: Value | None = None) -> Plan:
    given = node["shape"] if shape is None else integers(shape, "shape")
    return reshaped(x, _resolved(node, x.shape, list(given or ())))


def _resolved(node: Node, shape: tuple[int, ...], target: list[int]) -> list[int]:
    """Returns the target with its 0 and -1 filled in, and the batch size of x for the one that the file fixes."""
    if not node.get("allowzero", 0):
        target = [shape[i] if n == 0 and i < len(shape) else n for i, n in enumerate(target)]
    size = math.prod(shape)
    if node.batch and target:
        fixed, now = node.batch
        rest = math.prod(n for n in target if n != -1)
        if -1 in target:
            if target[0] == fixed and shape[:1] == (now,):
                target[0] = now
        elif size != rest and size * fixed == rest * now and target[0] * now % fixed == 0:
            target[0] = target[0] * now // fixed
    if target.count(-1) == 1:
        rest = math.prod(n for n in target if n != -1)
        if rest and size % rest == 0:
            target[target.index(-1)] = size // rest
    if math.prod(target) != size or min(target, default=0) < 0:
        raise ShapeError(f"shape must have as many elements as the input of shape {shape}, got {tuple(target)}")
    return target


def _flatten(node: Node, x: Value) -> Plan:
    axis = node["axis"] % x.rank if node["axis"] < 0 else node["axis"]
    if not 0 <= axis <= x.rank:
        raise ArgumentError(f"axis must be between {-x.rank} and {x.rank}, got {node['axis']}")
    return reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def _squeeze(node: Node, x: Value, axes: Value | None = None) -> Plan:
    given = node.get("axes") if axes is None else integers(axes, "axes")
    if given is None:
        given = [axis for axis, n in enumerate(x.shape) if n == 1]
    dropped = {as_axis(axis, x.rank, "axes") for axis in given}
    if any(x.shape[axis] != 1 for axis in dropped):
        raise ShapeError(f"axes must be of length 1, got {sorted(dropped)} for shape {x.shape}")
    return reshaped(x, [n for axis, n in enumerate(x.shape) if axis not in dropped])


def _unsqueeze(node: Node, x: Value, axes: Value | None = None) -> Plan:
    given = (node["axes"] if axes is None else integers(axes, "axes")) or ()
    rank = x.rank + len(given)
    added = {as_axis(axis, rank, "axes") for axis in given}
    if len(added) < len(given):
        raise ArgumentError(f"axes must be different, got {tuple(given)}")
    sizes = iter(x.shape)
    return reshaped(x, [1 if axis in added else next(sizes) for axis in range(rank)])


def _transpose(node: Node, x: Value) -> Plan:
    perm = node.get("perm") or natural(x.rank)[::-1]
    if sorted(perm) != list(range(x.rank)):
        raise ArgumentError(f"perm must have each of the {x.rank} axes once, got {perm}")
    # What is stored stays; its axes have other numbers.
    return Plan(same, [x.plain()], [tuple(perm.index(axis) for axis in x.order)], {}, ())


# --- Joining and cutting ----------------------------------------------------------------------------------------------


def _concat(node: Node, *values: Value) -> Plan:
    order = common_order(values)
    axis = order.index(as_axis(node["axis"], len(order)))
    args = [value.to(order) for value in values]
    fields = pointwise(args, len(order)) if order == last(len(order)) and axis in (0, len(order) - 1) else None
    return Plan(_concatenated, args, [order], {"axis": axis}, fields)


def _concatenated(*arrays: Any, axis: int) -> Any:
    return numpy_for(*arrays).concatenate(arrays, axis)


def _split(node: Node, x: Value, split: Value | None = None) -> Plan:
    axis = as_axis(node["axis"], x.rank)
    sizes = node.get("split") if split is None else integers(split, "split")
    n, parts = x.shape[axis], len(node.outputs)
    if not sizes:
        share = -(-n // parts)
        sizes = [share] * (n // share) + ([n % share] if n % share else [])
    if sum(sizes) != n or len(sizes) != parts or min(sizes) < 0:
        raise ShapeError(f"split must have {parts} sizes that add up to {n}, got {tuple(sizes)}")
    ends = [sum(sizes[: i + 1]) for i in range(parts)]
    position = x.order.index(axis)
    spans = tuple((end - size, end) for size, end in zip(sizes, ends, strict=True))
    fields: Geometry = () if x.order == last(x.rank) and position in (0, x.rank - 1) else None
    return Plan(_parts, [x.plain()], [x.order] * parts, {"axis": position, "spans": spans}, fields)


def _parts(x: Any, *, axis: int, spans: tuple[tuple[int, int], ...]) -> tuple[Any, ...]:
    return tuple(x[(slice(None),) * axis + (slice(start, end),)] for start, end in spans)


def _slice(node: Node, x: Value, *inputs: Value | None) -> Plan:
    if node.opset < 10:
        starts, ends, axes, steps = node["starts"], node["ends"], node.get("axes"), None
    else:
        names = ("starts", "ends", "axes", "steps")
        values = (*inputs, None, None)[:4]
        starts, ends, axes, steps = (integers(v, name) for v, name in zip(values, names, strict=True))
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cuts: list[tuple[int, int | None, int]] = [(0, None, 1)] * x.rank
    fields = [IDENTITY] * max(x.rank - 2, 0)
    outer = False
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = as_axis(axis, x.rank, "axes")
        if step == 0:
            raise ArgumentError(f"steps must not be 0, got {tuple(steps)}")
        low, high, _ = slice(start, end, step).indices(x.shape[axis])
        cuts[x.order.index(axis)] = (low, None if high < 0 else high, step)
        if axis >= 2:
            fields[axis - 2] = Field(1, step, low)
        outer = outer or (axis >= 2 and step < 0)
    geometry: Geometry = tuple(fields) if x.order == last(x.rank) and not outer else None
    return Plan(_cut, [x.plain()], [x.order], {"cuts": tuple(cuts)}, geometry)


def _cut(x: Any, *, cuts: tuple[tuple[int, int | None, int], ...]) -> Any:
    return x[tuple(slice(*cut) for cut in cuts)]


_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "wrap": "wrap"}


def _pad(
    node: Node, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None
) -> Plan:
    amounts = node["pads"] if pads is None else integers(pads, "pads")
    fill = node.get("value", 0.0) if value is None else constant(value, "constant_value").reshape(()).item()
    given = range(x.rank) if axes is None else integers(axes, "axes")
    given = [as_axis(axis, x.rank, "axes") for axis in given or ()]
    if len(amounts or ()) != 2 * len(given):
        raise ArgumentError(f"pads must have two integers for each of {len(given)} axes, got {amounts}")
    places = dict(zip(given, pairs(amounts or ()), strict=True))
    stored = tuple(places.get(axis, (0, 0)) for axis in x.order)
    mode = node["mode"]
    spatial = [places.get(axis, (0, 0)) for axis in range(2, x.rank)]
    fields: Geometry = None
    if x.order == last(x.rank) and not any(map(any, (places.get(0, ()), places.get(1, ())))):
        fields = tuple(Field(1, 1, -low) for low, _ in spatial)
        if mode != "constant":
            fields = copied_fields(fields, {"wrap": "circular"}.get(mode, mode), tuple(spatial), x.shape[2:])
    return Plan(_padded, [x.plain()], [x.order], {"amounts": stored, "mode": mode, "value": fill}, fields)


def _padded(x: Any, *, amounts: tuple[tuple[int, int], ...], mode: str, value: float) -> Any:
    if mode == "constant":
        return lax.pad(jnp.asarray(x), jnp.asarray(value, x.dtype), [(*pair, 0) for pair in amounts])
    cuts = tuple(slice(max(-low, 0), n - max(-high, 0)) for n, (low, high) in zip(x.shape, amounts, strict=True))
    more = [(max(low, 0), max(high, 0)) for low, high in amounts]
    return jnp.pad(x[cuts], more, _MODES[mode])


def _expand(node: Node, x: Value, shape: Value) -> Plan:
    target = np.broadcast_shapes(x.shape, integers(shape, "shape") or ())
    check_size(target, x.dtype)
    order = x.order if len(target) == x.rank else natural(len(target))
    return Plan(_broadcast, [x.to(order)], [order], {"shape": tuple(target[axis] for axis in order)})


def _broadcast(x: Any, *, shape: tuple[int, ...]) -> Any:
    return numpy_for(x).broadcast_to(x, shape)


def _tile(node: Node, x: Value, repeats: Value) -> Plan:
    times = integers(repeats, "repeats") or ()
    check_size([n * t for n, t in zip(x.shape, times, strict=True)], x.dtype)
    return Plan(_tiled, [x.plain()], [x.order], {"times": tuple(times[axis] for axis in x.order)})


def _tiled(x: Any, *, times: tuple[int, ...]) -> Any:
    return numpy_for(x).tile(x, times)


# --- Shapes -----------------------------------------------------------------------------------------------------------


def _given(array: Any, rank: int) -> Plan:
    return Plan(_content, [], [natural(rank)], {"array": Fixed(array)})


def _content(*, array: Fixed) -> Any:
    return array.array


def _shape(node: Node, x: Value) -> Plan:
    return _given(np.array(x.shape[slice(node.get("start", 0), node.get("end"))], np.int64), 1)


def _size(node: Node, x: Value) -> Plan:
    return _given(np.array(math.prod(x.shape), np.int64), 0)


def _constant(node: Node) -> Plan:
    name, value = next(((name, value) for name, value in node.attributes if name.startswith("value")), ("", None))
    kinds: dict[str, Any] = {"value": None, "value_float": np.float32, "value_floats": np.float32}
    kinds |= {"value_int": np.int64, "value_ints": np.int64}
    if name not in kinds:
        raise ArgumentError(f"value must be a tensor or numbers, got {name or 'none'}")
    array = value.array if isinstance(value, Fixed) else np.array(value, kinds[name])
    return _given(array, array.ndim)


def _constant_of_shape(node: Node, shape: Value) -> Plan:
    target = integers(shape, "shape") or ()
    value = node.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.array
    check_size(target, fill.dtype)
    return Plan(_full, [], [natural(len(target))], {"shape": target, "value": Fixed(fill.reshape(()))})


def _full(*, shape: tuple[int, ...], value: Fixed) -> Any:
    # A view: a file of 1 kB can ask for much.
    return np.broadcast_to(value.array, shape)


def _range(node: Node, start: Value, limit: Value, delta: Value) -> Plan:
    first, end, step = (constant(v, n) for v, n in zip((start, limit, delta), ("start", "limit", "delta"), strict=True))
    count = max(math.ceil((end.item() - first.item()) / step.item()), 0) if step.item() else -1
    check_size((count,), first.dtype)
    return _given((first + np.arange(count) * step).astype(first.dtype).reshape(-1), 1)


def _eye_like(node: Node, x: Value) -> Plan:
    from jaxconv.interop.onnx.tensors import dtype_of

    dtype = dtype_of(node["dtype"], "attribute 'dtype'") if node.get("dtype") else x.dtype
    check_size(x.shape, dtype)
    return _given(np.eye(x.shape[0], x.shape[1], node["k"], dtype), 2)


def _non_zero(node: Node, x: Value) -> Plan:
    return _given(np.array(np.nonzero(constant(x, "X")), np.int64), 2)


ROWS: dict[str, Row | tuple[Row, ...]] = {
    "Concat": Row(_concat, static=True),
    "Constant": Row(_constant, static=True),
    "ConstantOfShape": Row(_constant_of_shape, static=True),
    "Expand": Row(_expand, static=True),
    "EyeLike": Row(_eye_like, static=True),
    "Flatten": Row(_flatten, static=True),
    "NonZero": Row(_non_zero, static=True),
    "Pad": Row(_pad),
    "Range": Row(_range, static=True),
    "Reshape": Row(_reshape_to, static=True),
    "Shape": Row(_shape, static=True),
    "Size": Row(_size, static=True),
    "Slice": Row(_slice, static=True),
    "Split": Row(_split, static=True),
    "Squeeze": Row(_squeeze, static=True),
    "Tile": Row(_tile, static=True),
    "Transpose": Row(_transpose, static=True),
    "Unsqueeze": Row(_unsqueeze, static=True),
}

__all__ = ["ROWS", "reshaped", "without"]
