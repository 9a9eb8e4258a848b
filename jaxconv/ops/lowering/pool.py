"""The primitives of pools: the largest element of each window, sums of windows, and what their derivatives need."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad

from jaxconv.ops.arrays import pad_axes, slice_axis
from jaxconv.ops.lowering.define import POSED, Posed, define, linear
from jaxconv.ops.lowering.forms import POOLS
from jaxconv.ops.lowering.maxima import Best, shapes_after
from jaxconv.ops.lowering.modes import lowering_mode
from jaxconv.ops.lowering.partition import Plan, Share, Span, dims, windowed
from jaxconv.ops.lowering.problem import Array, Pool, Windows
from jaxconv.ops.lowering.strided import strided
from jaxconv.ops.lowering.table import Solver, choose
from jaxconv.ops.lowering.target import Platform, Target
from jaxconv.ops.lowering.traced import recorded

# Three primitives, so that each platform has its own programs. ``best`` selects; with ``winners`` it also returns the
# winning taps, int8, an array for each axis, which only ``pick`` and ``place`` read: ``pick`` selects a tangent's
# elements at the winners, and ``place`` adds a cotangent there. Each is the transpose of the other.
best_p = Primitive("jaxconv_best")
best_p.multiple_results = True
pick_p = Primitive("jaxconv_pick")
place_p = Primitive("jaxconv_place")
# The sums of windows, and the transpose.
sums_p = Primitive("jaxconv_window_sums")
spread_sums_p = Primitive("jaxconv_window_sums_transpose")


def maxima(x: Best, axes: Sequence[Windows]) -> Best:
    """Returns the best element of each window; of equal ones the first in row-major order.

    Args:
      x: the elements: values, and perhaps their indices.
      axes: the windows along each axis, the last axis first.
    """
    mode = lowering_mode()
    whole = Pool("maximum", tuple(axes), tuple(x[0].shape[w.axis] for w in axes), len(x) > 1)
    if mode == "xla" and POOLS["xla"].takes(whole, Target()) and all(w.dilation == 1 for w in axes):
        # JAX has no gradient of its own for dilated windows.
        return tuple(recorded("max_pool", whole, choose(whole, Target(), mode), *x))
    along = [Pool("winners", (w,), (x[0].shape[w.axis],), len(x) > 1) for w in axes]
    chosen = [(p, choose(p, Target(), mode)) for p in along]
    for doubled, group in itertools.groupby(chosen, lambda step: step[1].form is POOLS["doubling_max"]):
        if not doubled:
            some = tuple(p.axes[0] for p, _ in group)
            x = tuple(best_p.bind(*x, winners=False, axes=some, lowering=mode))
            continue
        for p, choice in group:
            (w,) = p.axes
            x = tuple(strided(a, w.axis, 0, w.stride, w.out) for a in recorded("max_pool", p, choice, *x))
    return x


def window_sums(x: Array, axes: Sequence[Windows]) -> Array:
    """Returns the sum of each window, in x's type: the windows along each axis just cover it."""
    size = tuple(x.shape[w.axis] for w in axes)
    return sums_p.bind(x, axes=tuple(axes), size=size, lowering=lowering_mode())


def _problem(primitive: Primitive, *arrays: Any, axes: tuple[Windows, ...], **params: Any) -> Pool:
    size = params.get("size", tuple(arrays[0].shape[w.axis] for w in axes))
    role = {
        best_p: "winners" if params.get("winners") else "maximum",
        pick_p: "picked",
        place_p: "placed",
        sums_p: "sum",
        spread_sums_p: "spread",
    }[primitive]
    return Pool(role, axes, size, primitive is best_p and len(arrays) > 1)


def _program(primitive: Primitive, platform: Platform, *arrays: Array, lowering: Any, **params: Any) -> Any:
    return Solver(Target(platform), lowering)(_problem(primitive, *arrays, **params), *arrays)


def _posed(primitive: Primitive, op: str, platform: Platform, *arrays: Any, lowering: Any, **params: Any) -> Posed:
    return Posed(op, "", _problem(primitive, *arrays, **params), Solver(Target(platform), lowering))


def _best_jvp(primals: Any, tangents: Any, *, winners: bool, axes: tuple[Windows, ...], lowering: Any) -> Any:
    found = best_p.bind(*primals, winners=True, axes=axes, lowering=lowering)
    best, taps = found[: len(primals)], found[len(primals) :]
    results = found if winners else best
    moved: list[Any] = [ad.Zero(jax.typeof(a).to_tangent_aval()) for a in results]
    if type(tangents[0]) is not ad.Zero:
        size = tuple(primals[0].shape[w.axis] for w in axes)
        moved[0] = pick_p.bind(tangents[0], *taps, axes=axes, size=size, lowering=lowering)
    return results, moved


