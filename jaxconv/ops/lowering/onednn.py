"""oneDNN's convolution and matrix product, which jaxlib carries on Linux and x86-64 and XLA:CPU does not choose.

A program can call them by name, as JAX's own attention calls cuDNN's. XLA makes no promise about the names, and what it
does not know how to read ends the process: so they are called only in the versions of jaxlib that they were tried
in, and for no problem of a kind at which oneDNN was seen to fail: see `fits`.
"""

import functools
import json
import math
import platform
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version

from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Solve
from jaxconv.ops.lowering.windows import flipped, opposite, swapped, unit
from jaxconv.ops.lowering.xla import reached

# Those in which tests/ops/lowering/test_onednn.py and test_forms.py pass.
VERSIONS = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2")


@functools.cache
def carried() -> bool:
    """Whether this jaxlib is known to carry it."""
    known = jaxlib.version.__version__ in VERSIONS
    return known and platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")


def computes(dtype: Any, rank: int) -> bool:
    """Whether it has programs for sums of this type along so many axes."""
    return dtype == jnp.float32 and 1 <= rank <= 3


def callable_here(context: Any = None) -> bool:
    """Whether a program for the CPU may call it.

    A program that is written to a disk may not: jaxlib cannot write the call. Nor may one that the compiler divides
    over devices: it would let each of them compute the whole. JAX's cache on disk counts if it is set when the program
    is lowered.

    Args:
      context: what JAX tells a lowering rule of the module that it writes; without it, a module for one device.
    """
    cached = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if not carried() or cached:
        return False
    return context is None or not (context.lowering_parameters.for_export or _divided(context.axis_context))


def _divided(axes: Any) -> bool:
    """Whether the compiler divides the module: over devices that no shard_map names, or that are not told."""
    if hasattr(axes, "manual_axes"):
        return not set(axes.mesh.axis_names) <= set(axes.manual_axes)
    return getattr(axes, "num_devices", 0) != 1


def fits(p: Problem) -> bool:
    """Whether it has a program for the problem."""
    g = p.geometry
    # The way back has the rest of the window's reach as padding, which must not be negative.
    padded = all(0 <= side <= r for r, sides in zip(g.reach, g.padding, strict=True) for side in sides)
    # Its grouped programs write where they must not, or never end, where the padding is larger than the map.
    held = all(r < n for r, n in zip(g.reach, g.out if p.role == "input" else g.size, strict=True))
    # On one channel a stride gives wrong numbers where the output's last axis is of length one.
    channels, stride = (p.batch, g.dilation) if p.role == "kernel" else (p.channels, g.stride)
    safe = held and (g.groups == 1 or max(g.dilation) == 1) and (channels > 1 or unit(stride))
    plain = {"output": True, "input": unit(g.stride), "kernel": g.groups == 1}[p.role]
    return p.onednn and padded and safe and plain


def convolution(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """Its forward convolution in the three roles: on the way back with the kernel turned round, the axes of channels
    and features exchanged; for the kernel with the output as window, the channels as examples."""
    g = p.geometry
    last, spatial = g.rank + 1, range(1, g.rank + 1)
    if p.role == "output":
        return _convolution(p, first, second)
    if p.role == "input":
        kernel = flipped(first, g.rank) if g.groups == 1 else flipped(swapped(first, g.groups), g.rank)
        return _convolution(opposite(p), second, kernel, exchanged=g.groups == 1)
    first, pads = reached(first, g)
    geometry = Geometry(first.shape[1:-1], g.out, g.dilation, tuple(pads), g.stride)
    across = replace(p, role="output", geometry=geometry, batch=p.channels, channels=p.batch)
    kernel = _convolution(across, first.transpose(last, *spatial, 0), second.transpose(*spatial, 0, last))
    return kernel.transpose(*spatial, 0, last)


def _convolution(p: Problem, first: Array, second: Array, exchanged: bool = False) -> Array:
    """The output; the kernel's last axes are channels and features, or ``exchanged``."""
    g = p.geometry
    if g.rank == 1 and g.groups > 1:  # one axis alone is slow
        flat = Geometry((1, *g.size), (1, *g.window), (1, *g.stride), ((0, 0), *g.padding), (1, *g.dilation), g.groups)
        return _convolution(replace(p, geometry=flat), first[:, None], second[None])[:, 0]
    last, spatial = g.rank + 1, list(range(1, g.rank + 1))
    rank = {"dims": g.rank + 2}
    image = rank | {"data": {"batch_dim": 0, "feature_dim": last, "spatial_dims": spatial}}
    inner, outer = (last, g.rank) if exchanged else (g.rank, last)
    kernel = {"input_feature_dim": inner, "output_feature_dim": outer, "spatial_dims": list(range(g.rank))}
    window = {
        "size": g.window,
        "pad_left": [low for low, _ in g.padding],
        "pad_right": [high for _, high in g.padding],
        "strides": g.stride,
        "window_dilations": [d if f > 1 else 1 for d, f in zip(g.dilation, g.window, strict=True)],
    }
    config = rank | {
        "input": image,
        "kernel": rank | {"filter": kernel},
        "output": image,
        "window": window,
        "feature_groups": g.groups,
    }
    return _call("convolution", {"onednn_conv_config": config}, p.shape("output"), first, second)


def product_over_places(a: Array, b: Array) -> Array:
    """Contracts all axes but the last of both: ``(channels, features)``."""
    a, b = (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) for x in (a, b))
    return _call("matmul", {"onednn_matmul_config": {"transpose_a": True}}, (a.shape[-1], b.shape[-1]), a, b)


def _call(name: str, config: dict[str, Any], shape: tuple[int, ...], *arrays: Array) -> Array:
    call = jax.ffi.ffi_call(
        f"__onednn${name}",
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
    )
    return call(*arrays)
