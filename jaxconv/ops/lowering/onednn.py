"""oneDNN's convolution and matrix product, which jaxlib carries on Linux and x86-64 and XLA:CPU does not choose.

A program can call them by name, as JAX's own attention calls cuDNN's. They are called only where
`jaxconv.ops.lowering.onednn_check` allows it for this jaxlib, and for no problem of a type at which oneDNN was seen to
fail: see `fits`.
"""

import contextlib
import functools
import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.ops.arrays import pad_axes
from jaxconv.ops.lowering.divide import divided
from jaxconv.ops.lowering.onednn_check import verdict, warn
from jaxconv.ops.lowering.problem import Array, Geometry, Problem, Product
from jaxconv.ops.lowering.target import Solve
from jaxconv.ops.lowering.windows import flipped, in_parts, opposite, swapped, unit, widened
from jaxconv.ops.lowering.xla import reached

# A kernel's gradient reads at most this many elements of input and output at a time, so that they stay in a cache.
HELD = 5 * 2**18

# The most positions that oneDNN may sum one after another for a kernel's gradient. For elements that are all equal,
# which is the worst case, the sum is then off by less than 1000 steps of float32: tests/ops/lowering/test_onednn.py.
CHAIN = 2**14


def carried() -> bool:
    """Whether this jaxlib carries it in a form that this process may call."""
    return verdict().good


def computes(dtype: Any, rank: int) -> bool:
    """Whether it has programs for sums of this type along this number of axes."""
    return dtype == jnp.float32 and 1 <= rank <= 3


def callable_here(context: Any = None) -> bool:
    """Whether a program for the CPU may call it.

    A program that is stored on disk may not: jaxlib cannot store the call. Nor may a program that the compiler divides
    over devices: each device would compute the whole. The program of one device's share may
    (`jaxconv.ops.lowering.divide`). JAX's cache on disk counts if it is set when the program is lowered.

    Args:
      context: JAX's context of the module in a lowering rule; without it, a module for one device.
    """
    if context is None:
        return not left_out()
    if context.lowering_parameters.for_export or divided(context.axis_context):
        return False
    if carried() and _cached():
        warn(_CACHE)
    return not left_out()


def left_out() -> str:
    """Returns why it is not called in this process, or nothing where it is.

    >>> isinstance(left_out(), str)
    True
    """
    return verdict().why or (_CACHE if _cached() else "")


_CACHE = "jax_compilation_cache_dir is set and jaxlib cannot store its calls"
# Whether JAX may store the program that is lowered. Part of the key of jit's cache.
_stored = jax.make_user_context(True)


def _cached() -> bool:
    """Whether JAX stores compiled programs on a disk."""
    config: Any = jax.config
    return bool(_stored.value and config.jax_enable_compilation_cache and config.jax_compilation_cache_dir)


@contextlib.contextmanager
def unstored() -> Iterator[None]:
    """A context in which JAX stores no compiled program on a disk, so that programs may call it.

    JAX does not store programs that compile faster than a limit. The limit is global: a program that another thread
    compiles meanwhile is not stored either.
    """
    with _one_at_a_time:
        before = getattr(jax.config, _LIMIT)
        jax.config.update(_LIMIT, math.inf)
        try:
            with _stored(False):
                yield
        finally:
            jax.config.update(_LIMIT, before)


_LIMIT = "jax_persistent_cache_min_compile_time_secs"
_one_at_a_time = threading.RLock()


def fits(p: Problem) -> bool:
    """Whether it has a program for the problem."""
    g = p.geometry
    # The gradient of the input pads by the rest of the window's reach, which must not be negative.
    padded = all(0 <= side <= r for r, sides in zip(g.reach, g.padding, strict=True) for side in sides)
    # Its grouped programs write where they must not, or never end, where the padding is larger than the feature map.
    held = all(r < n for r, n in zip(g.reach, g.out if p.role == "input" else g.size, strict=True))
    # A stride gives wrong values on one channel, and where the last axis of the result has length one.
    if p.role == "kernel":
        channels, stride, length = p.batch, g.dilation, g.window[-1] * p.inner
    else:
        channels, stride, length = p.channels, g.stride, g.out[-1]
    strided = unit(stride) or (channels > 1 and length > 1)
    safe = strided and (g.groups == 1 or (held and max(g.dilation) == 1))
    # A kernel's gradient may need one more axis, and there are at most three.
    plain = {"output": True, "input": unit(g.stride), "kernel": g.rank < 3 or _joined(p)}[p.role]
    chained = p.role == "kernel" and (p.depthwise or g.rank == 1)
    return g.rank <= 3 and padded and safe and plain and not (chained and math.prod(g.out) > CHAIN)


