"""Augmentation: random changes to a batch of images, as functions of a key and the images, for a training step.

Each image of the batch has a separate draw. The same key gives the same result. The random functions take
`(N, H, W, C)`, keep the element type, and work under jit, vmap, scan and shard_map, and on meshes that shard the batch
axis. Under shard_map, fold the axis index into the key; otherwise all shards draw the same values.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import as_tuple
from jaxconv.keys import KeyLike, as_key
from jaxconv.ops.arrays import to_rank, wider

Numbers = ArrayLike | Sequence[float]

PAD_MODES = {"zeros": "constant", "edge": "edge", "reflect": "reflect", "circular": "wrap"}
FLIP_AXES = {"vertical": 1, "horizontal": 2}


def random_crop(
    key: KeyLike,
    images: ArrayLike,
    size: int | Sequence[int],
    *,
    padding: int | Sequence[int] = 0,
    pad_mode: str = "zeros",
) -> jax.Array:
    """Crops a window of ``size`` at a random position of each padded image.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, any element type.
      size: the window's size, an int, or (rows, columns).
      padding: the padding on both sides of each image before the crop, an int, or (rows, columns).
      pad_mode: the values of the padding. With two elements on both sides `abcd` becomes: "zeros" `00abcd00`, "edge"
        `aaabcddd`, "reflect" `cbabcdcb`, "circular" `cdabcdab`.

    Returns:
      `(N, *size, C)`. All positions inside the padded image are equally likely.

    Raises:
      ShapeError: ``images`` is not `(N, H, W, C)`, the window is larger than the padded image, or ``padding`` is
        negative or more than ``pad_mode`` can fill.

    >>> images = jnp.arange(2 * 4 * 4 * 1, dtype=jnp.uint8).reshape(2, 4, 4, 1)
    >>> random_crop(jax.random.key(0), images, 3).shape
    (2, 3, 3, 1)

    Equals `torchvision.transforms.RandomCrop(size, padding)`, with a draw for each image.
    """
    return _windows(key, _checked(images), as_tuple(size, 2, "size"), padding, pad_mode, "padding")


def random_shift(key: KeyLike, images: ArrayLike, pixels: int | Sequence[int], *, pad_mode: str = "zeros") -> jax.Array:
    """Shifts each image by up to ``pixels`` in both directions of both axes.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, any element type.
      pixels: the largest shift: an int, or (rows, columns). All from ``-pixels`` to ``pixels`` are equally likely.
      pad_mode: the values that are shifted in, as in `random_crop`.

    Returns:
      `(N, H, W, C)`.

    Raises:
      ShapeError: ``images`` is not `(N, H, W, C)`, or ``pixels`` is negative or more than ``pad_mode`` can fill.

    >>> images = jnp.ones((2, 4, 4, 1))
    >>> random_shift(jax.random.key(0), images, (0, 1)).shape
    (2, 4, 4, 1)

    Equals `random_crop` to the images' own size after padding by ``pixels``.
    """
    images = _checked(images)
    return _windows(key, images, images.shape[1:3], pixels, pad_mode, "pixels")


def random_flip(key: KeyLike, images: ArrayLike, *, axis: str = "horizontal") -> jax.Array:
    """Flips each image with probability one half.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, any element type.
      axis: "horizontal" exchanges left and right; "vertical" exchanges top and bottom.

    Returns:
      `(N, H, W, C)`.

    Raises:
      ShapeError: ``images`` is not `(N, H, W, C)`, or ``axis`` is unknown.

    >>> images = jnp.tile(jnp.asarray([1, 2]), (100, 1, 1))[..., None]
    >>> sorted({tuple(row) for row in random_flip(jax.random.key(0), images).reshape(100, 2).tolist()})
    [(1, 2), (2, 1)]

    Equals `torchvision.transforms.RandomHorizontalFlip` or `RandomVerticalFlip`, with a draw for each image.
    """
    images = _checked(images)
    if axis not in FLIP_AXES:
        raise ShapeError(f'axis must be "horizontal" or "vertical", got {axis!r}')
    flipped = _along_batch(jax.random.bernoulli(as_key(key), 0.5, images.shape[:1]), images)
    return jnp.where(flipped[:, None, None, None], jnp.flip(images, FLIP_AXES[axis]), images)


def cutout(key: KeyLike, images: ArrayLike, size: int | Sequence[int], *, value: Numbers = 0) -> jax.Array:
    """Fills a random rectangle of each image with a value.

    The center is any pixel of the image, so that a part of the rectangle may be outside of the image. An even ``size``
    covers rows `center - size / 2` to `center + size / 2 - 1`; an odd size covers `size // 2` rows on both sides.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, any element type.
      size: the rectangle's size, an int, or (rows, columns).
      value: the fill value, a number, or one for each channel; cast to the element type of ``images``.

    Returns:
      `(N, H, W, C)`.

    Raises:
      ShapeError: ``images`` is not `(N, H, W, C)`, ``size`` is not positive, or ``value`` is neither a number nor one
        for each channel.
      DTypeError: the element type of ``images`` cannot represent ``value``, such as 0.5 or 300 for uint8.

    >>> (cutout(jax.random.key(0), jnp.ones((1, 8, 8, 1)), 1) == 0).sum().item()
    1

    References:
      T. DeVries, G. Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
      https://arxiv.org/abs/1708.04552.
    """
    images = _checked(images)
    count, *sizes, channels = images.shape
    fill = _fill(value, images.dtype, channels)
    extent = as_tuple(size, 2, "size")
    if count == 0 or 0 in sizes:
        return images
    center = _along_batch(jax.random.randint(as_key(key), (count, 2), 0, jnp.array([sizes])), images)
    inside = []
    for i in range(2):
        offset = jnp.arange(sizes[i])[None] - center[:, i, None] + extent[i] // 2
        inside.append((offset >= 0) & (offset < extent[i]))
    hole = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    return jnp.where(hole, to_rank(fill, images.ndim), images)


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
      ShapeError: ``mean`` or ``std`` is neither a number nor `(C,)`, or ``std`` is not positive.

    >>> normalize(jnp.asarray([[0, 255]], jnp.uint8).T, 0.5, 0.25).ravel()
    Array([-2.,  2.], dtype=float32)

    Equals `torchvision.transforms.Normalize` after `ToTensor`, channels last.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise DTypeError(f"images must be uint8 or floating, got {images.dtype}")
    if images.ndim == 0:
        raise ShapeError("images must be (..., C), got shape ()")
    mean = _per_channel(mean, images.shape[-1], "mean")
    std = _per_channel(std, images.shape[-1], "std")
    if isinstance(std, np.ndarray) and not (std > 0).all():
        raise ShapeError(f"std must be positive, got {std.tolist()}")
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


def _checked(images: ArrayLike) -> jax.Array:
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ShapeError(f"images must be (N, H, W, C), got shape {images.shape}")
    return images


def _per_channel(value: Numbers, channels: int, name: str) -> np.ndarray | jax.Array:
    """Returns an array of shape `()`, `(1,)` or `(channels,)`: a NumPy array unless ``value`` is traced."""
    array: np.ndarray | jax.Array
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        array = jnp.asarray(value)
    if array.shape not in ((), (1,), (channels,)):
        raise ShapeError(f"{name} must be a number or ({channels},), one for each channel, got shape {array.shape}")
    return array


def _fill(value: Numbers, dtype: Any, channels: int) -> jax.Array:
    fill = _per_channel(value, channels, "value")
    if isinstance(fill, np.ndarray) and jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        if not ((fill == np.round(fill)) & (fill >= limits.min) & (fill <= limits.max)).all():
            raise DTypeError(f"value must be representable in the images' type {dtype}, got {fill.tolist()}")
    return jnp.asarray(fill).astype(dtype)


def _along_batch(draw: jax.Array, images: jax.Array) -> jax.Array:
    """Shards a draw like the batch axis of the images, which JAX does not do automatically on an Explicit mesh."""
    sharding = jax.typeof(images).sharding
    if not isinstance(sharding, NamedSharding) or sharding.spec[:1] in ((), (None,)):
        return draw
    spec = PartitionSpec(sharding.spec[0], *[None] * (draw.ndim - 1))
    return jax.sharding.reshard(draw, NamedSharding(sharding.mesh, spec))


def _windows(
    key: KeyLike,
    images: jax.Array,
    size: tuple[int, ...],
    padding: int | Sequence[int],
    pad_mode: str,
    argument: str,
) -> jax.Array:
    """Crops one window of each padded image; ``argument`` is the name of the caller's padding argument."""
    if pad_mode not in PAD_MODES:
        raise ShapeError(f"pad_mode must be one of {', '.join(PAD_MODES)}, got {pad_mode!r}")
    count, *sizes, channels = images.shape
    margin = as_tuple(padding, 2, argument, least=0)
    most = {"reflect": [n - 1 for n in sizes], "circular": sizes}.get(pad_mode, margin)
    if any(m > n for m, n in zip(margin, most, strict=True)):
        raise ShapeError(
            f"{argument} must be at most {tuple(most)} for pad_mode {pad_mode!r} and images of {tuple(sizes)}, "
            f"got {margin}"
        )
    slack = [n + 2 * m - s for n, m, s in zip(sizes, margin, size, strict=True)]
    if min(slack) < 0:
        raise ShapeError(f"size must be at most the images' {tuple(sizes)} with padding {margin}, got {size}")
    if pad_mode == "edge" and 0 in sizes:
        raise ShapeError(f"images must have at least one pixel for pad_mode 'edge', got {tuple(sizes)}")
    padded = jnp.pad(images, ((0, 0), *((m, m) for m in margin), (0, 0)), PAD_MODES[pad_mode])
    corner = _along_batch(jax.random.randint(as_key(key), (count, 2), 0, jnp.array([slack]) + 1), images)
    # XLA turns one slice for each image into one gather of contiguous rows.
    cut = lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), (*size, channels))  # noqa: E731
    return jax.vmap(cut)(padded, corner)
