"""oneDNN's convolution and matrix product, which jaxlib carries on Linux and x86-64 and XLA:CPU does not choose.

A program can call them by name, as JAX's own attention calls cuDNN's. XLA makes no promise about the names, and what it
does not know how to read ends the process: so they are asked for only of the versions of jaxlib that the tests have
run on.
"""

from dataclasses import replace
import functools
import json
import math
import platform
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
from jax.sharding import Mesh

from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Solve
from jaxconv.ops.lowering.xla import _reached as reached

# An axis of length one, as a geometry has it.
_UNIT: dict[str, Any] = {"size": 1, "window": 1, "stride": 1, "padding": (0, 0), "dilation": 1}
VERSIONS = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2")


@functools.cache
def carried() -> bool:
    """Whether this jaxlib is known to carry it."""
    known = jaxlib.version.__version__ in VERSIONS
    return known and platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")


def callable_here(context: Any = None) -> bool:
    """Whether a program for the CPU may call it.

    A program that is written to a disk may not: jaxlib cannot write the call. Nor may one that the compiler divides
    over devices, which would let each compute the whole.

    Args:
      context: what JAX tells a lowering rule of the module that it writes; without it, a module for one device.
    """
    if not carried() or (jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir):
        return False
    if context is None:
        return True
    axes = context.axis_context
    mesh = getattr(axes, "mesh", None)
    if isinstance(mesh, (Mesh, jax.sharding.AbstractMesh)):
        whole = mesh.size == 1 or set(mesh.axis_names) <= set(getattr(axes, "manual_axes", ()))
    else:
        whole = getattr(axes, "num_devices", 1) in (None, 1)
    return whole and not context.lowering_parameters.for_export


def fits(p: Problem) -> bool:
    """Whether its convolution computes this problem."""
    g = p.geometry
    padded = all(0 <= side <= r for r, sides in zip(g.reach, g.padding, strict=True) for side in sides)
    return p.onednn and p.dtype == jnp.float32 and 1 <= g.rank <= 3 and padded and (p.role == "output" or g.groups == 1)


def convolution(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """The output by oneDNN's direct convolution, groups included."""
    if p.role == "kernel":
        return _kernel(p, first, second)
    g = p.geometry
    if g.rank == 1 and g.groups > 1:  # its program for one axis is slow
        flat = replace(g, **{name: (one, *getattr(g, name)) for name, one in _UNIT.items()})
        return convolution(replace(p, geometry=flat), first[:, None], second[None], solve)[:, 0]
    last = g.rank + 1
    numbers = {"dims": g.rank + 2}
    spatial = list(range(1, last))
    maps = {"data": {"batch_dim": 0, "feature_dim": last, "spatial_dims": spatial}} | numbers
    kernel = {"input_feature_dim": g.rank, "output_feature_dim": last, "spatial_dims": list(range(g.rank))}
    window = {
        "size": g.window,
        "pad_left": [low for low, _ in g.padding],
        "pad_right": [high for _, high in g.padding],
        "strides": g.stride,
        "window_dilations": g.dilation,
    }
    config = numbers | {
        "input": maps,
        "kernel": {"filter": kernel} | numbers,
        "output": maps,
        "window": window,
        "feature_groups": g.groups,
    }
    return _call("convolution", {"onednn_conv_config": config}, p.shape("output"), first, second)


def _kernel(p: Problem, first: Array, second: Array) -> Array:
    g = p.geometry
    first, pads = reached(first, g)
    last, spatial = g.rank + 1, range(1, g.rank + 1)
    swapped = replace(
        p,
        role="output",
        geometry=Geometry(first.shape[1:-1], g.out, g.dilation, tuple(pads), g.stride),
        batch=p.channels,
        channels=p.batch,
    )
    kernel = convolution(
        swapped, first.transpose(last, *spatial, 0), second.transpose(*spatial, 0, last), None
    )
    return kernel.transpose(*spatial, 0, last)


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
