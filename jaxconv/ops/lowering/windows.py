"""What the forms share: the elements under a tap, products over channels, sums in parts, flipped kernels."""

import contextlib
import contextvars
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.ops.arrays import pad_axes, slice_axis
from jaxconv.ops.lowering import original
from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Product, Shape, Windows

# A window up to this long is a chain of slices, one a tap; a longer one is computed by doubling.
CHAIN = 8


def taps(p: Problem, x: Array) -> Iterator[tuple[Shape, Array]]:
    """For each tap of the window, row-major: its index, and the element under it at every output position."""
    g = p.geometry
    x = pad_axes(x, g.padding)
    for index in itertools.product(*(range(f) for f in g.window)):
        yield index, seen_by(x, g, index)


def under_window(p: Problem, x: Array) -> Array:
    """The elements under all taps, row-major, at every output position: ``(batch, *out, taps * channels)``.

    A loop, of which one kernel is compiled. Slices would be a kernel for each tap.
    """
    g, number = p.geometry, np.uint32
    if p.taps == 1:
        return seen_by(pad_axes(x, g.padding), g, (0,) * g.rank)
    # Of an element of x, since XLA would allocate an array that depends on nothing when the program starts.
    y = jnp.broadcast_to(x.reshape(-1)[0], (x.shape[0], *g.out, p.taps * x.shape[-1]))
    x = pad_axes(x, g.padding)
    sizes = [x.shape[0], *((m - 1) * s + 1 for m, s in zip(g.out, g.stride, strict=True)), x.shape[-1]]

    def with_tap(tap: Array, y: Array) -> Array:
        tap = left = tap.astype(number)
        start: list[Any] = [number(0)]
        for f, d in zip(reversed(g.window), reversed(g.dilation), strict=True):
            start.insert(0, lax.rem(left, number(f)) * number(d))
            left = lax.div(left, number(f))
        seen = lax.dynamic_slice(x, [number(0), *start], sizes)
        seen = seen[:, *(slice(None, None, s) for s in g.stride)]
        return lax.dynamic_update_slice(y, seen, [*[number(0)] * (g.rank + 1), tap * number(x.shape[-1])])

    return lax.fori_loop(0, p.taps, with_tap, y)


def seen_by(padded: Array, g: Geometry, index: Shape) -> Array:
    """The element of a padded array under the tap at this index of the window, at every output position."""
    for axis, (i, m, s, d) in enumerate(zip(index, g.out, g.stride, g.dilation, strict=True), 1):
        padded = slice_axis(padded, axis, i * d, i * d + (m - 1) * s + 1, s)
    return padded


def widened(seen: Array, p: Problem) -> Array:
    """Each channel repeated once for each of its features."""
    return seen if p.outer == 1 else jnp.repeat(seen, p.outer, axis=-1)


def dot(p: Problem | Product, a: Array, b: Array) -> Array:
    """Contracts the last axis of a with the first of b."""
    return lax.dot_general(
        a, b, (((a.ndim - 1,), (0,)), ((), ())), precision=p.precision, preferred_element_type=p.dtype
    )


def total(terms: Iterable[Array]) -> Array:
    """The sum, added from the first term on."""
    return functools.reduce(lax.add, terms)


def in_parts(
    p: Problem, size: int, shape: Shape, compute: Callable[[Array, Array], Array], first: Array, second: Array
) -> Array:
    """The sum of the results of ``compute``, of this shape, for ``size`` examples at a time, which divide the batch."""
    if size == p.batch:
        return compute(first, second)

    def add(i: Array, sums: Array) -> Array:
        parts = [lax.dynamic_slice_in_dim(a, i * size, size) for a in (first, second)]
        return sums + compute(*parts)

    return lax.fori_loop(0, p.batch // size, add, jnp.zeros(shape, p.dtype))


def reduce_windows(x: Array, axes: Sequence[Windows], start: Any, by: Callable[[Array, Array], Array]) -> Array:
    """XLA's reduction of windows, in one pass over all axes, which the windows just cover."""
    one = dict.fromkeys(range(-x.ndim, 0), 1)
    window, stride, dilation = (tuple((one | {w.axis: w[i] for w in axes}).values()) for i in (1, 2, 3))
    initial = np.asarray(start, x.dtype)
    return original.reduce_window(x, initial, by, window, stride, "VALID", window_dilation=dilation)


def unit(values: Sequence[int]) -> bool:
    """Whether all are 1."""
    return all(v == 1 for v in values)


def opposite(p: Problem) -> Problem:
    """The gradient of the input at stride 1 as a convolution of the output with the flipped kernel."""
    g = p.geometry
    pads = tuple((r - low, r - high) for r, (low, high) in zip(g.reach, g.padding, strict=True))
    back = replace(g, size=g.out, padding=pads)
    return replace(p, role="output", geometry=back, channels=p.features, features=p.channels)


def flipped(kernel: Array, rank: int) -> Array:
    """The kernel with its window flipped."""
    return lax.rev(kernel, tuple(range(rank))) if math.prod(kernel.shape[:rank]) > 1 else kernel


def swapped(kernel: Array, groups: int) -> Array:
    """Turns ``(*window, in // groups, out)`` into the ``(*window, out // groups, in)`` of the gradient."""
    *window, inner, features = kernel.shape
    if groups == 1:
        return kernel.swapaxes(-1, -2)
    split = kernel.reshape(*window, inner, groups, features // groups)
    return jnp.moveaxis(split, -1, -3).swapaxes(-1, -2).reshape(*window, features // groups, groups * inner)


# ---------------------------------------------------------------------------------------------------------------------
# Strided slices that XLA divides over devices correctly

# Whether the compiler divides the program that is being lowered without a plan of ours.
_alone = contextvars.ContextVar("_alone", default=False)


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """A context for lowering a program that the compiler divides without a plan of ours: see `every` and `spread`."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def alone() -> bool:
    """Whether the current lowering is in such a context."""
    return _alone.get()


def every(a: Array, axis: int, start: int, stride: int, out: int) -> Array:
    """``out`` elements along an axis from ``start`` in steps of ``stride``: a slice.

    XLA divides a strided slice over devices wrongly, so without a plan of ours the first of each ``stride`` elements.
    """
    if stride == 1 or not alone():
        return lax.slice_in_dim(a, start, start + (out - 1) * stride + 1, stride, axis)
    axis %= a.ndim
    config = [(0, 0, 0)] * a.ndim
    config[axis] = (-start, start + out * stride - a.shape[axis], 0)
    blocks = lax.pad(a, jnp.zeros((), a.dtype), config).reshape(*a.shape[:axis], out, stride, *a.shape[axis + 1 :])
    return lax.index_in_dim(blocks, 0, axis + 1, keepdims=False)


def spread(a: Array, axis: int, start: int, stride: int, size: int) -> Array:
    """The transpose of `every`: its elements back at their positions of ``size``, among zeros."""
    axis %= a.ndim
    out, zero, config = a.shape[axis], jnp.zeros((), a.dtype), [(0, 0, 0)] * a.ndim
    if stride == 1 or not alone():
        config[axis] = (start, size - start - (out - 1) * stride - 1, stride - 1)
        return lax.pad(a, zero, config)
    blocks = lax.pad(
        lax.expand_dims(a, (axis + 1,)), zero, [*config[: axis + 1], (0, stride - 1, 0), *config[axis + 1 :]]
    )
    config[axis] = (start, size - start - out * stride, 0)
    return lax.pad(lax.collapse(blocks, axis, axis + 2), zero, config)
