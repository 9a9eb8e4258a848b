"""One axis resampled: each output a weighted sum of a few elements, gathered; its transpose another such gather.

Positions are exact: source positions are quotients and remainders of integers, computed in the program from iota. A
weight that is zero in exact arithmetic is zero, and an element of weight zero is not read: a value that is not finite
reaches only the outputs that depend on it. Cost and memory are linear in the larger of the two sizes.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from jaxconv.ops.lowering.define import define, linear
from jaxconv.ops.lowering.partition import WHOLE, Plan, dims
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.target import Platform
from jaxconv.ops.lowering.windows import CHAIN, total

# Symbolic sizes are assumed to be below 2^20, for which this many bits of a position at a time do not overflow.
_SYMBOLIC_BITS, _SYMBOLIC_STEP = 20, 10


def _triangle(distance: Array, unit: Array, dtype: Any) -> Array:
    share = jnp.maximum(unit - jnp.abs(distance), 0).astype(dtype) / unit.astype(dtype)
    # The compiler divides by multiplying with a rounded reciprocal: 1 would not be 1.
    return jnp.where(distance == 0, jnp.ones_like(share), share)


def _cubic(a: float) -> Callable[..., Array]:
    """Returns Keys' cubic kernel (1981)."""

    def weight(distance: Array, unit: Array, dtype: Any) -> Array:
        far = jnp.abs(distance)
        t = far.astype(dtype) / unit.astype(dtype)
        within = ((a + 2) * t - (a + 3)) * t * t + 1
        beyond = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        # Zero at whole distances, which rounding would miss.
        outside = (far == unit) | (far >= 2 * unit)
        return jnp.where(outside, jnp.zeros_like(t), jnp.where(far < unit, within, beyond))

    return weight


# Method and antialias: the kernel and its reach in elements of the coarser grid. torch has another cubic for each.
KERNELS = {
    ("bilinear", False): (_triangle, 1),
    ("bilinear", True): (_triangle, 1),
    ("bicubic", False): (_cubic(-0.75), 2),
    ("bicubic", True): (_cubic(-0.5), 2),
}


class Sampling(NamedTuple):
    """How one axis is resampled: "bilinear", "bicubic", "nearest", "nearest_exact" or "mean" (of adaptive bins)."""

    method: str
    align_corners: bool = False
    antialias: bool = False


def _cast(value: Any, dtype: Any) -> Any:
    """A size, which may be symbolic, as a scalar of a type."""
    return jnp.asarray(value, dtype)


def _static(*sizes: Any) -> bool:
    return all(isinstance(n, int) for n in sizes)


def _divided(i: Array, a: Any, b: Any, c: Any, most: Any) -> tuple[Array, Array]:
    """Returns quotient and remainder of ``(a i + b) / c`` for ``0 <= i <= most``, exactly: a few bits of i at a time,
    so that no product overflows int32."""
    bits, step = _SYMBOLIC_BITS, _SYMBOLIC_STEP
    if _static(a, b, c, most):
        bits = max(most.bit_length(), 1)
        step = max(min(30 - (a + c).bit_length(), bits), 1)
    a, b, c = (_cast(v, jnp.int32) for v in (a, b, c))
    quotient, rest = jnp.zeros_like(i), jnp.zeros_like(i)
    for shift in reversed(range(0, bits, step)):
        value = (rest << step) + ((i >> shift) & ((1 << step) - 1)) * a
        quotient, rest = (quotient << step) + value // c, value % c
    rest = rest + b
    return quotient + rest // c, rest % c


