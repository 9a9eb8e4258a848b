"""Instance segmentation on the host, for an unknown number of objects: components, watershed, polygons.

These functions take and return NumPy arrays, and do not run under jit.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.extras import need
from jaxconv.geometry import as_int
from jaxconv.ops.nms import check_fraction
from jaxconv.ops.polygons import directions


def _plane(a: Any, name: str) -> np.ndarray:
    array = np.asarray(a)
    if array.ndim not in (2, 3):
        raise ShapeError(f"{name} must have shape (height, width) or (depth, height, width), got {array.shape}")
    return array


def connected_components(mask: Any, *, connectivity: int = 1) -> np.ndarray:
    """Returns an image in which each connected part of a mask has its own number.

    Args:
      mask: ``(height, width)`` or ``(depth, height, width)``; elements that are not 0 are in the mask.
      connectivity: how many coordinates may differ by one between neighbors: 1, neighbors share an edge (in 3-D a
        face); 2, also a corner (an edge); 3, in 3-D, also a corner.

    Returns:
      int32 array of the same shape: 0 outside the mask, parts from 1 in row-major order of their first element.

    Raises:
      ShapeError: another number of axes, or ``connectivity`` is greater than that number.
      ArgumentError: ``connectivity`` is not a positive integer.

    Equals `scipy.ndimage.label`.

    >>> connected_components([[1, 0, 0], [0, 1, 1]])
    array([[1, 0, 0],
           [0, 2, 2]], dtype=int32)
    """
    from scipy import ndimage

    array = _plane(mask, "mask")
    if as_int(connectivity, "connectivity", least=1) > array.ndim:
        raise ShapeError(f"connectivity must be at most {array.ndim}, got {connectivity}")
    structure = ndimage.generate_binary_structure(array.ndim, connectivity)
    return ndimage.label(array != 0, structure)[0].astype(np.int32)


def watershed(heights: Any, markers: Any, *, mask: Any = None) -> np.ndarray:
    """Returns the basins of an image of heights, flooded from markers: it divides objects that touch.

    Args:
      heights: ``(height, width)`` or ``(depth, height, width)``, such as the negative distance to the background.
      markers: integers of the same shape: each number other than 0 starts a basin.
      mask: where basins may grow, of the same shape; by default everywhere.

    Returns:
      int32 array of the same shape: the number of the marker of each element, 0 outside the mask.

    Raises:
      ShapeError: shapes differ.
      DTypeError: markers are not integers.
      ModuleNotFoundError: scikit-image, of the extra ``detection``, is not installed.

    Equals `skimage.segmentation.watershed`.

    >>> watershed([[0, 1, 2, 1, 0]], [[3, 0, 0, 0, 7]], mask=[[1, 1, 0, 1, 1]])
    array([[3, 3, 0, 7, 7]], dtype=int32)
    """
    segmentation = need("skimage.segmentation", "watershed", "detection")
    array, starts = _plane(heights, "heights"), np.asarray(markers)
    if not np.issubdtype(starts.dtype, np.integer):
        raise DTypeError(f"markers must be integers, got {starts.dtype}")
    within = np.ones(array.shape, bool) if mask is None else np.asarray(mask) != 0
    for name, other in (("markers", starts), ("mask", within)):
        if other.shape != array.shape:
            raise ShapeError(f"{name} must have the shape of heights, {array.shape}, got {other.shape}")
    return segmentation.watershed(array, starts, mask=within).astype(np.int32)


def _polygons(polygons: Any) -> np.ndarray:
    corners = np.asarray(polygons, np.float64)
    if corners.ndim != 3 or corners.shape[1] < 3 or corners.shape[2] != 2:
        raise ShapeError(f"polygons must have shape (N, V, 2) with at least 3 corners, got {corners.shape}")
    return corners


def _raster(corners: np.ndarray, left: int, top: int, width: int, height: int) -> np.ndarray:
    """Returns which pixel centers of a window are inside a polygon, by the even-odd rule of `polygon_masks`."""
    x, y = np.arange(left, left + width)[None, :], np.arange(top, top + height)[:, None]
    inside = np.zeros((height, width), bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside


def _window(low: np.ndarray, high: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the left column, upper row, width and height of the pixels between two points."""
    first = np.floor(low).astype(int)
    sides = np.maximum(np.ceil(high).astype(int) - first + 1, 0)
    return int(first[0]), int(first[1]), int(sides[0]), int(sides[1])


