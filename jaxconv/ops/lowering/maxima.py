"""The best of each window, and a derivative that remembers which tap it was."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad

from jaxconv.ops.arrays import pad_axes, slice_axis
from jaxconv.ops.lowering import original
from jaxconv.ops.lowering.linear import CHAIN, define, dims, linear, strided
from jaxconv.ops.lowering.partition import Plan, Share, Span
from jaxconv.ops.lowering.primitive import by_itself
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.windows import every, spread, total

# The windows of all axes are looked through at once if they have no more taps than this, by platform; on CPU those
# that lie side by side.
JOINT = {"cpu": 32, "cuda": 9}

# An element is its value, and behind it perhaps its index, negative in the padding: that never wins a tie.
Best = tuple[Array, ...]


class Windows(NamedTuple):
    """How ``out`` windows lie along one axis, counted from the end, which they just cover."""

    axis: int
    taps: int
    stride: int
    dilation: int
    out: int


def _better(first: Best, second: Best) -> Best:
    """Returns, place by place, the element whose value is larger; of equal ones the first; NaN before all.

    By selection, not by `jnp.maximum`, whose gradient would share a tie between both.
    """
    a, b = first[0], second[0]
    take = b > a
    if jnp.issubdtype(a.dtype, jnp.floating):
        take = take | (jnp.isnan(b) & ~jnp.isnan(a))
    if len(first) > 1:
        take = take | ((b == a) & (first[1] < 0))
    return tuple(jnp.where(take, q, p) for p, q in zip(first, second, strict=True))


def _seen(a: Array, tap: int, w: Windows) -> Array:
    """What a tap sees of the windows."""
    return every(a, w.axis, tap * w.dilation, w.stride, w.out)


def maxima(x: Best, axes: Sequence[Windows]) -> Best:
    """Returns the best element of each window; of equal ones the first in row-major order.

    Args:
      x: the elements.
      axes: the windows along each axis, the last axis first.
    """
    for short, group in itertools.groupby(axes, lambda w: w.taps <= CHAIN):
        some = tuple(group)
        x = tuple(best_p.bind(*x, tell=False, axes=some)) if short else functools.reduce(_doubled, some, x)
    return x


def _doubled(x: Best, w: Windows) -> Best:
    """The best of 2n taps is the better of two bests of n: log(taps) steps. The last two may overlap: no max minds."""
    covered = 1
    while covered < w.taps:
        step = min(covered, w.taps - covered)
        near = w._replace(stride=1, out=x[0].shape[w.axis] - step * w.dilation)
        x = _better(*(tuple(_seen(a, n, near) for a in x) for n in (0, step)))
        covered += step
    return tuple(strided(a, w.axis, 0, w.stride, w.out) for a in x)


# Three primitives, so that each platform computes them its own way. ``best`` are selections; with ``tell`` it also
# returns the winning taps, int8, an array for each axis, which only ``pick`` and ``place`` read: these take a tangent
# to the windows from the winners, and a cotangent back to them. Each is the transpose of the other.
best_p = Primitive("jaxconv_best")
best_p.multiple_results = True
pick_p = Primitive("jaxconv_pick")
place_p = Primitive("jaxconv_place")


def _joint(platform: str | None, axes: Sequence[Windows]) -> bool:
    """Whether the platform's programs look through the windows of all axes at once: those before the channels.

    Measured with the gradients, in layers.json and layers_cuda.json: 64x32x32x64 k2 on two cores of a CPU, and
    4096x28x28x32 k2 on an NVIDIA H200, which took 0.31 ms, lax 0.93.
    """
    side_by_side = all(w.taps == w.stride for w in axes)
    few = math.prod(w.taps for w in axes) <= JOINT.get(platform or "", 0)
    last = sorted(w.axis for w in axes) == list(range(-1 - len(axes), -1))
    return last and few and all(w.dilation == 1 for w in axes) and (platform == "cuda" or side_by_side)


def _joint_taps(axes: Sequence[Windows]) -> Iterator[dict[Windows, int]]:
    """The taps of a window of several axes, row-major."""
    rows = sorted(axes, key=lambda w: w.axis)
    for index in itertools.product(*(range(w.taps) for w in rows)):
        yield dict(zip(rows, index, strict=True))


def _seen_by(a: Array, taps: dict[Windows, int]) -> Array:
    for w, tap in taps.items():
        a = _seen(a, tap, w)
    return a


def _chain(rows: list[Best], tell: bool) -> Best:
    """The best of the rows, and with ``tell`` which it was: it takes the index's place and is never negative."""
    if tell:
        rows = [(*row, jnp.full_like(row[0], n, jnp.int8)) for n, row in enumerate(rows)]
    return functools.reduce(_better, rows)


