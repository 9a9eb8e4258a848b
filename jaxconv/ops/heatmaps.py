"""Heat maps of keypoints and object centers: encoding, peaks, expected positions."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple, as_int, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, to_rank
from jaxconv.ops.nms import check_fraction
from jaxconv.ops.pools.maximum import max_pool


def as_points(points: ArrayLike, name: str = "points") -> Array:
    """Returns points ``(..., 2)`` as floats, or raises an error.

    >>> as_points(jnp.zeros((3, 2))).shape
    (3, 2)
    """
    [p] = as_floats(**{name: points})
    if p.ndim < 1 or p.shape[-1] != 2:
        raise ShapeError(f"{name} must have shape (..., 2), got {p.shape}")
    return p


def _coordinates(size: tuple[int, ...], rank: int, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Returns x ``(1, width, 1)`` and y ``(height, 1, 1)`` with axes of size 1 in front up to ``rank``."""
    height, width = size
    x, y = lax.iota(dtype, width)[None, :, None], lax.iota(dtype, height)[:, None, None]
    return to_rank(x, rank), to_rank(y, rank)


def encode_heatmap(points: ArrayLike, size: IntOrTuple, sigma: ArrayLike) -> Array:
    """Returns a heat map for each keypoint: a Gaussian around it whose peak is 1.

    Args:
      points: floating-point array ``(..., K, 2)``: x and y in pixels of the heat map. A keypoint with NaN has a map of
        zeros.
      size: height and width of the heat maps.
      sigma: the standard deviation in pixels: a number, or an array that broadcasts with ``(..., K)``.

    Returns:
      Array ``(..., height, width, K)`` of the type of ``points``.

    Raises:
      ShapeError: the last axis is not 2, or there is no axis before it.
      ArgumentError: ``size`` is not positive integers.

    >>> encode_heatmap(jnp.array([[1.0, 0.0]]), (1, 3), 1.0)[0, :, 0].round(2)
    Array([0.61, 1.  , 0.61], dtype=float32)
    """
    p = as_points(points)
    if p.ndim < 2:
        raise ShapeError(f"points must have shape (..., K, 2), got {p.shape}")
    sizes = as_tuple(size, 2, "size")
    wide = accumulator(p.dtype)
    spread = jnp.broadcast_to(jnp.asarray(sigma, wide), p.shape[:-1])
    missing = jnp.isnan(p).any(-1, keepdims=True)
    centers = jnp.where(missing, 0, p).astype(wide)
    x, y = _coordinates(sizes, p.ndim + 1, wide)
    squared = (x - centers[..., None, None, :, 0]) ** 2 + (y - centers[..., None, None, :, 1]) ** 2
    values = jnp.exp(-squared / (2 * spread[..., None, None, :] ** 2))
    return jnp.where(missing[..., None, None, :, 0], 0, values).astype(p.dtype)


def gaussian_radius(sides: ArrayLike, *, min_overlap: float = 0.7) -> Array:
    """Returns how far both corners of a box may move before its IoU with the original can fall below a limit.

    Args:
      sides: floating-point array ``(..., 2)`` of widths and heights.
      min_overlap: the limit of the IoU.

    Returns:
      Array ``(...)`` of the type of ``sides``: the least over three cases: both corners inward, both outward, or the
      box shifted along the diagonal (Law and Deng, 2018). CornerNet's and CenterNet's first code divides the first two
      by 2 rather than by 2a, and so has larger radii.

    Raises:
      ShapeError: the last axis is not 2.
      ArgumentError: ``min_overlap`` is not from 0 to 1.

    >>> round(float(gaussian_radius(jnp.array([10.0, 10.0]), min_overlap=0.7)), 3)
    0.817
    """
    s = as_points(sides, "sides")
    o = check_fraction(min_overlap, "min_overlap")
    s = s.astype(accumulator(s.dtype))
    total, product = s[..., 0] + s[..., 1], s[..., 0] * s[..., 1]
    shifted = (total - jnp.sqrt(total**2 - 4 * product * (1 - o) / (1 + o))) / 2
    inward = (total - jnp.sqrt(total**2 - 4 * (1 - o) * product)) / 4
    outward = (-o * total + jnp.sqrt((o * total) ** 2 + 4 * o * (1 - o) * product)) / (4 * o) if o else shifted
    return jnp.minimum(jnp.minimum(shifted, inward), outward).astype(jnp.asarray(sides).dtype)


