"""The hyperparameters of a pool, resolved for the sizes of its input."""

from typing import Any, NamedTuple

import jax

from jaxconv.geometry import IntOrTuple, Padding, Pairs, as_tuple, output_sizes, resolve_padding, window_extent
from jaxconv.ops.arrays import Array, pad_axes, spatial_sizes, window_tuple
from jaxconv.ops.lowering.problem import Windows


class Resolved(NamedTuple):
    """The resolved hyperparameters of a pool."""

    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def crop(self) -> Pairs:
        """What negative padding crops, as negative integers. No window sees it, not even one that hangs over."""
        least = jax.core.min_dim
        return tuple((least(low, 0), least(high, 0)) for low, high in self.padding)

    @property
    def overhang(self) -> Pairs:
        """The padding after the crop: at the high side up to the last window's end, which may be negative."""
        pairs = []
        least = jax.core.min_dim
        for f, s, (low, high), d, n, o in zip(*self, strict=True):
            kept, before = n + least(low, 0) + least(high, 0), jax.core.max_dim(low, 0)
            pairs.append((before, (o - 1) * s + window_extent(f, d) - before - kept))
        return tuple(pairs)

    @property
    def axes(self) -> tuple[Windows, ...]:
        """The windows along each axis, the first axis first."""
        rows = zip(self.window, self.stride, self.dilation, self.out, strict=True)
        return tuple(Windows(i - 1 - len(self.window), *row) for i, row in enumerate(rows))

    def lay_out(self, x: Array, value: Any) -> Array:
        """Crops and pads ``x`` so that its windows just cover it."""
        return pad_axes(pad_axes(x, self.crop), self.overhang, value)


def resolve(
    x: Array,
    window: IntOrTuple,
    stride: IntOrTuple | None,
    padding: Padding,
    dilation: IntOrTuple,
    ceil_mode: bool,
) -> Resolved:
    """Returns the hyperparameters of a pool of ``x``, or raises ArgumentError or ShapeError."""
    taps = window_tuple(window)
    rank = len(taps)
    size = spatial_sizes(x, rank)
    strides = taps if stride is None else as_tuple(stride, rank, "stride")
    dilations = as_tuple(dilation, rank, "dilation")
    pairs = resolve_padding(padding, size, taps, strides, dilations)
    out = output_sizes(size, taps, strides, pairs, dilations, ceil_mode=ceil_mode)
    return Resolved(taps, strides, pairs, dilations, size, out)