def _best(platform: str | None, *x: Array, tell: bool, axes: tuple[Windows, ...]) -> Best:
    if platform == "cuda" and not tell and len(x) == 1:
        return (by_lax(x[0], axes),)
    shapes = _shapes(x[0].shape, axes)
    # On CPU the taps are found once, by themselves: the compiler would find them again for each reader.
    sized = all(isinstance(n, int) and n > 0 for shape in (x[0].shape, *shapes) for n in shape)
    alone = tell and platform == "cpu" and sized

    def chained(x: Best, taps: Sequence[dict[Windows, int]]) -> Best:
        def compute() -> Best:
            return _chain([tuple(_seen_by(a, at) for a in x) for at in taps], tell)

        return by_itself(compute, x[0]) if alone else compute()

    if _joint(platform, axes):
        found = chained(x, list(_joint_taps(axes)))
        # The last array holds the taps of all axes.
        best, won = found[: len(x)], found[len(x) :]
        return (*best, *(jnp.zeros(shape, jnp.int8) for shape in shapes[:-1] if tell), *won)
    told: Best = ()
    for w in axes:
        found = chained(x, [{w: tap} for tap in range(w.taps)])
        x, told = tuple(found[: len(x)]), (*told, *found[len(x) :])
    return (*x, *told)


def by_lax(x: Array, axes: Sequence[Windows]) -> Array:
    """lax's maxima: one pass over all axes."""
    one = dict.fromkeys(range(-x.ndim, 0), 1)
    window, stride, dilation = (tuple((one | {w.axis: w[i] for w in axes}).values()) for i in (1, 2, 3))
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    lowest = np.asarray(-np.inf if floating else jnp.iinfo(x.dtype).min, x.dtype)
    return original.reduce_window(x, lowest, lax.max, window, stride, "VALID", window_dilation=dilation)


def _shapes(shape: Sequence[int], axes: Sequence[Windows]) -> list[tuple[int, ...]]:
    """The shapes after each axis."""
    found, left = [], list(shape)
    for w in axes:
        left[w.axis] = w.out
        found.append(tuple(left))
    return found


def _pick(platform: str | None, t: Array, *taps: Array, axes: tuple[Windows, ...], size: tuple[int, ...]) -> Array:
    """What the winners hold of ``t``."""
    zero = jnp.zeros((), t.dtype)
    if _joint(platform, axes):
        return total(jnp.where(taps[-1] == n, _seen_by(t, at), zero) for n, at in enumerate(_joint_taps(axes)))
    for w, tap in zip(axes, taps, strict=True):
        t = total(jnp.where(tap == n, _seen(t, n, w), zero) for n in range(w.taps))
    return t


def _place(platform: str | None, y: Array, *taps: Array, axes: tuple[Windows, ...], size: tuple[int, ...]) -> Array:
    """Lays ``y`` down where the winners are, and adds up what falls together."""
    if _joint(platform, axes):
        return _covered(y, taps[-1], axes, size)
    zero = jnp.zeros((), y.dtype)
    for w, length, tap in reversed(list(zip(axes, size, taps, strict=True))):
        y = total(_unseen(jnp.where(tap == n, y, zero), n, w, length) for n in range(w.taps))
    return y


def _unseen(a: Array, tap: int, w: Windows, length: int) -> Array:
    """Puts what a tap sees of the windows back where it is, among zeros."""
    return spread(a, w.axis, tap * w.dilation, w.stride, length)


