"""What the forms share: what a tap sees, and products over channels or places."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import jax.numpy as jnp
from jax import lax

from jaxconv.ops.arrays import pad_axes, slice_axis
from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Shape


def taps(p: Problem, x: Array) -> Iterator[tuple[Shape, Array]]:
    """For each tap of the window, row-major: its index, and what it sees at every output place."""
    g = p.geometry
    x = pad_axes(x, g.padding)
    for index in itertools.product(*(range(f) for f in g.window)):
        yield index, seen_by(x, g, index)


def seen_by(padded: Array, g: Geometry, index: Shape) -> Array:
    """What the tap at this index of the window sees of a padded map, at every output place."""
    for axis, (i, m, s, d) in enumerate(zip(index, g.out, g.stride, g.dilation, strict=True), 1):
        padded = slice_axis(padded, axis, i * d, i * d + (m - 1) * s + 1, s)
    return padded


def widened(seen: Array, p: Problem) -> Array:
    """Each channel as often as it has features."""
    return seen if p.outer == 1 else jnp.repeat(seen, p.outer, axis=-1)


def dot(p: Problem, a: Array, b: Array) -> Array:
    """Contracts the last axis of a with the first of b."""
    return lax.dot_general(
        a, b, (((a.ndim - 1,), (0,)), ((), ())), precision=p.precision, preferred_element_type=p.dtype
    )


def total(terms: Iterable[Array]) -> Array:
    """Adds them up, the first first."""
    return functools.reduce(lax.add, terms)


def in_parts(
    p: Problem, size: int, shape: Shape, compute: Callable[[Array, Array], Array], first: Array, second: Array
) -> Array:
    """Adds up what ``compute`` makes, of this shape, of ``size`` examples at a time, which divide the batch."""
    if size == p.batch:
        return compute(first, second)

    def add(i: Array, sums: Array) -> Array:
        parts = [lax.dynamic_slice_in_dim(a, i * size, size) for a in (first, second)]
        return sums + compute(*parts)

    return lax.fori_loop(0, p.batch // size, add, jnp.zeros(shape, p.dtype))


def unit(values: Sequence[int]) -> bool:
    """Whether all are 1."""
    return all(v == 1 for v in values)


def opposite(p: Problem) -> Problem:
    """The way back at stride 1 as a convolution of the output, with the kernel turned round."""
    g = p.geometry
    pads = tuple((r - low, r - high) for r, (low, high) in zip(g.reach, g.padding, strict=True))
    back = replace(g, size=g.out, padding=pads)
    return replace(p, role="output", geometry=back, channels=p.features, features=p.channels)


def flipped(kernel: Array, rank: int) -> Array:
    """The kernel with its window turned round."""
    return lax.rev(kernel, tuple(range(rank))) if math.prod(kernel.shape[:rank]) > 1 else kernel


def swapped(kernel: Array, groups: int) -> Array:
    """Turns ``(*window, in // groups, out)`` into the ``(*window, out // groups, in)`` of the way back."""
    *window, inner, features = kernel.shape
    if groups == 1:
        return kernel.swapaxes(-1, -2)
    split = kernel.reshape(*window, inner, groups, features // groups)
    return jnp.moveaxis(split, -1, -3).swapaxes(-1, -2).reshape(*window, features // groups, groups * inner)
