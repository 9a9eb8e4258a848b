"""Normalization of the channels of images, and the statistics for it."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxconv.data.batch import Numbers, per_channel
from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.ops.arrays import to_rank, wider


def normalize(images: ArrayLike, mean: Numbers, std: Numbers) -> jax.Array:
    """Returns `(images - mean) / std` for each channel.

    uint8 images are first divided by 255, so that ``mean`` and ``std`` refer to the range from 0 (black) to 1 (white).
    Floating images are not scaled.

    Args:
      images: `(..., C)`, uint8 or floating.
      mean: a number, or `(C,)`.
      std: a number, or `(C,)`; positive.

    Returns:
      Array of the shape of ``images``: float32 for uint8, else the element type of ``images``. Half precision images
      are computed in float32.

    Raises:
      DTypeError: ``images`` is neither uint8 nor floating.
      ArgumentError: ``std`` is not positive.
      ShapeError: ``mean`` or ``std`` is neither a number nor `(C,)`.

    >>> normalize(jnp.asarray([[0, 255]], jnp.uint8).T, 0.5, 0.25).ravel()
    Array([-2.,  2.], dtype=float32)

    Equals `torchvision.transforms.Normalize` after `ToTensor`, channels last.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise DTypeError(f"images must be uint8 or floating, got {images.dtype}")
    if images.ndim == 0:
        raise ShapeError("images must be (..., C), got shape ()")
    mean = per_channel(mean, images.shape[-1], "mean")
    std = per_channel(std, images.shape[-1], "std")
    if isinstance(std, np.ndarray) and not (std > 0).all():
        raise ArgumentError(f"std must be positive, got {std.tolist()}")
    result = jnp.float32 if images.dtype == jnp.uint8 else images.dtype
    compute = wider(result, jnp.float32)
    values = images.astype(compute)
    if images.dtype == jnp.uint8:
        values = values / 255
    mean, std = (to_rank(jnp.asarray(a, compute), values.ndim) for a in (mean, std))
    return ((values - mean) / std).astype(result)


def channel_statistics(images: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each channel, in the units of `normalize`.

    The statistics are computed on the host: exactly for uint8, in float64 for floating images.

    Args:
      images: `(..., C)`, uint8 or floating, with at least one pixel.

    Returns:
      `(mean, std)`: `(C,)` float32 each; of images / 255 for uint8; ``std`` is the population standard deviation.

    Raises:
      DTypeError: ``images`` is neither uint8 nor floating.
      ShapeError: ``images`` has no channel axis or no pixel.

    >>> channel_statistics(np.array([[0], [255]], np.uint8))
    (array([0.5], dtype=float32), array([0.5], dtype=float32))
    """
    array = np.asarray(images)
    if array.dtype != np.uint8 and not jnp.issubdtype(array.dtype, jnp.floating):
        raise DTypeError(f"images must be uint8 or floating, got {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ShapeError(f"images must be (..., C) with at least one pixel, got shape {array.shape}")
    pixels = array.reshape(-1, array.shape[-1])
    # In slices, so that a data set of bytes is not converted to float64 as a whole.
    slices = [pixels[i : i + (1 << 20)] for i in range(0, len(pixels), 1 << 20)]
    if array.dtype == np.uint8:
        counts = sum(np.stack([np.bincount(c, minlength=256) for c in s.T]) for s in slices)
        levels = np.arange(256) / 255
        mean = counts @ levels / len(pixels)
        variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / len(pixels)
    else:
        mean = np.sum([s.sum(0, dtype=np.float64) for s in slices], 0) / len(pixels)
        variance = np.sum([((s.astype(np.float64) - mean) ** 2).sum(0) for s in slices], 0) / len(pixels)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