def _plan(
    primitive: Primitive,
    platform: Platform,
    first: Any,
    *others: Any,
    axes: tuple[Windows, ...],
    lowering: Any,
    **params: Any,
) -> Plan:
    """Along all axes. Windows of several axes are computed one axis after another, each with its own halo, except where
    one array has the winning taps of all axes."""
    p = _problem(primitive, first, *others, axes=axes, **params)
    rank, size, backward = first.ndim, p.size, primitive is place_p
    joint = choose(p, Target(platform), lowering).form is POOLS["joint_max"]
    params = params | {"lowering": lowering}
    spans = {
        _factor(rank, w): Span(n, w.out, (w.taps - 1) * w.dilation, w.stride) for w, n in zip(axes, size, strict=True)
    }
    elements, windows = (dims(rank, {w.axis: side for w in axes}) for side in ("in", "out"))
    taps_after = [dims(rank, {w.axis: "out" if i <= k else "in" for i, w in enumerate(axes)}) for k in range(len(axes))]
    values = [elements] * (1 + len(others)) if primitive is best_p else [windows if backward else elements, *taps_after]
    if primitive is best_p:
        results = [windows] * len(values) + (taps_after if params["winners"] else [])
    else:
        results = [elements if backward else windows]

    def local(share: Share, *arrays: Array) -> Sequence[Array]:
        if joint or not any(share.axes[name] for name in spans):
            return _on_device(primitive, share, arrays, axes, params)
        count = len(arrays) if primitive is best_p else 1
        values, taps = arrays[:count], arrays[count:]
        found: Best = ()
        for k in range(len(axes))[:: -1 if backward else 1]:
            results = _on_device(primitive, share, (*values, *taps[k : k + 1]), axes[k : k + 1], params)
            values, found = tuple(results[:count]), (*found, *results[count:])
        return (*values, *found)

    return Plan(tuple(values), tuple(results), local, spans, backward)


def _factor(rank: int, w: Windows) -> str:
    return dims(rank, {})[w.axis].factor


def _on_device(
    primitive: Primitive, share: Share, arrays: Best, axes: tuple[Windows, ...], params: dict[str, Any]
) -> Sequence[Array]:
    """The results of one device along some axes, from arrays that are not extended yet."""
    rank = arrays[0].ndim
    names = [_factor(rank, w) for w in axes]
    # Of several arrays of taps the last has them all, or nothing is divided along these axes.
    extend = {
        best_p: range(len(arrays)),
        pick_p: [0],
        place_p: [0, len(arrays) - 1],
    }[primitive]
    given = list(arrays)
    for i, (w, name) in itertools.product(extend, zip(axes, names, strict=True)):
        given[i] = share.extended(given[i], rank + w.axis, name)
    own = [share.span(name) for name in names]
    mine = tuple(w._replace(out=span.out) for w, span in zip(axes, own, strict=True))
    if primitive is best_p:
        results = best_p.bind(*given, **params | {"axes": mine})
        if params["winners"]:  # of arrays of zeros, the device's share
            values, taps_after = results[: len(arrays)], results[len(arrays) :]
            shapes = zip(taps_after, shapes_after(arrays[0].shape, mine), strict=True)
            results = [*values, *(t if t.shape == shape else jnp.zeros(shape, t.dtype) for t, shape in shapes)]
        return results
    size = tuple(
        max(s.low + s.size, (s.out - 1) * s.stride + s.reach + 1) if primitive is place_p else s.size for s in own
    )
    result = primitive.bind(*given, **params | {"axes": mine, "size": size})
    if primitive is place_p:
        for w, name, span in zip(axes, names, own, strict=True):
            result = share.own(slice_axis(result, w.axis, span.low, span.low + span.size), rank + w.axis, name)
    return [result]


def _sums_plan(primitive: Primitive, platform: Platform, a: Any, *, axes: Any, size: Any, lowering: Any) -> Plan:
    spans = {w.axis: Span(n, w.out, (w.taps - 1) * w.dilation, w.stride) for w, n in zip(axes, size, strict=True)}

    def local(own: dict[int, Span], a: Array) -> Array:
        mine = tuple(w._replace(out=own[w.axis].out) for w in axes)
        covered = tuple((w.out - 1) * w.stride + (w.taps - 1) * w.dilation + 1 for w in mine)
        result = primitive.bind(a, axes=mine, size=covered, lowering=lowering)
        for w in axes if primitive is spread_sums_p else ():
            low, size = own[w.axis].low, own[w.axis].size
            more = max(0, low + size - result.shape[w.axis])  # elements that no window covers
            result = slice_axis(pad_axes(result, [(0, more)] + [(0, 0)] * (-2 - w.axis)), w.axis, low, low + size)
        return result

    return windowed(a.ndim, spans, local, primitive is spread_sums_p)


def _spread_type(y: Any, *, axes: tuple[Windows, ...], size: tuple[int, ...], lowering: Any) -> Any:
    shape = list(y.shape)
    for w, n in zip(axes, size, strict=True):
        shape[w.axis] = n
    return y.update(shape=tuple(shape), weak_type=False)


ad.primitive_jvps[best_p] = _best_jvp
linear(pick_p, place_p.bind)
linear(place_p, pick_p.bind)
linear(sums_p, spread_sums_p.bind)
linear(spread_sums_p, sums_p.bind)
for _primitive, _op in (
    (best_p, "max_pool"),
    (pick_p, "max_pool: tangent"),
    (place_p, "max_pool: gradient"),
    (sums_p, "avg_pool or lp_pool"),
    (spread_sums_p, "avg_pool or lp_pool: gradient"),
):
    _sums = _primitive in (sums_p, spread_sums_p)
    define(
        _primitive,
        functools.partial(_program, _primitive),
        functools.partial(_sums_plan if _sums else _plan, _primitive),
        _spread_type if _primitive is spread_sums_p else None,
    )
    POSED[_primitive] = functools.partial(_posed, _primitive, _op)
