"""Resizing: interpolation as torch's, and channels rearranged into space."""

import jax.numpy as jnp
from jax import lax

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import IntOrTuple, adaptive_bins, as_int, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, as_floats, spatial_sizes
from jaxconv.ops.lowering.resample import KERNELS, Sampling, resample, seen_elements
from jaxconv.ops.pools.adaptive import adaptive_avg_pool

_ALIASES = {"linear": "bilinear", "trilinear": "bilinear", "cubic": "bicubic"}
_METHODS = ("nearest", "nearest_exact", "bilinear", "bicubic", "area")


def check_method(method: str, align_corners: bool, antialias: bool) -> str:
    """Returns the method's first name, or raises ArgumentError if the method is unknown or lacks an option."""
    name = _ALIASES.get(method, method)
    if name not in _METHODS:
        raise ArgumentError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if (align_corners or antialias) and (name, antialias) not in KERNELS:
        option = "align_corners" if align_corners else "antialias"
        raise ArgumentError(f"method must be bilinear or bicubic for {option}, got {method!r}")
    return name


def resize(
    x: ArrayLike,
    size: IntOrTuple,
    *,
    method: str = "bilinear",
    align_corners: bool = False,
    antialias: bool = False,
    rank: int = 2,
) -> Array:
    """Resizes the spatial axes of ``x`` by interpolation.

    Args:
      x: array of shape ``(*batch, *spatial, channels)``: floating-point, for the nearest methods of any type.
      size: the new sizes, an int or one for each axis.
      method: "nearest", "nearest_exact", "bilinear" (or "linear": any rank), "bicubic" (or "cubic"), "area".
      align_corners: the corners of both grids coincide, rather than the edges of their corner elements.
      antialias: widen the kernel where the array shrinks; bilinear and bicubic only.
      rank: the number of spatial axes.

    Returns:
      Array of x's type, shape ``(*batch, *size, channels)``.

    Raises:
      ArgumentError: an unknown method, an option that the method does not have, or sizes that do not fit the rank.
      ShapeError: x has too few axes, or an empty spatial axis.
      DTypeError: x is not floating-point and the method is not a nearest one.

    Time and memory are linear in the larger of the sizes. Each output reads the elements of weight other than zero, so
    a NaN or an infinity reaches what depends on it and nothing else, in the gradient too; torch also reads neighbors of
    weight zero, at the border and where the grids coincide.

    Equals ``torch.nn.functional.interpolate(size=size)``; for rank 1 and 3, where torch has no bicubic and no
    antialiasing, the same along each axis.

    >>> resize(jnp.array([[0.0], [2.0]]), 4, rank=1)[:, 0]
    Array([0. , 0.5, 1.5, 2. ], dtype=float32)
    """
    method = check_method(method, align_corners, antialias)
    smooth = (method, antialias) in KERNELS
    if method == "area":
        return adaptive_avg_pool(x, size, rank=rank)
    y = as_floats(x=x)[0] if smooth else jnp.asarray(x)
    dtype = y.dtype
    sizes = spatial_sizes(y, rank)
    y = y.astype(accumulator(dtype)) if smooth else y
    sampling = Sampling(method, align_corners, antialias)
    for i, (n, m) in enumerate(zip(sizes, as_tuple(size, rank, "size"), strict=True)):
        if n != m:
            y = resample(y, i - rank - 1, m, sampling)
    return y.astype(dtype)


def source_spans(n: int, m: int, method: str, align_corners: bool, antialias: bool) -> dict[int, tuple[int, int]]:
    """Returns the (start, stop) of the elements, of n along one axis, that each of the m outputs depends on."""
    method = _ALIASES.get(method, method)
    if method == "area":
        return dict(enumerate(adaptive_bins(n, m)))
    return seen_elements(n, m, Sampling(method, align_corners, antialias))


def pixel_shuffle(x: ArrayLike, factor: int, *, rank: int = 2) -> Array:
    """Moves channels into space: ``(*spatial, factor^rank C)`` becomes ``(*factor spatial, C)`` (Shi et al., 2016).

    Args:
      x: array of shape ``(*batch, *spatial, channels)``, of any type.
      factor: how many times larger each spatial axis becomes.
      rank: the number of spatial axes.

    Returns:
      Array of shape ``(*batch, *spatial * factor, channels // factor^rank)``. Channel ``(c factor + i) factor + j``
      goes to row i and column j of each block of channel c.

    Raises:
      ArgumentError: factor or rank is below 1.
      ShapeError: the number of channels is not a multiple of ``factor^rank``.

    Equals ``torch.nn.functional.pixel_shuffle``, and ONNX's DepthToSpace in mode CRD.

    >>> pixel_shuffle(jnp.arange(4)[None, None, :], 2)[..., 0]
    Array([[0, 1],
           [2, 3]], dtype=int32)
    """
    x = jnp.asarray(x)
    factor = as_int(factor, "factor", least=1)
    sizes = spatial_sizes(x, rank)
    block = factor**rank
    if x.shape[-1] % block:
        raise ShapeError(
            f"x must have channels divisible by {block} for factor {factor}, got {x.shape[-1]}: shape {x.shape}"
        )
    batch, channels = x.shape[: x.ndim - 1 - rank], x.shape[-1] // block
    lead = len(batch)
    y = x.reshape(*batch, *sizes, channels, *(factor,) * rank)
    order = [axis for i in range(rank) for axis in (lead + i, lead + rank + 1 + i)]
    y = y.transpose(*range(lead), *order, lead + rank)
    # One axis at a time, which keeps what is known of the sharding of the others.
    for axis in range(lead, lead + rank):
        y = lax.collapse(y, axis, axis + 2)
    return y


def channel_shuffle(x: ArrayLike, groups: int) -> Array:
    """Interleaves groups of channels, so that a grouped convolution after it sees all of them (Zhang et al., 2018).

    Args:
      x: array of shape ``(*batch, *spatial, channels)``, of any type.
      groups: the number of groups; channel ``g (channels // groups) + i`` becomes channel ``i groups + g``.

    Returns:
      Array of x's shape.

    Raises:
      ArgumentError: groups is below 1.
      ShapeError: the number of channels is not a multiple of groups.

    Equals ``torch.nn.functional.channel_shuffle``.

    >>> channel_shuffle(jnp.arange(6), 2)
    Array([0, 3, 1, 4, 2, 5], dtype=int32)
    """
    x = jnp.asarray(x)
    groups = as_int(groups, "groups", least=1)
    if x.ndim == 0 or x.shape[-1] % groups:
        raise ShapeError(f"groups must divide the channels of x, got {groups} groups for shape {x.shape}")
    apart = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(apart, -1, -2).reshape(x.shape)


__all__ = ["channel_shuffle", "pixel_shuffle", "resize"]
