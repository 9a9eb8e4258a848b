"""Convolutions as smaller ones: with the flipped kernel, by groups, phases or slices, or one member at a time."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.ops.arrays import pad_axes, slice_axis, to_rank
from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Shape, others
from jaxconv.ops.lowering.target import Solve
from jaxconv.ops.lowering.windows import flipped, in_parts, opposite, swapped, total

# `block_diagonal` joins groups up to this many channels: with more the zeros cost, with fewer the slices do.
BLOCK = 32
# Up to this many groups, or members of an ensemble, are unrolled; more are a loop, which compiles in constant time.
UNROLLED = 16


def flipped_conv(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """The gradient of the input at stride 1 is a convolution of the output with the flipped kernel."""
    g = p.geometry
    return solve(opposite(p), second, flipped(swapped(first, g.groups), g.rank))


@dataclass(frozen=True)
class _Phase:
    """Along one axis: the taps whose elements are the phase's, every ``stride``-th from its first on."""

    taps: tuple[int, ...]
    step: int  # the distance between taps, in elements of the phase
    start: int  # the element of the first tap


def _axis_phases(window: int, stride: int, dilation: int) -> list[_Phase]:
    phases = []
    for phase in range(stride):
        hit = tuple(t for t in range(window) if (t * dilation) % stride == phase)
        step = (hit[1] - hit[0]) * dilation // stride if len(hit) > 1 else 1
        phases.append(_Phase(hit, step, (hit[0] * dilation - phase) // stride if hit else 0))
    return phases


def polyphase(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Divides the input by its positions modulo the stride: each phase meets some of the taps, at stride 1.

    The padded input's phase f holds its elements ``f, f + stride, ...``.
    """
    g = p.geometry
    axes = [_axis_phases(*numbers) for numbers in zip(g.window, g.stride, g.dilation, strict=True)]
    # The number of elements of a phase that windows reach.
    counts = [max(m, -(-(n + low) // s)) for n, m, s, (low, _) in zip(g.size, g.out, g.stride, g.padding, strict=True)]
    counts = [
        max(c, m + (f - 1) * d // s)
        for c, m, f, d, s in zip(counts, g.out, g.window, g.dilation, g.stride, strict=True)
    ]
    if p.role != "input":
        room = [(low, c * s - n - low) for n, c, s, (low, _) in zip(g.size, counts, g.stride, g.padding, strict=True)]
        padded = pad_axes(first, room)
    summed: Any = None
    parts: dict[Shape, Array] = {}
    for key in itertools.product(*(range(s) for s in g.stride)):
        chosen = [axis[f] for axis, f in zip(axes, key, strict=True)]
        if not all(c.taps for c in chosen):
            continue
        window = tuple(len(c.taps) for c in chosen)
        dilation = tuple(c.step if f > 1 else 1 for c, f in zip(chosen, window, strict=True))
        spans = [c.start + m + (f - 1) * d for c, m, f, d in zip(chosen, g.out, window, dilation, strict=True)]
        size = tuple(span - c.start for c, span in zip(chosen, spans, strict=True))
        one = (1,) * g.rank
        small = replace(p, geometry=Geometry(size, window, one, ((0, 0),) * g.rank, dilation, g.groups))
        where = tuple(slice(c.taps[0], c.taps[-1] + 1, c.taps[1] - c.taps[0] if len(c.taps) > 1 else 1) for c in chosen)
        if p.role == "input":
            part = solve(small, first[where], second)
            at = [(c.start, count - span) for c, span, count in zip(chosen, spans, counts, strict=True)]
            parts[key] = pad_axes(part, at)
            continue
        part = padded
        for axis, (f, s, c, span) in enumerate(zip(key, g.stride, chosen, spans, strict=True), 1):
            part = slice_axis(part, axis, f + c.start * s, f + (span - 1) * s + 1, s)
        if p.role == "output":
            term = solve(small, part, second[where])
            summed = term if summed is None else summed + term
        else:
            parts[key] = solve(small, part, second)
    if p.role == "output":
        return summed
    if p.role == "kernel":
        kernel = jnp.zeros(p.shape("kernel"), p.dtype)
        for key, part in parts.items():
            chosen = [axis[f] for axis, f in zip(axes, key, strict=True)]
            start = [c.taps[0] for c in chosen]
            steps = [c.taps[1] - c.taps[0] if len(c.taps) > 1 else 1 for c in chosen]
            config = [
                (a, f - a - ((n - 1) * s + 1), s - 1)
                for a, f, n, s in zip(start, g.window, part.shape, steps, strict=False)
            ]
            kernel = kernel + lax.pad(part, jnp.zeros((), part.dtype), [*config, (0, 0, 0), (0, 0, 0)])
        return kernel
    x = _interleaved(parts, g.stride)
    for axis, (n, (low, _)) in enumerate(zip(g.size, g.padding, strict=True), 1):
        x = slice_axis(x, axis, low, low + n)
    return x


def _interleaved(parts: dict[Shape, Array], stride: Shape) -> Array:
    """Interleaves phases, the last axis first."""
    level = dict(parts)
    for axis in reversed(range(len(stride))):
        joined = {}
        for key in {k[:axis] for k in level}:
            row = [level.get((*key, f)) for f in range(stride[axis])]
            like = next(a for a in row if a is not None)
            row = [jnp.zeros_like(like) if a is None else a for a in row]
            stacked = jnp.stack(row, axis=axis + 2)
            old = like.shape
            joined[key] = stacked.reshape(*old[: axis + 1], old[axis + 1] * stride[axis], *old[axis + 2 :])
        level = joined
    return level[()]


def space_to_depth(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """A stride as channels: the input's phases become channels, and one convolution at stride 1 sees them all.

    The window is filled up with zeros to a multiple of the stride.
    """
    g = p.geometry
    window = tuple(-(-f // s) for f, s in zip(g.window, g.stride, strict=True))
    size = tuple(m + f - 1 for m, f in zip(g.out, window, strict=True))
    full = [f * s for f, s in zip(window, g.stride, strict=True)]
    many = math.prod(g.stride)
    # (a0 s0, a1 s1, ...) is (a0, s0, a1, s1, ...); behind it the phases are together.
    separate = [2 * i for i in range(g.rank)] + [2 * i + 1 for i in range(g.rank)]
    small = replace(
        p,
        geometry=Geometry(size, window, (1,) * g.rank, ((0, 0),) * g.rank, (1,) * g.rank),
        channels=many * p.channels,
    )
    ends = [(low, a * s - n - low) for n, (low, _), a, s in zip(g.size, g.padding, size, g.stride, strict=True)]

    def image(x: Array) -> Array:
        x = pad_axes(x, ends).reshape(p.batch, *itertools.chain(*zip(size, g.stride, strict=True)), p.channels)
        return x.transpose(0, *(1 + a for a in separate), x.ndim - 1).reshape(small.shape("input"))

    def kernel(k: Array) -> Array:
        k = jnp.pad(k, [(0, a - f) for a, f in zip(full, g.window, strict=True)] + [(0, 0)] * 2)
        k = k.reshape(*itertools.chain(*zip(window, g.stride, strict=True)), *k.shape[-2:])
        return k.transpose(*separate, k.ndim - 2, k.ndim - 1).reshape(small.shape("kernel"))

    together = list(itertools.chain(*((i, g.rank + i) for i in range(g.rank))))
    if p.role == "output":
        return solve(small, image(first), kernel(second))
    if p.role == "kernel":
        k = solve(small, image(first), second).reshape(*window, *g.stride, p.channels, p.features)
        k = k.transpose(*together, k.ndim - 2, k.ndim - 1).reshape(*full, p.channels, p.features)
        return k[tuple(slice(f) for f in g.window)]
    x = solve(small, kernel(first), second).reshape(p.batch, *size, *g.stride, p.channels)
    x = x.transpose(0, *(1 + i for i in together), x.ndim - 1)
    x = x.reshape(p.batch, *(n * s for n, s in zip(size, g.stride, strict=True)), p.channels)
    return pad_axes(x, [(-low, -high) for low, high in ends])


def split_up(p: Problem) -> tuple[Problem, list[int]]:
    """One example of a depthwise convolution with stride as one without, and the zeros that each axis lacks for it.

    Element ``a * stride + r`` of an axis is element ``(a, r)`` of two, the same array in memory, and the window sees
    all ``r``. The last axis's ``r`` are channels, the others' are separate axes. Zeros in front of the window
    make its padding a multiple of the stride.
    """
    g, many = p.geometry, p.geometry.stride[-1]
    size: list[int] = []
    window: list[int] = []
    padding: list[tuple[int, int]] = []
    missing = []
    for axis, (n, f, m, s) in enumerate(zip(g.size, g.window, g.out, g.stride, strict=True)):
        low = -(-g.padding[axis][0] // s)
        taps = -(-(low * s - g.padding[axis][0] + f) // s)
        seen = min(-(-n // s), m + taps - 1 - low)
        extra = [s] if s > 1 and axis < g.rank - 1 else []
        size += [seen, *extra]
        window += [taps, *extra]
        padding += [(low, m + taps - 1 - low - seen), *((0, 0) for _ in extra)]
        missing.append(seen * s - n)
    unit = (1,) * len(size)
    geometry = Geometry(tuple(size), tuple(window), unit, tuple(padding), unit, many * g.groups)
    return replace(p, geometry=geometry, batch=1, channels=many * p.channels, features=many * p.features), missing


def depthwise_space_to_depth(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """The gradient of a depthwise kernel as of one without stride, one example at a time: see `split_up`."""
    g, (small, missing) = p.geometry, split_up(p)
    fronts = [-low % s for s, (low, _) in zip(g.stride, g.padding, strict=True)]
    filled = [-(-(z + f) // s) * s for z, f, s in zip(fronts, g.window, g.stride, strict=True)]

    def one(x: Array, y: Array) -> Array:
        x = pad_axes(x, [(0, more) for more in missing]).reshape(small.shape("input"))
        y = jnp.concatenate([y] * g.stride[-1], axis=-1).reshape(small.shape("output"))
        k = solve(small, x, y).reshape(*filled, 1, p.features)
        return k[tuple(slice(z, z + f) for z, f in zip(fronts, g.window, strict=True))]

    return in_parts(p, 1, p.shape("kernel"), one, first, second)


def per_group(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Each group as a separate dense convolution."""
    return _in_blocks(p, first, second, solve, 1)


def block_diagonal(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Several groups at a time as one dense convolution, whose kernel is zero between different groups."""
    return _in_blocks(p, first, second, solve, block_size(p))


def _in_blocks(p: Problem, first: Array, second: Array, solve: Solve, size: int) -> Array:
    g = p.geometry
    count = g.groups // size
    small = replace(p, geometry=replace(g, groups=1), channels=p.channels // count, features=p.features // count)
    loop = count > UNROLLED

    def block(part: Array) -> Array:
        """One kernel of the kernels of several groups, with zeros between different groups."""
        part = part.reshape(*g.window, p.inner, size, p.outer)
        own = to_rank(jnp.eye(size, dtype=bool)[:, None, :, None], g.rank + 4)
        wide = jnp.where(own, part[..., None, :, :, :], jnp.zeros((), part.dtype))  # zero times NaN would be NaN
        return wide.reshape(*g.window, size * p.inner, size * p.outer)

    def unblock(part: Array) -> Array:
        part = part.reshape(*g.window, size, p.inner, size, p.outer)
        part = jnp.stack([part[..., i, :, i, :] for i in range(size)], axis=-2)
        return part.reshape(*g.window, p.inner, size * p.outer)

    def each(function: Callable[[Array], Array], parts: Any) -> Any:
        return jax.vmap(function)(parts) if loop else [function(part) for part in parts]

    parts: list[Any] = []
    for name, a in zip(others(p.role), (first, second), strict=True):
        cut = _stacked(a, count) if loop else [_part(a, i, count) for i in range(count)]
        parts.append(each(block, cut) if name == "kernel" and size > 1 else cut)
    found: Any
    if loop:
        found = solve(replace(small, ensemble=count), parts[0], parts[1])
    else:
        found = [solve(small, *pair) for pair in zip(*parts, strict=True)]
    if p.role == "kernel" and size > 1:
        found = each(unblock, found)
    if loop:
        return jnp.moveaxis(found, 0, -2).reshape(p.shape(p.role))
    return jnp.concatenate(found, axis=-1)


def _stacked(a: Array, count: int) -> Array:
    return jnp.moveaxis(a.reshape(*a.shape[:-1], count, -1), -2, 0)


def _part(a: Array, i: int, count: int) -> Array:
    width = a.shape[-1] // count
    return slice_axis(a, a.ndim - 1, i * width, (i + 1) * width)


def block_size(p: Problem) -> int:
    """The number of groups that are joined: the most that divide all groups and have at most `BLOCK` channels."""
    g = p.geometry.groups
    return max(m for m in range(1, g + 1) if g % m == 0 and (m == 1 or m * max(p.inner, p.outer) <= BLOCK))


def per_slice(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """A window of n axes as a sum over its first axis: its slices are windows of n - 1 axes, and the input's slices
    examples."""
    g = p.geometry
    rest = Geometry(g.size[1:], g.window[1:], g.stride[1:], g.padding[1:], g.dilation[1:], g.groups)
    small = replace(p, geometry=rest, batch=p.batch * g.out[0])
    x = pad_axes(first, [g.padding[0]] + [(0, 0)] * (g.rank - 1))
    y = None if p.role == "output" else second.reshape(small.shape("output"))
    found = []
    for i in range(g.window[0]):
        start, span = i * g.dilation[0], (g.out[0] - 1) * g.stride[0] + 1
        seen = slice_axis(x, 1, start, start + span, g.stride[0]).reshape(small.shape("input"))
        found.append(solve(small, seen, second[i] if y is None else y))
    return total(found).reshape(p.shape("output")) if y is None else jnp.stack(found)


def per_member(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """One member of an ensemble after another; of many, two at a time, since small ones leave cores idle."""
    single = replace(p, ensemble=0)
    if p.ensemble <= UNROLLED:
        return jnp.stack([solve(single, first[i], second[i]) for i in range(p.ensemble)])
    # Many are small, and in a loop calls of oneDNN were slower: the input's gradient of 64 of
    # 1x14x14x32->64 k3 took 5.0 ms, without them 3.5.
    each = solve.without_onednn()
    return lax.scan(lambda _, pair: (None, each(single, *pair)), None, (first, second), unroll=2)[1]


def per_example(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """One example after another, so that a form's temporary arrays are those of one example."""
    single = replace(p, batch=1)
    if p.role == "kernel":
        start = jnp.zeros(p.shape("kernel"), p.dtype)
        return lax.scan(
            lambda sums, pair: (sums + solve(single, *pair), None), start, (first[:, None], second[:, None])
        )[0]
    along, whole = (first[:, None], second) if p.role == "output" else (second[:, None], first)
    ordered = (lambda a: (a, whole)) if p.role == "output" else (lambda a: (whole, a))
    return lax.map(lambda a: solve(single, *ordered(a)), along)[:, 0]
