"""The sum of each window, and the transpose: programs of ordinary operations."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.ops.arrays import pad_axes
from jaxconv.ops.lowering.problem import Array, Pool, Windows
from jaxconv.ops.lowering.target import Solve
from jaxconv.ops.lowering.windows import CHAIN, every, reduce_windows, total


def separable_sum(p: Pool, a: Array, solve: Solve) -> Array:
    """One axis after another."""
    if p.role == "sum":
        for w in p.axes:
            a = _sums(a, w)
        return a
    for w, size in reversed(list(zip(p.axes, p.size, strict=True))):
        if w.stride == 1 and (w.out != 1 or w.dilation != 1):
            # The sums of the padded array, not a padded array for each tap.
            reach = (w.taps - 1) * w.dilation
            a = _sums(pad_axes(a, [(reach, reach)] + [(0, 0)] * (-2 - w.axis)), w._replace(out=size))
        else:
            shape = (*a.shape[: w.axis], size, *a.shape[w.axis + 1 :])
            (a,) = jax.linear_transpose(lambda x, w=w: _sums(x, w), jax.ShapeDtypeStruct(shape, a.dtype))(a)
    return a


def _sums(x: Array, w: Windows) -> Array:
    """The sum of each window along one axis, which the windows just cover."""
    if w.out == 1 and w.dilation == 1:
        return jnp.sum(x, w.axis, keepdims=True)

    def seen(x: Array, start: int, count: int, step: int = 1) -> Array:
        return every(x, w.axis, start, step, count)

    if w.taps <= CHAIN:
        return total(seen(x, tap * w.dilation, w.out, w.stride) for tap in range(w.taps))
    # The sum of 2n taps is one of two sums of n: log2(taps) steps. A window is put together from those inside it.
    found, at, length = None, 0, 1
    while at < w.taps:
        if w.taps & length:
            part = seen(x, at * w.dilation, w.out, w.stride)
            found = part if found is None else found + part
            at += length
        if at < w.taps:
            count = x.shape[w.axis] - length * w.dilation
            x = seen(x, 0, count) + seen(x, length * w.dilation, count)
        length *= 2
    assert found is not None
    return found


def sum_by_xla(p: Pool, a: Array, solve: Solve) -> Array:
    """XLA's sums: one pass over all axes. The transpose sums over zeros."""

    def sums(x: Array) -> Array:
        return reduce_windows(x, p.axes, 0, lax.add)

    if p.role == "sum":
        return sums(a)
    shape = list(a.shape)
    for w, size in zip(p.axes, p.size, strict=True):
        shape[w.axis] = size
    return jax.linear_transpose(sums, jax.ShapeDtypeStruct(tuple(shape), a.dtype))(a)[0]


def broadcast(p: Pool, y: Array, solve: Solve) -> Array:
    """The transpose for windows that do not overlap: each element is copied to the elements of its window."""
    rank = len(p.axes)
    lead, sizes, window = y.shape[: -1 - rank], y.shape[-1 - rank : -1], [w.taps for w in p.axes]
    once = [n for size in sizes for n in (size, 1)]
    many = [n for pair in zip(sizes, window, strict=True) for n in pair]
    copies = jnp.broadcast_to(y.reshape(*lead, *once, y.shape[-1]), (*lead, *many, y.shape[-1]))
    return copies.reshape(*lead, *(n * taps for n, taps in zip(sizes, window, strict=True)), y.shape[-1])