def polygon_nms(polygons: Any, scores: Any, iou_threshold: float) -> np.ndarray:
    """Returns the indices of polygons that non-maximum suppression keeps, highest score first.

    Args:
      polygons: ``(N, V, 2)``, corners x and y in pixels: those of `jaxconv.star_polygons`.
      scores: ``(N,)``. Of equal scores the lower index comes first; polygons with a score of NaN are left out.
      iou_threshold: polygons whose IoU with one that is kept is greater are suppressed. Areas are counted in pixels.

    Returns:
      int64 ``(kept,)``.

    Raises:
      ShapeError: shapes differ.
      ArgumentError: ``iou_threshold`` is not from 0 to 1, or a corner is not finite.

    Only polygons whose bounding boxes overlap are compared. `stardist.nms.non_maximum_suppression` does this with exact
    areas.

    >>> square = np.array([[0.0, 0.0], [9.0, 0.0], [9.0, 9.0], [0.0, 9.0]])
    >>> polygon_nms([square, square + 1, square + 20], [0.5, 0.9, 0.7], 0.5)
    array([1, 2])
    """
    corners, values = _polygons(polygons), np.asarray(scores, np.float64)
    threshold = check_fraction(iou_threshold, "iou_threshold")
    if values.shape != corners.shape[:1]:
        raise ShapeError(
            f"scores must have shape {corners.shape[:1]}, one for each of the polygons, got {values.shape}"
        )
    if not np.isfinite(corners).all():
        raise ArgumentError(f"polygons must be finite, got {corners[~np.isfinite(corners)][0]}")
    if len(corners) == 0:
        return np.zeros(0, np.int64)
    low, high = corners.min(1), corners.max(1)
    areas = [int(_raster(c, *_window(a, b)).sum()) for c, a, b in zip(corners, low, high, strict=True)]
    alive = ~np.isnan(values)
    kept = []
    for i in np.argsort(-values, kind="stable"):
        if not alive[i]:
            continue
        kept.append(i)
        alive[i] = False
        near = alive & (low <= high[i]).all(1) & (high >= low[i]).all(1)
        for j in np.flatnonzero(near):
            window = _window(np.maximum(low[i], low[j]), np.minimum(high[i], high[j]))
            both = int((_raster(corners[i], *window) & _raster(corners[j], *window)).sum())
            either = areas[i] + areas[j] - both
            alive[j] = both <= threshold * either
    return np.array(kept, np.int64)


def draw_polygons(polygons: Any, size: Sequence[int]) -> np.ndarray:
    """Returns an image in which the pixels inside each polygon have its number; earlier polygons cover later ones.

    Args:
      polygons: ``(N, V, 2)``, corners x and y in pixels, the most certain first, as `polygon_nms` orders them.
      size: height and width of the image.

    Returns:
      int32 array of this size: 0 outside of all polygons, otherwise 1 and the index of the polygon.

    Raises:
      ShapeError: a wrong shape.

    Equals `stardist.geometry.polygons_to_label` up to pixels on the edges.

    >>> draw_polygons([[[0.5, -0.5], [2.5, -0.5], [2.5, 0.5], [0.5, 0.5]]], (2, 4))
    array([[0, 1, 1, 0],
           [0, 0, 0, 0]], dtype=int32)
    """
    corners = _polygons(polygons)
    height, width = (as_int(n, "size", least=1) for n in size)
    labels = np.zeros((height, width), np.int32)
    limits = np.array([width - 1, height - 1])
    for i in range(len(corners) - 1, -1, -1):
        low, high = np.maximum(corners[i].min(0), 0), np.minimum(corners[i].max(0), limits)
        if (low <= high).all():
            left, top, columns, rows = _window(low, high)
            columns, rows = min(columns, width - left), min(rows, height - top)
            part = labels[top : top + rows, left : left + columns]
            part[_raster(corners[i], left, top, columns, rows)] = i + 1
    return labels


