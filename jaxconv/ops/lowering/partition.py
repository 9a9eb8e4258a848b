"""The share of one device of an operation that is divided over several, and what its neighbors send for it.

A `Plan` has the dimensions of an operation's arrays that belong together, and the program of the operation on a share
of them. A `Share` has the functions of one device: they get the elements that its windows reach beyond its own, and sum
over devices along contracted dimensions. `jaxconv.ops.lowering.divide` makes one from the compiler's shardings.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.ops.lowering.problem import Array


@dataclass(frozen=True)
class Span:
    """The windows along one axis: ``out`` windows of ``reach + 1`` elements over ``size`` elements.

    Window ``o`` sees the elements from ``o * stride - low`` on, and zero or nothing where there is no element.
    """

    size: int
    out: int
    reach: int
    stride: int
    low: int = 0


class Dim(NamedTuple):
    """A dimension of an array: its factor, and on which side of windows it is: "in", "out", or "" without windows."""

    factor: str
    side: str = ""


# A dimension that is never divided.
WHOLE = Dim("")
Dims = tuple[Dim, ...]


@dataclass(frozen=True)
class Plan:
    """How an operation may be divided over devices.

    Args:
      operands, results: the dimensions of each array. Dimensions of one factor are divided alike.
      local: computes the results of one device: ``local(share, *operands)``.
      spans: the windows of the factors that have windows.
      backward: whether elements are computed from windows, rather than windows from elements.
      summed: the factors that are contracted.
      multiples: the number of parts of a factor, if fewer than its elements: groups.
    """

    operands: tuple[Dims, ...]
    results: tuple[Dims, ...]
    local: Callable[..., Sequence[Array]]
    spans: Mapping[str, Span]
    backward: bool = False
    summed: frozenset[str] = frozenset()
    multiples: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Halo:
    """The neighbors' elements that a device needs along one axis.

    Args:
      total: the number of elements of all devices.
      before, after: the largest number of elements that it gets from either side.
      starts: for each device the first element that it needs, counted from the first that it owns.
      length: the number of elements that it needs.
      span: the windows of the device.
      own: for each device the position of its own elements in its result, and their number.
    """

    total: int
    before: int
    after: int
    starts: tuple[int, ...]
    length: int
    span: Span
    own: tuple[tuple[int, ...], int]


def halo(span: Span, ways: int, backward: bool) -> Halo | None:
    """Returns what devices exchange where an axis is divided, or None if that were no less than the whole axis.

    Each device has the elements and the windows of its turn, of ``ceil(size / ways)`` elements and ``ceil(out / ways)``
    windows; the last may have fewer.
    """
    size, out = -(-span.size // ways), -(-span.out // ways)
    if not backward:
        own, total, length = size, span.size, (out - 1) * span.stride + span.reach + 1
        starts = [i * (out * span.stride - size) - span.low for i in range(ways)]
        busy = -(-span.out // out)
        if out * ways > span.out:  # nor may elements that no window sees count in a window that does not exist
            total = min(total, (span.out - 1) * span.stride + span.reach + 1 - span.low)
        local = replace(span, size=length, out=out, low=0)
        kept = (0,) * ways, out
    else:
        # From the element of a multiple of the stride on, so that all devices have one program.
        busy = -(-span.size // size)
        bases = [i * size // span.stride for i in range(ways)]
        cuts = tuple(i * size - base * span.stride for i, base in enumerate(bases))
        elements = size + max(cuts[:busy])
        first = -((span.reach - span.low) // span.stride)
        own, total, length = out, span.out, (elements - 1 + span.low) // span.stride + 1 - first
        starts = [base + first - i * out for i, base in enumerate(bases)]
        local = replace(span, size=elements, out=length, low=span.low - first * span.stride)
        kept = cuts, size
    before = max(0, *(-start for start in starts[:busy]))
    after = max(0, *(start + length - own for start in starts[:busy]))
    if before + after >= (ways - 1) * own:
        return None
    # A device without elements of its own computes values that nobody reads.
    starts = [min(max(start, -before), own + after - length) for start in starts]
    return Halo(total, before, after, tuple(starts), length, local, kept)


@dataclass(frozen=True)
class Share:
    """The functions of one device. They run on its arrays, where mesh axes have names.

    Args:
      plan: the plan of the operation.
      axes: the mesh axes that divide each factor, the slowest first.
      totals: each factor's elements, on all devices; of one with windows either side's.
      sizes: the sizes of the mesh axes.
    """

    plan: Plan
    axes: Mapping[str, tuple[str, ...]]
    totals: Mapping[str, int]
    sizes: Mapping[str, int]

    def ways(self, factor: str) -> int:
        """The number of parts of a factor."""
        return math.prod(self.sizes[name] for name in self.axes.get(factor, ()))

    def span(self, factor: str) -> Span:
        """The windows of the device."""
        found = self._halo(factor)
        return self.plan.spans[factor] if found is None else found.span

    def _halo(self, factor: str) -> Halo | None:
        return halo(self.plan.spans[factor], self.ways(factor), self.plan.backward) if self.axes[factor] else None

    def extended(self, a: Array, axis: int, factor: str) -> Array:
        """The device's elements with those of its neighbors that it needs; zeros where there are none."""
        found = self._halo(factor)
        if found is None:
            return a
        names, ways, own = self.axes[factor], self.ways(factor), a.shape[axis]

        # `ppermute` counts devices along axes in the order of the mesh.
        order = np.argsort(names)
        counted = np.arange(ways).reshape([self.sizes[name] for name in names]).transpose(order).ravel()
        device = [int(i) for i in np.argsort(counted)]

        def sent(hop: int, count: int) -> Array:
            """The last or first n elements of the device that is ``hop`` devices before or behind."""
            first = own - count if hop > 0 else 0
            piece = lax.slice_in_dim(a, first, first + count, axis=axis)
            pairs = [(device[i], device[i + hop]) for i in range(ways) if 0 <= i + hop < ways]
            return lax.ppermute(piece, tuple(sorted(names)), pairs)

        hops = [-(-n // own) for n in (found.before, found.after)]
        lows = [sent(hop, min(own, found.before - (hop - 1) * own)) for hop in range(hops[0], 0, -1)]
        highs = [sent(-hop, min(own, found.after - (hop - 1) * own)) for hop in range(1, hops[1] + 1)]
        whole = lax.concatenate([*lows, a, *highs], axis) if lows or highs else a
        whole = self._part(whole, axis, factor, [start + found.before for start in found.starts], found.length)
        if own * ways == found.total:
            return whole  # since neighbors that do not exist send zeros
        firsts = [i * own + start for i, start in enumerate(found.starts)]
        return _only(whole, axis, self._mine(factor, firsts), found.total)

    def own(self, a: Array, axis: int, factor: str) -> Array:
        """The elements that the device owns, of those that it computed from windows."""
        found = self._halo(factor)
        return a if found is None else self._part(a, axis, factor, *found.own)

    def _part(self, a: Array, axis: int, factor: str, starts: Sequence[int], length: int) -> Array:
        if len(set(starts)) == 1:
            return lax.slice_in_dim(a, starts[0], starts[0] + length, axis=axis)
        return lax.dynamic_slice_in_dim(a, self._mine(factor, starts), length, axis)

    def _mine(self, factor: str, numbers: Sequence[int]) -> Array:
        """The number of this device, of one for each device along a factor."""
        return lax.dynamic_index_in_dim(
            np.asarray(numbers, np.int32), lax.axis_index(self.axes[factor]), keepdims=False
        )

    def kept(self, a: Array, dims: Dims) -> Array:
        """Zeros instead of the elements that the last device has too many, along contracted factors."""
        for axis, (factor, side) in enumerate(dims):
            ways = self.ways(factor)
            if factor not in self.plan.summed or ways == 1 or side == "in":
                continue
            total = self.plan.spans[factor].out if side else self.totals[factor]
            if a.shape[axis] * ways != total:
                firsts = [i * a.shape[axis] for i in range(ways)]
                a = _only(a, axis, self._mine(factor, firsts), total)
        return a

    def sum(self, a: Array) -> Array:
        """The sum over the devices that divide the contracted factors."""
        names = tuple(name for factor in sorted(self.plan.summed) for name in self.axes.get(factor, ()))
        return lax.psum(a, names) if names else a


def _only(a: Array, axis: int, first: Array, total: int) -> Array:
    """The elements whose index, counted from ``first``, is from 0 to ``total``; zeros instead of the others."""
    index = lax.broadcasted_iota(jnp.int32, a.shape, axis) + first
    return jnp.where((index >= 0) & (index < total), a, jnp.zeros((), a.dtype))


def dims(rank: int, sides: dict[int, str]) -> Dims:
    """The dimensions of an array that is divided along all axes, with the side of windows of some of them."""
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
