"""Random views of an image during its optimization: shifts, rotations, scales, and a blur.

Images have shape ``(batch, height, width, channels)``.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array
from jaxconv.ops.arrays import apply_along


def jitter(key: KeyLike, x: Array, pixels: int) -> Array:
    """Rolls images by up to ``pixels`` in both directions of both axes; one draw for the batch.

    >>> jitter(jax.random.key(0), jnp.eye(4)[None, ..., None], 2).sum()
    Array(4., dtype=float32)
    """
    pixels = as_int(pixels, "pixels", least=0)
    return jnp.roll(x, jax.random.randint(as_key(key), (2,), -pixels, pixels + 1), (1, 2)) if pixels else x


def turn(key: KeyLike, x: Array, *, degrees: float = 0.0, zoom: float = 0.0) -> Array:
    """Rotates and scales images about their center, by bilinear interpolation; one draw for the batch.

    Positions outside of the image are filled with its reflection.

    Args:
      key: a random key.
      x: array of shape ``(batch, height, width, channels)``.
      degrees: the angle is uniform in [-degrees, degrees].
      zoom: the factor is uniform in [1 - zoom, 1 + zoom].

    >>> turn(jax.random.key(0), jnp.ones((1, 4, 4, 3)), degrees=10, zoom=0.1).shape
    (1, 4, 4, 3)
    """
    if not 0 <= zoom < 1:
        raise ArgumentError(f"zoom must be in [0, 1), got {zoom}")
    if not degrees and not zoom:
        return x
    h, w = x.shape[1:3]
    angle, factor = jax.random.uniform(as_key(key), (2,), minval=-1) * jnp.array([np.deg2rad(degrees), zoom])
    rows, columns = (jnp.arange(n, dtype=float) - (n - 1) / 2 for n in (h, w))
    rows, columns = rows[:, None], columns[None]
    cos, sin = jnp.cos(angle) / (1 + factor), jnp.sin(angle) / (1 + factor)
    at = (cos * rows - sin * columns + (h - 1) / 2, sin * rows + cos * columns + (w - 1) / 2)
    low = [jnp.floor(a) for a in at]
    y: Any = 0
    for corner in np.ndindex(2, 2):
        weight: Any = 1
        positions = []
        for a, l, step, n in zip(at, low, corner, (h, w), strict=True):
            weight = weight * jnp.abs(1 - step - (a - l))
            # abcd reads ...cb abcd cb...; an axis of one element reads that element.
            period = max(2 * n - 2, 1)
            position = jnp.mod(l.astype(int) + step, period)
            positions.append(jnp.minimum(position, period - position) if n > 1 else jnp.zeros_like(position))
        y = y + weight[None, ..., None] * x[:, positions[0], positions[1]]
    return y


def blur(x: Array, sigma: float) -> Array:
    """Convolves images with a Gaussian. The border is reflected, so that each channel's mean is unchanged.

    Args:
      x: array of shape ``(batch, height, width, channels)``.
      sigma: the standard deviation in pixels; 0 does nothing.

    Equals ``scipy.ndimage.gaussian_filter`` in mode "reflect", with a Gaussian that is not truncated at 4 sigma.

    >>> y = blur(jnp.zeros((1, 9, 9, 1)).at[0, 4, 4].set(1.0), 1.0)
    >>> y.argmax().item(), round(y.sum().item(), 4)
    (40, 1.0)
    """
    if sigma < 0:
        raise ArgumentError(f"sigma must not be negative, got {sigma}")
    if sigma == 0:
        return x
    for axis in (1, 2):
        x = apply_along(x, _gaussian(x.shape[axis], sigma), axis)
    return x


def _gaussian(n: int, sigma: float) -> np.ndarray:
    """Returns the ``(n, n)`` matrix of a blur over ``... dcba abcd dcba ...``; rows and columns sum to one."""
    reach = int(np.ceil(8 * sigma))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    source = np.mod(np.arange(n)[:, None] + np.arange(-reach, reach + 1), 2 * n)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], np.minimum(source, 2 * n - 1 - source)), taps / taps.sum())
    return matrix


@dataclass(frozen=True)
class View:
    """A random view of the image at each step: blurred by a fixed amount, then rotated, scaled and rolled at random.

    A pattern raises a unit's activation in all views of an image; noise does so in one view only.

    Args:
      jitter: the largest shift in pixels, at most an eighth of the image's shorter side; see `jitter`.
      degrees, zoom: see `turn`.
      blur: standard deviation in pixels; see `blur`.

    >>> View(blur=1.0)(jax.random.key(0), jnp.ones((1, 8, 8, 3))).shape
    (1, 8, 8, 3)
    """

    jitter: int = 16
    degrees: float = 15.0
    zoom: float = 0.2
    blur: float = 0.0

    def __call__(self, key: KeyLike, x: Array) -> Array:
        turn_key, jitter_key = jax.random.split(as_key(key))
        x = turn(turn_key, blur(x, self.blur), degrees=self.degrees, zoom=self.zoom)
        # More than an eighth of a small image would move the pattern out of the image.
        return jitter(jitter_key, x, min(self.jitter, max(1, min(x.shape[1:-1]) // 8)))


__all__ = ["View", "blur", "jitter", "turn"]
