"""Layers that change shapes, the identity, and functions as layers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import jax.numpy as jnp

from jaxconv import geometry as geo
from jaxconv import ops
from jaxconv.errors import ShapeError
from jaxconv.fields import Field, covering_field, transpose_field
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Params, Tree
from jaxconv.layers.base import POINTWISE, Geometry, Leaf, Ranked, batched_sizes, copied_fields, whole_fields
from jaxconv.ops.pad import check_mode
from jaxconv.ops.resize import check_method, source_spans
from jaxconv.pointwise import is_pointwise


@dataclass(frozen=True, repr=False)
class Flatten(Leaf):
    """Flattens the spatial axes and the channels into one axis.

    Args:
      rank: the number of spatial axes.
      channels_first: flatten in torch's order, all positions of the first channel first, so that a following Dense
        accepts torch's kernel.

    >>> Flatten().apply({}, {}, jnp.ones((8, 32, 32, 3)))[0].shape
    (8, 3072)
    """

    rank: int = 2
    channels_first: bool = False

    def check(self) -> None:
        geo.as_int(self.rank, "rank", least=1)

    def accept(self, x: Tree) -> None:
        batched_sizes(x, self.rank)

    def forward(self, params: Params, x: Tree) -> Tree:
        x = jnp.moveaxis(x, -1, -1 - self.rank) if self.channels_first else x
        batch = x.shape[: x.ndim - 1 - self.rank]
        return x.reshape(*batch, math.prod(x.shape[len(batch) :]))

    def geometry(self, x: Any) -> Geometry:
        return whole_fields(x, self.rank)


@dataclass(frozen=True, repr=False)
class Pad(Ranked):
    """Pads the spatial axes: `jaxconv.pad`, with its arguments.

    >>> Pad(1, mode="reflect").apply({}, {}, jnp.ones((1, 7, 7, 3)))[0].shape
    (1, 9, 9, 3)
    """

    padding: int | Sequence[int | tuple[int, int]]
    mode: str = field(default="zeros", kw_only=True)
    value: float = field(default=0, kw_only=True)

    def check(self) -> None:
        super().check()
        geo.explicit_padding(self.padding, self.rank)
        check_mode(self.mode, "mode")

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.pad(x, self.padding, mode=self.mode, value=self.value, rank=self.rank)

    def geometry(self, x: Any) -> Geometry:
        pairs = geo.explicit_padding(self.padding, self.rank)
        fields = tuple(Field(1, 1, -low) for low, _ in pairs)
        if self.mode == "zeros":
            return fields
        return copied_fields(fields, self.mode, pairs, batched_sizes(x, self.rank))


@dataclass(frozen=True, repr=False)
class Resize(Ranked):
    """Resizes the spatial axes: `jaxconv.resize`, to a size or by a factor.

    Args:
      size: the output sizes, an int or one for each axis; or None.
      factor: the ratio of output and input sizes, an int, if size is None.
      method, align_corners, antialias, rank: as in `jaxconv.resize`.

    >>> Resize(factor=2, method="nearest").apply({}, {}, jnp.ones((1, 7, 7, 3)))[0].shape
    (1, 14, 14, 3)
    """

    size: IntOrTuple | None = None
    factor: int | None = field(default=None, kw_only=True)
    method: str = field(default="bilinear", kw_only=True)
    align_corners: bool = field(default=False, kw_only=True)
    antialias: bool = field(default=False, kw_only=True)

    def check(self) -> None:
        super().check()
        if (self.size is None) == (self.factor is None):
            raise ShapeError(f"exactly one of size and factor must be given, got {self.size} and {self.factor}")
        check_method(self.method, self.align_corners, self.antialias)
        if self.size is None:
            geo.as_int(self.factor, "factor", least=1)
        else:
            geo.as_tuple(self.size, self.rank, "size")

    def _sizes(self, x: Any) -> tuple[int, ...]:
        sizes = batched_sizes(x, self.rank)
        if self.size is None:
            assert self.factor is not None
            return tuple(n * self.factor for n in sizes)
        return geo.as_tuple(self.size, self.rank, "size")

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.resize(
            x,
            self._sizes(x),
            method=self.method,
            align_corners=self.align_corners,
            antialias=self.antialias,
            rank=self.rank,
        )

    def geometry(self, x: Any) -> Geometry:
        pairs = zip(batched_sizes(x, self.rank), self._sizes(x), strict=True)
        fields = []
        for n, m in pairs:
            spans = source_spans(n, m, self.method, self.align_corners, self.antialias)
            stride = Fraction(n - 1, m - 1) if self.align_corners and m > 1 else Fraction(n, m)
            fields.append(covering_field(spans, stride))
        return tuple(fields)


@dataclass(frozen=True, repr=False)
class PixelShuffle(Ranked):
    """Rearranges channels into spatial blocks: `jaxconv.pixel_shuffle`.

    >>> PixelShuffle(2).apply({}, {}, jnp.ones((1, 7, 7, 12)))[0].shape
    (1, 14, 14, 3)
    """

    factor: int

    def check(self) -> None:
        super().check()
        geo.as_int(self.factor, "factor", least=1)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.pixel_shuffle(x, self.factor, rank=self.rank)

    def geometry(self, x: Any) -> Geometry:
        return (transpose_field(self.factor, self.factor),) * self.rank


@dataclass(frozen=True, repr=False)
class ChannelShuffle(Leaf):
    """Interleaves groups of channels: `jaxconv.channel_shuffle`.

    >>> ChannelShuffle(2).apply({}, {}, jnp.arange(4)[None])[0]
    Array([[0, 2, 1, 3]], dtype=int32)
    """

    groups: int

    def check(self) -> None:
        geo.as_int(self.groups, "groups", least=1)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.channel_shuffle(x, self.groups)


@dataclass(frozen=True, repr=False)
class Identity(Leaf):
    """Returns its input.

    >>> Identity().apply({}, {}, jnp.ones(3))[0]
    Array([1., 1., 1.], dtype=float32)
    """

    def forward(self, params: Params, x: Tree) -> Tree:
        return x


@dataclass(frozen=True, repr=False)
class Fn(Leaf):
    """A function of arrays as a layer. Composites wrap callables in it.

    Args:
      function: a function from a pytree of arrays x to a pytree of arrays.

    >>> Fn(jax.nn.relu).apply({}, {}, jnp.array([-1.0, 1.0]))[0]
    Array([0., 1.], dtype=float32)
    """

    function: Callable[[Tree], Tree]

    def check(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be callable, got {self.function!r}")

    def forward(self, params: Params, x: Tree) -> Tree:
        return self.function(x)

    def geometry(self, x: Any) -> Geometry:
        return POINTWISE if is_pointwise(self.function, x) else None


__all__ = [
    "ChannelShuffle",
    "Flatten",
    "Fn",
    "Identity",
    "Pad",
    "PixelShuffle",
    "Resize",
]
