"""What the augmentations share: checks of a batch of images, draws sharded like it, and its element type."""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.ops.arrays import wider

Numbers = ArrayLike | Sequence[float]

# Values outside of this range are not from 0 to 1, whatever a resized image has beyond it: they were normalized
# before, or are from 0 to 255.
LOWEST, HIGHEST = -0.5, 1.5
_TRACED: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("traced", default=None)


def checked_images(images: ArrayLike) -> jax.Array:
    """Returns the images as an array, or raises ShapeError unless they are `(N, H, W, C)` or `(N, ..., H, W, C)`."""
    images = jnp.asarray(images)
    if images.ndim < 4:
        raise ShapeError(
            f"images must be (N, H, W, C), or (N, T, H, W, C) for video, got shape {images.shape}",
        )
    return images


def checked_pixels(images: ArrayLike) -> jax.Array:
    """Returns `checked_images`, or raises DTypeError unless the elements are uint8 or floating."""
    images = checked_images(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise DTypeError(f"images must be uint8 or floating, got {images.dtype}")
    return images


def checked_colors(images: ArrayLike) -> jax.Array:
    """Returns `checked_pixels`, or raises ShapeError unless there are one or three channels."""
    images = checked_pixels(images)
    if images.shape[-1] not in (1, 3):
        raise ShapeError(f"images must have 1 or 3 channels, got shape {images.shape}")
    return images


@contextlib.contextmanager
def color_functions() -> Iterator[list[str]]:
    """Yields a list, to which the functions of colors that are traced inside of the context add their names."""
    names: list[str] = []
    token = _TRACED.set(names)
    try:
        yield names
    finally:
        _TRACED.reset(token)


def checked_range(images: jax.Array, use: str) -> jax.Array:
    """Returns images of which those with floating values outside of `LOWEST` to `HIGHEST` are NaN.

    Args:
      images: uint8, or floating, in which values from 0 to 1 are expected.
      use: the function that expects them.

    Raises:
      ArgumentError: the values are known, so not traced, and an image has such values.
    """
    if images.dtype == jnp.uint8 or not images.size:
        return images
    axes = tuple(range(1, images.ndim))
    low, high = (reduce(images, axis=axes, keepdims=True) for reduce in (jnp.min, jnp.max))
    outside = (low < LOWEST) | (high > HIGHEST)
    if isinstance(images, jax.core.Tracer):
        if (names := _TRACED.get()) is not None:
            names.append(use)
        return jnp.where(outside, jnp.nan, images)
    if outside.any():
        raise ArgumentError(
            f"images must be from 0 to 1, got {float(low.min()):.3g} to {float(high.max()):.3g}: "
            f"call normalize after {use}"
        )
    return images


def batch_and_sizes(shape: Sequence[int]) -> tuple[int, tuple[int, int]]:
    """Returns N and (H, W) of the shape of a batch of images."""
    if not isinstance(shape, Sequence) or len(shape) < 4:
        raise ShapeError(f"shape must be the images' (N, H, W, C), or (N, T, H, W, C) for video, got {shape!r}")
    count, *_, height, width, _ = (as_int(n, "shape", least=0) for n in shape)
    return count, (height, width)


def working_type(dtype: Any) -> Any:
    """Returns the type in which pixels of ``dtype`` are computed: float32, or float64 for float64."""
    return wider(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else jnp.float32


def to_elements(values: jax.Array, dtype: Any) -> jax.Array:
    """Returns the values in the element type ``dtype``; uint8 by rounding, within its range."""
    if dtype == jnp.uint8:
        values = jnp.clip(jnp.round(values), 0, 255)
    return values.astype(dtype)


def along_batch(draw: jax.Array, images: jax.Array) -> jax.Array:
    """Shards a draw like the batch axis of the images, which JAX does not do automatically on an Explicit mesh."""
    sharding = jax.typeof(images).sharding
    if not isinstance(sharding, NamedSharding) or sharding.spec[:1] in ((), (None,)):
        return draw
    spec = PartitionSpec(sharding.spec[0], *[None] * (draw.ndim - 1))
    return jax.sharding.reshard(draw, NamedSharding(sharding.mesh, spec))


def for_each(draw: jax.Array, images: jax.Array) -> jax.Array:
    """Returns a draw `(N,)`, one number for each image, with the rank of the images."""
    return along_batch(draw, images).reshape(images.shape[0], *[1] * (images.ndim - 1))


def per_channel(value: Numbers, channels: int, name: str) -> np.ndarray | jax.Array:
    """Returns an array of shape `()`, `(1,)` or `(channels,)`: a NumPy array unless ``value`` is traced."""
    array: np.ndarray | jax.Array
    try:
        array = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        array = jnp.asarray(value)
    if array.shape not in ((), (1,), (channels,)):
        raise ShapeError(f"{name} must be a number or ({channels},), one for each channel, got shape {array.shape}")
    return array


def fill_value(value: Numbers, dtype: Any, channels: int) -> jax.Array:
    """Returns the fill value in the images' type, or raises DTypeError where the type cannot represent it."""
    fill = per_channel(value, channels, "value")
    if isinstance(fill, np.ndarray) and jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(dtype)
        if not ((fill == np.round(fill)) & (fill >= limits.min) & (fill <= limits.max)).all():
            raise DTypeError(f"value must be representable in the images' type {dtype}, got {fill.tolist()}")
    return jnp.asarray(fill).astype(dtype)


def drawn_range(value: float | Sequence[float], name: str, *, center: float, least: float = -np.inf) -> tuple:
    """Returns (low, high) of a draw: a pair as it is, a number as the distance on both sides of ``center``."""
    pair = np.asarray(value, np.float64)
    if pair.shape == ():
        pair = np.array([max(center - pair, least), center + pair])
    if pair.shape != (2,) or not least <= pair[0] <= pair[1] < np.inf:
        bound = "" if least == -np.inf else f" with low at least {least:g}"
        raise ArgumentError(f"{name} must be a number of at least 0, or (low, high){bound}, got {value!r}")
    return float(pair[0]), float(pair[1])
