"""Normalization. Statistics are two-pass, in float32 or better; the last axis is the channels."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, add_bias, as_floats, spatial_sizes, to_rank, wider
from jaxconv.ops.lowering import original


def _check_channels(x: Array, **arrays: Array | None) -> None:
    if x.ndim < 1:
        raise ShapeError("x must have a channel axis, got shape ()")
    for name, a in arrays.items():
        if a is not None and a.shape != x.shape[-1:]:
            raise ShapeError(f"{name} must have shape {x.shape[-1:]}, the channels of x {x.shape}, got {a.shape}")


def check_eps(eps: float) -> None:
    """Raises ArgumentError if ``eps`` is negative."""
    if not eps >= 0:
        raise ArgumentError(f"eps must not be negative, got {eps}")


def _affine(y: Array, scale: Array | None, bias: Array | None, dtype: Any) -> Array:
    """Scales and shifts in the type of ``y``, then rounds once."""
    y = y if scale is None else y * to_rank(scale.astype(y.dtype), y.ndim)
    return add_bias(y, bias, dtype)


def _average(x: Array, axes: tuple[int, ...], axis_name: Any) -> Array:
    local = jnp.mean(x, axes, keepdims=True)
    return local if axis_name is None else lax.pmean(local, axis_name)


def _moments(x: Array, axes: tuple[int, ...], axis_name: Any = None) -> tuple[Array, Array]:
    """Returns the mean and the biased variance over ``axes`` and mapped axes, in two passes; the axes stay, of size 1.

    The variance is ``mean((x - c)^2) - (mean - c)^2`` whatever c is. With the mean as a constant c, its second term is
    zero, and the derivative has one fewer sum over the feature map than that of ``mean((x - mean)^2)``.
    """
    mean = _average(x, axes, axis_name)
    constant = lax.stop_gradient(mean)
    return mean, _average(jnp.square(x - constant), axes, axis_name) - jnp.square(mean - constant)


def _normalized(x: Array, mean: Array, factor: Array, bias: Array | None = None) -> Array:
    """Returns ``(x - mean) * factor + bias``, likewise: the mean and the bias add one value for many elements of x."""
    constant = lax.stop_gradient(mean)
    shift = (constant - mean) * factor
    return (x - constant) * factor + (shift if bias is None else shift + bias)


def _standardize(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    """Returns ``(x - mean) / sqrt(var + eps)`` over ``axes`` in the accumulating type."""
    x = x.astype(accumulator(x.dtype))
    mean, var = _moments(x, axes)
    return _normalized(x, mean, lax.rsqrt(var + eps))


def batch_norm(
    x: ArrayLike,
    mean: ArrayLike,
    var: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
) -> Array:
    """Returns ``(x - mean) / sqrt(var + eps) * scale + bias`` for each channel (Ioffe and Szegedy, 2015).

    Args:
      x: floating-point array of shape ``(*any, channels)``.
      mean, var: statistics, shape ``(channels,)``: a batch's from `batch_statistics`, or running ones.
      scale, bias: arrays of shape ``(channels,)``.
      eps: added to the variance.

    Returns:
      Array of x's shape and of the common type of x, scale and bias; statistics in a wider type do not widen it.

    Raises:
      ArgumentError: eps is negative.
      ShapeError: an argument does not have one element for each channel.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.batch_norm(training=False)``.

    >>> x = jnp.array([[1.0], [3.0]])
    >>> batch_norm(x, *batch_statistics(x), eps=0.0)[:, 0]
    Array([-1.,  1.], dtype=float32)
    """
    mean, var = as_floats(mean=mean, var=var)
    x, scale, bias = as_floats(x=x, scale=scale, bias=bias)
    _check_channels(x, mean=mean, var=var, scale=scale, bias=bias)
    check_eps(eps)
    wide = wider(accumulator(x.dtype), mean.dtype)
    # One factor for each channel, so that the gradient sums one product of the array's size less.
    factor = lax.rsqrt(var.astype(wide) + eps)
    factor = factor if scale is None else factor * scale.astype(wide)
    bias = bias if bias is None else to_rank(bias.astype(wide), x.ndim)
    mean, factor = (to_rank(a, x.ndim) for a in (mean.astype(wide), factor))
    return _normalized(x.astype(wide), mean, factor, bias).astype(x.dtype)


def batch_statistics(x: ArrayLike, *, axis_name: Any = None) -> tuple[Array, Array]:
    """Returns the mean and the biased variance of each channel, over all other axes.

    Two-pass: the variance is the mean of squared differences from the mean, so a large mean costs no precision.

    Args:
      x: floating-point array of shape ``(*any, channels)``.
      axis_name: one or more names of mapped axes (`jax.vmap`, `jax.shard_map`) over which to average too.

    Returns:
      mean, var: shape ``(channels,)``; float32 for half precision, otherwise x's type.

    Raises:
      ShapeError: x has no element.
      DTypeError: x is not floating-point.

    >>> batch_statistics(jnp.array([[1.0], [3.0]]))
    (Array([2.], dtype=float32), Array([1.], dtype=float32))
    """
    (x,) = as_floats(x=x)
    _check_channels(x)
    if 0 in x.shape[:-1]:
        raise ShapeError(f"x must have elements, got shape {x.shape}")
    mean, var = _moments(x.astype(accumulator(x.dtype)), tuple(range(x.ndim - 1)), axis_name)
    return mean.reshape(-1), var.reshape(-1)


def layer_norm(
    x: ArrayLike, scale: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: float = 1e-5
) -> Array:
    """Normalizes the channels of each position by their own mean and variance (Ba et al., 2016).

    Args:
      x: floating-point array of shape ``(*any, channels)``.
      scale, bias: arrays of shape ``(channels,)``.
      eps: added to the variance.

    Raises:
      ArgumentError: eps is negative.
      ShapeError: scale or bias does not have one element for each channel.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.layer_norm(x, x.shape[-1:])``.

    >>> layer_norm(jnp.array([1.0, 3.0]), eps=0.0)
    Array([-1.,  1.], dtype=float32)
    """
    x, scale, bias = as_floats(x=x, scale=scale, bias=bias)
    _check_channels(x, scale=scale, bias=bias)
    check_eps(eps)
    return _affine(_standardize(x, (-1,), eps), scale, bias, x.dtype)


def group_norm(
    x: ArrayLike,
    groups: int,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    rank: int = 2,
) -> Array:
    """Normalizes each group of channels of each example by its mean and variance over space (Wu and He, 2018).

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``.
      groups: the number of groups of channels.
      scale, bias: arrays of shape ``(channels,)``.
      eps: added to the variance.
      rank: the number of spatial axes.

    Raises:
      ArgumentError: groups or rank is below 1, or eps is negative.
      ShapeError: groups do not divide the channels, or scale or bias does not have one element for each channel.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.group_norm``.

    >>> group_norm(jnp.array([[[1.0, 3.0, 4.0, 8.0]]]), 2, eps=0.0)
    Array([[[-1.,  1., -1.,  1.]]], dtype=float32)
    """
    x, scale, bias = as_floats(x=x, scale=scale, bias=bias)
    spatial_sizes(x, rank)
    _check_channels(x, scale=scale, bias=bias)
    check_eps(eps)
    groups = as_int(groups, "groups", least=1)
    if x.shape[-1] % groups:
        raise ShapeError(f"groups must divide the channels of x, got {groups} groups for shape {x.shape}")
    grouped = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    y = _standardize(grouped, (*range(-rank - 2, -2), -1), eps)
    return _affine(y.reshape(x.shape), scale, bias, x.dtype)


def instance_norm(
    x: ArrayLike,
    scale: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    *,
    eps: float = 1e-5,
    rank: int = 2,
) -> Array:
    """Normalizes each channel of each example by its mean and variance over space (Ulyanov et al., 2016).

    Args:
      x: floating-point array of shape ``(*batch, *spatial, channels)``.
      scale, bias: arrays of shape ``(channels,)``.
      eps: added to the variance.
      rank: the number of spatial axes.

    Raises:
      ArgumentError: rank is below 1, or eps is negative.
      ShapeError: scale or bias does not have one element for each channel, or x has too few axes.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.instance_norm``.

    >>> instance_norm(jnp.array([[1.0], [3.0]]), eps=0.0, rank=1)[:, 0]
    Array([-1.,  1.], dtype=float32)
    """
    x, scale, bias = as_floats(x=x, scale=scale, bias=bias)
    spatial_sizes(x, rank)
    _check_channels(x, scale=scale, bias=bias)
    check_eps(eps)
    return _affine(_standardize(x, tuple(range(-rank - 1, -1)), eps), scale, bias, x.dtype)


def local_response_norm(x: ArrayLike, size: int, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """Divides by ``(k + alpha / size * sum x^2)^beta``, the sum over ``size`` neighboring channels.

    Args:
      x: floating-point array of shape ``(*any, channels)``.
      size: the number of channels in the sum, ``size // 2`` of them before.
      alpha, beta, k: as in the formula. Krizhevsky et al. (2012) do not divide alpha by the size; torch and ONNX do.

    Raises:
      ArgumentError: size is below 1.
      DTypeError: x is not floating-point.

    Equals ``torch.nn.functional.local_response_norm``.

    >>> float(local_response_norm(jnp.array([2.0]), 1, alpha=1.0, beta=0.5, k=0.0)[0])
    1.0
    """
    (x,) = as_floats(x=x)
    _check_channels(x)
    size = as_int(size, "size", least=1)
    wide = x.astype(accumulator(x.dtype))
    total = original.reduce_window(
        wide * wide,
        np.zeros((), wide.dtype),
        lax.add,
        (1,) * (x.ndim - 1) + (size,),
        (1,) * x.ndim,
        [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)],
    )
    return (wide / (k + alpha / size * total) ** beta).astype(x.dtype)


def unit_norm(x: ArrayLike, *, eps: float = 1e-12) -> Array:
    """Divides the channels of each position by their Euclidean norm, or by ``eps`` where that is larger.

    Args:
      x: floating-point array of shape ``(*any, channels)``.
      eps: the smallest divisor. The gradient at zero is ``1 / eps``.

    Raises:
      ShapeError: x has no axis.
      ArgumentError: eps is negative.
      DTypeError: x is not floating-point.

    Equals ``torch.nn.functional.normalize(x, dim=-1)``.

    >>> unit_norm(jnp.array([3.0, 4.0]))
    Array([0.6, 0.8], dtype=float32)
    """
    (x,) = as_floats(x=x)
    _check_channels(x)
    check_eps(eps)
    wide = x.astype(accumulator(x.dtype))
    total = jnp.sum(jnp.square(wide), -1, keepdims=True)
    # The root of a number that is not zero, so that the gradient at zero is not NaN.
    norm = jnp.sqrt(jnp.where(total > 0, total, 1))
    return (wide / jnp.maximum(jnp.where(total > 0, norm, 0), eps)).astype(x.dtype)


__all__ = [
    "batch_norm",
    "batch_statistics",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "unit_norm",
]