def star_probabilities(labels: Any) -> np.ndarray:
    """Returns StarDist's targets of object probabilities: 1 in the middle of an object, less towards its boundary.

    Args:
      labels: integers ``(height, width)`` or ``(depth, height, width)``: 0 is background, others are objects.

    Returns:
      float32 array of the same shape: the distance to the nearest pixel that is not of the object, divided by the
      largest such distance in the object; 0 on the background. The border of the image is not a boundary, unless one
      object fills the image.

    Raises:
      ShapeError: another number of axes.
      DTypeError: labels are not integers.
      ArgumentError: a label is negative.

    Equals `stardist.utils.edt_prob`.

    >>> star_probabilities([[0, 3, 3, 3, 3, 3, 0]])
    array([[0.        , 0.33333334, 0.6666667 , 1.        , 0.6666667 , 0.33333334, 0.        ]], dtype=float32)
    """
    from scipy import ndimage

    array = _plane(labels, "labels")
    if not np.issubdtype(array.dtype, np.integer):
        raise DTypeError(f"labels must be integers, got {array.dtype}")
    if array.size and array.min() < 0:
        raise ArgumentError(f"labels must not be negative, got {array.min()}")
    if array.size and array.min() == array.max() > 0:
        inner = tuple(slice(1, -1) for _ in array.shape)
        return star_probabilities(np.pad(array, 1))[inner]
    found = np.zeros(array.shape, np.float32)
    for label, box in enumerate(ndimage.find_objects(array.astype(np.int64)), 1):
        if box is None:
            continue
        # A pixel more on each side, where the image has one.
        grown = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        own = array[grown] == label
        distance = ndimage.distance_transform_edt(own)
        found[grown][own] = distance[own] / distance.max()
    return found


def star_objects(
    probabilities: Any, distances: Any, *, threshold: float = 0.5, iou_threshold: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the objects in StarDist's output for an image: star-convex polygons, after non-maximum suppression.

    Args:
      probabilities: ``(height, width)``: the probability that a pixel is in the middle of an object.
      distances: ``(height, width, rays)``, as `jaxconv.star_polygons` takes them.
      threshold: the least probability of an object.
      iou_threshold: polygons whose IoU with a better one is greater are suppressed, by `polygon_nms`.

    Returns:
      Polygons ``(N, rays, 2)``, corners x and y, and their probabilities ``(N,)``, highest first: what `draw_polygons`
      takes.

    Raises:
      ShapeError: shapes do not fit.
      ArgumentError: a threshold is not from 0 to 1.

    Only pixels whose probability is the largest of the 5x5 pixels around them are candidates. StarDist takes all of
    them, most of which the suppression removes.

    >>> labels = np.zeros((12, 24), int)
    >>> labels[2:9, 2:9], labels[3:11, 10:20] = 1, 2
    >>> polygons, scores = star_objects(star_probabilities(labels), jc.star_distances(labels, 16))
    >>> polygons.shape
    (2, 16, 2)
    """
    from scipy import ndimage

    scores, reach = np.asarray(probabilities), np.asarray(distances)
    if scores.ndim != 2 or reach.ndim != 3 or reach.shape[:2] != scores.shape or reach.shape[2] < 3:
        raise ShapeError(
            f"distances must have shape (height, width, rays) with at least 3 rays for probabilities (height, width), "
            f"got {reach.shape} and {scores.shape}"
        )
    least = check_fraction(threshold, "threshold")
    largest = ndimage.maximum_filter(scores, 5, mode="nearest")
    at = np.argwhere((scores == largest) & (scores >= least) & (scores > 0))
    rows, columns = at.T
    steps = np.maximum(reach[rows, columns], 0)[..., None] * directions(reach.shape[2])
    polygons, found = at[:, None, ::-1] + steps, scores[rows, columns]
    kept = polygon_nms(polygons, found, iou_threshold)
    return polygons[kept], found[kept]


__all__ = [
    "connected_components",
    "draw_polygons",
    "polygon_nms",
    "star_objects",
    "star_probabilities",
    "watershed",
]


def __dir__() -> list[str]:
    return sorted(__all__)
