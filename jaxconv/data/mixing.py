"""Augmentation that removes or mixes: cutout, mixup and cutmix, as functions of a key and the images."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.data.batch import (
    Numbers,
    along_batch,
    checked_images,
    checked_pixels,
    fill_value,
    for_each,
    to_elements,
    working_type,
)
from jaxconv.errors import DTypeError, ShapeError
from jaxconv.geometry import as_tuple
from jaxconv.keys import KeyLike, as_key
from jaxconv.ops.arrays import to_rank

T = TypeVar("T")


def cutout(key: KeyLike, images: ArrayLike, size: int | Sequence[int], *, value: Numbers = 0) -> jax.Array:
    """Fills a random rectangle of each image with a value.

    The center is any pixel of the image, so that a part of the rectangle may be outside of the image. An even ``size``
    covers rows `center - size / 2` to `center + size / 2 - 1`; an odd size covers `size // 2` rows on both sides.

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, any element type.
      size: the rectangle's size, an int, or (rows, columns).
      value: the fill value, a number, or one for each channel; cast to the element type of ``images``.

    Returns:
      Images of the same shape.

    Raises:
      ArgumentError: ``size`` is not positive.
      ShapeError: ``images`` has another shape, or ``value`` is neither a number nor one for each channel.
      DTypeError: the element type of ``images`` cannot represent ``value``, such as 0.5 or 300 for uint8.

    >>> (cutout(jax.random.key(0), jnp.ones((1, 8, 8, 1)), 1) == 0).sum().item()
    1

    References:
      T. DeVries, G. Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017,
      https://arxiv.org/abs/1708.04552.
    """
    images = checked_images(images)
    count, sizes, channels = images.shape[0], images.shape[-3:-1], images.shape[-1]
    fill = fill_value(value, images.dtype, channels)
    extent = as_tuple(size, 2, "size")
    if count == 0 or 0 in sizes:
        return images
    center = along_batch(jax.random.randint(as_key(key), (count, 2), 0, jnp.array([sizes])), images)
    inside = []
    for i in range(2):
        offset = jnp.arange(sizes[i])[None] - center[:, i, None] + extent[i] // 2
        inside.append((offset >= 0) & (offset < extent[i]))
    hole = inside[0][:, :, None, None] & inside[1][:, None, :, None]
    hole = hole.reshape(count, *[1] * (images.ndim - 4), *sizes, 1)
    return jnp.where(hole, to_rank(fill, images.ndim), images)


def mixup(key: KeyLike, images: ArrayLike, targets: T, *, alpha: float = 0.2) -> tuple[jax.Array, T]:
    """Replaces each image by a weighted mean of it and another image of the batch, and each target likewise.

    Image i is mixed with image N - 1 - i, so the batch must be in random order, as in training it is. The weight of
    each image is drawn from the distribution Beta(alpha, alpha).

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, uint8 or floating.
      targets: a pytree of floating arrays whose first axis is N, such as class probabilities:
        ``jax.nn.one_hot(labels, classes)``.
      alpha: positive; small values mix little.

    Returns:
      (images, targets), of the same shapes and types; uint8 is rounded.

    Raises:
      ShapeError: ``images`` has another shape, or a target has another first axis.
      DTypeError: ``images`` are neither uint8 nor floating, or a target is not floating.

    >>> images, labels = jnp.ones((4, 8, 8, 3)), jnp.asarray([0, 1, 2, 1])
    >>> images, targets = mixup(jax.random.key(0), images, jax.nn.one_hot(labels, 3))
    >>> targets.sum(1)
    Array([1., 1., 1., 1.], dtype=float32)

    Equals `torchvision.transforms.v2.MixUp`, with a draw for each image.

    References:
      H. Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018, https://arxiv.org/abs/1710.09412.
    """
    images = checked_pixels(images)
    weight = _beta(as_key(key), alpha, images.shape[0])
    return _mean(images, weight), jax.tree.map(lambda a: _mean(_mixable(a, images), weight), targets)


def cutmix(
    key: KeyLike, images: ArrayLike, targets: T, *, alpha: float = 1.0, masks: Any = None
) -> tuple[jax.Array, T] | tuple[jax.Array, T, Any]:
    """Replaces a rectangle of each image by that of another image of the batch, and mixes the targets by area.

    Image i is mixed with image N - 1 - i, so the batch must be in random order, as in training it is. The rectangle has
    the shape of the image, its center is any pixel, and the part that is inside of the image counts. Its area is drawn
    from the distribution Beta(alpha, alpha).

    Args:
      key: a random key, or an int, its seed.
      images: `(N, H, W, C)`, or `(N, T, H, W, C)` for video, any element type.
      targets: a pytree of floating arrays whose first axis is N, such as class probabilities:
        ``jax.nn.one_hot(labels, classes)``. Each becomes the mean of the two by the area of each.
      alpha: positive.
      masks: a pytree of arrays `(N, ..., H, W)`, of any type, in which the same rectangle is replaced.

    Returns:
      (images, targets), or (images, targets, masks) if there are masks; of the same shapes and types.

    Raises:
      ShapeError: ``images`` has another shape, or a target or a mask does not fit the images.
      DTypeError: a target is not floating.

    >>> images, labels = jnp.ones((4, 8, 8, 3)), jnp.asarray([0, 1, 2, 1])
    >>> images, targets = cutmix(jax.random.key(0), images, jax.nn.one_hot(labels, 3))
    >>> targets.sum(1)
    Array([1., 1., 1., 1.], dtype=float32)

    Equals `torchvision.transforms.v2.CutMix`, with a draw for each image.

    References:
      S. Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features, 2019,
      https://arxiv.org/abs/1905.04899.
    """
    images = checked_images(images)
    count, height, width = images.shape[0], *images.shape[-3:-1]
    area_key, center_key = jax.random.split(as_key(key))
    reach = 0.5 * jnp.sqrt(1 - _beta(area_key, alpha, count))
    centers = jax.random.uniform(center_key, (2 * count,)).reshape(2, count)
    inside = []
    for size, center in zip((height, width), centers, strict=True):
        middle, half = jnp.floor(center * size)[:, None], jnp.floor(reach * size)[:, None]
        position = jnp.arange(size)[None]
        inside.append((position >= middle - half) & (position < middle + half))
    region = along_batch(inside[0][:, :, None] & inside[1][:, None, :], images)
    weight = 1 - region.mean((1, 2))
    result = _replaced(images, region[..., None])
    mixed = jax.tree.map(lambda a: _mean(_mixable(a, images), weight), targets)
    if masks is None:
        return result, mixed
    return result, mixed, jax.tree.map(lambda a: _replaced(_mask(a, images), region), masks)


def _beta(key: jax.Array, alpha: float, count: int) -> jax.Array:
    # Beta(1, 1) is uniform, which takes a tenth of the time to compile.
    return jax.random.uniform(key, (count,)) if alpha == 1 else jax.random.beta(key, alpha, alpha, (count,))


def _mean(a: jax.Array, weight: jax.Array) -> jax.Array:
    values = a.astype(working_type(a.dtype))
    weight = for_each(weight, a).astype(values.dtype)
    return to_elements(weight * values + (1 - weight) * jnp.flip(values, 0), a.dtype)


def _replaced(a: jax.Array, region: jax.Array) -> jax.Array:
    region = region.reshape(region.shape[0], *[1] * (a.ndim - region.ndim), *region.shape[1:])
    return jnp.where(region, jnp.flip(a, 0), a)


def _mixable(target: ArrayLike, images: jax.Array) -> jax.Array:
    target = jnp.asarray(target)
    if not jnp.issubdtype(target.dtype, jnp.floating):
        raise DTypeError(
            f"targets must be floating to be mixed, such as jax.nn.one_hot(labels, classes), got {target.dtype}"
        )
    if target.shape[:1] != images.shape[:1]:
        raise ShapeError(f"targets must be one for each of {images.shape[0]} images, got shape {target.shape}")
    return target


def _mask(mask: ArrayLike, images: jax.Array) -> jax.Array:
    mask = jnp.asarray(mask)
    if mask.ndim < 3 or (mask.shape[0], *mask.shape[-2:]) != (images.shape[0], *images.shape[-3:-1]):
        raise ShapeError(f"masks must be (N, ..., H, W) for images {images.shape}, got shape {mask.shape}")
    return mask
