"""Non-maximum suppression with a static number of outputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats
from jaxconv.ops.boxes import area, as_boxes
from jaxconv.ops.overlaps import intersection, ratio


def check_fraction(value: float, name: str) -> float:
    """Returns ``value`` as a float from 0 to 1, or raises ArgumentError."""
    if isinstance(value, jax.core.Tracer) or not 0 <= value <= 1:
        raise ArgumentError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def _prepare(boxes: ArrayLike, scores: ArrayLike) -> tuple[Array, Array]:
    """Returns boxes ``(N, 4)`` and scores ``(N,)``, each at least float32."""
    [b] = as_boxes(boxes=boxes)
    [s] = as_floats(scores=scores)
    if b.ndim != 2:
        raise ShapeError(f"boxes must have shape (N, 4), got {b.shape}: use jax.vmap for batches")
    if s.shape != b.shape[:1]:
        raise ShapeError(f"scores must have shape {b.shape[:1]}, one for each of the boxes, got {s.shape}")
    return b.astype(accumulator(b.dtype)), s.astype(accumulator(s.dtype))


def _of_each(a: ArrayLike, count: int, dtype: type, name: str, kind: str) -> Array:
    a = jnp.asarray(a)
    if not jnp.issubdtype(a.dtype, dtype):
        raise DTypeError(f"{name} must be {kind}, got {a.dtype}")
    if a.shape != (count,):
        raise ShapeError(f"{name} must have shape {(count,)}, one for each of the boxes, got {a.shape}")
    return a


def _at_most(threshold: float, dtype: np.dtype) -> float:
    """Returns the largest number of the type that is not greater: "iou > threshold" then means the same in the type."""
    rounded = dtype.type(threshold)
    return float(rounded if float(rounded) <= threshold else np.nextafter(rounded, dtype.type(-1)))


def nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    iou_threshold: float,
    max_outputs: int,
    *,
    score_threshold: float | None = None,
    valid: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Returns the indices of boxes that overlap no box with a higher score too much, highest score first.

    Args:
      boxes: floating-point array ``(N, 4)``.
      scores: floating-point array ``(N,)``. Of equal scores the lower index comes first. NaN counts as infinity, as in
        torch, unless there is a ``score_threshold``.
      iou_threshold: boxes whose IoU with a box that is kept is greater are suppressed.
      max_outputs: the number of outputs.
      score_threshold: only boxes with greater scores count; NaN is not greater.
      valid: bool array ``(N,)``: only these boxes count.

    Returns:
      indices: int32 ``(max_outputs,)``; -1 where fewer boxes are kept.
      valid: bool ``(max_outputs,)``: where there is an index.

    Raises:
      ShapeError: shapes differ.
      ArgumentError: ``max_outputs`` is not positive.
      ArgumentError: ``iou_threshold`` is not from 0 to 1.
      DTypeError: ``valid`` is not bool.

    Memory is linear in N, and time in N times the number of boxes kept. No gradient flows through indices; select from
    scores and boxes by them.

    Equals ``torchvision.ops.nms``, whose number of outputs depends on the values.

    >>> boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [5.0, 5.0, 6.0, 6.0]])
    >>> indices, valid = nms(boxes, jnp.array([0.5, 0.9, 0.7]), 0.5, 3)
    >>> indices
    Array([ 1,  2, -1], dtype=int32)
    """
    b, s = _prepare(boxes, scores)
    return _nms(b, s, None, iou_threshold, max_outputs, score_threshold, valid)


