"""Random affine maps of images, and of the masks, boxes and points that belong to them.

A draw is data: an `Affine`, a 2x3 matrix for each image of a batch. `draw_affine`, `draw_flip`, `draw_crop`,
`draw_shift`, `draw_resized_crop` and `draw_rand_augment` make one from a key and the images' shape, and four functions
apply it: `warp` to images, `warp_masks`, `warp_boxes` and `warp_points` to targets.

Positions are (x, y): x to the right, y downwards. Boxes are given by their edges: pixel (0, 0) covers the square from
0 to 1, and an image of width W ends at x = W. Points are given as pixels: the center of pixel (0, 0) is (0, 0), as in
heat maps.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxconv.data.batch import (
    Numbers,
    along_batch,
    batch_and_sizes,
    checked_pixels,
    drawn_range,
    fill_value,
    to_elements,
    working_type,
)
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.keys import KeyLike, as_key
from jaxconv.ops.arrays import to_rank

HIGHEST = jax.lax.Precision.HIGHEST


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Affine:
    """An affine map for each image of a batch: a pytree, whose leaf is the matrix.

    Args:
      matrix: `(N, 2, 3)` float32: from (x, y, 1) in an image to (x, y) in its result, in pixels, at the edges of pixels
        (pixel 0 covers 0 to 1).
      source: (rows, columns) of the images.
      size: (rows, columns) of the results.
      window: each result is a window of its image, maybe flipped, and resized as by
        `jaxconv.resize(..., antialias=True)`. Otherwise it is interpolated from the four nearest pixels.

    >>> draws = draw_affine(jax.random.key(0), (8, 32, 32, 3), rotate=15)
    >>> draws.matrix.shape, draws.size
    ((8, 2, 3), (32, 32))
    """

    matrix: jax.Array
    source: tuple[int, int] = dataclasses.field(metadata={"static": True})
    size: tuple[int, int] = dataclasses.field(metadata={"static": True})
    window: bool = dataclasses.field(default=False, metadata={"static": True})

    def then(self, other: "Affine") -> "Affine":
        """Returns the map that applies this one and then ``other``, which interpolates only once.

        >>> key, shape = jax.random.key(0), (8, 32, 48, 3)
        >>> draws = jc.data.draw_resized_crop(key, shape, 24).then(jc.data.draw_flip(key, (8, 24, 24, 3)))
        >>> draws.source, draws.size
        ((32, 48), (24, 24))
        """
        if other.source != self.size or len(other.matrix) != len(self.matrix):
            raise ShapeError(
                f"other must be drawn for {len(self.matrix)} images of {self.size}, got {len(other.matrix)} of "
                f"{other.source}"
            )
        linear = jnp.matmul(other.matrix[..., :2], self.matrix[..., :2], precision=HIGHEST)
        offset = _transformed(other.matrix, self.matrix[..., 2])
        matrix = jnp.concatenate([linear, offset[..., None]], -1)
        return Affine(matrix, self.source, other.size, self.window and other.window)


def draw_affine(
    key: KeyLike,
    shape: Sequence[int],
    *,
    rotate: float | Sequence[float] = 0.0,
    scale: float | Sequence[float] = 0.0,
    shift: float | Sequence[float] = 0.0,
    flip: bool = False,
) -> Affine:
    """Draws a rotation, a scale, a shift and a flip for each image, about the center of the image.

    Args:
      key: a random key, or an int, its seed.
      shape: the images' shape, `(N, H, W, C)`, or `(N, T, H, W, C)` for video, where all frames of a clip move alike.
      rotate: degrees, clockwise: (low, high), or a number a for (-a, a).
      scale: the factor of sizes: (low, high), or a number s for (1 - s, 1 + s).
      shift: (low, high), or a number s for (-s, s), in fractions of the width and of the height.
      flip: whether to exchange left and right with probability one half, before all else.

    Returns:
      An `Affine` of N maps. All values are uniform in their range.

    Raises:
      ArgumentError: a range is not one number or two increasing numbers, or ``scale`` includes 0.
      ShapeError: ``shape`` is not that of images.

    >>> images = jnp.ones((8, 32, 32, 3))
    >>> draws = draw_affine(jax.random.key(0), images.shape, rotate=15, scale=(0.8, 1.25), shift=0.1, flip=True)
    >>> warp(images, draws).shape
    (8, 32, 32, 3)

    Equals `torchvision.transforms.v2.RandomAffine`, with a draw for each image.
    """
    count, sizes = batch_and_sizes(shape)
    low, high = drawn_range(scale, "scale", center=1.0)
    if low <= 0:
        raise ArgumentError(f"scale must be positive, got {scale!r}")
    draws = jax.random.uniform(as_key(key), (5 * count,)).reshape(5, count)
    uniform = lambda i, low, high: low + (high - low) * draws[i]  # noqa: E731
    moves = drawn_range(shift, "shift", center=0.0)
    height, width = sizes
    return affine(
        sizes,
        angle=jnp.radians(uniform(0, *drawn_range(rotate, "rotate", center=0.0))),
        scale=uniform(1, low, high),
        shift=(uniform(2, *moves) * width, uniform(3, *moves) * height),
        mirrored=(draws[4] < 0.5) & flip,
    )


def affine(
    sizes: tuple[int, int], *, angle: jax.Array, scale: Any, shift: tuple[Any, Any], mirrored: Any = False
) -> Affine:
    """Returns the maps that rotate by ``angle`` (radians, clockwise), scale and shift (x, y) about the center."""
    cosine, sine = scale * jnp.cos(angle), scale * jnp.sin(angle)
    sign = jnp.where(mirrored, -1.0, 1.0)
    linear = ((sign * cosine, -sine), (sign * sine, cosine))
    center = (sizes[1] / 2, sizes[0] / 2)
    rows = [(a, b, c + t - a * center[0] - b * center[1]) for (a, b), c, t in zip(linear, center, shift, strict=True)]
    return Affine(stacked(rows, angle), sizes, sizes)


def stacked(rows: Sequence[Sequence[Any]], like: jax.Array) -> jax.Array:
    """Returns `(N, 2, 3)` float32 of two rows of three, each a number or `(N,)`."""
    full = [jnp.broadcast_to(jnp.asarray(a, jnp.float32), like.shape) for row in rows for a in row]
    return jnp.stack(full, -1).reshape(*like.shape, 2, 3)


def warp(images: ArrayLike, draws: Affine, *, value: Numbers = 0) -> jax.Array:
    """Maps each image by its draw, with linear interpolation.

    Args:
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, uint8 or floating; finite.
      draws: the maps, drawn for this N, H and W.
      value: the value outside of the images, a number, or one for each channel.

    Returns:
      `(N, *draws.size, C)`, or `(N, T, *draws.size, C)`, of the images' type; uint8 is rounded.

    Raises:
      ShapeError: ``draws`` are for another N, H or W, or ``value`` is neither a number nor one for each channel.
      DTypeError: the images are neither uint8 nor floating, or their type cannot represent ``value``.

    >>> image = jnp.asarray([[[[1.0], [2.0]], [[3.0], [4.0]]]])
    >>> half_turn = draw_affine(0, image.shape, rotate=(180, 180))
    >>> warp(image, half_turn)[0, :, :, 0].round(4)
    Array([[4., 3.],
           [2., 1.]], dtype=float32)

    Equals `torchvision.transforms.v2.functional.affine(interpolation=BILINEAR)`, and for the draws of a crop
    `resized_crop`. A window is two matrix products for each image; else four gathers of one pixel.
    """
    images = checked_pixels(images)
    matrix = _fitting(images, draws, images.shape[-3:-1], "images")
    fill = to_rank(fill_value(value, images.dtype, images.shape[-1]), images.ndim)
    clips = images.reshape(images.shape[0], math.prod(images.shape[1:-3]), *images.shape[-3:])
    result, inside = (_windowed if draws.window else _interpolated)(clips, matrix, draws.size)
    result = result.reshape(*images.shape[:-3], *draws.size, images.shape[-1])
    inside = inside.reshape(images.shape[0], *[1] * (images.ndim - 4), *draws.size, 1)
    return to_elements(result + (1 - inside) * fill.astype(result.dtype), images.dtype)


def warp_masks(masks: ArrayLike, draws: Affine, *, value: Any = 0) -> jax.Array:
    """Maps masks as `warp` maps their images; each result is the nearest element, so that labels stay labels.

    Args:
      masks: `(N, H, W)`, or with axes between, such as `(N, instances, H, W)`, of any type.
      draws: the maps, drawn for this N, H and W.
      value: the value outside of the masks.

    Returns:
      `(N, ..., *draws.size)`, of the masks' type.

    Raises:
      ShapeError: ``draws`` are for another N, H or W.

    >>> mask = jnp.asarray([[[1, 2], [3, 4]]])
    >>> warp_masks(mask, draw_affine(0, (1, 2, 2, 3), rotate=(90, 90)))[0]
    Array([[3, 1],
           [4, 2]], dtype=int32)

    Equals `torchvision.transforms.v2.functional.affine(interpolation=NEAREST)`, and for the draws of a crop
    `resized_crop(interpolation=NEAREST_EXACT)`.
    """
    masks = jnp.asarray(masks)
    if masks.ndim < 3:
        raise ShapeError(f"masks must be (N, H, W) or (N, ..., H, W), got shape {masks.shape}")
    matrix = _fitting(masks, draws, masks.shape[-2:], "masks")
    height, width = masks.shape[-2:]
    x, y = (jnp.floor(p).astype(jnp.int32) for p in _sources(matrix, draws.size))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = jnp.where(inside, y * width + x, 0)
    flat = masks.reshape(masks.shape[0], math.prod(masks.shape[1:-2]), height * width)
    taken = jax.vmap(lambda mask, index: mask[:, index])(flat, index)
    taken = jnp.where(inside[:, None], taken, jnp.asarray(value, masks.dtype))
    return taken.reshape(*masks.shape[:-2], *draws.size)


def warp_points(points: ArrayLike, draws: Affine, *, pairs: Sequence[tuple[int, int]] = ()) -> jax.Array:
    """Maps points as `warp` maps their images; mirrored images exchange left and right points.

    Args:
      points: `(N, ..., P, 2)`, (x, y) in pixels, the center of the first pixel is (0, 0). More columns, such as the
        visibility, belong to the point and are kept.
      draws: the maps, drawn for this N.
      pairs: (left, right), the indices of the points that exchange their names in a mirrored image.

    Returns:
      Points of the same shape, also those outside of the result; float32 if the points are integers.

    Raises:
      ShapeError: the shape is not that of points, ``draws`` are for another N, or ``pairs`` does not fit.

    >>> eyes = jnp.asarray([[[2.0, 5.0], [6.0, 5.0]]])
    >>> mirror = jc.data.draw_flip(0, (1, 10, 10, 3), probability=1.0)
    >>> warp_points(eyes, mirror, pairs=[(0, 1)])
    Array([[[3., 5.],
            [7., 5.]]], dtype=float32)

    Equals `torchvision.transforms.v2.functional.horizontal_flip` of KeyPoints for a flip without ``pairs``.
    """
    points = jnp.asarray(points)
    if points.ndim < 3 or points.shape[-1] < 2:
        raise ShapeError(f"points must be (N, P, 2) or (N, ..., P, 2 or more columns), got shape {points.shape}")
    matrix = _fitting(points, draws, draws.source, "points")
    order = _exchanged(pairs, points.shape[-2])
    dtype = points.dtype if jnp.issubdtype(points.dtype, jnp.floating) else jnp.float32
    matrix = matrix.reshape(-1, *[1] * (points.ndim - 2), 2, 3)
    moved = _transformed(matrix, points[..., :2].astype(working_type(dtype)) + 0.5) - 0.5
    moved = jnp.concatenate([moved.astype(dtype), points[..., 2:].astype(dtype)], -1)
    determinant = matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    return jnp.where(determinant[..., None] < 0, jnp.take(moved, order, -2), moved)


def warp_boxes(boxes: ArrayLike, draws: Affine) -> jax.Array:
    """Maps boxes as `warp` maps their images: the smallest box about the four mapped corners, clipped.

    A box that is mapped to a position outside of the result has an area of zero. Keep the boxes with an area, or weight
    boxes by their area.

    Args:
      boxes: `(N, ..., 4)`, (x1, y1, x2, y2), the left, upper, right and lower edge in pixels; an image of W columns
        ends at x = W.
      draws: the maps, drawn for this N.

    Returns:
      Boxes of the same shape; float32 if the boxes are integers.

    Raises:
      ShapeError: the shape is not that of boxes, or ``draws`` are for another N.

    >>> mirror = jc.data.draw_flip(0, (1, 10, 10, 3), probability=1.0)
    >>> warp_boxes(jnp.asarray([[[0.0, 2.0, 3.0, 4.0]]]), mirror)
    Array([[[ 7.,  2., 10.,  4.]]], dtype=float32)

    Equals `torchvision.transforms.v2.functional.affine` of BoundingBoxes, clamped.
    """
    boxes = jnp.asarray(boxes)
    if boxes.ndim < 2 or boxes.shape[-1] != 4:
        raise ShapeError(f"boxes must be (N, ..., 4), x1, y1, x2, y2, got shape {boxes.shape}")
    matrix = _fitting(boxes, draws, draws.source, "boxes")
    dtype = boxes.dtype if jnp.issubdtype(boxes.dtype, jnp.floating) else jnp.float32
    corners = boxes[..., jnp.asarray([[0, 1], [2, 1], [0, 3], [2, 3]])].astype(working_type(dtype))
    moved = _transformed(matrix.reshape(-1, *[1] * (corners.ndim - 2), 2, 3), corners)
    limits = jnp.asarray(draws.size[::-1], moved.dtype)
    low, high = (jnp.clip(edge, 0, limits) for edge in (moved.min(-2), moved.max(-2)))
    return jnp.concatenate([low, high], -1).astype(dtype)


def _fitting(a: jax.Array, draws: Affine, sizes: Sequence[int], name: str) -> jax.Array:
    """Returns the matrices, sharded like ``a``, or raises ShapeError where they were drawn for other images."""
    if len(draws.matrix) != a.shape[0] or tuple(sizes) != draws.source:
        raise ShapeError(
            f"{name} must be those of the draws, {len(draws.matrix)} images of {draws.source[0]}x{draws.source[1]}, "
            f"got shape {a.shape}"
        )
    return along_batch(draws.matrix, a)


def _exchanged(pairs: Sequence[tuple[int, int]], count: int) -> np.ndarray:
    """Returns the order of the points with the two of each pair exchanged."""
    order = np.arange(count)
    named = [i for pair in pairs for i in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(named)) < len(named) or not set(named) <= set(range(count)):
        raise ShapeError(f"pairs must be pairs of different points of 0 to {count - 1}, got {list(pairs)}")
    for left, right in pairs:
        order[[left, right]] = right, left
    return order


def _transformed(matrix: jax.Array, points: jax.Array) -> jax.Array:
    """Maps points `(..., 2)` by matrices `(..., 2, 3)`: in sums, since a GPU may round the inputs of a product."""
    x, y = points[..., 0], points[..., 1]
    return jnp.stack([matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] for i in range(2)], -1)


def _sources(matrix: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns where in the image the center of each result's pixel comes from: x and y, each `(N, *size)`."""
    (a, b, tx), (c, d, ty) = ([matrix[:, i, j, None, None] for j in range(3)] for i in range(2))
    x = (jnp.arange(size[1]) + 0.5)[None, None, :] - tx
    y = (jnp.arange(size[0]) + 0.5)[None, :, None] - ty
    determinant = a * d - b * c
    return (d * x - b * y) / determinant, (a * y - c * x) / determinant


