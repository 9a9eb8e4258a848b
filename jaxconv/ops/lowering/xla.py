"""Convolutions that XLA computes: lax's own in the three roles, and two that avoid slow programs of XLA:CPU."""

from dataclasses import replace
from typing import Any

import jax

from jaxconv.ops.arrays import pad_axes, slice_axis, wider
from jaxconv.ops.lowering import original
from jaxconv.ops.lowering.problem import Array, Geometry, Problem
from jaxconv.ops.lowering.target import Solve, Target
from jaxconv.ops.lowering.windows import flipped, swapped


def _letters(rank: int) -> str:
    return "DHW"[-rank:] if rank <= 3 else "".join(map(str, range(rank)))


def xla(p: Problem, first: Array, second: Array, *, crop: bool = True, out_sharding: Any = None) -> Array:
    """lax's convolution or its derivative."""
    g = p.geometry
    if first.ndim > g.rank + 2:
        # By lax's rule of batching a grouped convolution; for the type alone, the sharding lacks the mapped axis.
        if out_sharding is not None:
            spec = jax.sharding.PartitionSpec(*out_sharding.spec[1:])
            out_sharding = jax.sharding.NamedSharding(out_sharding.mesh, spec)
        return jax.vmap(lambda a, b: xla(p, a, b, crop=crop, out_sharding=out_sharding))(first, second)
    s = _letters(g.rank)
    dtype = wider(first.dtype, second.dtype)
    first, second = first.astype(dtype), second.astype(dtype)
    common = {"precision": p.precision, "preferred_element_type": p.dtype, "out_sharding": out_sharding}
    if p.role == "output":
        return original.conv_general_dilated(
            first,
            second,
            g.stride,
            g.padding,
            rhs_dilation=g.dilation,
            dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
            feature_group_count=g.groups,
            **common,
        )
    if p.role == "input":
        kernel = flipped(swapped(first, g.groups), g.rank)
        pads = [
            (r - low, n + low - ((m - 1) * t + 1))
            for n, r, (low, _), m, t in zip(g.size, g.reach, g.padding, g.out, g.stride, strict=True)
        ]
        return original.conv_general_dilated(
            second,
            kernel,
            (1,) * g.rank,
            pads,
            lhs_dilation=g.stride,
            rhs_dilation=g.dilation,
            dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
            feature_group_count=g.groups,
            **common,
        )
    first, pads = reached(first, g, crop)
    return original.conv_general_dilated(
        first,
        second,
        g.dilation,
        pads,
        rhs_dilation=g.stride,
        dimension_numbers=(f"C{s}N", f"I{s}O", f"{s}NC"),
        batch_group_count=g.groups,
        **common,
    )


def reached(x: Array, g: Geometry, crop: bool = True) -> tuple[Array, list[tuple[int, int]]]:
    """The part of the input that windows reach, so that no padding is negative, and its padding.

    Without ``crop`` the whole input: XLA:GPU would copy the part, and cuDNN skips the rest by a negative padding.
    """
    highs = [
        (m - 1) * t + 1 + r - n - low
        for n, r, (low, _), m, t in zip(g.size, g.reach, g.padding, g.out, g.stride, strict=True)
    ]
    if crop and all(isinstance(high, int) for high in highs):  # not a symbol, in an export
        x = pad_axes(x, [(0, min(high, 0)) for high in highs])
        highs = [max(high, 0) for high in highs]
    return x, [(low, high) for (low, _), high in zip(g.padding, highs, strict=True)]


def xla_prelayout(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """lax's gradient of the kernel, its arrays transposed beforehand to a convolution's layout.

    XLA:CPU does the same outside of loops, and falls to a naive convolution inside of them.
    """
    g = p.geometry
    first, pads = reached(first, g)
    last, spatial = g.rank + 1, range(1, g.rank + 1)
    s = _letters(g.rank)
    kernel = original.conv_general_dilated(
        first.transpose(last, *spatial, 0),
        second.transpose(*spatial, 0, last),
        g.dilation,
        pads,
        rhs_dilation=g.stride,
        dimension_numbers=(f"N{s}C", f"{s}IO", f"N{s}C"),
        precision=p.precision,
        preferred_element_type=p.dtype,
    )
    return kernel.transpose(*spatial, 0, last)


def xla_extra_row(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """lax's convolution with one more row at the high side, which is then sliced off.

    So the output is larger than the input, and XLA does not pass the convolution to YNNPACK, which is slower here than
    its own: see `by_ynnpack`.
    """
    g = p.geometry
    (low, high), *rest = g.padding
    wide = replace(p, geometry=replace(g, padding=((low, high + 1), *rest)))
    return slice_axis(xla(wide, first, second), 1, 0, g.out[0])


def as_large(p: Problem) -> bool:
    """Whether the output has the input's rows, so that with one more it is larger."""
    return p.geometry.stride[0] == 1 and p.geometry.out[0] == p.geometry.size[0]


def by_ynnpack(p: Problem, target: Target) -> bool:
    """Whether XLA:CPU of jaxlib 0.10 passes lax's convolution of the problem to YNNPACK, by its ``ynn_support.cc``.

    YNNPACK accepts two spatial axes, more than 16 channels or features, and an output and a window that are no larger
    than the input. The gradient of a kernel is a convolution of the channels as examples, with the output as window.
    """
    g = p.geometry
    depth = p.channels if p.role == "output" else p.batch
    fits = all(n >= max(m, f) for n, m, f in zip(g.size, g.out, g.window, strict=True))
    return target.ynnpack and p.role != "input" and g.rank == 2 and not p.half and max(depth, p.features) > 16 and fits
