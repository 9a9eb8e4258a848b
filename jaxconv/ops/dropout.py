"""Noise that regularizes: dropped elements, dropped examples."""

import math

import jax
import jax.numpy as jnp

from jaxconv.errors import ArgumentError, MissingKeyError, ShapeError
from jaxconv.keys import KeyLike, as_key
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats


def check_rate(rate: float) -> None:
    """Raises ArgumentError unless ``rate`` is a probability."""
    if not 0 <= rate <= 1:
        raise ArgumentError(f"rate must be between 0 and 1, got {rate}")


def _drop(x: Array, rate: float, key: KeyLike, shape: tuple[int, ...]) -> Array:
    check_rate(rate)
    if key is None:
        raise MissingKeyError("key must be a random key, got None")
    if rate in (0, 1):
        return x if rate == 0 else jnp.zeros_like(x)
    # A float32 probability: the mask does not depend on whether x64 is enabled. It is drawn along one axis, which
    # XLA:CPU compiles in a tenth of the time.
    keep = jax.random.bernoulli(as_key(key), jnp.float32(1 - rate), (math.prod(shape),)).reshape(shape)
    return jnp.where(keep, x.astype(accumulator(x.dtype)) / (1 - rate), 0).astype(x.dtype)


def dropout(x: ArrayLike, rate: float, key: KeyLike) -> Array:
    """Sets each element to 0 with probability ``rate``, divides the others by ``1 - rate`` (Srivastava et al., 2014).

    Args:
      x: floating-point array of any shape.
      rate: between 0 and 1.
      key: a random key, or an int, its seed.

    Raises:
      ArgumentError: rate is not between 0 and 1.
      DTypeError: x is not floating-point.

    Has the distribution of ``torch.nn.functional.dropout``.

    >>> sorted(set(dropout(jnp.ones(100), 0.5, jax.random.key(0)).tolist()))
    [0.0, 2.0]
    """
    (x,) = as_floats(x=x)
    return _drop(x, rate, key, x.shape)


def drop_path(x: ArrayLike, rate: float, key: KeyLike) -> Array:
    """Sets whole examples to 0 with probability ``rate`` and divides the others by ``1 - rate`` (Huang et al., 2016).

    Args:
      x: floating-point array of shape ``(batch, *any)``.
      rate: between 0 and 1.
      key: a random key, or an int, its seed.

    Raises:
      ArgumentError: rate is not between 0 and 1.
      ShapeError: x has no axis.
      DTypeError: x is not floating-point.

    Has the distribution of ``torchvision.ops.stochastic_depth(mode="row")``.

    >>> drop_path(jnp.ones((4, 2)), 0.5, jax.random.key(0)).tolist()
    [[..., ...], [..., ...], [..., ...], [..., ...]]
    """
    (x,) = as_floats(x=x)
    if x.ndim < 1:
        raise ShapeError("x must have a batch axis, got shape ()")
    return _drop(x, rate, key, (x.shape[0],) + (1,) * (x.ndim - 1))


__all__ = ["drop_path", "dropout"]
