"""Convolutions as matrix products and as sums of shifted maps."""

import itertools

import jax.numpy as jnp
from jax import lax

from jaxconv.ops.arrays import pad_axes, slice_axis
from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Solve
from jaxconv.ops.lowering.windows import dot, dot_over_places, seen_by, taps, total, unit


def product(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """A window of one tap is a matrix product through the depth, at every place or at each ``stride``-th."""
    g = p.geometry
    if p.role == "output":
        return dot(p, seen_by(pad_axes(first, g.padding), g, (0,) * g.rank), second.reshape(second.shape[-2:]))
    if p.role == "kernel":
        seen = seen_by(pad_axes(first, g.padding), g, (0,) * g.rank)
        return dot_over_places(p, seen, second).reshape(p.shape("kernel"))
    back = dot(p, second, first.reshape(first.shape[-2:]).T)
    return spread(back, g)


def spread(y: Array, g: Geometry) -> Array:
    """Puts output places back where their window's first tap lies in the input, zeros between."""
    if unit(g.stride) and y.shape[1:-1] == g.size:
        return y
    config = [(0, 0, 0)]
    for n, m, s, (low, _) in zip(g.size, g.out, g.stride, g.padding, strict=True):
        config.append((-low, n + low - ((m - 1) * s + 1), s - 1))
    return lax.pad(y, jnp.zeros((), y.dtype), [*config, (0, 0, 0)])


def products(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """A matrix product for each tap: summed for the output, side by side for the kernel."""
    if p.role == "output":
        return total(dot(p, seen, second[index]) for index, seen in taps(p, first))
    found = [dot_over_places(p, seen, second) for _, seen in taps(p, first)]
    return jnp.stack(found).reshape(p.shape("kernel"))


def patches(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """One matrix product of all that a window sees, side by side."""
    seen = jnp.concatenate([seen for _, seen in taps(p, first)], axis=-1)
    if p.role == "output":
        return dot(p, seen, second.reshape(-1, p.features))
    return dot_over_places(p, seen, second).reshape(p.shape("kernel"))


def shifts(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Each channel by itself: multiply the shifted map by the tap's number for each channel, and add."""
    if p.role == "output":
        return total(widened(seen, p) * second[index][0] for index, seen in taps(p, first))
    return _sums_over_places(p, widened(first, p), second).reshape(p.shape("kernel"))


def widened(seen: Array, p: Problem) -> Array:
    """Each channel as often as it has features."""
    return seen if p.outer == 1 else jnp.repeat(seen, p.outer, axis=-1)


def _sums_over_places(p: Problem, x: Array, y: Array) -> Array:
    """For each tap, the sum over all places of what it sees times ``y``, channel by channel: ``(taps, channels)``.

    XLA:CPU sums over many places one number at a time. A chain of additions it does for many channels at once: so up to
    16 rows are added in a chain, and a product with ones adds what is left.
    """
    g = p.geometry
    rows = g.out[0]
    exact = [n for n in range(7, 17) if rows % n == 0]
    chain = exact[-1] if exact else min(range(8, 17), key=lambda n: (-(-rows // n) * n, -n)) if rows > 16 else rows
    left = -(-rows // chain)
    extra = left * chain - rows
    y = pad_axes(y, [(0, extra)] + [(0, 0)] * (g.rank - 1))
    x = pad_axes(
        x, [(low, high + (extra * g.stride[0] if axis == 0 else 0)) for axis, (low, high) in enumerate(g.padding)]
    )
    found = []
    for index in itertools.product(*(range(f) for f in g.window)):
        terms = []
        for row in range(chain):
            seen = x
            for axis, (i, m, s, d) in enumerate(zip(index, g.out, g.stride, g.dilation, strict=True), 1):
                start, count, step = (i * d + row * s, left, chain * s) if axis == 1 else (i * d, m, s)
                seen = slice_axis(seen, axis, start, start + (count - 1) * step + 1, step)
            terms.append(seen * slice_axis(y, 1, row, row + (left - 1) * chain + 1, chain))
        rest = total(terms).reshape(-1, y.shape[-1])
        ones = jnp.ones((1, rest.shape[0]), rest.dtype)
        found.append(lax.dot_general(ones, rest, (((1,), (0,)), ((), ())), precision=p.precision))
    return jnp.concatenate(found)
