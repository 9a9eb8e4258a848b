"""Star-convex polygons: distances along rays from a point to the boundary of its object (Schmidt et al., 2018)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import IntOrTuple, as_int, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, to_rank
from jaxconv.ops.heatmaps import as_points


def directions(rays: int) -> np.ndarray:
    """Returns unit vectors ``(rays, 2)``, as (x, y), counted from the x axis towards y."""
    angles = 2 * math.pi * np.arange(rays) / rays
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def star_polygons(points: ArrayLike, distances: ArrayLike) -> Array:
    """Returns the corners of star-convex polygons.

    Args:
      points: floating-point array ``(..., 2)``, x and y.
      distances: floating-point array ``(..., R)``: from the point along R rays, evenly spaced from the x axis towards
        the y axis. Negative distances count as 0.

    Returns:
      Array ``(..., R, 2)`` of the common type.

    Raises:
      ShapeError: the last axis of ``points`` is not 2, or there are fewer than 3 rays.

    Equals `stardist.geometry.dist_to_coord`, whose coordinates are (y, x).

    >>> star_polygons(jnp.array([5.0, 5.0]), jnp.array([1.0, 2.0, 1.0, 2.0])).round().astype(int).tolist()
    [[6, 5], [5, 7], [4, 5], [5, 3]]
    """
    p, d = as_floats(points=points, distances=distances)
    p = as_points(p)
    if d.ndim < 1 or d.shape[-1] < 3:
        raise ShapeError(f"distances must have shape (..., R) with at least 3 rays, got {d.shape}")
    wide, rank = accumulator(p.dtype), max(p.ndim, d.ndim)
    p, d = to_rank(p, rank), to_rank(d, rank)
    rays = jnp.asarray(directions(d.shape[-1]), wide)
    reach = jnp.maximum(d, 0).astype(wide)[..., None]
    rays = lax.expand_dims(rays, range(reach.ndim - 2))
    return (p.astype(wide)[..., None, :] + reach * rays).astype(p.dtype)


def star_distances(labels: ArrayLike, rays: int = 32) -> Array:
    """Returns the distance from each pixel along each ray to where its object ends: StarDist's targets.

    Args:
      labels: integers ``(height, width)``: 0 is background, other numbers are objects.
      rays: the number of rays, evenly spaced from the x axis towards the y axis.

    Returns:
      float32 ``(height, width, rays)``: the length of the ray in steps of one pixel, whose ends are rounded to pixels;
      it ends half a pixel, along the longer axis, after the last pixel of the object. 0 on the background.

    Raises:
      ShapeError: not two axes.
      ArgumentError: fewer than 3 rays.
      DTypeError: labels are not integers.

    Equals `stardist.geometry.star_dist`.

    >>> labels = jnp.zeros((5, 7), int).at[1:4, 1:6].set(1)
    >>> star_distances(labels, 4)[2, 3]
    Array([2.5, 1.5, 2.5, 1.5], dtype=float32)
    """
    a = jnp.asarray(labels)
    if not jnp.issubdtype(a.dtype, jnp.integer):
        raise DTypeError(f"labels must be integers, got {a.dtype}")
    if a.ndim != 2 or 0 in a.shape:
        raise ShapeError(f"labels must have shape (height, width), got {a.shape}")
    rays = as_int(rays, "rays", least=3)
    return _march(a, rays)


def _march(labels: Array, rays: int) -> Array:
    height, width = labels.shape
    units = directions(rays)
    x_step, y_step = (jnp.asarray(units[:, i], jnp.float32)[None, None] for i in range(2))
    row = lax.broadcasted_iota(jnp.float32, (height, width, rays), 0)
    column = lax.broadcasted_iota(jnp.float32, (height, width, rays), 1)

    def more(state: tuple[Array, Array]) -> Array:
        return state[1].any()

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        steps, inside = state
        steps = jnp.where(inside, steps + 1, steps)
        y = jnp.round(row + steps * y_step).astype(jnp.int32)
        x = jnp.round(column + steps * x_step).astype(jnp.int32)
        within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        same = labels[jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)] == labels[..., None]
        return steps, inside & within & same

    foreground = jnp.broadcast_to((labels != 0)[..., None], row.shape)
    steps, _ = lax.while_loop(more, step, (jnp.zeros_like(row), foreground))
    # The boundary is half a pixel along the longer axis after the last step that was inside.
    past = (1 - 0.5 / np.abs(units).max(1)).astype(np.float32)
    return jnp.where(foreground, steps - jnp.asarray(past)[None, None], 0)


def polygon_masks(polygons: ArrayLike, size: IntOrTuple) -> Array:
    """Returns the pixels whose centers are inside polygons, by the even-odd rule.

    Args:
      polygons: floating-point array ``(..., V, 2)``: corners x and y; pixel centers are at integers.
      size: height and width of the masks.

    Returns:
      Bool array ``(..., height, width)``. Centers on a left or upper edge are inside, on a right or lower one outside.

    Raises:
      ShapeError: fewer than 3 corners, or the last axis is not 2.
      ArgumentError: ``size`` is not positive integers.

    >>> square = jnp.array([[0.5, 0.5], [2.5, 0.5], [2.5, 1.5], [0.5, 1.5]])
    >>> polygon_masks(square, (3, 4)).astype(int)
    Array([[0, 0, 0, 0],
           [0, 1, 1, 0],
           [0, 0, 0, 0]], dtype=int32)
    """
    p = as_points(polygons, "polygons")
    if p.ndim < 2 or p.shape[-2] < 3:
        raise ShapeError(f"polygons must have shape (..., V, 2) with at least 3 corners, got {p.shape}")
    height, width = as_tuple(size, 2, "size")
    wide = accumulator(p.dtype)
    corners = jnp.moveaxis(jax.lax.stop_gradient(p).astype(wide), -2, 0)
    following = jnp.roll(corners, -1, 0)
    batch = p.shape[:-2]
    x = lax.expand_dims(lax.iota(wide, width), range(len(batch) + 1))
    y = lax.expand_dims(lax.iota(wide, height)[:, None], range(len(batch)))

    def cross(inside: Array, edge: tuple[Array, Array]) -> tuple[Array, None]:
        (x1, y1), (x2, y2) = ((end[..., 0, None, None], end[..., 1, None, None]) for end in edge)
        spans = (y1 > y) != (y2 > y)
        run = jnp.where(y2 == y1, 1, y2 - y1)
        return inside ^ (spans & (x < x1 + (y - y1) * (x2 - x1) / run)), None

    # One edge after another, so that memory does not grow with the corners.
    outside = jnp.zeros((*batch, height, width), bool)
    return lax.scan(cross, outside, (corners, following))[0]


__all__ = ["polygon_masks", "star_distances", "star_polygons"]
