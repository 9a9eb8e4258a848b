"""Parameterizations of images for gradient descent.

An image is float32 of shape ``(batch, height, width, channels)`` with values in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from jaxconv.errors import ArgumentError, DTypeError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.keys import KeyLike, as_key
from jaxconv.layer import Array
from jaxconv.ops.arrays import apply_along, largest

Matrix = tuple[tuple[float, ...], ...]

PHOTOGRAPHS: Matrix = ((0.0947, 0.0624, 0.0482), (0.0624, 0.0632, 0.0598), (0.0482, 0.0598, 0.0667))
"""`color_covariance` of seven photographs, rounded: astronaut, chelsea, coffee, motorcycle_left and rocket from
scikit-image, china and flower from scikit-learn."""


def as_images(images: ArrayLike, name: str = "x", *, channels: int | None = None) -> Array:
    """Returns images as float32 in [0, 1]; uint8 is divided by 255.

    Args:
      images: array of shape ``(batch, height, width, channels)``, uint8 or floating.
      name: the name of the caller's argument.
      channels: the required number of channels; None for any.

    Raises:
      DTypeError: the type is neither uint8 nor floating.
      ValueError: the rank or the channels do not fit, an axis is empty, or values are outside of [0, 1].

    >>> as_images(jnp.full((1, 1, 1, 1), 255, jnp.uint8))
    Array([[[[1.]]]], dtype=float32)
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise DTypeError(f"{name} must be uint8 or floating, got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape or channels not in (None, images.shape[-1]):
        wanted = "channels" if channels is None else channels
        raise ShapeError(f"{name} must have shape (batch, height, width, {wanted}), got {images.shape}")
    if images.dtype == jnp.uint8:
        return images.astype(jnp.float32) / 255
    low, high = -float(largest(-images)), float(largest(images))
    if not (low >= 0 and high <= 1):
        raise ArgumentError(f"{name} must have values in [0, 1], got values from {low:.4g} to {high:.4g}")
    return images.astype(jnp.float32)


# --- Color ------------------------------------------------------------------------------------------------------------


def color_covariance(images: Sequence[ArrayLike]) -> np.ndarray:
    """Returns the covariance of the channels over all pixels, with the same weight for each image.

    Args:
      images: arrays of shape ``(height, width, channels)``, of any sizes, uint8 or floats in [0, 1].

    Returns:
      Float64 of shape ``(channels, channels)``.

    Raises:
      ShapeError: there is no image, or the images do not all have three axes and the same channels.

    >>> color_covariance([jnp.array([[[0.0, 0.0]], [[1.0, 0.5]]])])
    array([[0.25  , 0.125 ],
           [0.125 , 0.0625]])
    """
    shapes = [np.shape(image) for image in images]
    if not shapes or any(len(s) != 3 or 0 in s or s[-1] != shapes[0][-1] for s in shapes):
        raise ShapeError(f"images must have shapes (height, width, channels) with the same channels, got {shapes}")
    pixels = [np.asarray(as_images(jnp.asarray(image)[None], "images")[0], np.float64) for image in images]
    flat = [p.reshape(-1, p.shape[-1]) for p in pixels]
    mean = np.mean([p.mean(axis=0) for p in flat], axis=0)
    return np.mean([(p - mean).T @ (p - mean) / len(p) for p in flat], axis=0)


def color_matrix(covariance: Any) -> np.ndarray:
    """Returns the matrix A that maps uncorrelated channels to channels with the given correlation.

    ``A A^T`` is the covariance divided by its largest eigenvalue. The first column is the direction in which colors
    vary most: brightness for photographs. The next two are blue to yellow, and green to purple.

    Args:
      covariance: symmetric and positive definite, of shape ``(channels, channels)``, such as `color_covariance`.

    Raises:
      ValueError: the covariance is not symmetric and positive definite.

    >>> A = color_matrix(PHOTOGRAPHS)
    >>> np.allclose(A @ A.T * 0.1895, PHOTOGRAPHS, atol=1e-4)
    True
    """
    c = np.asarray(covariance, np.float64)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not np.allclose(c, c.T):
        raise ShapeError(f"covariance must be a symmetric matrix (channels, channels), got shape {c.shape}: {c}")
    values, vectors = np.linalg.eigh(c)
    if values[0] <= 0:
        raise ArgumentError(f"covariance must be positive definite, got eigenvalues {values}")
    # An eigenvector's sign is arbitrary; the first is chosen to increase brightness.
    vectors = vectors * np.where(vectors.sum(axis=0) < 0, -1, 1)
    return (vectors * np.sqrt(values / values[-1]))[:, ::-1]


# --- Parameterizations ------------------------------------------------------------------------------------------------


def _amplitudes(height: int, width: int, decay: float) -> np.ndarray:
    """Returns ``f^-decay`` on the grid of `jnp.fft.rfft2`, with the lowest frequency of the grid in place of zero.

    The scale is such that a spectrum of complex values of mean square 1, times the amplitudes, has pixels of mean
    square about 1.
    """
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    amplitudes = np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** -decay
    scaled = amplitudes * np.sqrt(height * width / np.mean(np.square(amplitudes)))
    return scaled[None, :, : width // 2 + 1, None]


@dataclass(frozen=True)
class Parameterization:
    """A parameterization of an image for an optimizer (Olah et al., "Feature Visualization", 2017).

    The direction of a gradient step depends on the parameterization. Gradient steps on pixels give fine noise. Gradient
    steps on the image's spectrum and on decorrelated colors give the frequencies and colors of natural images.

    Args:
      fourier: whether the parameters are the image's spectrum; otherwise they are its pixels.
      decay: the decay of amplitudes with frequency, ``f^-decay``; about 1 for natural images.
      covariance: of the colors, ``(channels, channels)``, see `color_covariance`; stored as nested tuples. None leaves
        the channels unchanged; "photographs" is `PHOTOGRAPHS` for images of three channels, and None for others.
      bounded: whether a sigmoid keeps values in [0, 1].

    Raises:
      ValueError: the covariance is another string, or not symmetric and positive definite.

    >>> p = Parameterization()
    >>> x = jax.random.uniform(jax.random.key(0), (1, 8, 9, 3))
    >>> bool(jnp.allclose(p.decode(p.encode(x), (8, 9)), x, atol=1e-3))
    True
    """

    fourier: bool = True
    decay: float = 1.0
    covariance: Matrix | ArrayLike | str | None = "photographs"
    bounded: bool = True

    def __post_init__(self) -> None:
        if self.covariance is None or isinstance(self.covariance, str):
            if self.covariance not in (None, "photographs"):
                raise ArgumentError(f'covariance must be a matrix, "photographs" or None, got {self.covariance!r}')
            return
        color_matrix(self.covariance)
        # Compiled steps are cached by hash, and an array has none.
        object.__setattr__(self, "covariance", tuple(map(tuple, np.asarray(self.covariance, np.float64).tolist())))

    def _colors(self, channels: int) -> np.ndarray | None:
        if self.covariance == "photographs":
            return color_matrix(PHOTOGRAPHS) if channels == 3 else None
        if self.covariance is None:
            return None
        matrix = color_matrix(self.covariance)
        if len(matrix) != channels:
            raise ShapeError(f"covariance must be ({channels}, {channels}) for these images, got {matrix.shape}")
        return matrix

    def encode(self, images: Array) -> Array:
        """Returns the parameters of ``images`` of shape ``(batch, height, width, channels)``.

        The parameters have the images' shape, or ``(batch, height, width // 2 + 1, channels, 2)`` for a spectrum. With
        ``bounded``, values are first clipped to [0.001, 0.999], since a sigmoid does not reach 0 and 1.
        """
        z = jax.scipy.special.logit(jnp.clip(images, 1e-3, 1 - 1e-3)) if self.bounded else images - 0.5
        colors = self._colors(z.shape[-1])
        if colors is not None:
            z = apply_along(z, np.linalg.inv(colors).T, 3)
        if not self.fourier:
            return z
        spectrum = jnp.fft.rfft2(z, axes=(1, 2))
        amplitudes = _amplitudes(z.shape[1], z.shape[2], self.decay)[..., None].astype(z.dtype)
        return jnp.stack([spectrum.real, spectrum.imag], axis=-1) / amplitudes

    def decode(self, z: Array, size: tuple[int, int]) -> Array:
        """Returns the images of shape ``(batch, *size, channels)`` with the parameters ``z``."""
        if self.fourier:
            z = z * _amplitudes(*size, self.decay)[..., None].astype(z.dtype)
            z = jnp.fft.irfft2(lax.complex(z[..., 0], z[..., 1]), size, axes=(1, 2))
        colors = self._colors(z.shape[-1])
        if colors is not None:
            z = apply_along(z, colors.T, 3)
        return jax.nn.sigmoid(z) if self.bounded else z + 0.5

    def noise(self, key: KeyLike, shape: tuple[int, ...], *, std: float = 0.01) -> Array:
        """Returns normal parameters with standard deviation ``std``, of images of ``shape``: they are nearly gray."""
        struct = jax.eval_shape(self.encode, jax.ShapeDtypeStruct(shape, jnp.float32))
        return std * jax.random.normal(as_key(key), struct.shape, struct.dtype)


PIXELS = Parameterization(fourier=False, covariance=None, bounded=False)
"""The parameterization by pixels."""


def begin(key: Array, x: Any, parameterization: Parameterization) -> tuple[Array, tuple[int, int, int, int]]:
    """Returns the initial parameters, and the images' shape; ``x`` is images, or the shape of noise to draw."""
    if isinstance(x, list) and all(isinstance(n, int) for n in x):
        raise ArgumentError(f"x must be images or a shape as a tuple, got the list {x}")
    if isinstance(x, tuple) and all(isinstance(n, int | np.integer) for n in x):
        if len(x) != 4:
            raise ShapeError(f"x must be images or a shape (batch, height, width, channels), got {x}")
        n, h, w, c = (as_int(size, "x", least=1) for size in x)
        return parameterization.noise(key, (n, h, w, c)), (n, h, w, c)
    images = as_images(x)
    n, h, w, c = images.shape
    return parameterization.encode(images), (n, h, w, c)


# --- Regularizers -----------------------------------------------------------------------------------------------------


def _power(x: Array, exponent: float) -> Array:
    """Returns ``x^exponent`` for x >= 0, with a gradient of zero at zero."""
    return jnp.where(x > 0, jnp.where(x > 0, x, 1) ** exponent, 0)


def total_variation(x: Array, *, beta: float = 2.0) -> Array:
    """Returns the mean of ``(dx^2 + dy^2)^(beta / 2)`` over all pixels and channels of each image.

    The regularizer of Mahendran and Vedaldi, 2015, with the mean in place of the sum. A difference is the next pixel
    minus this one, and 0 at the last pixel.

    Args:
      x: array of shape ``(batch, height, width, channels)``.
      beta: 1 keeps edges sharp; 2 favors soft edges.

    Returns:
      Array of shape ``(batch,)``.

    >>> total_variation(jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1))
    Array([0.25], dtype=float32)
    """
    squares = sum(
        jnp.pad(jnp.square(jnp.diff(x, axis=axis)), [(0, int(i == axis)) for i in range(4)]) for axis in (1, 2)
    )
    return jnp.mean(_power(squares, beta / 2), axis=(1, 2, 3))  # type: ignore[arg-type]


def alpha_norm(x: Array, *, alpha: float = 6.0) -> Array:
    """Returns the mean of ``|2 x - 1|^alpha`` over each image: a penalty on values near black and white.

    The regularizer of Mahendran and Vedaldi, 2015, with the mean in place of the sum, for images in [0, 1].

    >>> alpha_norm(jnp.array([0.0, 0.5]).reshape(1, 2, 1, 1))
    Array([0.5], dtype=float32)
    """
    return jnp.mean(_power(jnp.abs(2 * x - 1), alpha), axis=(1, 2, 3))


__all__ = [
    "PHOTOGRAPHS",
    "PIXELS",
    "Parameterization",
    "alpha_norm",
    "as_images",
    "color_covariance",
    "color_matrix",
    "total_variation",
]