class _Axis(NamedTuple):
    """An axis of ``n`` elements resampled to ``m``. Sizes may be symbolic."""

    sampling: Sampling
    n: Any
    m: Any
    dtype: Any

    @property
    def line(self) -> tuple[Any, Any, Any]:
        """Output i is at ``(a i + b) / c`` of the input; a, b and c."""
        n, m = self.n, self.m
        if self.sampling.method == "mean":
            return n, 0, m
        if not self.sampling.align_corners:
            return 2 * n, n - m, 2 * m
        # A single output is at 0.
        span, steps = (n - 1) * jax.core.min_dim(m - 1, 1), jax.core.max_dim(m - 1, 1)
        return (2 * span, span - steps, 2 * steps) if self.sampling.antialias else (span, 0, steps)

    @property
    def kernel(self) -> Any:
        return KERNELS[self.sampling.method, self.sampling.antialias]

    @property
    def unit(self) -> Any:
        """The kernel's unit, in units of 1 / c: an element of the coarser grid."""
        a, _, c = self.line
        return jax.core.max_dim(a, c) if self.sampling.antialias else c

    def positions(self) -> tuple[Array, ...]:
        """Where each output is: the bounds of its bin, the nearest element, or the element at or before it and how
        far behind that it is, in units of 1 / c."""
        i = lax.iota(jnp.int32, self.m)
        n, m = self.n, self.m
        if self.sampling.method == "mean":
            start, _ = _divided(i, n, 0, m, m)
            stop, rest = _divided(i + 1, n, 0, m, m)
            return start, stop + (rest > 0).astype(jnp.int32)
        last = _cast(n - 1, jnp.int32)
        if self.nearby:
            # In float32, as torch rounds.
            scale = _cast(n, jnp.float32) / _cast(m, jnp.float32)
            half = 0.5 if self.sampling.method == "nearest_exact" else 0.0
            return (jnp.minimum(jnp.floor((i.astype(jnp.float32) + half) * scale).astype(jnp.int32), last),)
        at, rest = _divided(i, *self.line, m)
        if self.sampling.method == "bilinear" and not self.sampling.antialias:
            # Beyond the centers of the rim's elements there is nothing to interpolate.
            return jnp.clip(at, 0, last), jnp.where((at < 0) | (at >= last), 0, rest)
        return at, rest

    def first_reader(self, j: Array) -> Array:
        """The first output that may read each element."""
        n, m = self.n, self.m
        if self.sampling.method == "mean":
            return _divided(j, m, 0, n, n)[0]
        if self.nearby:
            return _divided(j, m, 0, n, n)[0] - self.slack
        a, b, c = self.line
        if _static(a) and a == 0:
            return jnp.zeros_like(j)
        # The first i for which a i + b exceeds c j - reach units.
        return _divided(j, c, -b - self.kernel[1] * self.unit, a, n)[0] + 1

    @property
    def nearby(self) -> bool:
        return self.sampling.method.startswith("nearest")

    @property
    def slack(self) -> int:
        """How far float32's rounding may move a reader of the nearest methods."""
        return 1 + max(self.n, self.m) // 2**21

    @property
    def reach(self) -> int:
        """How many elements an output reads on either side at most."""
        return -(-self.kernel[1] * self.unit // self.line[2])

    @property
    def taps(self) -> int:
        """How many elements an output reads at most."""
        if self.nearby:
            return 1
        return _longest(self.n, self.m) if self.sampling.method == "mean" else 2 * self.reach

    @property
    def most_readers(self) -> int:
        """How many outputs read an element at most."""
        if self.nearby:
            return -(-self.m // self.n) + 2 * self.slack
        if self.sampling.method == "mean":
            return _longest(self.m, self.n)
        a = self.line[0]
        return -(-2 * self.kernel[1] * self.unit // a) if a else self.m

    def weight(self, at: tuple[Array, ...], j: Array) -> Array:
        """What element j counts in the outputs at these positions, but for their `norm`."""
        if self.sampling.method == "mean":
            start, stop = at
            return ((j >= start) & (j < stop)).astype(self.dtype)
        if self.nearby:
            return (at[0] == j).astype(self.dtype)
        kernel, reach = self.kernel
        c, unit = (_cast(v, jnp.int32) for v in (self.line[2], self.unit))

        def at_distance(j: Array) -> Array:
            return kernel((j - at[0]) * c - at[1], unit, self.dtype)

        found = at_distance(j)
        if self.sampling.antialias or reach == 1:
            return found
        # A tap beyond the rim takes the rim's element.
        zero = jnp.zeros((), self.dtype)
        last = j == _cast(self.n - 1, jnp.int32)
        for step in range(1, reach + 1):
            found = found + jnp.where(j == 0, at_distance(j - step), zero)
            found = found + jnp.where(last, at_distance(j + step), zero)
        return found

    def norm(self) -> Array | None:
        """What the sum of each output is divided by."""
        if self.sampling.method == "mean":
            start, stop = self.positions()
            return (stop - start).astype(self.dtype)
        return jnp.sum(self.reads()[1], 1) if self.sampling.antialias else None

    def reads(self) -> tuple[Array, Array]:
        """The elements that each output reads at most and their weights, both ``(m, taps)``."""
        at = self.positions()
        if self.bounded:
            first = at[0] if self.nearby or self.sampling.method == "mean" else at[0] - (self.reach - 1)
            j = _columns(first, self.taps, self.n)
        else:
            j = self._all(at[0], self.n)
        return j, self.weight(tuple(lax.broadcast_in_dim(a, j.shape, (0,)) for a in at), j)

    def readers(self) -> tuple[Array, Array]:
        """The outputs that each element is read by at most and their weights, both ``(n, readers)``."""
        j = lax.iota(jnp.int32, self.n)
        i = _columns(self.first_reader(j), self.most_readers, self.m) if self.bounded else self._all(j, self.m)
        at = tuple(jnp.take(a, i, 0, mode="clip") for a in self.positions())
        return i, self.weight(at, lax.broadcast_in_dim(j, i.shape, (0,)))

    def _all(self, rows: Array, length: Any) -> Array:
        return _columns(jnp.zeros_like(rows), length, length)

    @property
    def bounded(self) -> bool:
        """Whether the number of taps is known: by the sizes, or by the method."""
        free = self.sampling.method == "mean" or self.sampling.antialias
        return _static(self.n, self.m) or not free


def _longest(n: int, m: int) -> int:
    """The length of the longest of m adaptive bins over n elements."""
    return (n + m - math.gcd(n, m) + m - 1) // m


def _columns(first: Array, most: Any, length: Any) -> Array:
    """At most ``most`` of the integers below ``length``, from the first of each row on."""
    most = jax.core.min_dim(most, length)
    shape = (*first.shape, most)
    first = jnp.clip(first, 0, _cast(length - most, jnp.int32))
    return lax.broadcast_in_dim(first, shape, (0,)) + lax.broadcasted_iota(jnp.int32, shape, 1)


def _gathered(x: Array, axis: int, at: Array, weight: Array) -> Array:
    """The sum of the elements of one axis at ``at (count, taps)``, by their weights; of weight 0 none is read."""
    count, taps = at.shape
    axis += x.ndim
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    zero = jnp.zeros((), x.dtype)
    # Otherwise the compiler computes positions and weights again for each row and channel.
    at, weight = lax.optimization_barrier((at.T, weight.T))

    def term(at: Array, weight: Array) -> Array:
        seen, spread = jnp.take(x, at, axis, mode="clip"), lax.broadcast_in_dim(weight, shape, (axis,))
        return jnp.where(spread != 0, seen * spread, zero)

    def some(k: Any, sums: Array) -> Array:
        parts = (lax.dynamic_slice_in_dim(a, k * step, step) for a in (at, weight))
        return functools.reduce(lax.add, map(term, *parts), sums)

    if _static(taps) and taps <= CHAIN:
        return total(map(term, at, weight))
    step = CHAIN if _static(taps) else 1
    rounds = taps // step
    sums = lax.fori_loop(0, rounds, some, jnp.zeros(shape, x.dtype))
    return functools.reduce(lax.add, map(term, at[rounds * step :], weight[rounds * step :]), sums)


def _along(values: Array, x: Array, axis: int) -> Array:
    """Values for an axis of ``x``, with x's number of axes."""
    return lax.broadcast_in_dim(values, x.shape, (x.ndim + axis,))


def resample(x: Array, axis: int, size: Any, sampling: Sampling) -> Array:
    """Resamples one axis of ``x``, counted from the end, to ``size`` elements, in x's type.

    On a mesh of explicit axes every device needs the whole axis: where it is divided, it is gathered first.
    """
    sharding = jax.typeof(x).sharding
    spec = sharding.spec
    if spec[axis] is not None:
        at = x.ndim + axis
        whole = spec.update(partitions=(*spec[:at], None, *spec[at + 1 :]))
        x = jax.sharding.reshard(x, sharding.update(spec=whole))
    return resample_p.bind(x, axis=axis, n=x.shape[axis], m=size, sampling=sampling)


def seen_elements(n: int, m: int, sampling: Sampling) -> dict[int, tuple[int, int]]:
    """Returns from which start to which stop of n elements each of the m outputs of an interpolation reads."""
    line = _Axis(sampling, n, m, None)
    if line.nearby:
        half = np.float32(0.5 if sampling.method == "nearest_exact" else 0)
        source = (np.arange(m, dtype=np.float32) + half) * np.float32(n / m)
        return {i: (at, at + 1) for i, at in enumerate(np.minimum(source.astype(int), n - 1).tolist())}
    (a, b, c), unit, far = line.line, line.unit, line.kernel[1] * line.unit
    spans = {}
    for i in range(m):
        at = a * i + b
        if sampling.method == "bilinear" and not sampling.antialias:
            at = min(max(at, 0), (n - 1) * c)
        # Strictly within reach; Keys' kernel is zero at a distance of one unit too.
        taps = range((at - far) // c + 1, -(-(at + far) // c))
        seen = [min(max(j, 0), n - 1) for j in taps if far == unit or abs(j * c - at) != unit]
        spans[i] = min(seen), max(seen) + 1
    return spans


def _resample(platform: Platform, x: Array, *, axis: int, n: Any, m: Any, sampling: Sampling) -> Array:
    line = _Axis(sampling, n, m, x.dtype)
    if line.nearby:
        return jnp.take(x, line.positions()[0], axis, mode="clip")
    y = _gathered(x, axis, *line.reads())
    norm = line.norm()
    return y if norm is None else y / _along(norm, y, axis)


def _spread(platform: Platform, y: Array, *, axis: int, n: Any, m: Any, sampling: Sampling) -> Array:
    line = _Axis(sampling, n, m, y.dtype)
    if not _static(n, m) and line.bounded:
        shape = (*y.shape[: y.ndim + axis], n, *y.shape[y.ndim + axis + 1 :])
        program = functools.partial(_resample, platform, axis=axis, n=n, m=m, sampling=sampling)
        (x,) = jax.linear_transpose(program, jax.ShapeDtypeStruct(shape, y.dtype))(y)
        return x
    norm = line.norm()
    if norm is not None:
        y = y / _along(norm, y, axis)
    return _gathered(y, axis, *line.readers())


def _typed(size: str, x: Any, *, axis: int, **params: Any) -> Any:
    """The type of x, but for the size of one axis."""
    axis += x.ndim
    return x.update(shape=(*x.shape[:axis], params[size], *x.shape[axis + 1 :]), weak_type=False)


def _plan(primitive: Primitive, platform: Platform, a: Any, *, axis: int, **params: Any) -> Plan | None:
    """Over devices all axes but the resampled one may be divided."""
    if not _static(*a.shape, params["n"], params["m"]):
        return None
    each = [*dims(a.ndim, {})]
    each[axis] = WHOLE
    return Plan((tuple(each),), (tuple(each),), lambda _, a: [primitive.bind(a, axis=axis, **params)], {})


resample_p = Primitive("jaxconv_resample")
resample_transpose_p = Primitive("jaxconv_resample_transpose")
linear(resample_p, resample_transpose_p.bind)
linear(resample_transpose_p, resample_p.bind)
define(resample_p, _resample, functools.partial(_plan, resample_p), functools.partial(_typed, "m"))
define(resample_transpose_p, _spread, functools.partial(_plan, resample_transpose_p), functools.partial(_typed, "n"))