def batched_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    iou_threshold: float,
    max_outputs: int,
    *,
    score_threshold: float | None = None,
    valid: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Returns `nms` in which only boxes of the same label suppress each other.

    Args:
      boxes, scores, iou_threshold, max_outputs, score_threshold, valid: as in `nms`.
      labels: integers ``(N,)``: classes, levels of a pyramid, or images of a batch.

    Returns:
      indices: int32 ``(max_outputs,)``, over all labels, highest score first; -1 where fewer boxes are kept.
      valid: bool ``(max_outputs,)``: where there is an index.

    Raises:
      ShapeError: as in `nms`.
      ArgumentError: as in `nms`.
      DTypeError: labels are not integers, or ``valid`` is not bool.

    Equals ``torchvision.ops.batched_nms``, which for few boxes shifts each label's boxes apart, and so rounds them.

    >>> boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.9], [0.0, 0.0, 1.9, 1.9]])
    >>> indices, valid = batched_nms(boxes, jnp.array([0.5, 0.9, 0.7]), jnp.array([0, 0, 1]), 0.5, 3)
    >>> indices
    Array([ 1,  2, -1], dtype=int32)
    """
    b, s = _prepare(boxes, scores)
    labels = _of_each(labels, len(b), jnp.integer, "labels", "integers")
    return _nms(b, s, labels, iou_threshold, max_outputs, score_threshold, valid)


def _nms(
    boxes: Array,
    scores: Array,
    labels: Array | None,
    iou_threshold: float,
    max_outputs: int,
    score_threshold: float | None,
    valid: ArrayLike | None,
) -> tuple[Array, Array]:
    iou_threshold = check_fraction(iou_threshold, "iou_threshold")
    max_outputs = as_int(max_outputs, "max_outputs", least=1)
    alive = jnp.ones(len(boxes), bool)
    if valid is not None:
        alive = _of_each(valid, len(boxes), jnp.bool_, "valid", "bool")
    if score_threshold is not None:
        alive = alive & (scores > score_threshold)
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    limit = _at_most(iou_threshold, np.dtype(boxes.dtype))
    indices = _greedy(boxes, scores, alive, labels, limit, max_outputs)
    return indices, indices >= 0


@functools.partial(jax.jit, static_argnames=("limit", "max_outputs"))
def _greedy(boxes: Array, scores: Array, alive: Array, labels: Array | None, limit: float, max_outputs: int) -> Array:
    """Keeps the first box that is alive, and suppresses what overlaps it, until none is left or enough are kept."""
    count = len(boxes)
    if count == 0:
        return jnp.full(max_outputs, -1, jnp.int32)
    position = lax.iota(jnp.int32, count)
    first = jnp.where(jnp.isnan(scores), -jnp.inf, -scores)
    _, order = lax.sort((first, position), num_keys=1, is_stable=True)
    boxes, alive = boxes[order], alive[order]
    labels = None if labels is None else labels[order]
    x1, y1, x2, y2 = (boxes[:, i] for i in range(4))
    areas = area(boxes)

    def more(state: tuple[Array, Array, Array, Array]) -> Array:
        kept, _, current, _ = state
        return (kept < max_outputs) & (current < count)

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        kept, alive, current, indices = state
        width = jnp.minimum(x2, x2[current]) - jnp.maximum(x1, x1[current])
        height = jnp.minimum(y2, y2[current]) - jnp.maximum(y1, y1[current])
        shared = jnp.maximum(width, 0) * jnp.maximum(height, 0)
        suppressed = shared / (areas[current] + areas - shared) > limit
        if labels is not None:
            suppressed = suppressed & (labels == labels[current])
        alive = alive & ~suppressed & (position > current)
        indices = lax.dynamic_update_index_in_dim(indices, order[current], kept, 0)
        return kept + 1, alive, jnp.min(jnp.where(alive, position, count)), indices

    none = jnp.full(max_outputs, -1, jnp.int32)
    return lax.while_loop(more, step, (jnp.int32(0), alive, jnp.min(jnp.where(alive, position, count)), none))[3]


METHODS = ("gaussian", "linear")


def soft_nms(
    boxes: ArrayLike,
    scores: ArrayLike,
    max_outputs: int,
    *,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.3,
    score_threshold: float = 0.001,
) -> tuple[Array, Array, Array]:
    """Returns boxes one after another, where each lowers the scores of those that overlap it (Bodla et al., 2017).

    Args:
      boxes: floating-point array ``(N, 4)``.
      scores: floating-point array ``(N,)``; NaN does not count.
      max_outputs: the number of outputs.
      method: "gaussian" multiplies a score by ``exp(-iou^2 / sigma)``; "linear" by ``1 - iou`` where the IoU is greater
        than ``iou_threshold``.
      sigma: of "gaussian".
      iou_threshold: of "linear".
      score_threshold: boxes whose score has become no greater do not count.

    Returns:
      indices: int32 ``(max_outputs,)``; -1 where there are fewer boxes.
      scores: ``(max_outputs,)``, the lowered scores in the type of ``scores``, descending; 0 where there are fewer
        boxes. They have gradients in the scores and boxes.
      valid: bool ``(max_outputs,)``: where there is an index.

    Raises:
      ShapeError: shapes differ.
      ArgumentError: ``max_outputs`` is not positive.
      ArgumentError: an unknown method, ``iou_threshold`` is not from 0 to 1, or ``sigma`` is not positive.

    Memory is linear in N, and time in N times ``max_outputs``; the gradient stores N numbers for each output.

    >>> boxes = jnp.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])
    >>> soft_nms(boxes, jnp.array([0.5, 0.9]), 2, method="linear")[1]
    Array([0.9 , 0.25], dtype=float32)
    """
    b, s = _prepare(boxes, scores)
    max_outputs = as_int(max_outputs, "max_outputs", least=1)
    iou_threshold = check_fraction(iou_threshold, "iou_threshold")
    if method not in METHODS:
        raise ArgumentError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not sigma > 0:
        raise ArgumentError(f"sigma must be positive, got {sigma!r}")
    dtype = jnp.asarray(scores).dtype
    if len(b) == 0:
        none = jnp.full(max_outputs, -1, jnp.int32)
        return none, jnp.zeros(max_outputs, dtype), none >= 0
    areas = area(b)
    position = lax.iota(jnp.int32, len(b))

    def step(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        scores, alive = state
        alive = alive & (scores > score_threshold)
        current = jnp.argmax(jnp.where(alive, scores, -jnp.inf)).astype(jnp.int32)
        found = alive[current]
        shared = intersection(b, b[current])
        iou = ratio(shared, areas[current] + areas - shared)
        linear = jnp.where(iou > iou_threshold, 1 - iou, 1)
        weight = linear if method == "linear" else jnp.exp(-(iou**2) / sigma)
        score = jnp.where(found, scores[current], 0)
        scores = jnp.where(found & (position != current), scores * weight.astype(scores.dtype), scores)
        return (scores, alive & (position != current)), (jnp.where(found, current, -1), score)

    _, (indices, lowered) = lax.scan(step, (s, ~jnp.isnan(s)), length=max_outputs)
    return indices, lowered.astype(dtype), indices >= 0


__all__ = ["batched_nms", "nms", "soft_nms"]