def encode_centers(
    points: ArrayLike,
    labels: ArrayLike,
    radius: ArrayLike,
    size: IntOrTuple,
    classes: int,
    *,
    valid: ArrayLike | None = None,
) -> Array:
    """Returns the heat map of each class: the largest of Gaussians around the centers of its objects (CenterNet).

    Args:
      points: floating-point array ``(M, 2)``: x and y of the objects in pixels of the heat map; they are rounded down
        to a pixel, whose value is 1.
      labels: integers ``(M,)``, the classes from 0. Objects of other classes do not count.
      radius: a number or an array ``(M,)``, such as `gaussian_radius`, rounded down. Each Gaussian has the standard
        deviation ``(2 radius + 1) / 6`` and is 0 farther than ``radius`` along an axis.
      size: height and width of the heat map.
      classes: the number of classes.
      valid: bool array ``(M,)``: the objects that count, where objects are padded to a number.

    Returns:
      Array ``(height, width, classes)`` of the type of ``points``.

    Raises:
      ShapeError: a wrong shape.
      ArgumentError: ``size`` or ``classes`` is not positive integers.
      DTypeError: labels are not integers.

    >>> encode_centers(jnp.array([[1.5, 0.0]]), jnp.array([1]), 1.0, (1, 4), 2)[0].round(3)
    Array([[0.   , 0.135],
           [0.   , 1.   ],
           [0.   , 0.135],
           [0.   , 0.   ]], dtype=float32)
    """
    p = as_points(points)
    if p.ndim != 2:
        raise ShapeError(f"points must have shape (M, 2), got {p.shape}: use jax.vmap for batches")
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise DTypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != p.shape[:1]:
        raise ShapeError(f"labels must have shape {p.shape[:1]}, one for each of the points, got {labels.shape}")
    height, width = as_tuple(size, 2, "size")
    classes = as_int(classes, "classes", least=1)
    wide = accumulator(p.dtype)
    reach = jnp.broadcast_to(jnp.floor(jnp.asarray(radius, wide)), labels.shape)[:, None, None]
    center = jnp.floor(p.astype(wide))
    x = lax.iota(wide, width)[None, None, :] - center[:, 0, None, None]
    y = lax.iota(wide, height)[None, :, None] - center[:, 1, None, None]
    values = jnp.exp(-(x**2 + y**2) / (2 * ((2 * reach + 1) / 6) ** 2))
    values = jnp.where((jnp.abs(x) <= reach) & (jnp.abs(y) <= reach), values, 0)
    counts = (labels >= 0) & (labels < classes)
    if valid is not None:
        counts = counts & jnp.asarray(valid)
    rows = jnp.where(counts, labels.astype(jnp.int32), classes)
    maps = jnp.zeros((classes, height, width), wide).at[rows].max(values, mode="drop")
    return jnp.moveaxis(maps, 0, -1).astype(p.dtype)


