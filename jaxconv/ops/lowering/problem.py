"""The static facts of a convolution, a matrix product or a pool, by which its algorithm is chosen."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxconv.geometry import Pairs, window_extent

Array = jax.Array
Shape = tuple[int, ...]

# The three arrays of a convolution. Any two of them give the third, linearly in each.
ROLES = ("input", "kernel", "output")


@dataclass(frozen=True)
class Geometry:
    """The window geometry: everything that the arrays' shapes alone do not determine.

    Args:
      size: the input's spatial sizes.
      window, stride, dilation: one integer for each axis.
      padding: (low, high) for each axis, from the public ops each from 0 to the window's extent less one.
      groups: the number of groups of channels.
    """

    size: Shape
    window: Shape
    stride: Shape
    padding: Pairs
    dilation: Shape
    groups: int = 1

    @property
    def rank(self) -> int:
        return len(self.window)

    @property
    def reach(self) -> Shape:
        """The distance from the window's first tap to its last, for each axis."""
        return tuple(window_extent(f, d) - 1 for f, d in zip(self.window, self.dilation, strict=True))

    @property
    def out(self) -> Shape:
        """The output's spatial sizes."""
        padded = (n + low + high for n, (low, high) in zip(self.size, self.padding, strict=True))
        return tuple((n - r - 1) // s + 1 for n, r, s in zip(padded, self.reach, self.stride, strict=True))

    def described(self) -> str:
        """Returns the options that are not the default, one number for several that are the same."""

        def short(values: Any) -> str:
            same = len(set(values)) == 1 and not isinstance(values[0], tuple)
            return str(values[0]) if same else str(tuple(values))

        sides = {side for pair in self.padding for side in pair}
        options = {
            "stride": (short(self.stride), "1"),
            "padding": (short([*sides] if len(sides) == 1 else self.padding), "0"),
            "dilation": (short(self.dilation), "1"),
            "groups": (str(self.groups), "1"),
        }
        return ", ".join(f"{name} {value}" for name, (value, default) in options.items() if value != default)


@dataclass(frozen=True)
class Problem:
    """One convolution in one role: which of the three arrays is wanted, given the other two, and all sizes.

    The arrays are ``input (N, *size, C)``, ``kernel (*window, C // groups, O)`` and ``output (N, *out, O)``; in an
    ensemble each has one more axis in front.

    Args:
      role: the array that is wanted.
      geometry: the window geometry.
      batch: N.
      channels: C.
      features: O.
      dtype: the type of the result: that of the sums, but half precision where a library accumulates in float32 and the
        result is rounded anyway.
      half: whether the operands have half precision.
      ensemble: the number of independent convolutions, or 0 if the arrays lack the axis.
      precision: of products, as in `jax.lax.conv_general_dilated`.
    """

    role: str
    geometry: Geometry
    batch: int
    channels: int
    features: int
    dtype: Any
    half: bool = False
    ensemble: int = 0
    precision: Any = None

    @property
    def inner(self) -> int:
        """The number of channels that a filter sees: C // groups."""
        return self.channels // self.geometry.groups

    @property
    def outer(self) -> int:
        """The number of features of a group: O // groups."""
        return self.features // self.geometry.groups

    @property
    def depthwise(self) -> bool:
        """Whether each filter sees one channel of several."""
        return self.inner == 1 and self.geometry.groups > 1

    @property
    def taps(self) -> int:
        return math.prod(self.geometry.window)

    @property
    def positions(self) -> int:
        """The number of output positions of all examples."""
        return self.batch * math.prod(self.geometry.out)

    @property
    def macs(self) -> int:
        return self.positions * self.taps * self.inner * self.features

    def shape(self, role: str) -> Shape:
        """The shape of one of the three arrays, without the ensemble's axis."""
        g = self.geometry
        return {
            "input": (self.batch, *g.size, self.channels),
            "kernel": (*g.window, self.inner, self.features),
            "output": (self.batch, *g.out, self.features),
        }[role]


@dataclass(frozen=True)
class Product:
    """A matrix product that an algorithm of a convolution leaves.

    Args:
      role: "channels" contracts the last axis of the first array with the first of a matrix; "features" with the last
        axis of a matrix; "positions" contracts all axes but the last of both arrays.
      rows, inner, columns: the sizes of the product of two matrices, ``(rows, inner)`` and ``(inner, columns)``.
      dtype: the type of the sums and of the result.
      precision: as in `jax.lax.dot_general`.
    """

    role: str
    rows: int
    inner: int
    columns: int
    dtype: Any
    precision: Any = None

    ensemble = 0
    half = False

    @property
    def macs(self) -> int:
        return self.rows * self.inner * self.columns


class Windows(NamedTuple):
    """``out`` windows along one axis, counted from the end of the shape; the windows just cover the axis."""

    axis: int
    taps: int
    stride: int
    dilation: int
    out: int


@dataclass(frozen=True)
class Pool:
    """The windows of a pool in one role.

    Args:
      role: "maximum", the largest element of each window; "winners", also which tap it was; "picked", of a tangent the
        elements under the winning taps; "placed", a cotangent at the winning taps; "sum", the sum of each window;
        "spread", the transpose of the sum.
      axes: the windows along each axis.
      size: the sizes of these axes before pooling.
      indexed: whether an element of a maximum has an index behind its value.
    """

    role: str
    axes: tuple[Windows, ...]
    size: Shape
    indexed: bool = False

    ensemble = 0
    half = False

    @property
    def taps(self) -> int:
        return math.prod(w.taps for w in self.axes)

    @property
    def tiled(self) -> bool:
        """Whether the windows do not overlap and leave nothing out."""
        return all(w.taps == w.stride and w.dilation == 1 for w in self.axes)


def others(role: str) -> tuple[str, str]:
    """Returns the roles of the two operands, in the order in which they are passed.

    >>> others("output")
    ('input', 'kernel')
    """
    first, second = (name for name in ROLES if name != role)
    return first, second


def half_type(dtype: Any) -> bool:
    """Returns whether a type is half precision, for which sums need a wider type."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
