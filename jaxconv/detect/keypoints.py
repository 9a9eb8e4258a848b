"""Keypoints of regions: from heat maps on a region's grid to positions in the image, and back for the loss."""

import jax.numpy as jnp
from jax import lax

from jaxconv.layer import Array

# The parameter of torch's bicubic interpolation.
CUBIC = -0.75


def _bicubic(point: Array, n: int) -> Array:
    """Returns ``(*point.shape, n)``: the weights of n positions in torch's bicubic interpolation at ``point``."""
    low = jnp.floor(point)
    total = jnp.zeros((*point.shape, n), point.dtype)
    for i in range(-1, 3):
        distance = jnp.abs(point - low - i)
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
        far = ((CUBIC * distance - 5 * CUBIC) * distance + 8 * CUBIC) * distance - 4 * CUBIC
        weight = jnp.where(distance <= 1, near, far)
        at = jnp.clip(low + i, 0, n - 1)
        total += weight[..., None] * (at[..., None] == jnp.arange(n))
    return total


def keypoints_of(maps: Array, boxes: Array, valid: Array, limit: int) -> tuple[Array, Array]:
    """Returns where each heat map, enlarged to the size of its box, is highest.

    Args:
      maps: ``(batch, boxes, size, size, points)``.
      boxes: ``(batch, boxes, 4)``.
      valid: ``(batch, boxes)``; other boxes have keypoints of zeros.
      limit: no side of a box is larger.

    Returns:
      ``(batch, boxes, points, 3)``, x, y and 1; and the heat there, ``(batch, boxes, points)``.

    Equals torchvision's ``heatmaps_to_keypoints``, whose enlarged maps have the box's size, rounded up.
    """
    n, points = maps.shape[-2:]

    def one(given: tuple[Array, Array]) -> tuple[Array, Array]:
        heat, box = given
        low, size = box[:2], jnp.maximum(box[2:] - box[:2], 1)
        whole = jnp.ceil(size)

        def weights(whole: Array) -> Array:
            return _bicubic((jnp.arange(limit) + 0.5) * n / whole - 0.5, n)

        rows, columns = weights(whole[1]), weights(whole[0])
        inside = (jnp.arange(limit)[:, None] < whole[1]) & (jnp.arange(limit) < whole[0])

        def point(heat: Array) -> tuple[Array, Array]:
            enlarged = jnp.einsum("ih,hw,jw->ij", rows, heat, columns, precision="highest")
            enlarged = jnp.where(inside, enlarged, -jnp.inf).reshape(-1)
            best = jnp.argmax(enlarged)
            at = jnp.stack([best % limit, best // limit]) + 0.5
            return jnp.append(low + at * size / whole, 1.0), enlarged[best]

        return lax.map(point, jnp.moveaxis(heat, -1, 0))

    flat = maps.reshape(-1, n, n, points), boxes.reshape(-1, 4)
    found, scores = lax.map(one, flat)
    found, scores = found.reshape(*valid.shape, points, 3), scores.reshape(*valid.shape, points)
    return jnp.where(valid[..., None, None], found, 0), jnp.where(valid[..., None], scores, 0)


def heat_positions(points: Array, boxes: Array, size: int) -> tuple[Array, Array]:
    """Returns the position of each keypoint on its box's grid, row by row, and whether it is visible and inside.

    Args:
      points: ``(*batch, points, 3)``, x, y and visibility.
      boxes: ``(*batch, 4)``.
      size: the positions of the grid along each axis.

    Equals torchvision's ``keypoints_to_heatmap``.
    """
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    sides = jnp.where(high > low, high - low, 1)
    at = jnp.floor((points[..., :2] - low) * (size / sides))
    at = jnp.where(points[..., :2] == high, size - 1, at)
    inside = ((at >= 0) & (at < size)).all(-1) & (points[..., 2] > 0)
    at = jnp.where(inside[..., None], at, 0).astype(jnp.int32)
    return at[..., 1] * size + at[..., 0], inside
