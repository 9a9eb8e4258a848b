"""Resizing maps: interpolation as torch's, and channels shuffled into space."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxconv.errors import ShapeError
from jaxconv.geometry import IntOrTuple, adaptive_bins, as_int, as_tuple
from jaxconv.ops.arrays import Array, ArrayLike, accumulator, apply_along, as_floats, spatial_sizes
from jaxconv.ops.pool import adaptive_avg_pool

_ALIASES = {"linear": "bilinear", "trilinear": "bilinear", "cubic": "bicubic"}
_METHODS = ("nearest", "nearest_exact", "bilinear", "bicubic", "area")


def _triangle(t: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(t), 0)


def _cubic(a: float):
    """Returns Keys' cubic kernel (1981)."""

    def weight(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near = ((a + 2) * t - (a + 3)) * t * t + 1
        far = ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
        return np.where(t <= 1, near, np.where(t < 2, far, 0))

    return weight


# Method and antialias: the kernel and its reach in elements of the coarser grid. torch has another cubic for each.
_KERNELS = {
    ("bilinear", False): (_triangle, 1),
    ("bilinear", True): (_triangle, 1),
    ("bicubic", False): (_cubic(-0.75), 2),
    ("bicubic", True): (_cubic(-0.5), 2),
}


def _nearest(n: int, m: int, exact: bool) -> np.ndarray:
    """Returns the source of each output; in float32, as torch rounds."""
    scale = np.float32(n / m)
    source = (np.arange(m, dtype=np.float32) + np.float32(0.5 if exact else 0)) * scale
    return np.minimum(np.floor(source).astype(int), n - 1)


def _weights(n: int, m: int, method: str, align_corners: bool, antialias: bool) -> np.ndarray:
    """Returns the matrix ``(n, m)`` that interpolates one axis."""
    kernel, reach = _KERNELS[method, antialias]
    scale = ((n - 1) / (m - 1) if m > 1 else 0.0) if align_corners else n / m
    rows = np.arange(n)[:, None]
    if antialias:
        # The window widens with the shrinking factor and is cut at the rim, then normalised.
        stretch = max(scale, 1.0)
        centre = scale * (np.arange(m) + 0.5)
        first = np.maximum(np.trunc(centre - reach * stretch + 0.5), 0)
        stop = np.minimum(np.trunc(centre + reach * stretch + 0.5), n)
        weights = np.where((rows >= first) & (rows < stop), kernel((rows - centre + 0.5) / stretch), 0)
        return weights / weights.sum(axis=0)
    source = np.arange(m) * scale if align_corners else (np.arange(m) + 0.5) * scale - 0.5
    if method == "bilinear":
        source = np.clip(source, 0, n - 1)
    weights = np.zeros((n, m))
    for tap in range(-reach + 1, reach + 1):
        at = np.floor(source) + tap
        # A tap beyond the rim takes the rim's element.
        np.add.at(weights, (np.clip(at, 0, n - 1).astype(int), np.arange(m)), kernel(source - at))
    return weights


def check_method(method: str, align_corners: bool, antialias: bool) -> str:
    """Returns the method's first name, or raises ShapeError if there is none or it lacks an option."""
    name = _ALIASES.get(method, method)
    if name not in _METHODS:
        raise ShapeError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if (align_corners or antialias) and (name, antialias) not in _KERNELS:
        option = "align_corners" if align_corners else "antialias"
        raise ShapeError(f"{option} is for the methods bilinear and bicubic, got method {method!r}")
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
      antialias: widen the kernel where the map shrinks; bilinear and bicubic only.
      rank: the number of spatial axes.

    Returns:
      Array of x's type, shape ``(*batch, *size, channels)``.

    Raises:
      ShapeError: an unknown method, an option that the method does not have, or sizes that do not fit the rank.
      DTypeError: x is not floating-point and the method is not a nearest one.

    Equals ``torch.nn.functional.interpolate(size=size)``; for rank 1 and 3, where torch has no bicubic and no
    antialiasing, the same along each axis.

    >>> resize(jnp.array([[0.0], [2.0]]), 4, rank=1)[:, 0]
    Array([0. , 0.5, 1.5, 2. ], dtype=float32)
    """
    method = check_method(method, align_corners, antialias)
    smooth = (method, antialias) in _KERNELS
    if method == "area":
        return adaptive_avg_pool(x, size, rank=rank)
    y = as_floats(x=x)[0] if smooth else jnp.asarray(x)
    dtype = y.dtype
    sizes = spatial_sizes(y, rank)
    y = y.astype(accumulator(dtype)) if smooth else y
    for i, (n, m) in enumerate(zip(sizes, as_tuple(size, rank, "size"), strict=True)):
        axis = y.ndim - 1 - rank + i
        if not smooth:
            y = jnp.take(y, _nearest(n, m, method == "nearest_exact"), axis, mode="clip")
        elif n != m:
            y = apply_along(y, _weights(n, m, method, align_corners, antialias), axis)
    return y.astype(dtype)


def source_spans(n: int, m: int, method: str, align_corners: bool, antialias: bool) -> dict[int, tuple[int, int]]:
    """Returns from which start to which stop of n elements each of the m outputs of one axis is made."""
    method = _ALIASES.get(method, method)
    if method == "area":
        return dict(enumerate(adaptive_bins(n, m)))
    if (method, antialias) not in _KERNELS:
        return {i: (int(at), int(at) + 1) for i, at in enumerate(_nearest(n, m, method == "nearest_exact"))}
    seen = (np.flatnonzero(w) for w in _weights(n, m, method, align_corners, antialias).T)
    return {i: (int(at[0]), int(at[-1]) + 1) for i, at in enumerate(seen)}


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
      ShapeError: the channels do not divide by ``factor^rank``.

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
        raise ShapeError(f"factor {factor} wants channels that divide by {block}, x has {x.shape[-1]}: shape {x.shape}")
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
      groups: how many; channel ``g (channels // groups) + i`` becomes channel ``i groups + g``.

    Returns:
      Array of x's shape.

    Raises:
      ShapeError: the channels do not divide by the groups.

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
