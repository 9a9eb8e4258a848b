"""Images as torchvision's detectors take them: resized, normalized, and padded to one size; and boxes back again."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxconv import ops
from jaxconv.detect.masks import paste_masks
from jaxconv.detect.results import Detections, per_image
from jaxconv.errors import ArgumentError
from jaxconv.layer import Array
from jaxconv.ops.arrays import ArrayLike

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _floats(image: ArrayLike, i: int) -> Array:
    x = jnp.asarray(image)
    if x.ndim != 3 or x.shape[-1] != 3:
        raise ArgumentError(f"images must be (height, width, 3), got {x.shape} at {i}")
    if x.dtype == jnp.uint8:
        return x.astype(jnp.float32) / 255
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ArgumentError(f"images must be uint8, or floating-point in [0, 1], got {x.dtype} at {i}")
    return x


def preprocess(
    images: Sequence[Any],
    *,
    min_size: int = 800,
    max_size: int = 1333,
    size: tuple[int, int] | None = None,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    divisor: int = 32,
) -> dict[str, Array]:
    """Returns images as a detector takes them: resized, normalized, padded with zeros at the right and below.

    Args:
      images: arrays (height, width, 3) of any sizes, uint8, or floating-point in [0, 1].
      min_size, max_size: the shorter side becomes min_size, or the longer side max_size if it were longer.
      size: height and width in place of these, as SSD takes them.
      mean, std: of each channel, for values in [0, 1].
      divisor: height and width of the result are multiples of this.

    Returns:
      A dict of ``image`` (batch, height, width, 3); ``size`` (batch, 2), the heights and widths without padding; and
      ``original`` (batch, 2), those before.

    Raises:
      ArgumentError: an image has another shape or type.

    Equals torchvision's ``GeneralizedRCNNTransform`` in evaluation. SSD300 has size (300, 300), mean (0.48235, 0.45882,
    0.40784) and std (1 / 255,) * 3; SSDlite320 (320, 320) and 0.5 for all; both have a divisor of 1.

    >>> {name: array.shape for name, array in preprocess([np.zeros((40, 60, 3), np.uint8)], min_size=64).items()}
    {'image': (1, 64, 96, 3), 'size': (1, 2), 'original': (1, 2)}
    """
    scaled, original = [], []
    for i, image in enumerate(images):
        x = _floats(image, i)
        x = (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)
        height, width = x.shape[:2]
        factor = min(min_size / min(height, width), max_size / max(height, width))
        new = (int(height * factor), int(width * factor)) if size is None else size
        scaled.append(ops.resize(x, new) if new != (height, width) else x)
        original.append((height, width))
    if not scaled:
        raise ArgumentError("images must have at least one image, got none")
    sizes = np.array([x.shape[:2] for x in scaled], np.int32)
    height, width = (int(n) for n in -(-sizes.max(0) // divisor) * divisor)
    padded = [jnp.pad(x, [(0, height - x.shape[0]), (0, width - x.shape[1]), (0, 0)]) for x in scaled]
    return {
        "image": jnp.stack(padded),
        "size": jnp.asarray(sizes),
        "original": jnp.asarray(np.array(original, np.int32)),
    }


def rescale(detections: Detections, size: ArrayLike, original: ArrayLike) -> Detections:
    """Returns detections in the pixels of the original images.

    Args:
      detections: what a detector's ``decode`` returns.
      size, original: ``(batch, 2)`` heights and widths, as `preprocess` returns them.

    Equals the end of torchvision's detectors; for masks see `jaxconv.detect.paste_masks`.

    >>> found = Detections(jnp.ones((1, 1, 4)), jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.ones((1, 1), bool))
    >>> rescale(found, [[40, 60]], [[80, 180]]).boxes[0, 0]
    Array([3., 2., 3., 2.], dtype=float32)
    """
    batch = detections.boxes.shape[0]
    ratio = per_image(original, batch).astype(jnp.float32) / per_image(size, batch).astype(jnp.float32)
    factors = jnp.stack([ratio[:, 1], ratio[:, 0]], -1).astype(detections.boxes.dtype)
    found = detections._replace(boxes=detections.boxes * jnp.tile(factors, 2)[:, None])
    if detections.keypoints is None:
        return found
    three = jnp.concatenate([factors, jnp.ones_like(factors[:, :1])], -1)
    return found._replace(keypoints=detections.keypoints * three[:, None, None])


def found_in(detections: Detections, i: int = 0, *, image_size: tuple[int, int] | None = None) -> dict[str, np.ndarray]:
    """Returns the detections of one image without padding, as NumPy arrays by torchvision's names.

    Args:
      detections: what a detector's ``decode`` returns.
      i: the image.
      image_size: height and width of the image; with it masks become masks of the image.

    >>> found = Detections(jnp.ones((1, 2, 4)), jnp.ones((1, 2)), jnp.ones((1, 2)), jnp.array([[True, False]]))
    >>> found_in(found)["boxes"].shape
    (1, 4)
    """
    valid = np.asarray(detections.valid[i])
    arrays = {name: value for name, value in detections._asdict().items() if value is not None and name != "valid"}
    found = {name: np.asarray(value[i])[valid] for name, value in arrays.items()}
    if image_size is not None and "masks" in found:
        found["masks"] = np.asarray(paste_masks(found["masks"], found["boxes"], image_size))
    return found


__all__ = ["found_in", "preprocess", "rescale"]
