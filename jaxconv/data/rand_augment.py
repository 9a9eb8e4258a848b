"""RandAugment: a few operations drawn for each image from a list, all of one magnitude."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.data.affine import Affine, affine, stacked, warp
from jaxconv.data.batch import batch_and_sizes, checked_colors, checked_range, for_each, to_elements, working_type
from jaxconv.data.color import blend, luma
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.keys import KeyLike, as_key

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
)
MOST = 30  # the largest magnitude


def rand_augment(key: KeyLike, images: ArrayLike, *, operations: int = 2, magnitude: float = 9) -> jax.Array:
    """Applies to each image ``operations`` random ones of a list, of a magnitude.

    The list: identity, shear and translation along x and y, rotation, brightness, color (saturation), contrast,
    sharpness, posterize, solarize and autocontrast. Operations with a direction draw their direction. The list is the
    paper's without equalization. Pixels from outside of the image are 0.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, of 1 or 3 channels: uint8, or floating from 0 to 1, so
        before `normalize`.
      operations: the number of operations in a row, of each image.
      magnitude: from 0, no change, to 30: a shear of 0.3, a translation by 0.45 of the image, a rotation by 30 degrees,
        factors of 0.1 or 1.9, 4 bits.

    Returns:
      Images of the same shape and type; uint8 is rounded once, at the end.

    Raises:
      ArgumentError: an image is not from 0 to 1; ``operations`` or ``magnitude`` is out of range.
      ShapeError: ``images`` has another shape.
      DTypeError: ``images`` are neither uint8 nor floating.

    An image with values below -0.5 or above 1.5 was normalized before, or is from 0 to 255: an ArgumentError. Inside of
    jit, where values are unknown, such an image becomes NaN.

    >>> images = jnp.ones((4, 32, 32, 3), jnp.uint8)
    >>> rand_augment(jax.random.key(0), images).shape
    (4, 32, 32, 3)

    Equals `torchvision.transforms.v2.RandAugment(operations, magnitude, interpolation=BILINEAR)` without equalization,
    with draws for each image. For masks, boxes and points see `draw_rand_augment`.

    References:
      E. Cubuk et al., RandAugment: Practical automated data augmentation with a reduced search space, 2019,
      https://arxiv.org/abs/1909.13719.
    """
    images = checked_range(checked_colors(images), "rand_augment")
    strength = _strength(magnitude)
    choices, signs = _draws(key, images.shape[0], operations)
    # From 0 to 255, where posterize is exact.
    values = images.astype(working_type(images.dtype)) * (1 if images.dtype == jnp.uint8 else 255)
    # A loop, so that one operation is compiled, however many are applied.
    values, _ = jax.lax.scan(lambda x, drawn: (apply_operation(x, *drawn, strength), None), values, (choices, signs))
    return to_elements(values if images.dtype == jnp.uint8 else values / 255, images.dtype)


def draw_rand_augment(key: KeyLike, shape: Sequence[int], *, operations: int = 2, magnitude: float = 9) -> Affine:
    """Returns how ``rand_augment(key, images, ...)`` moves the pixels of images of ``shape``, for their targets.

    >>> images, masks = jnp.ones((4, 32, 32, 3)), jnp.ones((4, 32, 32), jnp.int32)
    >>> jc.data.warp_masks(masks, draw_rand_augment(jax.random.key(0), images.shape)).shape
    (4, 32, 32)
    """
    count, sizes = batch_and_sizes(shape)
    choices, signs = _draws(key, count, operations)
    strength = _strength(magnitude)
    moves = [_move(choice, sign, strength, sizes) for choice, sign in zip(choices, signs, strict=True)]
    total = moves[0]
    for move in moves[1:]:
        total = total.then(move)
    return total


def apply_operation(x: jax.Array, choice: jax.Array, sign: jax.Array, strength: float) -> jax.Array:
    """Applies operation ``choice[i]`` of `OPERATIONS` to image i, of values from 0 to 255; ``strength`` is 0 to 1."""
    chosen = {name: for_each(choice == i, x) for i, name in enumerate(OPERATIONS)}
    x = warp(x, _move(choice, sign, strength, (x.shape[-3], x.shape[-2])))
    # Four operations are a step away from, or towards, a degenerate image.
    factor = for_each(1 + sign * 0.9 * strength, x).astype(x.dtype)
    gray = luma(x)
    mean = gray.mean((-3, -2), keepdims=True)
    other = jnp.where(chosen["brightness"], 0, jnp.where(chosen["color"], gray, mean))
    other = jnp.where(chosen["sharpness"], smoothed(x), other)
    blended = chosen["brightness"] | chosen["color"] | chosen["contrast"] | chosen["sharpness"]
    result = jnp.where(blended, blend(x, other, factor, 255), x)
    step = 2 ** round(4 * strength)
    result = jnp.where(chosen["posterize"], jnp.floor(x / step) * step, result)
    result = jnp.where(chosen["solarize"] & (x >= 255 * (1 - strength)), 255 - x, result)
    low, high = x.min((-3, -2), keepdims=True), x.max((-3, -2), keepdims=True)
    stretched = jnp.clip((x - low) * (255 / jnp.where(high > low, high - low, 1)), 0, 255)
    return jnp.where(chosen["autocontrast"] & (high > low), stretched, result)


def smoothed(x: jax.Array) -> jax.Array:
    """Returns the mean of 3x3 pixels, the middle weighted five times; the outermost pixels stay."""
    if x.shape[-3] < 3 or x.shape[-2] < 3:
        return x
    rows = x[..., :-2, :, :] + x[..., 1:-1, :, :] + x[..., 2:, :, :]
    box = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
    middle = (box + 4 * x[..., 1:-1, 1:-1, :]) / 13
    return x.at[..., 1:-1, 1:-1, :].set(middle)


def _strength(magnitude: float) -> float:
    if not 0 <= magnitude <= MOST:
        raise ArgumentError(f"magnitude must be from 0 to {MOST}, got {magnitude!r}")
    return magnitude / MOST


def _draws(key: KeyLike, count: int, operations: int) -> tuple[jax.Array, jax.Array]:
    """Returns which operations and in which direction, 1 or -1: `(operations, N)` each."""
    operations = as_int(operations, "operations", least=1)
    choice_key, sign_key = jax.random.split(as_key(key))
    choices = jax.random.randint(choice_key, (operations * count,), 0, len(OPERATIONS))
    signs = jnp.where(jax.random.bernoulli(sign_key, 0.5, (operations * count,)), 1.0, -1.0)
    return choices.reshape(operations, count), signs.reshape(operations, count)


def _move(choice: jax.Array, sign: jax.Array, strength: float, sizes: tuple[int, int]) -> Affine:
    """Returns the geometric operations as one map: the identity for images that drew another one."""
    amount = lambda name, most: jnp.where(choice == OPERATIONS.index(name), sign * most * strength, 0.0)  # noqa: E731
    # A shear leaves the upper left corner where it is, a rotation the center.
    shear = Affine(stacked([(1, amount("shear_x", 0.3), 0), (amount("shear_y", 0.3), 1, 0)], sign), sizes, sizes)
    pixels = [jnp.trunc(amount(f"translate_{a}", 150 / 331 * sizes[i])) for a, i in (("x", 1), ("y", 0))]
    turn = affine(sizes, angle=jnp.radians(amount("rotate", 30)), scale=1.0, shift=(pixels[0], pixels[1]))
    return shear.then(turn)
