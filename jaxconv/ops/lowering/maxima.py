"""The largest element of each window, and which tap it was: programs of ordinary operations.

An element is its value and, behind it, perhaps its index, which is negative in the padding and there never wins a tie.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.ops.arrays import pad_axes
from jaxconv.ops.lowering.fusion import without_fusion
from jaxconv.ops.lowering.problem import Array, Pool, Windows
from jaxconv.ops.lowering.target import Solve
from jaxconv.ops.lowering.windows import every, reduce_windows, spread, total

Best = tuple[Array, ...]
Taps = dict[Windows, int]


def _better(first: Best, second: Best) -> Best:
    """Returns at each position the element whose value is larger; of equal values the first; NaN before all.

    By selection, not by `jnp.maximum`, whose gradient would share a tie between both.
    """
    a, b = first[0], second[0]
    take = b > a
    if jnp.issubdtype(a.dtype, jnp.floating):
        take = take | (jnp.isnan(b) & ~jnp.isnan(a))
    if len(first) > 1:
        take = take | ((b == a) & (first[1] < 0))
    return tuple(jnp.where(take, q, p) for p, q in zip(first, second, strict=True))


def _seen(a: Array, taps: Taps) -> Array:
    """The elements under these taps, one for each window."""
    for w, tap in taps.items():
        a = every(a, w.axis, tap * w.dilation, w.stride, w.out)
    return a


def _joint_taps(axes: Sequence[Windows]) -> list[Taps]:
    """The taps of a window of several axes, row-major."""
    rows = sorted(axes, key=lambda w: w.axis)
    return [dict(zip(rows, index, strict=True)) for index in itertools.product(*(range(w.taps) for w in rows))]


def _chain(p: Pool, x: Best, taps: Sequence[Taps], solve: Solve) -> tuple[Best, Best]:
    """The best elements under the taps, and for winners which tap it was, int8."""
    winners = p.role == "winners"

    def compute() -> Best:
        rows = [tuple(_seen(a, at) for a in x) for at in taps]
        if winners:  # the tap takes the index's position and is never negative
            rows = [(*row, jnp.full_like(row[0], n, jnp.int8)) for n, row in enumerate(rows)]
        return functools.reduce(_better, rows)

    # Without the barrier a compiler that recomputes would find the taps again for each reader.
    sized = all(isinstance(n, int) and n > 0 for n in (*x[0].shape, *(w.out for w in p.axes)))
    alone = winners and sized and solve.target.platform.recomputes
    found = without_fusion(compute, x[0]) if alone else compute()
    return found[: len(x)], found[len(x) :]


def joint_max(p: Pool, *arrays: Array, solve: Solve) -> Best | Array:
    """All taps of all axes at once. The winners are numbered in the last array of taps; the others are zeros."""
    first, *taps = arrays
    zero = jnp.zeros((), first.dtype)
    if p.role == "placed":
        return _covered(first, taps[-1], p.axes, p.size)
    if p.role == "picked":
        return total(jnp.where(taps[-1] == n, _seen(first, at), zero) for n, at in enumerate(_joint_taps(p.axes)))
    best, won = _chain(p, arrays, _joint_taps(p.axes), solve)
    shapes = shapes_after(first.shape, p.axes)[:-1] if won else []
    return (*best, *(jnp.zeros(shape, jnp.int8) for shape in shapes), *won)


def separable_max(p: Pool, *arrays: Array, solve: Solve) -> Best | Array:
    """One axis after another, the winning taps of each axis in a separate array."""
    first, *taps = arrays
    zero = jnp.zeros((), first.dtype)
    if p.role == "placed":
        for w, length, tap in reversed(list(zip(p.axes, p.size, taps, strict=True))):
            parts = (jnp.where(tap == n, first, zero) for n in range(w.taps))
            first = total(spread(a, w.axis, n * w.dilation, w.stride, length) for n, a in enumerate(parts))
        return first
    if p.role == "picked":
        for w, tap in zip(p.axes, taps, strict=True):
            first = total(jnp.where(tap == n, _seen(first, {w: n}), zero) for n in range(w.taps))
        return first
    every_won: Best = ()
    for w in p.axes:
        arrays, won = _chain(p, arrays, [{w: tap} for tap in range(w.taps)], solve)
        every_won = (*every_won, *won)
    return (*arrays, *every_won)


def doubling_max(p: Pool, *x: Array, solve: Solve) -> Best:
    """The maxima at stride 1 along one axis: the best of 2n taps is the better of two bests of n taps.

    That is log2(taps) steps. The last two windows may overlap, which changes no maximum.
    """
    (w,) = p.axes
    covered = 1
    while covered < w.taps:
        step = min(covered, w.taps - covered)
        near = w._replace(stride=1, out=x[0].shape[w.axis] - step * w.dilation)
        x = _better(*(tuple(_seen(a, {near: n}) for a in x) for n in (0, step)))
        covered += step
    return x


def max_by_xla(p: Pool, x: Array, solve: Solve) -> Best:
    """XLA's maxima: one pass over all axes."""
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return (reduce_windows(x, p.axes, -np.inf if floating else jnp.iinfo(x.dtype).min, lax.max),)


def shapes_after(shape: Sequence[int], axes: Sequence[Windows]) -> list[tuple[int, ...]]:
    """The shapes after each axis."""

    def shapes() -> Iterator[tuple[int, ...]]:
        left = list(shape)
        for w in axes:
            left[w.axis] = w.out
            yield tuple(left)

    return list(shapes())


def _covered(y: Array, won: Array, axes: Sequence[Windows], size: Sequence[int]) -> Array:
    """For each element, the sum over the windows that cover it and in which it won.

    Element ``a * stride + r`` is tap ``r + j * stride`` of the window ``a - j``. So with an axis for ``r`` behind that
    of the windows there is a term for each ``j``: the array of windows, shifted, compared and spread.
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
