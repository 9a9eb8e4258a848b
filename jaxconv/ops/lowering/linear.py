"""Primitives that stand for a program each, of the platform; the sums of windows, with transposes of their own."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, xla

from jaxconv.ops.arrays import pad_axes, slice_axis
from jaxconv.ops.lowering import original
from jaxconv.ops.lowering.partition import Dim, Dims, Plan, Share, Span
from jaxconv.ops.lowering.primitive import register
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.windows import every, spread, total

# A window up to this long is a chain of slices, one a tap; a longer one is built by doubling.
CHAIN = 8


def linear(primitive: Primitive, transpose: Callable[..., Any]) -> None:
    """Sets the derivatives of a primitive that is linear in its first operand, with its transpose."""

    def jvp(primals: Any, tangents: Any, **params: Any) -> Any:
        y = primitive.bind(*primals, **params)
        if type(tangents[0]) is ad.Zero:
            return y, ad.Zero(jax.typeof(y).to_tangent_aval())
        return y, primitive.bind(tangents[0], *primals[1:], **params)

    def transposed(cotangent: Any, t: Any, *taps: Any, **params: Any) -> Any:
        nothing = [None] * len(taps)
        if type(cotangent) is ad.Zero:
            return [ad.Zero(t.aval), *nothing]
        return [transpose(cotangent, *taps, **params), *nothing]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transposed


def define(primitive: Primitive, program: Any, plan: Callable[..., Plan | None], typed: Any = None) -> None:
    """Sets what the program of each platform gives: the type, the batching, the lowering.

    Args:
      primitive: on arrays of any number of axes in front of those that it is about.
      program: ``program(platform, *arrays, **params)``, with ordinary operations.
      plan: ``plan(platform, *avals, **params)``, how the compiler may divide it over devices; None where it has no say.
      typed: a rule for the type, where it is not the program's.
    """

    def traced(*arrays: Any, **params: Any) -> Any:
        found = jax.make_jaxpr(functools.partial(program, None, **params))(*arrays).out_avals
        return found if primitive.multiple_results else found[0]

    def batched(args: Any, dims: Any, **params: Any) -> Any:
        lanes = next(a.shape[d] for a, d in zip(args, dims, strict=True) if d is not None)
        moved = (batching.bdim_at_front(a, d, lanes) for a, d in zip(args, dims, strict=True))
        found = primitive.bind(*moved, **params)
        return (found, [0] * len(found)) if primitive.multiple_results else (found, 0)

    primitive.def_impl(functools.partial(xla.apply_primitive, primitive))
    primitive.def_abstract_eval(typed or traced)
    batching.primitive_batchers[primitive] = batched
    register(primitive, lambda platform, _, *arrays, **params: program(platform, *arrays, **params), plan)


def dims(rank: int, sides: dict[int, str]) -> Dims:
    """The dimensions of an array that is divided along all of its axes; on which side of windows some of them are."""
    return tuple(Dim(f"d{axis}", sides.get(axis - rank, "")) for axis in range(rank))


def windowed(rank: int, spans: dict[int, Span], local: Callable[..., Array], backward: bool = False) -> Plan:
    """The plan of windows along some axes, counted from the end, of one array: ``local(share, extended)``."""
    given, result = ("out", "in") if backward else ("in", "out")
    names = {axis: f"d{rank + axis}" for axis in spans}

    def compute(share: Share, a: Array) -> list[Array]:
        for axis, name in names.items():
            a = share.extended(a, rank + axis, name)
        a = local({axis: share.span(name) for axis, name in names.items()}, a)
        if backward:
            for axis, name in names.items():
                a = share.own(a, rank + axis, name)
        return [a]

    sides = [dims(rank, dict.fromkeys(spans, side)) for side in (given, result)]
    return Plan((sides[0],), (sides[1],), compute, {names[axis]: span for axis, span in spans.items()}, backward)


def moving_sums(x: Array, axis: int, taps: int, dilation: int) -> Array:
    """The sum of each window of stride 1 along a spatial axis, counted from the end: at most -2.

    Its transpose is the same of the padded cotangent: a sum of what the taps see, not of a padded map for each.
    """
    return sums_p.bind(x, axis=axis, taps=taps, dilation=dilation)


def windows_sums(x: Array, axis: int, taps: int, stride: int, dilation: int, out: int) -> Array:
    """The sum of each of ``out`` windows along one axis, which they just cover."""

    def seen(x: Array, start: int, count: int, step: int = 1) -> Array:
        return strided(x, axis, start, step, count)

    if taps <= CHAIN:
        return total(seen(x, tap * dilation, out, stride) for tap in range(taps))
    # The sum of 2n taps is one of two sums of n: log(taps) steps. A window is put together from those that it holds.
    found, at, length = None, 0, 1
    while at < taps:
        if taps & length:
            part = seen(x, at * dilation, out, stride)
            found = part if found is None else found + part
            at += length
        if at < taps:
            count = x.shape[axis] - length * dilation
            x = seen(x, 0, count) + seen(x, length * dilation, count)
        length *= 2
    assert found is not None
    return found


def _sums(platform: str | None, x: Array, *, axis: int, taps: int, dilation: int) -> Array:
    return windows_sums(x, axis, taps, 1, dilation, x.shape[axis] - (taps - 1) * dilation)


def _back(y: Array, *, axis: int, taps: int, dilation: int) -> Array:
    reach = (taps - 1) * dilation
    pads = [(reach, reach)] + [(0, 0)] * (-2 - axis)
    return moving_sums(pad_axes(y, pads), axis, taps, dilation)


def _sums_plan(platform: str | None, x: Any, *, axis: int, taps: int, dilation: int) -> Plan:
    n, reach = x.shape[axis], (taps - 1) * dilation

    def local(_: Any, x: Array) -> Array:
        return sums_p.bind(x, axis=axis, taps=taps, dilation=dilation)

    return windowed(x.ndim, {axis: Span(n, n - reach, reach, 1)}, local)


sums_p = Primitive("jaxconv_sums")
linear(sums_p, _back)
define(sums_p, _sums, _sums_plan)


def tile_sums(x: Array, window: tuple[int, ...]) -> Array:
    """The sums of windows that lie side by side along the spatial axes, which they just cover.

    They are lax's. Their transpose are copies, on CPU written as such, elsewhere as lax has it: sums over zeros.
    """
    return tiles_p.bind(x, window=window)


def sums_by_lax(x: Array, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """lax's sums, in one pass over all spatial axes, which the windows just cover."""
    before = (1,) * (x.ndim - 1 - len(window))
    sizes, steps, gaps = ((*before, *numbers, 1) for numbers in (window, stride, dilation))
    return original.reduce_window(x, np.zeros((), x.dtype), lax.add, sizes, steps, "VALID", window_dilation=gaps)