def convolution(p: Problem, first: Array, second: Array, solve: Solve) -> Array:
    """oneDNN's forward convolution. The gradient of the input is a convolution with the flipped kernel, its axes of
    channels and features exchanged; for the gradient of the kernel see `_kernel` and `_depthwise`."""
    rank, groups = p.geometry.rank, p.geometry.groups
    if p.role == "kernel":
        size = at_a_time(p)
        some = functools.partial(_depthwise if p.depthwise else _kernel, replace(p, batch=size))
        return in_parts(p, size, p.shape("kernel"), some, first, second)
    # In the shape in which `_depthwise` reads the arrays: XLA would compute an array twice that is read in two shapes.
    along = p.depthwise and p.outer == 1 and rank < 3 and unit(p.geometry.stride) and at_a_time(p) == p.batch
    compute = _along_examples if along else _convolution
    if p.role == "output":
        return compute(p, first, second, rank)
    kernel = flipped(first if groups == 1 else swapped(first, groups), rank)
    return compute(opposite(p), second, kernel, rank + 1 if groups == 1 else rank)


def at_a_time(p: Problem) -> int:
    """The number of examples that a kernel's gradient reads at a time: the most that divide the batch and have at most
    `HELD` elements, but at least eight.

    A depthwise gradient reads all if they have at most `CHAIN` positions, else the most that do; in 3-D, one.
    """
    one = sum(math.prod(p.shape(name)) for name in ("input", "output")) / p.batch
    if not p.depthwise:
        parts = [m for m in range(8, p.batch + 1) if p.batch % m == 0] or [p.batch]
        return max((m for m in parts if m * one <= HELD), default=parts[0])
    if p.geometry.rank == 3:
        return 1
    if p.positions <= CHAIN:
        return p.batch
    most = max(1, min(CHAIN // math.prod(p.geometry.out), HELD // one))
    return max(m for m in range(1, p.batch + 1) if p.batch % m == 0 and m <= most)


def _depthwise(p: Problem, x: Array, y: Array) -> Array:
    """The kernel, by a depthwise convolution whose window is the output and whose first spatial axis is the examples.

    In 3-D there is no axis left for the examples, so they are read one at a time.
    """
    g = p.geometry
    x, pads = reached(widened(x, p), g)
    within = all(max(sides) < m <= n for sides, m, n in zip(pads, g.out, x.shape[1:-1], strict=True))
    if not (within and unit(g.stride)):  # oneDNN is wrong at padding with dilation, or by more than a window's reach
        x, pads = pad_axes(x, pads), [(0, 0)] * g.rank
    geometry = Geometry(x.shape[1:-1], g.out, g.dilation, tuple(pads), g.stride, p.features)
    if g.rank < 3:
        geometry, x, y = _with_axis(geometry, p.batch, p.batch), x[None], y[None]
    across = replace(p, role="output", geometry=geometry, batch=1, channels=p.features)
    return _convolution(across, x, y, 0).reshape(p.shape("kernel"))


def _with_axis(g: Geometry, size: int, window: int) -> Geometry:
    """The geometry with one more axis in front."""
    return Geometry(
        (size, *g.size), (window, *g.window), (1, *g.stride), ((0, 0), *g.padding), (1, *g.dilation), g.groups
    )


def _along_examples(p: Problem, first: Array, second: Array, inner: int) -> Array:
    """The output, with the examples as a spatial axis along which the window has one tap."""
    across = replace(p, geometry=_with_axis(p.geometry, p.batch, 1), batch=1)
    return _convolution(across, first[None], second[None], inner + 1)[0]


def _joined(p: Problem) -> bool:
    """Whether a kernel's gradient joins the channels to the last spatial axis: if all its steps there are the same."""
    return p.geometry.dilation[-1] == 1 or p.inner == 1


def _kernel(p: Problem, x: Array, y: Array) -> Array:
    """The kernel, by a convolution of the input whose window is the output and whose channels are the examples.

    The channels become positions: they join the last spatial axis, so that one step of the window goes from channel to
    channel, and from the last channel to the next tap's first. With dilation they are a separate axis.
    """
    g, c = p.geometry, p.inner
    x, pads = reached(x, g)
    if c <= 4 or g.groups > 1:  # oneDNN is slow at padding few channels, and wrong at grouped padding beyond the array
        x, pads = pad_axes(x, pads), [(0, 0)] * g.rank
    size = x.shape[1:-1]
    x = x.reshape(p.batch, *size, g.groups, c).transpose(*range(1, g.rank + 1), g.rank + 2, g.rank + 1, 0)
    if _joined(p):
        (*lead, n), (*before, (low, high)), (*steps, stride) = size, pads, g.stride
        geometry = Geometry(
            (*lead, n * c), g.out, g.dilation, (*before, (low * c, high * c)), (*steps, stride * c), g.groups
        )
    else:
        geometry = Geometry((*size, c), (*g.out, 1), (*g.dilation, 1), (*pads, (0, 0)), (*g.stride, 1), g.groups)
        y = y[..., None, :]
    across = replace(p, role="output", geometry=geometry, batch=1, channels=g.groups * p.batch)
    return _convolution(across, x.reshape(across.shape("input")), y, 0).reshape(p.shape("kernel"))


def _convolution(p: Problem, first: Array, second: Array, inner: int, *more: Array, ops: Sequence[str] = ()) -> Array:
    """The output. Axis ``inner`` of the kernel has the channels, the last of the others the features.

    ``ops`` are oneDNN's names of what follows within the call, ``more`` the arrays that they read.
    """
    g = p.geometry
    last, spatial = g.rank + 1, list(range(1, g.rank + 1))
    *window_axes, outer = (axis for axis in range(g.rank + 2) if axis != inner)
    if g.rank == 1 and g.groups > 1:  # one axis alone is slow
        second = jnp.expand_dims(second, window_axes[0])
        more = tuple(a if a.ndim == 1 else a[:, None] for a in more)
        wide = replace(p, geometry=_with_axis(g, 1, 1))
        return _convolution(wide, first[:, None], second, inner + (inner > window_axes[0]), *more, ops=ops)[:, 0]
    rank = {"dims": g.rank + 2}
    image = rank | {"data": {"batch_dim": 0, "feature_dim": last, "spatial_dims": spatial}}
    kernel = {"input_feature_dim": inner, "output_feature_dim": outer, "spatial_dims": window_axes}
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
        **({"fusions": {"ops": list(ops)}} if ops else {}),
    }
    return _call("convolution", {"onednn_conv_config": config}, p.shape("output"), first, second, *more)


def with_epilogue(p: Problem, x: Array, kernel: Array, operands: Sequence[Array], ops: Sequence[str]) -> Array:
    """The output, with what follows it within the call: see `jaxconv.ops.lowering.fused`."""
    return _convolution(p, x, kernel, p.geometry.rank, *operands, ops=ops)


def product(p: Product, a: Array, b: Array, solve: Solve) -> Array:
    """Its matrix product."""
    lead, a = a.shape[:-1], a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
    if p.role == "positions":
        lead, b = (p.rows,), b.reshape(math.prod(b.shape[:-1]), b.shape[-1])
    config = {"transpose_a": True} if p.role == "positions" else {"transpose_b": p.role == "features"}
    y = _call("matmul", {"onednn_matmul_config": config}, (p.rows, p.columns), a, b)
    return y.reshape(*lead, p.columns)


def product_with_epilogue(
    a: Array, b: Array, operands: Sequence[Array], ops: Sequence[str], columns: int | None = None
) -> Array:
    """The product of the last axis of ``a`` with a matrix, with what follows it within the call.

    With ``columns``, ``b`` is flat and has the elements of the matrix in the order in which oneDNN reads them: see
    `jaxconv.ops.lowering.packed`.
    """
    shape = (math.prod(a.shape[:-1]), b.shape[-1] if columns is None else columns)
    more = (r[None] if r.ndim == 1 else r.reshape(shape) for r in operands)
    config = {"fusions": {"ops": list(ops)}, "optimization_config": {"weights_prepacked": columns is not None}}
    y = _call("matmul", {"onednn_matmul_config": config}, shape, a.reshape(shape[0], a.shape[-1]), b, *more)
    return y.reshape(*a.shape[:-1], shape[1])


def _call(name: str, config: dict[str, Any], shape: tuple[int, ...], *arrays: Array) -> Array:
    call = jax.ffi.ffi_call(
        f"__onednn${name}",
        jax.ShapeDtypeStruct(shape, jnp.float32),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
    )
    return call(*arrays)
