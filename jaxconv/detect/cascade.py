"""Faces by a cascade: Zhang et al., "Joint face detection and alignment using multitask cascaded networks", 2016.

The first network scores each window of 12x12 pixels of an image at many scales. The second and the third score and
adjust the boxes that remain. The number of boxes depends on the image, so the loop runs on the host. Each network is
compiled once, whatever the size of the images: the first receives tiles of one size that are cut from all scales, the
others receive batches of one size.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconv.compiler import jit
from jaxconv.errors import ArgumentError
from jaxconv.layer import Array, Layer, Params, State
from jaxconv.ops.nms import check_fraction

Network = tuple[Layer, Params, State]

# The window of the first network and its stride, in pixels.
CELL, STRIDE = 12, 2
# The side of a tile, which is odd, and of its output. The last row and column of the output exist for the end of an
# image of odd size only, where the window of the network's pool is incomplete.
TILE = 75
OUT = (TILE - 1) // 2 - 4
# Tiles, and images of the second and third network, in a batch.
BATCHES = (16, 64, 16)


class Faces(NamedTuple):
    """Faces in an image, largest first, as NumPy arrays of float32.

    Attributes:
      boxes: ``(n, 4)``, corners x1, y1, x2, y2 in pixels; they may be outside the image.
      scores: ``(n,)``, the probability of a face.
      points: ``(n, 5, 2)``, x and y of the left eye and the right eye, as the viewer sees them, the nose, and the left
        and right corner of the mouth.
    """

    boxes: np.ndarray
    scores: np.ndarray
    points: np.ndarray


def find_faces(
    networks: Sequence[Network],
    image: Any,
    *,
    min_size: float = 20,
    thresholds: Sequence[float] = (0.6, 0.7, 0.7),
    factor: float = 0.709,
) -> Faces:
    """Finds faces in an image by MTCNN. Runs on the host and compiles each network once, for images of all sizes.

    Args:
      networks: `jaxconv.models.pnet`, `rnet` and `onet`, each as ``(net, params, state)``.
      image: uint8 ``(height, width, 3)``, RGB.
      min_size: the side of the smallest faces, in pixels.
      thresholds: the least probability of a face for each network.
      factor: the ratio of a scale to the one before.

    Returns:
      A `Faces`; its arrays are empty for an image without faces, or smaller than ``min_size``.

    Raises:
      ArgumentError: the image is not uint8 RGB, there are not three networks, or an option is out of range.

    Equals ``facenet_pytorch.MTCNN(keep_all=True).detect(image, landmarks=True)``, with an empty result in place of
    None. A candidate wholly outside the image is dropped; facenet-pytorch then raises an error.

    >>> sides = {jc.models.pnet(): 12, jc.models.rnet(): 24, jc.models.onet(): 48}
    >>> networks = [(net, *net.init(jax.random.key(0), (1, n, n, 3))) for net, n in sides.items()]
    >>> find_faces(networks, jnp.zeros((16, 16, 3), jnp.uint8)).points.shape
    (0, 5, 2)
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ArgumentError(f"image must be uint8 (height, width, 3), got {pixels.dtype} {pixels.shape}")
    if len(networks) != 3 or len(thresholds) != 3:
        raise ArgumentError(f"networks and thresholds must be three, got {len(networks)} and {len(thresholds)}")
    if not 0 < factor < 1:
        raise ArgumentError(f"factor must be between 0 and 1, got {factor!r}")
    if not min_size >= 1:
        raise ArgumentError(f"min_size must be at least 1, got {min_size!r}")
    first, second, third = (check_fraction(value, "thresholds") for value in thresholds)
    area = _Area(pixels)

    boxes = _squares(_proposals(networks[0], area, CELL / min_size, factor, first))
    boxes, scores, moves, _ = _rated(networks[1], area, boxes, 24, BATCHES[1], second)
    kept = _kept(boxes, scores, 0.7, _iou)
    boxes = _squares(_moved(boxes[kept], moves[kept], 1))

    boxes, scores, moves, points = _rated(networks[2], area, boxes, 48, BATCHES[2], third)
    across, down = (boxes[:, i + 2] - boxes[:, i] + 1 for i in (0, 1))
    x, y = (
        side[:, None] * part + boxes[:, i, None] - 1
        for i, (side, part) in enumerate(zip((across, down), (points[:, :5], points[:, 5:]), strict=True))
    )
    boxes, points = _moved(boxes, moves, 1), np.stack([x, y], -1)
    kept = _kept(boxes, scores, 0.7, _part_of_smaller)
    boxes, scores, points = boxes[kept], scores[kept], points[kept]
    largest = np.argsort((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), kind="stable")[::-1]
    return Faces(boxes[largest], scores[largest], points[largest])