def _covered(y: Array, won: Array, axes: Sequence[Windows], size: Sequence[int]) -> Array:
    """For each element, the sum over the windows that cover it.

    Element ``a * stride + r`` is tap ``r + j * stride`` of the window ``a - j``. So with an axis for ``r`` behind that
    of the windows there is a term for each ``j``: the map of windows, shifted, compared and spread.
    """
    order = sorted(range(len(axes)), key=lambda i: axes[i].axis)
    rows, lengths = [axes[i] for i in order], [size[i] for i in order]
    counts = [-(-n // w.stride) for n, w in zip(lengths, rows, strict=True)]
    lead = y.shape[: y.ndim + rows[0].axis]
    terms = []
    for index in itertools.product(*(range(-(-w.taps // w.stride)) for w in rows)):
        wanted, none = np.zeros((), np.int32), np.zeros((), bool)
        for i, (j, w) in enumerate(zip(index, rows, strict=True)):
            tap = np.arange(w.stride) + j * w.stride
            tap = tap.reshape(-1, *(1,) * (2 * (len(rows) - 1 - i) + 1))
            wanted, none = wanted * w.taps + tap, none | (tap >= w.taps)
        wanted = np.where(none, -2, wanted).astype(np.int8)
        pads = [(j, count - w.out - j) for j, count, w in zip(index, counts, rows, strict=True)]
        spread = (*lead, *itertools.chain(*((count, 1) for count in counts)), y.shape[-1])
        values, taps = (pad_axes(a, pads, fill).reshape(spread) for a, fill in ((y, 0), (won, -1)))
        wanted = wanted.reshape(*(1,) * (taps.ndim - wanted.ndim), *wanted.shape)
        terms.append(jnp.where(taps == wanted, values, jnp.zeros((), y.dtype)))
    filled = total(terms).reshape(*lead, *(n * w.stride for n, w in zip(counts, rows, strict=True)), y.shape[-1])
    return pad_axes(filled, [(0, n - count * w.stride) for n, count, w in zip(lengths, counts, rows, strict=True)])


def _best_jvp(primals: Any, tangents: Any, *, tell: bool, axes: tuple[Windows, ...]) -> Any:
    found = best_p.bind(*primals, tell=True, axes=axes)
    best, taps = found[: len(primals)], found[len(primals) :]
    results = found if tell else best
    moved: list[Any] = [ad.Zero(jax.typeof(a).to_tangent_aval()) for a in results]
    if type(tangents[0]) is not ad.Zero:
        size = tuple(primals[0].shape[w.axis] for w in axes)
        moved[0] = pick_p.bind(tangents[0], *taps, axes=axes, size=size)
    return results, moved


def _plan(
    primitive: Primitive, platform: str | None, first: Any, *others: Any, axes: tuple[Windows, ...], **params: Any
) -> Plan:
    """Along all axes. Windows of several axes are looked through one after the other, and so are their halos sent,
    but where one array tells the taps of all."""
    rank, joint, backward = first.ndim, _joint(platform, axes), primitive is place_p
    size = params.get("size", tuple(first.shape[w.axis] for w in axes))
    spans = {
        _factor(rank, w): Span(n, w.out, (w.taps - 1) * w.dilation, w.stride) for w, n in zip(axes, size, strict=True)
    }
    elements, windows = (dims(rank, {w.axis: side for w in axes}) for side in ("in", "out"))
    told = [dims(rank, {w.axis: "out" if i <= k else "in" for i, w in enumerate(axes)}) for k in range(len(axes))]
    values = [elements] * (1 + len(others)) if primitive is best_p else [windows if backward else elements, *told]
    if primitive is best_p:
        results = [windows] * len(values) + (told if params["tell"] else [])
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
    """A device's results of some axes, and of arrays that are not extended yet."""
    rank = arrays[0].ndim
    names = [_factor(rank, w) for w in axes]
    # Of several arrays of taps the last tells them all, or nothing is divided along these axes.
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
        results = best_p.bind(*given, **params, axes=mine)
        if params["tell"]:  # of arrays that tell nothing, the device's share
            values, told = results[: len(arrays)], results[len(arrays) :]
            shapes = zip(told, _shapes(arrays[0].shape, mine), strict=True)
            results = [*values, *(t if t.shape == shape else jnp.zeros(shape, t.dtype) for t, shape in shapes)]
        return results
    size = tuple(
        max(s.low + s.size, (s.out - 1) * s.stride + s.reach + 1) if primitive is place_p else s.size for s in own
    )
    result = primitive.bind(*given, axes=mine, size=size)
    if primitive is place_p:
        for w, name, span in zip(axes, names, own, strict=True):
            result = share.own(slice_axis(result, w.axis, span.low, span.low + span.size), rank + w.axis, name)
    return [result]


ad.primitive_jvps[best_p] = _best_jvp
linear(pick_p, place_p.bind)
linear(place_p, pick_p.bind)
for _primitive, _program in ((best_p, _best), (pick_p, _pick), (place_p, _place)):
    define(_primitive, _program, functools.partial(_plan, _primitive))