@functools.partial(jax.jit, static_argnames="size")
def _interpolated(clips: jax.Array, matrix: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns the bilinear mean of four pixels of `(N, T, H, W, C)`, and the share that is inside of the image."""
    height, width, channels = clips.shape[-3:]
    dtype = working_type(clips.dtype)
    x, y = (p - 0.5 for p in _sources(matrix, size))
    flat = clips.reshape(*clips.shape[:2], height * width, channels)
    taken = jax.vmap(lambda clip, index: clip[:, index])
    total, inside = jnp.zeros((), dtype), jnp.zeros((), dtype)
    for dy in (0, 1):
        for dx in (0, 1):
            i, j = jnp.floor(y).astype(jnp.int32) + dy, jnp.floor(x).astype(jnp.int32) + dx
            within = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            weight = jnp.where(within, (1 - abs(y - i)) * (1 - abs(x - j)), 0).astype(dtype)
            index = jnp.where(within, i * width + j, 0)
            total = total + weight[:, None, ..., None] * taken(flat, index).astype(dtype)
            inside = inside + weight
    return total, inside


@functools.partial(jax.jit, static_argnames="size")
def _windowed(clips: jax.Array, matrix: jax.Array, size: tuple[int, int]) -> tuple[jax.Array, jax.Array]:
    """Returns windows of `(N, T, H, W, C)`, resized with antialiasing, and 1 where they are inside of the image."""
    rows, inside_rows = _weights(matrix[:, 1, 1], matrix[:, 1, 2], clips.shape[-3], size[0])
    columns, inside_columns = _weights(matrix[:, 0, 0], matrix[:, 0, 2], clips.shape[-2], size[1])
    x = jnp.moveaxis(clips.astype(working_type(clips.dtype)), -1, 2)
    rows, columns = rows.astype(x.dtype), columns.astype(x.dtype)
    x = jnp.einsum("ntchw,npw->ntchp", x, columns, precision=HIGHEST)
    x = jnp.einsum("noh,ntchp->ntcop", rows, x, precision=HIGHEST)
    return jnp.moveaxis(x, 2, -1), (inside_rows[:, :, None] & inside_columns[:, None, :]).astype(x.dtype)


def _weights(scale: jax.Array, offset: jax.Array, n: int, m: int) -> tuple[jax.Array, jax.Array]:
    """Returns the weights `(N, m, n)` of n pixels for m results along one axis, and whether a result has any pixel.

    A triangle about each result's position in the image, wider where the image shrinks, of the pixels in the window.
    """
    scale, offset = scale[:, None], offset[:, None]
    centers = (jnp.arange(m) + 0.5 - offset) / scale
    ends = jnp.stack([-offset / scale, (m - offset) / scale])
    pixels = (jnp.arange(n) + 0.5)[None, None, :]
    reach = jnp.maximum(1, 1 / abs(scale))[..., None]
    weights = jnp.maximum(0, 1 - abs(pixels - centers[..., None]) / reach)
    weights = jnp.where((pixels > ends.min(0)[..., None]) & (pixels < ends.max(0)[..., None]), weights, 0)
    total = weights.sum(-1)
    return weights / jnp.where(total > 0, total, 1)[..., None], total > 0