class _Area:
    """An integral image (summed-area table): exact sums over rectangles, without a compiled program."""

    def __init__(self, image: np.ndarray):
        self.height, self.width = image.shape[:2]
        # The sums may wrap around at 32 bits. Their differences are still right, because the sum of a bin fits.
        self.table = np.zeros((self.height + 1, self.width + 1, 3), np.uint32)
        self.table[1:, 1:] = np.cumsum(np.cumsum(image, 0, np.uint32), 1, np.uint32)

    def resized(self, corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns rectangles ``(n, 4)`` resized to ``(n, *size, 3)``: means of the bins of an adaptive average pool."""
        corners = corners.astype(np.int64)
        ends = []
        for low, high, bins in ((corners[:, 1], corners[:, 3], size[0]), (corners[:, 0], corners[:, 2], size[1])):
            i, length = np.arange(bins), (high - low)[:, None]
            ends.append((low[:, None] + i * length // bins, low[:, None] - -(i + 1) * length // bins))
        (top, bottom), (left, right) = ends
        top, bottom, left, right = top[:, :, None], bottom[:, :, None], left[:, None], right[:, None]
        table = self.table
        sums = table[bottom, right] - table[top, right] - (table[bottom, left] - table[top, left])
        height, width = ((end - start)[..., None].astype(np.float32) for start, end in ((top, bottom), (left, right)))
        return sums.astype(np.float32) / height / width


@functools.partial(jit, static_argnums=0)
def _outputs(net: Layer, params: Params, state: State, x: Array) -> tuple[Array, ...]:
    # In full precision: a rounded score may be on the other side of a threshold.
    with jax.default_matmul_precision("highest"):
        return tuple(net.apply(params, state, (x - 127.5) / 128)[0].values())


def _in_batches(network: Network, x: np.ndarray, size: int) -> list[np.ndarray]:
    """Returns the outputs for images, in batches of one size; zeros fill the last one."""
    missing = -len(x) % size
    x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
    found = [_outputs(*network, x[i : i + size]) for i in range(0, len(x), size)]
    return [np.concatenate(parts)[: len(x) - missing] for parts in zip(*found, strict=True)]


def _tiles(image: np.ndarray) -> np.ndarray:
    """Cuts an image into tiles ``(rows, columns, TILE, TILE, 3)``.

    The last tiles end where the image ends, or one pixel after for an even size. Tiles overlap so that each full window
    of the network is in one of them, at an even distance from the image's start.
    """
    pads = []
    for n in image.shape[:2]:
        odd = n | 1
        count = max(-(-(odd - TILE) // (2 * OUT - 2)), 0) + 1
        pads.append((TILE + (2 * OUT - 2) * (count - 1) - odd, odd - n))
    padded = np.pad(image, [*pads, (0, 0)])
    views = np.lib.stride_tricks.sliding_window_view(padded, (TILE, TILE), (0, 1))
    return np.moveaxis(views[:: 2 * OUT - 2, :: 2 * OUT - 2], 2, -1)


def _joined(tiles: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns the output for a whole image of this size from those ``(rows, columns, OUT, OUT, n)`` for its tiles."""
    rows, columns = tiles.shape[:2]
    joined = np.zeros(((OUT - 1) * rows + 1, (OUT - 1) * columns + 1, tiles.shape[-1]), tiles.dtype)
    for i in range(rows):
        for j in range(columns):
            top, left = (OUT - 1) * i, (OUT - 1) * j
            joined[top : top + OUT, left : left + OUT] = tiles[i, j]
    # The tiles begin before the image; for an even size they end after it.
    height, width = (n // 2 - 5 + n % 2 for n in size)
    top = joined.shape[0] - height - (1 - size[0] % 2)
    left = joined.shape[1] - width - (1 - size[1] % 2)
    return joined[top : top + height, left : left + width]


def _scales(height: int, width: int, largest: float, factor: float) -> list[float]:
    scales, side = [], min(height, width) * largest
    while side >= CELL:
        scales.append(largest)
        largest, side = largest * factor, side * factor
    return scales


def _proposals(network: Network, area: _Area, scale: float, factor: float, threshold: float) -> np.ndarray:
    """Returns the boxes ``(n, 4)`` that the first network finds, with suppression at each scale and over all."""
    scales = _scales(area.height, area.width, scale, factor)
    whole = np.array([[0, 0, area.width, area.height]])
    sizes = [(int(area.height * scale + 1), int(area.width * scale + 1)) for scale in scales]
    tiles = [_tiles(area.resized(whole, size)[0]) for size in sizes]
    if not tiles:
        return np.zeros((0, 4), np.float32)
    outputs = _in_batches(network, np.concatenate([each.reshape(-1, TILE, TILE, 3) for each in tiles]), BATCHES[0])
    found, start = [], 0
    for scale, size, each in zip(scales, sizes, tiles, strict=True):
        count = each.shape[0] * each.shape[1]
        parts = [y[start : start + count].reshape(*each.shape[:2], *y.shape[1:]) for y in outputs]
        start += count
        ratings, moves = (_joined(part, size) for part in parts)
        y, x = np.nonzero(ratings[..., 1] >= threshold)
        corner = STRIDE * np.stack([x, y], -1).astype(np.float32)
        boxes = np.concatenate([np.floor((corner + shift) / scale) for shift in (1, CELL)], -1)
        rows = np.concatenate([boxes, ratings[y, x, 1:], moves[y, x]], -1)
        found.append(rows[_kept(boxes, rows[:, 4], 0.5, _iou)])
    rows = np.concatenate(found)
    rows = rows[_kept(rows[:, :4], rows[:, 4], 0.7, _iou)]
    return _moved(rows[:, :4], rows[:, 5:], 0)


def _rated(
    network: Network, area: _Area, boxes: np.ndarray, side: int, batch: int, threshold: float
) -> tuple[np.ndarray, ...]:
    """Returns the boxes in which a network sees a face, their scores and offsets, and points, if it has points."""
    corners = np.trunc(boxes).astype(np.int64)
    # Pixels are counted from 1 here, and the last one is included.
    ends = np.minimum(corners[:, 2:], (area.width, area.height))
    corners = np.concatenate([np.maximum(corners[:, :2], 1) - 1, ends], -1)
    inside = (corners[:, 2:] > corners[:, :2]).all(-1)
    boxes, corners = boxes[inside], corners[inside]
    if not len(boxes):
        return boxes, np.zeros(0, np.float32), boxes, np.zeros((0, 10), np.float32)
    ratings, moves, *points = _in_batches(network, area.resized(corners, (side, side)), batch)
    seen = ratings[:, 1] > threshold
    return boxes[seen], ratings[seen, 1], moves[seen], points[0][seen] if points else np.zeros((0, 10), np.float32)


def _moved(boxes: np.ndarray, moves: np.ndarray, more: int) -> np.ndarray:
    """Adds offsets, as fractions of the sides, to the corners; the authors' code counts ``more`` pixels in a side."""
    sides = boxes[:, 2:] - boxes[:, :2] + more
    return boxes + moves * np.concatenate([sides, sides], -1)


def _squares(boxes: np.ndarray) -> np.ndarray:
    """Returns squares of the longer side around the same centers."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(-1, keepdims=True)
    corner = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return np.concatenate([corner, corner + longer], -1)


def _intersection(box: np.ndarray, others: np.ndarray, more: int) -> tuple[np.ndarray, ...]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    area, areas = ((b[..., 2] - b[..., 0] + more) * (b[..., 3] - b[..., 1] + more) for b in (box, others))
    return np.maximum(high - low + more, 0).prod(-1), area, areas


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared, area, areas = _intersection(box, others, 0)
    return shared / (area + areas - shared)


def _part_of_smaller(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared, area, areas = _intersection(box, others, 1)
    return shared / np.minimum(area, areas)


def _kept(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, overlap: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Returns the indices that non-maximum suppression keeps, highest score first.

    Like `jaxconv.nms`, but with another measure of overlap, and on the host: `jaxconv.nms` would be compiled for each
    number of boxes.
    """
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        with np.errstate(divide="ignore", invalid="ignore"):  # Boxes without area overlap none.
            order = order[~(overlap(boxes[best], boxes[order]) > threshold)]
    return np.array(kept, np.intp)


__all__ = ["Faces", "find_faces"]
