"""What is known of a convolution before any number of it: the facts by which its program is chosen."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.geometry import Pairs, window_extent

Array = jax.Array
Shape = tuple[int, ...]

# The three arrays that a convolution ties together. Any two of them give the third, linearly in each.
ROLES = ("input", "kernel", "output")


@dataclass(frozen=True)
class Geometry:
    """How the windows lie: all that the arrays' shapes alone do not say.

    Args:
      size: the input's spatial sizes.
      window, stride, dilation: one integer for each axis.
      padding: (low, high) for each axis, from the public ops each from 0 to the window's extent less one.
      groups: into how many groups the channels are cut.
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


@dataclass(frozen=True)
class Problem:
    """One convolution in one role: which of the three arrays is wanted, given the other two, and all sizes.

    The arrays are ``input (N, *size, C)``, ``kernel (*window, C // groups, O)`` and ``output (N, *out, O)``; in an
    ensemble each has one more axis in front.

    Args:
      role: the array that is wanted.
      geometry: how the windows lie.
      batch: N.
      channels: C.
      features: O.
      dtype: the type that a sum is returned in: as wide as sums are taken, but on CUDA half where it is rounded anyway.
      half: whether the arrays that come in are of a half type.
      ensemble: how many independent convolutions of this kind there are, or 0 if the arrays lack the axis.
      precision: of products, as in `jax.lax.conv_general_dilated`.
      ynnpack: whether XLA:CPU may hand convolutions to YNNPACK, as it does unless it is told not to.
      platform: the one that the program is for, as JAX names it, or None for any.
      onednn: whether the program may call oneDNN: see `jaxconv.ops.lowering.onednn`.
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
    ynnpack: bool = True
    platform: str | None = None
    onednn: bool = False

    @property
    def inner(self) -> int:
        """Channels that a filter sees: C // groups."""
        return self.channels // self.geometry.groups

    @property
    def outer(self) -> int:
        """Features of a group: O // groups."""
        return self.features // self.geometry.groups

    @property
    def depthwise(self) -> bool:
        """Whether each filter sees one channel of several."""
        return self.inner == 1 and self.geometry.groups > 1

    @property
    def taps(self) -> int:
        return math.prod(self.geometry.window)

    @property
    def places(self) -> int:
        """Output places of all examples."""
        return self.batch * math.prod(self.geometry.out)

    @property
    def macs(self) -> int:
        return self.places * self.taps * self.inner * self.features

    def shape(self, role: str) -> Shape:
        """The shape of one of the three arrays, without the ensemble's axis."""
        g = self.geometry
        return {
            "input": (self.batch, *g.size, self.channels),
            "kernel": (*g.window, self.inner, self.features),
            "output": (self.batch, *g.out, self.features),
        }[role]


def others(role: str) -> tuple[str, str]:
    """The two arrays that give the third, in the order in which they are passed.

    >>> others("output")
    ('input', 'kernel')
    """
    first, second = (name for name in ROLES if name != role)
    return first, second


def half_type(dtype: Any) -> bool:
    """Whether sums of this type want a wider one."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32


# Computes a smaller problem by the form that is chosen for it.
Solve = Callable[[Problem, Array, Array], Array]
