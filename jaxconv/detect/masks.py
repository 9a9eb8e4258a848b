"""Masks of objects: as R-CNN's targets on a region's grid, and from a region's grid back into the image."""

import jax.numpy as jnp
from jax import lax

from jaxconv.errors import ShapeError
from jaxconv.layer import Array
from jaxconv.ops.arrays import ArrayLike
from jaxconv.ops.regions import roi_align


def _bilinear(point: Array, n: int) -> Array:
    """Returns ``(*point.shape, n)``: the weights of n positions in a bilinear interpolation at ``point``."""
    point = jnp.clip(point, 0, n - 1)
    return jnp.maximum(0, 1 - jnp.abs(point[..., None] - jnp.arange(n)))


def project_masks(masks: ArrayLike, boxes: ArrayLike, matched: ArrayLike, size: int) -> Array:
    """Returns the mask of each box's object on a grid over the box: the target of Mask R-CNN.

    Args:
      masks: ``(objects, height, width)``, of any type; 1 where the object is.
      boxes: ``(boxes, 4)``, inside the image.
      matched: ``(boxes,)``, the object of each box.
      size: the positions of the grid along each axis.

    Returns:
      ``(boxes, size, size)``, the mean of the mask over each cell.

    Equals torchvision's ``project_masks_on_boxes``.

    >>> mask = jnp.zeros((1, 8, 8)).at[0, :4].set(1)
    >>> project_masks(mask, jnp.array([[0.0, 0.0, 8.0, 8.0]]), jnp.array([0]), 2)[0].round(2)
    Array([[0.88, 0.88],
           [0.  , 0.  ]], dtype=float32)
    """
    boxes = jnp.asarray(boxes)
    features = jnp.asarray(masks).astype(boxes.dtype)[..., None]
    return roi_align(features, boxes, matched, size, sampling_ratio=-1)[..., 0]


def paste_masks(masks: ArrayLike, boxes: ArrayLike, image_size: tuple[int, int]) -> Array:
    """Returns masks of boxes as masks of the image.

    Args:
      masks: ``(boxes, size, size)``, probabilities on a grid over each box.
      boxes: ``(boxes, 4)``.
      image_size: height and width of the image.

    Returns:
      ``(boxes, height, width)``, probabilities; 0 outside the box. Objects are where it is more than 0.5.

    Raises:
      ShapeError: masks are not square, or there is not one for each box.

    Equals torchvision's ``paste_masks_in_image``.

    >>> paste_masks(jnp.ones((1, 4, 4)), jnp.array([[2.0, 2.0, 6.0, 6.0]]), (8, 8))[0, 3].round(3)
    Array([0.   , 0.   , 0.786, 1.   , 1.   , 1.   , 0.786, 0.   ], dtype=float32)
    """
    masks, boxes = jnp.asarray(masks), jnp.asarray(boxes)
    if masks.ndim != 3 or masks.shape[1] != masks.shape[2] or boxes.shape != (len(masks), 4):
        raise ShapeError(
            f"masks must be (boxes, size, size) with boxes (boxes, 4), got {masks.shape} and {boxes.shape}"
        )
    n = masks.shape[1] + 2
    padded = jnp.pad(masks, [(0, 0), (1, 1), (1, 1)])
    center, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (n / masks.shape[1])
    # Whole pixels, rounded toward zero.
    low, high = (jnp.trunc(edge) for edge in (center - half, center + half))

    def weights(low: Array, high: Array, pixels: int) -> Array:
        size = jnp.maximum(high - low + 1, 1)
        inside = jnp.arange(pixels) - low
        point = (inside + 0.5) * n / size - 0.5
        return jnp.where(((inside >= 0) & (inside < size))[:, None], _bilinear(point, n), 0)

    def one(given: tuple[Array, Array, Array]) -> Array:
        mask, low, high = given
        height, width = image_size
        rows, columns = weights(low[1], high[1], height), weights(low[0], high[0], width)
        return jnp.einsum("ih,hw,jw->ij", rows, mask, columns, precision="highest")

    return lax.map(one, (padded, low, high))


__all__ = ["paste_masks", "project_masks"]
