"""Augmentation by windows: random crops, shifts, flips and resized crops, as functions of a key and the images.

Each image of the batch has a separate draw; all frames of a video clip have the same. The same key gives the same
result. The functions work under jit, vmap, scan and shard_map, and on meshes that shard the batch axis. Under
shard_map, fold the axis index into the key; otherwise all shards draw the same values.

``random_flip(key, images)`` moves the pixels of the images. For their masks, boxes and points, ``draw_flip(key,
images.shape)`` returns the same draws, and `jaxconv.data.warp_masks`, `warp_boxes` and `warp_points` apply them. So do
`draw_crop`, `draw_shift` and `draw_resized_crop`.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.data.affine import Affine, stacked, warp
from jaxconv.data.batch import along_batch, batch_and_sizes, checked_images, checked_pixels, drawn_range, for_each
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_tuple
from jaxconv.keys import KeyLike, as_key

PAD_MODES = {"zeros": "constant", "edge": "edge", "reflect": "reflect", "circular": "wrap"}
FLIP_AXES = {"vertical": -3, "horizontal": -2}
# How often a window is drawn until one is inside of the image; after that it is the largest in the middle.
ATTEMPTS = 10


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
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, any element type.
      size: the window's size, an int, or (rows, columns).
      padding: the padding on both sides of each image before the crop, an int, or (rows, columns).
      pad_mode: the values of the padding. With two elements on both sides `abcd` becomes: "zeros" `00abcd00`, "edge"
        `aaabcddd`, "reflect" `cbabcdcb`, "circular" `cdabcdab`.

    Returns:
      `(N, *size, C)`, or `(N, T, *size, C)`. All positions inside the padded image are equally likely.

    Raises:
      ArgumentError: ``size`` is below 1, ``padding`` is negative, or ``pad_mode`` is unknown.
      ShapeError: ``images`` has another shape, the window is larger than the padded image, or ``padding`` is more than
        ``pad_mode`` can fill.

    >>> images = jnp.arange(2 * 4 * 4 * 1, dtype=jnp.uint8).reshape(2, 4, 4, 1)
    >>> random_crop(jax.random.key(0), images, 3).shape
    (2, 3, 3, 1)

    Equals `torchvision.transforms.RandomCrop(size, padding)`, with a draw for each image.
    """
    return _windows(key, checked_images(images), as_tuple(size, 2, "size"), padding, pad_mode, "padding")


def draw_crop(
    key: KeyLike, shape: Sequence[int], size: int | Sequence[int], *, padding: int | Sequence[int] = 0
) -> Affine:
    """Returns the draws of ``random_crop(key, images, size, padding=padding)`` for images of ``shape``.

    >>> images, labels = jnp.ones((8, 6, 6, 1)), jnp.arange(8 * 36).reshape(8, 6, 6)
    >>> jc.data.warp_masks(labels, draw_crop(jax.random.key(0), images.shape, 4, padding=1)).shape
    (8, 4, 4)
    """
    count, sizes = batch_and_sizes(shape)
    extent, margin = as_tuple(size, 2, "size"), as_tuple(padding, 2, "padding", least=0)
    corner = _corners(key, count, sizes, extent, margin)
    y, x = ((margin[i] - corner[:, i]).astype(jnp.float32) for i in range(2))
    return Affine(stacked([(1, 0, x), (0, 1, y)], x), sizes, (extent[0], extent[1]), window=True)


def random_shift(key: KeyLike, images: ArrayLike, pixels: int | Sequence[int], *, pad_mode: str = "zeros") -> jax.Array:
    """Shifts each image by up to ``pixels`` in both directions of both axes.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, any element type.
      pixels: the largest shift: an int, or (rows, columns). All from ``-pixels`` to ``pixels`` are equally likely.
      pad_mode: the values that are shifted in, as in `random_crop`.

    Returns:
      Images of the same shape.

    Raises:
      ArgumentError: ``pixels`` is negative, or ``pad_mode`` is unknown.
      ShapeError: ``images`` has another shape, or ``pixels`` is more than ``pad_mode`` can fill.

    >>> images = jnp.ones((2, 4, 4, 1))
    >>> random_shift(jax.random.key(0), images, (0, 1)).shape
    (2, 4, 4, 1)

    Equals `random_crop` to the images' own size after padding by ``pixels``.
    """
    images = checked_images(images)
    return _windows(key, images, images.shape[-3:-1], pixels, pad_mode, "pixels")


def draw_shift(key: KeyLike, shape: Sequence[int], pixels: int | Sequence[int]) -> Affine:
    """Returns the draws of ``random_shift(key, images, pixels)`` for images of ``shape``.

    >>> draw_shift(jax.random.key(0), (8, 6, 6, 1), 2).size
    (6, 6)
    """
    return draw_crop(key, shape, batch_and_sizes(shape)[1], padding=as_tuple(pixels, 2, "pixels", least=0))