def heatmap_peaks(heatmap: ArrayLike, max_outputs: int, *, window: int = 3) -> tuple[Array, Array, Array, Array]:
    """Returns the highest local maxima of heat maps, highest first (CenterNet's decoding).

    Args:
      heatmap: floating-point array ``(..., height, width, classes)``.
      max_outputs: the number of outputs.
      window: an odd number: a peak is no lower than anything in the window around it, so that all of a plateau are
        peaks.

    Returns:
      points: int32 ``(..., max_outputs, 2)``, x and y.
      labels: int32 ``(..., max_outputs)``, the classes.
      scores: ``(..., max_outputs)`` of the type of ``heatmap``, with gradients; 0 where there are fewer peaks. Of equal
        scores the first in row-major order is the first.
      valid: bool ``(..., max_outputs)``: where there is a peak.

    Raises:
      ShapeError: fewer than three axes, ``max_outputs`` is greater than the number of elements, or an even window.
      ArgumentError: ``max_outputs`` or ``window`` is not a positive integer.

    >>> points, labels, scores, valid = heatmap_peaks(jnp.array([[0.1, 0.9, 0.2, 0.5]])[..., None], 3)
    >>> points.tolist(), scores.tolist(), valid.tolist()
    ([[1, 0], [3, 0], [0, 0]], [0.8999999761581421, 0.5, 0.0], [True, True, False])
    """
    [x] = as_floats(heatmap=heatmap)
    if x.ndim < 3 or 0 in x.shape[-3:]:
        raise ShapeError(f"heatmap must have shape (..., height, width, classes), got {x.shape}")
    height, width, classes = x.shape[-3:]
    max_outputs = as_int(max_outputs, "max_outputs", least=1)
    if max_outputs > height * width * classes:
        raise ShapeError(f"max_outputs must be at most {height * width * classes}, got {max_outputs}")
    window = as_int(window, "window", least=1)
    if window % 2 == 0:
        raise ArgumentError(f"window must be odd, got {window}")
    flat = (*x.shape[:-3], height * width * classes)
    index, valid = _peaks(jax.lax.stop_gradient(x), max_outputs, window)
    scores = jnp.where(valid, jnp.take_along_axis(x.reshape(flat), index, -1), 0)
    position = jnp.where(valid, index, 0).astype(jnp.int32)
    labels, pixel = position % classes, position // classes
    return jnp.stack([pixel % width, pixel // width], -1), labels, scores, valid


@functools.partial(jax.jit, static_argnums=(1, 2))
def _peaks(x: Array, max_outputs: int, window: int) -> tuple[Array, Array]:
    """Returns the flat indices of the highest peaks, and where there is one. It is jitted, as it has infinities."""
    highest = max_pool(x, window, stride=1, padding=window // 2)
    peaks = jnp.where(x == highest, x, -jnp.inf)
    top, index = lax.top_k(peaks.reshape(*x.shape[:-3], math.prod(x.shape[-3:])), max_outputs)
    return index, top > -jnp.inf


def soft_argmax(heatmap: ArrayLike, *, temperature: float = 1.0) -> Array:
    """Returns the expected position under the softmax of each heat map: a differentiable argmax (Sun et al., 2018).

    Args:
      heatmap: floating-point array ``(..., height, width, K)`` of logits.
      temperature: logits are divided by it; the smaller, the nearer to the maximum.

    Returns:
      Array ``(..., K, 2)`` of the type of ``heatmap``: x and y in pixels.

    Raises:
      ShapeError: fewer than three axes.
      ArgumentError: ``temperature`` is not positive.

    >>> soft_argmax(jnp.array([[0.0, 0.0, 9.0, 0.0]])[..., None]).round(2)
    Array([[2., 0.]], dtype=float32)
    """
    [x] = as_floats(heatmap=heatmap)
    if x.ndim < 3 or 0 in x.shape[-3:-1]:
        raise ShapeError(f"heatmap must have shape (..., height, width, K), got {x.shape}")
    if not temperature > 0:
        raise ArgumentError(f"temperature must be positive, got {temperature!r}")
    wide = accumulator(x.dtype)
    shares = jax.nn.softmax(x.astype(wide) / temperature, (-3, -2))
    columns, rows = _coordinates(x.shape[-3:-1], x.ndim, wide)
    expected = [jnp.sum(shares * a, (-3, -2)) for a in (columns, rows)]
    return jnp.stack(expected, -1).astype(x.dtype)


__all__ = ["encode_centers", "encode_heatmap", "gaussian_radius", "heatmap_peaks", "soft_argmax"]