def _tiles(platform: str | None, x: Array, *, window: tuple[int, ...]) -> Array:
    return sums_by_lax(x, window, window, (1,) * len(window))


def _copies(platform: str | None, y: Array, *, window: tuple[int, ...]) -> Array:
    lead, sizes = y.shape[: -1 - len(window)], y.shape[-1 - len(window) : -1]
    if platform != "cpu":
        pads = [(0, 0, 0)] * len(lead) + [(taps - 1,) * 3 for taps in window] + [(0, 0, 0)]
        one = (1,) * len(window)
        return sums_by_lax(lax.pad(y, np.zeros((), y.dtype), pads), window, one, one)
    once = [n for size in sizes for n in (size, 1)]
    many = [n for pair in zip(sizes, window, strict=True) for n in pair]
    copies = jnp.broadcast_to(y.reshape(*lead, *once, y.shape[-1]), (*lead, *many, y.shape[-1]))
    return copies.reshape(*lead, *(n * taps for n, taps in zip(sizes, window, strict=True)), y.shape[-1])


def _tiles_plan(primitive: Primitive, platform: str | None, a: Any, *, window: tuple[int, ...]) -> Plan:
    axes = {i - 1 - len(window): taps for i, taps in enumerate(window)}
    backward = primitive is copies_p
    outs = {axis: a.shape[axis] if backward else a.shape[axis] // taps for axis, taps in axes.items()}
    spans = {axis: Span(outs[axis] * taps, outs[axis], taps - 1, taps) for axis, taps in axes.items()}
    return windowed(a.ndim, spans, lambda _, a: primitive.bind(a, window=window), backward)


tiles_p = Primitive("jaxconv_tiles")
copies_p = Primitive("jaxconv_copies")
linear(tiles_p, copies_p.bind)
linear(copies_p, tiles_p.bind)
define(tiles_p, _tiles, functools.partial(_tiles_plan, tiles_p))
define(copies_p, _copies, functools.partial(_tiles_plan, copies_p))


def strided(x: Array, axis: int, start: int, stride: int, out: int) -> Array:
    """``out`` elements along an axis, counted from the end, from ``start`` in steps of ``stride``.

    With a stride it is a primitive: XLA divides a strided slice over devices wrongly, and its transpose.
    """
    if stride == 1:
        return slice_axis(x, axis, start, start + out)
    return every_p.bind(x, axis=axis, start=start, stride=stride, out=out, size=x.shape[axis])


def _every(platform: str | None, x: Array, *, axis: int, start: int, stride: int, out: int, size: int) -> Array:
    return every(x, axis, start, stride, out)


def _spread(platform: str | None, y: Array, *, axis: int, start: int, stride: int, out: int, size: int) -> Array:
    return spread(y, axis, start, stride, size)


def _strided_plan(
    primitive: Primitive, platform: str | None, a: Any, *, axis: int, start: int, stride: int, out: int, size: int
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
