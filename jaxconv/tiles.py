"""One image of any size, in overlapping tiles of one shape."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.equal_batches import one_behind
from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple, as_tuple


def tiled(
    run: Callable[[np.ndarray], Any],
    image: Any,
    *,
    tile: IntOrTuple,
    overlap: IntOrTuple,
    blend: int,
    batch_size: int,
    equal: bool,
) -> Any:
    """Returns the output of a network for a whole image, computed in tiles: see `jaxconv.train.predict_tiled`.

    Args:
      run: the network, as a function of a batch of tiles ``(n, *tile, channels)``.
      image, tile, overlap, blend: as in `jaxconv.train.predict_tiled`.
      batch_size: the most tiles in each call.
      equal: whether the last batch repeats its last tile, so that all batches have one number of tiles.
    """
    pixels = image if isinstance(image, np.ndarray) else np.asarray(image)
    rank = pixels.ndim - 1
    if rank < 1 or 0 in pixels.shape:
        raise ShapeError(f"image must have shape (*spatial, channels) with at least one pixel, got {pixels.shape}")
    tiles, overlaps = as_tuple(tile, rank, "tile"), as_tuple(overlap, rank, "overlap", least=0)
    if any(not n > m for n, m in zip(tiles, overlaps, strict=True)):
        raise ArgumentError(f"overlap must be less than tile, {tiles}, got {overlaps}")
    if not 0 <= blend <= min(overlaps):
        raise ArgumentError(f"blend must be from 0 to overlap, {min(overlaps)}, got {blend!r}")
    axes = [_Axis(*sizes) for sizes in zip(pixels.shape, tiles, overlaps, strict=False)]
    numbers = list(itertools.product(*(range(len(axis.starts)) for axis in axes)))
    size = min(batch_size, len(numbers))

    def computed(first: int) -> tuple[list[Any], Any]:
        rows = numbers[first : first + size]
        cut = rows + rows[-1:] * (size - len(rows)) if equal else rows
        return rows, run(np.stack([_cut(pixels, axes, row) for row in cut]))

    out: Any = None
    for rows, batch in one_behind(map(computed, range(0, len(numbers), size))):
        if out is None:
            out = jax.tree.map(lambda leaf: _empty(leaf, axes, blend), batch)
        for i, row in enumerate(rows):
            jax.tree.map(lambda whole, leaf, i=i, row=row: _write(whole, leaf[i], axes, row, blend), out, batch)
    return out


class _Axis(NamedTuple):
    """The tiles along a spatial axis of the image."""

    size: int
    tile: int
    overlap: int

    @property
    def unit(self) -> int:
        """All tiles begin at multiples of this number."""
        return math.gcd(self.tile, self.overlap)

    @property
    def starts(self) -> list[int]:
        """Where tiles begin. The last one ends with the image, or less than a unit after it."""
        last = max(0, -(-(self.size - self.tile) // self.unit) * self.unit)
        return [*range(0, last, self.tile - self.overlap), last]

    def pixels(self, number: int) -> np.ndarray:
        """The indices of a tile's pixels; those after the image's end are reflected, repeatedly for a small image."""
        index = (self.starts[number] + np.arange(self.tile)) % (2 * self.size)
        return np.minimum(index, 2 * self.size - 1 - index)

    def shares(self, number: int, stride: int, blend: int) -> np.ndarray:
        """The weight of each of a tile's outputs: over all tiles, the weights of a position add up to 1."""
        starts = self.starts
        first = starts[number] // stride
        position = first + np.arange(self.tile // stride) + 0.5

        def after(number: int) -> np.ndarray:
            """How much of each position belongs to this tile and those that follow."""
            if not 0 < number < len(starts):
                return np.full(len(position), float(number == 0))
            seam = (starts[number] + starts[number - 1] + self.tile) / (2 * stride)
            if not blend:
                return (position >= seam).astype(float)
            return np.clip((position - seam) * stride / blend + 0.5, 0, 1)

        return after(number) - after(number + 1)


def _cut(pixels: np.ndarray, axes: Sequence[_Axis], row: Sequence[int]) -> np.ndarray:
    return pixels[np.ix_(*(axis.pixels(number) for axis, number in zip(axes, row, strict=True)))]


def _stride(axis: _Axis, count: int) -> int | None:
    """The stride of an output with this number of elements in a tile; None if there is none that fits."""
    stride = axis.tile // count if count else 0
    return stride if stride and stride * count == axis.tile and axis.unit % stride == 0 else None


def _empty(leaf: jax.Array, axes: Sequence[_Axis], blend: int) -> np.ndarray:
    """Returns zeros for the output of the whole image."""
    counts = leaf.shape[1 : len(axes) + 1]
    strides = [_stride(axis, count) for axis, count in zip(axes, counts, strict=False)]
    if len(counts) < len(axes) or None in strides:
        sizes = tuple(axis.tile for axis in axes)
        raise ShapeError(
            f"net must have outputs (batch, {', '.join(map(str, sizes))}, ...) for tiles of {sizes}, or these sizes "
            f"divided by a stride that divides tile and overlap, got {leaf.shape}"
        )
    if blend and not jnp.issubdtype(leaf.dtype, jnp.inexact):
        raise DTypeError(f"blend must be 0 for outputs that are not floating-point, got {blend} and {leaf.dtype}")
    sizes = tuple(-(-axis.size // stride) for axis, stride in zip(axes, strides, strict=True) if stride)
    return np.zeros(sizes + leaf.shape[len(axes) + 1 :], leaf.dtype)


def _write(whole: np.ndarray, piece: jax.Array, axes: Sequence[_Axis], row: Sequence[int], blend: int) -> None:
    """Writes a tile's output into that of the whole image; with ``blend``, adds it times its weights."""
    values, into, part = np.asarray(piece), [], []
    weights = []
    for i, (axis, number) in enumerate(zip(axes, row, strict=True)):
        stride = axis.tile // values.shape[i]
        shares, start = axis.shares(number, stride, blend), axis.starts[number] // stride
        used = np.flatnonzero(shares)
        used = used[used + start < whole.shape[i]]
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        part.append(slice(low, high))
        into.append(slice(low + start, high + start))
        weights.append(np.expand_dims(shares[low:high].astype(whole.dtype), [k for k in range(values.ndim) if k != i]))
    if blend:
        whole[tuple(into)] += values[tuple(part)] * math.prod(weights)
    else:
        whole[tuple(into)] = values[tuple(part)]


__all__ = ["tiled"]