def random_flip(
    key: KeyLike, images: ArrayLike, *, axis: str = "horizontal", probability: float | jax.Array = 0.5
) -> jax.Array:
    """Flips each image with a probability.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, any element type.
      axis: "horizontal" exchanges left and right; "vertical" exchanges top and bottom.
      probability: that of a flip.

    Returns:
      Images of the same shape.

    Raises:
      ArgumentError: ``axis`` is unknown.
      ShapeError: ``images`` has another shape.

    >>> images = jnp.tile(jnp.asarray([1, 2]), (100, 1, 1))[..., None]
    >>> sorted({tuple(row) for row in random_flip(jax.random.key(0), images).reshape(100, 2).tolist()})
    [(1, 2), (2, 1)]

    Equals `torchvision.transforms.RandomHorizontalFlip` or `RandomVerticalFlip`, with a draw for each image.
    """
    images = checked_images(images)
    flipped = _flips(key, images.shape[0], axis, probability)
    return jnp.where(for_each(flipped, images), jnp.flip(images, FLIP_AXES[axis]), images)


def draw_flip(
    key: KeyLike, shape: Sequence[int], *, axis: str = "horizontal", probability: float | jax.Array = 0.5
) -> Affine:
    """Returns the draws of ``random_flip(key, images, axis=axis, probability=probability)`` for images of ``shape``.

    >>> boxes = jnp.asarray([[[0.0, 0.0, 2.0, 1.0]]] * 2)
    >>> draws = draw_flip(jax.random.key(1), (2, 4, 4, 3))
    >>> jc.data.warp_boxes(boxes, draws)[:, 0]
    Array([[2., 0., 4., 1.],
           [0., 0., 2., 1.]], dtype=float32)
    """
    count, sizes = batch_and_sizes(shape)
    flipped = _flips(key, count, axis, probability)
    (x, dx), (y, dy) = (
        (jnp.where(flipped & (axis == name), -1, 1), jnp.where(flipped & (axis == name), sizes[i], 0))
        for name, i in (("horizontal", 1), ("vertical", 0))
    )
    return Affine(stacked([(x, 0, dx), (0, y, dy)], flipped), sizes, sizes, window=True)


