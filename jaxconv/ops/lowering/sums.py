"""Convolutions as matrix products and as sums of shifted feature maps."""

import itertools
import math
from dataclasses import replace

import jax.numpy as jnp
from jax import lax

from jaxconv.ops.arrays import pad_axes, slice_axis, to_rank
from jaxconv.ops.lowering.problem import ROLES, Array, Geometry, Problem, Product
from jaxconv.ops.lowering.target import Solve
from jaxconv.ops.lowering.windows import dot, in_parts, seen_by, taps, total, unit, widened


def gemm(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """A window of one tap is a matrix product over channels, at every position or every ``stride``-th."""
    g = p.geometry
    if p.role == "input":
        return spread(product("features", p, second, first.reshape(first.shape[-2:]), solve), g)
    seen = seen_by(pad_axes(first, g.padding), g, (0,) * g.rank)
    if p.role == "kernel":
        return product("positions", p, seen, second, solve).reshape(p.shape("kernel"))
    return product("channels", p, seen, second.reshape(second.shape[-2:]), solve)


def spread(y: Array, g: Geometry) -> Array:
    """Puts output positions back at the input positions of their window's tap, with zeros between."""
    if unit(g.stride) and y.shape[1:-1] == g.size:
        return y
    config = [(0, 0, 0)]
    for n, m, s, (low, _) in zip(g.size, g.out, g.stride, g.padding, strict=True):
        config.append((-low, n + low - ((m - 1) * s + 1), s - 1))
    return lax.pad(y, jnp.zeros((), y.dtype), [*config, (0, 0, 0)])


def product(role: str, p: Problem, a: Array, b: Array, solve: Solve) -> Array:
    """A matrix product, by the form that is chosen for it: see `Product` for the roles."""
    positions, channels = math.prod(a.shape[:-1]), a.shape[-1]
    rows, inner = (channels, positions) if role == "positions" else (positions, channels)
    columns = b.shape[0 if role == "features" else -1]
    return solve(Product(role, rows, inner, columns, p.dtype, p.precision), a, b)


def product_by_xla(p: Product, a: Array, b: Array, solve: Solve) -> Array:
    """XLA's matrix product.

    Over positions XLA:CPU first transposes the left operand in memory, so the narrower one is the left. Without the
    barrier it would see that a transposed product is that of the exchanged operands.
    """
    if p.role != "positions":
        return dot(p, a, b if p.role == "channels" else b.T)
    axes = tuple(range(a.ndim - 1))
    exchanged = a.shape[-1] > b.shape[-1]
    first, second = (b, a) if exchanged else (a, b)
    found = lax.dot_general(
        first, second, ((axes, axes), ((), ())), precision=p.precision, preferred_element_type=p.dtype
    )
    return lax.optimization_barrier(found).T if exchanged else found


def gemm_per_tap(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """A matrix product for each tap: summed for the output, stacked for the kernel."""
    if p.role == "output":
        return total(dot(p, seen, second[index]) for index, seen in taps(p, first))
    x = pad_axes(first, p.geometry.padding)
    found: list[Array] = []
    for index in itertools.product(*(range(f) for f in p.geometry.window)):
        if found and solve.target.platform.one_tap_at_a_time:
            # One after another: otherwise XLA stores the elements under all taps at once.
            x, found[-1] = lax.optimization_barrier((x, found[-1]))
        found.append(product("positions", p, seen_by(x, p.geometry, index), second, solve))
    return jnp.stack(found).reshape(p.shape("kernel"))


def split_im2col(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """The kernel's gradient as a matrix product of the input under its rows and the output under its columns.

    ``kernel[i, j]`` is a sum of ``input[h + i, w] * output[h, w - j]``: the window's last axis moves the output instead
    of the input, so each is copied a few times, and neither once for every tap. Where that axis has a stride, all taps
    move the input. A few examples at a time, so that the copies stay in a cache.
    """
    g, (seen, moves) = p.geometry, crossing(p)
    some = replace(p, batch=together(p), geometry=seen)
    room = seen.out[-1] - g.out[-1]

    def add(x: Array, y: Array) -> Array:
        inputs = jnp.concatenate([part for _, part in taps(some, x)], axis=-1)
        outputs = [pad_axes(y, [(0, 0)] * (g.rank - 1) + [(move, room - move)]) for move in moves]
        return product("positions", p, jnp.concatenate(outputs, axis=-1), inputs, solve)

    shape = (len(moves) * p.features, math.prod(seen.window) * p.inner)
    found = in_parts(p, some.batch, shape, add, first, second)
    found = found.reshape(len(moves), p.features, *seen.window, p.inner)
    return jnp.moveaxis(found, (0, 1), (g.rank, -1)).reshape(p.shape("kernel"))


def crossing(p: Problem) -> tuple[Geometry, list[int]]:
    """How `split_im2col` divides the window: the geometry in which the input is seen, and the moves of the output."""
    g = p.geometry
    if g.stride[-1] > 1:
        return g, [0]
    seen = replace(g, window=(*g.window[:-1], 1), padding=(*g.padding[:-1], (0, 0)))
    return seen, [tap * g.dilation[-1] - g.padding[-1][0] for tap in range(g.window[-1])]


def together(p: Problem) -> int:
    """The number of examples that `split_im2col` copies at a time.

    The most that divide the batch and are at most a million elements, which fit in a cache, and at most half of the
    elements of the problem's arrays; one if one example is more than that.
    """
    most = min(2**20, elements(p) / 2)
    return max(n for n in range(1, p.batch + 1) if p.batch % n == 0 and (n == 1 or n * elements_of_one(p) <= most))


def elements_of_one(p: Problem) -> int:
    """The number of elements that `split_im2col` copies for one example."""
    seen, moves = crossing(p)
    return math.prod(seen.out) * (math.prod(seen.window) * p.inner + len(moves) * p.features)


def elements(p: Problem) -> int:
    """The number of elements of the problem's three arrays."""
    return sum(math.prod(p.shape(name)) for name in ROLES)


def toeplitz_gemm(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """One matrix product of all elements under `tile_size` consecutive windows, whose matrix is a Toeplitz matrix.

    The kernel is in it once for each window, a stride further on, with zeros around: the wider product makes up for the
    few channels.
    """
    g = p.geometry
    *lead, f = g.window
    *lead_out, m = g.out
    s, d = g.stride[-1], g.dilation[-1]
    t = tile_size(p)
    length = tile_length(p, t)
    count = -(-m // t)
    # A tile starts t * s elements after the one before, and reaches into the next pieces of that size.
    step = t * s
    pieces = -(-length // step)
    low, _ = g.padding[-1]
    x = pad_axes(first, [*g.padding[:-1], (low, (count + pieces - 1) * step - g.size[-1] - low)])
    x = x.reshape(*x.shape[:-2], count + pieces - 1, step * p.channels)
    seen = []
    for index in itertools.product(*(range(n) for n in lead)):
        row = x
        for axis, (i, n, a, b) in enumerate(zip(index, lead_out, g.stride, g.dilation, strict=False), 1):
            row = slice_axis(row, axis, i * b, i * b + (n - 1) * a + 1, a)
        for piece in range(pieces):
            part = slice_axis(row, row.ndim - 2, piece, piece + count)
            seen.append(part[..., : (length - piece * step) * p.channels])
    tile = jnp.concatenate(seen, axis=-1)
    shape = (*lead, length, p.channels, t, p.features)
    if p.role == "output":
        zero = jnp.zeros((), second.dtype)
        config = [(0, 0, 0)] * len(lead)
        shifted = [
            lax.pad(second, zero, [*config, (j * s, (t - 1 - j) * s, d - 1), (0, 0, 0), (0, 0, 0)]) for j in range(t)
        ]
        y = dot(p, tile, jnp.stack(shifted, axis=-2).reshape(-1, t * p.features))
        return slice_axis(y.reshape(p.batch, *lead_out, count * t, p.features), g.rank, 0, m)
    y = pad_axes(second, [(0, 0)] * len(lead) + [(0, count * t - m)])
    y = y.reshape(*y.shape[:-2], count, t * p.features)
    kernels = product("positions", p, tile, y, solve).reshape(shape)
    axis = len(lead)
    return total(slice_axis(kernels[..., j, :], axis, j * s, j * s + (f - 1) * d + 1, d) for j in range(t))


def tile_size(p: Problem) -> int:
    """The number of consecutive windows in a tile of `toeplitz_gemm`.

    Half of a window's taps, more where there are few features; then more, until the tiles are no larger than input and
    output.
    """
    most = p.geometry.out[-1]
    t = 1 << math.ceil(math.log2(max(2, p.geometry.window[-1] / 2, 24 / p.features)))
    while t < most and tiles_held(p, t) > 1:
        t *= 2
    return min(t, most)


def tile_length(p: Problem, t: int) -> int:
    """The number of elements of the last axis under t consecutive windows."""
    g = p.geometry
    return (t - 1) * g.stride[-1] + g.reach[-1] + 1


def tiles_held(p: Problem, t: int) -> float:
    """The elements of the tiles of `toeplitz_gemm`, as a multiple of those of input and output."""
    g = p.geometry
    rows = p.batch * math.prod(g.out[:-1]) * math.prod(g.window[:-1])
    held = rows * -(-g.out[-1] // t) * tile_length(p, t) * p.channels
    return held / sum(math.prod(p.shape(name)) for name in ("input", "output"))


def shift_add(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Each channel separately: the sum of the shifted feature maps, each times the tap's weight for the channel."""
    if p.role == "output":
        return total(widened(seen, p) * to_rank(second[index][0], seen.ndim) for index, seen in taps(p, first))
    return _sums_over_positions(p, widened(first, p), second).reshape(p.shape("kernel"))


def tap_reduce(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Each channel separately: for each tap, the sum over positions of the element under it times the output's
    gradient."""
    axes = tuple(range(second.ndim - 1))
    found = [jnp.sum(widened(seen, p) * second, axes) for _, seen in taps(p, first)]
    return jnp.stack(found).reshape(p.shape("kernel"))


def _sums_over_positions(p: Problem, x: Array, y: Array) -> Array:
    """For each tap, the sum over positions of the element under it times ``y``, by channel: ``(taps, channels)``.

    XLA:CPU sums over many positions one element at a time, but vectorizes a chain of additions over channels. So up to
    16 rows are added in a chain, and a product with ones adds the rest.
    """
    g = p.geometry
    rows = g.out[0]
    exact = [n for n in range(7, 17) if rows % n == 0]
    chain = exact[-1] if exact else min(range(8, 17), key=lambda n: (-(-rows // n) * n, -n)) if rows > 16 else rows
    left = -(-rows // chain)
    x = pad_axes(x, g.padding)
    found = []
    for index in itertools.product(*(range(f) for f in g.window)):
        terms = []
        for row in range(chain):
            seen, whole = x, -(-(rows - row) // chain)
            for axis, (i, m, s, d) in enumerate(zip(index, g.out, g.stride, g.dilation, strict=True), 1):
                start, count, step = (i * d + row * s, whole, chain * s) if axis == 1 else (i * d, m, s)
                seen = slice_axis(seen, axis, start, start + (count - 1) * step + 1, step)
            term = seen * slice_axis(y, 1, row, row + (whole - 1) * chain + 1, chain)
            # The rest is padded in the products, not in y: zero times NaN would be NaN.
            terms.append(pad_axes(term, [(0, left - whole)] + [(0, 0)] * (g.rank - 1)))
        rest = total(terms).reshape(-1, y.shape[-1])
        ones = jnp.ones((1, rest.shape[0]), rest.dtype)
        found.append(lax.dot_general(ones, rest, (((1,), (0,)), ((), ())), precision=p.precision))
    return jnp.concatenate(found)
