"""Strided slices of one axis as a primitive, since XLA divides a strided slice over devices wrongly."""

import functools
from typing import Any

from jax.extend.core import Primitive

from jaxconv.ops.arrays import slice_axis
from jaxconv.ops.lowering.define import define, linear
from jaxconv.ops.lowering.partition import Plan, Span, windowed
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.target import Platform
from jaxconv.ops.lowering.windows import every, spread


def strided(x: Array, axis: int, start: int, stride: int, out: int) -> Array:
    """``out`` elements along an axis, counted from the end, from ``start`` in steps of ``stride``.

    With a stride it is a primitive: XLA divides a strided slice over devices wrongly, and its transpose.
    """
    if stride == 1:
        return slice_axis(x, axis, start, start + out)
    return every_p.bind(x, axis=axis, start=start, stride=stride, out=out, size=x.shape[axis])


def _every(platform: Platform, x: Array, *, axis: int, start: int, stride: int, out: int, size: int) -> Array:
    return every(x, axis, start, stride, out)


def _spread(platform: Platform, y: Array, *, axis: int, start: int, stride: int, out: int, size: int) -> Array:
    return spread(y, axis, start, stride, size)


def _strided_plan(
    primitive: Primitive, platform: Platform, a: Any, *, axis: int, start: int, stride: int, out: int, size: int
) -> Plan:
    def local(spans: dict[int, Span], a: Array) -> Array:
        own = spans[axis]
        return primitive.bind(a, axis=axis, start=-own.low, stride=stride, out=own.out, size=own.size)

    return windowed(a.ndim, {axis: Span(size, out, 0, stride, -start)}, local, primitive is spread_p)


every_p = Primitive("jaxconv_every")
spread_p = Primitive("jaxconv_spread")
linear(every_p, spread_p.bind)
linear(spread_p, every_p.bind)
define(every_p, _every, functools.partial(_strided_plan, every_p))
define(spread_p, _spread, functools.partial(_strided_plan, spread_p))
