"""Augmentation of colors: random brightness, contrast, saturation and hue, as functions of a key and the images.

Colors do not move pixels: masks, boxes and points stay as they are.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.data.batch import checked_colors, checked_range, drawn_range, for_each, to_elements, working_type
from jaxconv.errors import ArgumentError
from jaxconv.keys import KeyLike, as_key

# The share of red, green and blue in luma (ITU-R BT.601), as in Pillow and torchvision.
LUMA = (0.2989, 0.587, 0.114)


def color_jitter(
    key: KeyLike,
    images: ArrayLike,
    *,
    brightness: float | Sequence[float] = 0.0,
    contrast: float | Sequence[float] = 0.0,
    saturation: float | Sequence[float] = 0.0,
    hue: float | Sequence[float] = 0.0,
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of each image by random amounts.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, of 1 or 3 channels: uint8, or floating from 0 to 1, so
        before `normalize`.
      brightness: the factor of all values: (low, high), or a number b for (max(0, 1 - b), 1 + b).
      contrast: the factor of the differences to the mean luma of the image (or frame); ranges as for brightness.
      saturation: the factor of the differences to each pixel's luma; ranges as for brightness.
      hue: (low, high), or a number h of at most 0.5 for (-h, h): the rotation of the hue, 1 is a full turn.

    Returns:
      Images of the same shape and type; values are clipped to the range after each of the four; uint8 is rounded.

    Raises:
      ArgumentError: an image is not from 0 to 1; a range is not one number or two increasing numbers, or is out of
        bounds.
      ShapeError: ``images`` has another shape.
      DTypeError: ``images`` are neither uint8 nor floating.

    An image with values below -0.5 or above 1.5 was normalized before, or is from 0 to 255: an ArgumentError. Inside of
    jit, where values are unknown, such an image becomes NaN.

    The amounts differ from image to image; the order of the four is drawn once for the batch. Images of one channel
    have neither saturation nor hue.

    >>> images = jnp.full((2, 4, 4, 3), 0.25)
    >>> color_jitter(jax.random.key(0), images, brightness=(2.0, 2.0))[0, 0, 0]
    Array([0.5, 0.5, 0.5], dtype=float32)

    Equals `torchvision.transforms.v2.ColorJitter`, with a draw for each image.
    """
    images = checked_range(checked_colors(images), "color_jitter")
    order_key, factor_key = jax.random.split(as_key(key))
    turn = drawn_range(hue, "hue", center=0)
    if not -0.5 <= turn[0] <= turn[1] <= 0.5:
        raise ArgumentError(f"hue must be from -0.5 to 0.5, got {hue!r}")
    ranges = {
        "brightness": drawn_range(brightness, "brightness", center=1, least=0),
        "contrast": drawn_range(contrast, "contrast", center=1, least=0),
        "saturation": drawn_range(saturation, "saturation", center=1, least=0),
        "hue": turn,
    }
    neutral = {"hue": (0.0, 0.0)}
    unchanging = ("saturation", "hue") if images.shape[-1] == 1 else ()
    names = [name for name, r in ranges.items() if r != neutral.get(name, (1.0, 1.0)) and name not in unchanging]
    draws = jax.random.uniform(factor_key, (4 * images.shape[0],)).reshape(4, images.shape[0])
    factors = [ranges[name][0] + (ranges[name][1] - ranges[name][0]) * draws[i] for i, name in enumerate(names)]
    order = jax.random.permutation(order_key, len(names)) if len(names) > 1 else jnp.zeros(1, jnp.int32)
    values = images.astype(working_type(images.dtype))
    values = values / 255 if images.dtype == jnp.uint8 else values
    changes = [_change(ADJUSTMENTS[name], factor) for name, factor in zip(names, factors, strict=True)]
    if changes:
        values = jax.lax.fori_loop(0, len(changes), lambda i, x: jax.lax.switch(order[i], changes, x), values)
    return to_elements(values * 255 if images.dtype == jnp.uint8 else values, images.dtype)


def _change(adjust: Callable[..., jax.Array], factor: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda x: adjust(x, for_each(factor, x).astype(x.dtype))


def blend(x: jax.Array, other: jax.Array, factor: jax.Array, most: float = 1.0) -> jax.Array:
    """Returns ``other`` for a factor of 0, ``x`` for 1, and beyond ``x`` for more, from 0 to ``most``."""
    return jnp.clip(other + factor * (x - other), 0, most)


def luma(x: jax.Array) -> jax.Array:
    """Returns the luma of images, with one channel."""
    if x.shape[-1] == 1:
        return x
    # A sum, not a product: a GPU may round the inputs of a product to fewer bits.
    return sum(share * x[..., i, None] for i, share in enumerate(LUMA))  # type: ignore[return-value]


def adjust_brightness(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns the images times the factor."""
    return blend(x, jnp.zeros_like(x), factor)


def adjust_contrast(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns the images with the differences to their mean luma times the factor."""
    return blend(x, luma(x).mean((-3, -2), keepdims=True), factor)


def adjust_saturation(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Returns the images with the differences to each pixel's luma times the factor."""
    return blend(x, luma(x), factor)


def adjust_hue(x: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotates the hue by ``turn``, at the same value and saturation of the HSV color space."""
    high, low = x.max(-1, keepdims=True), x.min(-1, keepdims=True)
    chroma = high - low
    red, green, blue = (x[..., i, None] for i in range(3))
    safe = jnp.where(chroma == 0, 1, chroma)
    hue = jnp.where(
        high == red,
        (green - blue) / safe,
        jnp.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    # In sixths of a turn, channel c is the highest where the distance to 2 c is at most 1, the lowest from 2 on.
    position = hue + 6 * turn - jnp.asarray([0, 2, 4], x.dtype)
    distance = abs((position + 3) % 6 - 3)
    return high - chroma * jnp.clip(distance - 1, 0, 1)


ADJUSTMENTS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