def random_resized_crop(
    key: KeyLike,
    images: ArrayLike,
    size: int | Sequence[int],
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> jax.Array:
    """Crops a window of a random size and shape from each image, and resizes it to ``size``.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, uint8 or floating; finite.
      size: the size of the results, an int, or (rows, columns).
      scale: (low, high) of the window's area, a fraction of the image's.
      ratio: (low, high) of the window's width divided by its height, drawn on a logarithmic scale.

    Returns:
      `(N, *size, C)`, or `(N, T, *size, C)`, of the images' type; uint8 is rounded.

    Raises:
      ArgumentError: ``size`` is below 1, or a range is not one of positive numbers.
      ShapeError: ``images`` has another shape.
      DTypeError: ``images`` are neither uint8 nor floating.

    >>> images = jnp.ones((2, 64, 48, 3), jnp.uint8)
    >>> random_resized_crop(jax.random.key(0), images, 32).shape
    (2, 32, 32, 3)

    Equals `torchvision.transforms.v2.RandomResizedCrop(size, scale, ratio)`, with a draw for each image: bilinear, with
    antialiasing. Two matrix products for each image, so that the sizes of the windows do not change the program.

    References:
      C. Szegedy et al., Going Deeper with Convolutions, 2014, https://arxiv.org/abs/1409.4842.
    """
    images = checked_pixels(images)
    return warp(images, draw_resized_crop(key, images.shape, size, scale=scale, ratio=ratio))


def draw_resized_crop(
    key: KeyLike,
    shape: Sequence[int],
    size: int | Sequence[int],
    *,
    scale: Sequence[float] = (0.08, 1.0),
    ratio: Sequence[float] = (3 / 4, 4 / 3),
) -> Affine:
    """Returns the draws of ``random_resized_crop(key, images, size, ...)`` for images of ``shape``.

    >>> draws = draw_resized_crop(jax.random.key(0), (2, 64, 48, 3), 32)
    >>> draws.source, draws.size, draws.window
    ((64, 48), (32, 32), True)
    """
    count, sizes = batch_and_sizes(shape)
    extent = as_tuple(size, 2, "size")
    if 0 in sizes:
        raise ShapeError(f"images must have at least one pixel, got {sizes}")
    areas, shapes = drawn_range(scale, "scale", center=0, least=0), drawn_range(ratio, "ratio", center=0, least=0)
    if not (areas[0] > 0 and shapes[0] > 0):
        raise ArgumentError(f"scale and ratio must be positive, got {scale} and {ratio}")
    corner, window = _resized_windows(as_key(key), count, sizes, areas, shapes)
    y, x = (extent[i] / window[:, i] for i in range(2))
    rows = [(x, 0, -corner[:, 1] * x), (0, y, -corner[:, 0] * y)]
    return Affine(stacked(rows, x), sizes, (extent[0], extent[1]), window=True)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _resized_windows(
    key: jax.Array, count: int, sizes: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[jax.Array, jax.Array]:
    """Returns corners and sizes of windows, `(N, 2)` each, whole numbers of pixels: the first attempt that fits."""
    narrow, wide = ratio
    height, width = sizes
    draws = jax.random.uniform(key, ((2 * ATTEMPTS + 2) * count,))
    split = ATTEMPTS * count
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[:split])
    shape = jnp.exp(math.log(narrow) + math.log(wide / narrow) * draws[split : 2 * split])
    tries = jnp.stack([jnp.round(jnp.sqrt(area / shape)), jnp.round(jnp.sqrt(area * shape))], -1)
    tries = tries.reshape(count, ATTEMPTS, 2)
    fits = ((tries >= 1) & (tries <= jnp.asarray(sizes))).all(-1)
    first = jnp.argmax(fits, 1)
    # The largest window in the middle whose shape is allowed.
    largest = (min(height, max(1, round(width / narrow))), min(width, max(1, round(height * wide))))
    middle = jnp.asarray([(n - m) // 2 for n, m in zip(sizes, largest, strict=True)])
    window = jnp.take_along_axis(tries, first[:, None, None], 1)[:, 0]
    free = jnp.asarray(sizes) - window
    corner = jnp.floor(draws[2 * split :].reshape(count, 2) * (free + 1))
    found = fits.any(1)[:, None]
    window = jnp.where(found, window, jnp.asarray(largest))
    # A product with a number just below 1 may round up.
    return jnp.where(found, jnp.minimum(corner, free), middle), window


def _flips(key: KeyLike, count: int, axis: str, probability: float | jax.Array) -> jax.Array:
    if axis not in FLIP_AXES:
        raise ArgumentError(f'axis must be "horizontal" or "vertical", got {axis!r}')
    return jax.random.bernoulli(as_key(key), probability, (count,))


def _corners(key: KeyLike, count: int, sizes: Sequence[int], size: Sequence[int], margin: Sequence[int]) -> jax.Array:
    """Returns the corner of each window in its padded image, `(N, 2)`."""
    slack = [n + 2 * m - s for n, m, s in zip(sizes, margin, size, strict=True)]
    if min(slack) < 0:
        raise ShapeError(
            f"size must be at most the images' {tuple(sizes)} with padding {tuple(margin)}, got {tuple(size)}"
        )
    return jax.random.randint(as_key(key), (count, 2), 0, jnp.array([slack]) + 1)


def _windows(
    key: KeyLike,
    images: jax.Array,
    size: Sequence[int],
    padding: int | Sequence[int],
    pad_mode: str,
    argument: str,
) -> jax.Array:
    """Crops one window of each padded image; ``argument`` is the name of the caller's padding argument."""
    if pad_mode not in PAD_MODES:
        raise ArgumentError(f"pad_mode must be one of {', '.join(PAD_MODES)}, got {pad_mode!r}")
    count, *frames, height, width, channels = images.shape
    sizes = (height, width)
    margin = as_tuple(padding, 2, argument, least=0)
    most = {"reflect": [n - 1 for n in sizes], "circular": sizes}.get(pad_mode, margin)
    if any(m > n for m, n in zip(margin, most, strict=True)):
        raise ShapeError(
            f"{argument} must be at most {tuple(most)} for pad_mode {pad_mode!r} and images of {sizes}, got {margin}"
        )
    corner = _corners(key, count, sizes, size, margin)
    if pad_mode == "edge" and 0 in sizes:
        raise ShapeError(f"images must have at least one pixel for pad_mode 'edge', got {sizes}")
    outer = ((0, 0),) * (1 + len(frames))
    padded = jnp.pad(images, (*outer, *((m, m) for m in margin), (0, 0)), PAD_MODES[pad_mode])
    # XLA turns one slice for each image into one gather of contiguous rows.
    cut = lambda image, at: jax.lax.dynamic_slice(  # noqa: E731
        image, (*[0] * len(frames), at[0], at[1], 0), (*frames, *size, channels)
    )
    return jax.vmap(cut)(padded, along_batch(corner, images))
