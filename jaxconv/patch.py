"""The switch for a whole program: jaxconv computes the convolutions and pools of other people's code.

All functions of lax, jnp and other libraries that compute convolutions and pools call three primitives of JAX. The
switch replaces the method that applies a primitive, `Primitive.bind`, of these three.
"""

import contextlib
import functools
import inspect
import operator
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxconv.geometry import window_extent
from jaxconv.ops.arrays import Array
from jaxconv.ops.dropin import FLOATS, conv_general_dilated
from jaxconv.ops.lowering.modes import lowering_mode
from jaxconv.ops.lowering.original import patched
from jaxconv.ops.pools.average import sum_pool
from jaxconv.ops.pools.maximum import max_pool


class _Row(NamedTuple):
    """The window along one axis."""

    window: int
    stride: int
    padding: tuple[int, int]
    dilation: int

    def is_pool(self, size: int) -> bool:
        """Returns whether a network's pool could have this window: it fits, and is padded by half of it at most.

        The overhang of a ceil mode may be added at the high side. Cumulative sums, and the gradients of sums of
        windows, are padded by more.
        """
        low, high = self.padding
        extent = window_extent(self.window, self.dilation)
        within = 0 <= 2 * low <= extent and high >= 0 and 2 * (high - self.stride + 1) <= extent
        return within and extent <= size + low + high


def _pooled(rows: Sequence[_Row]) -> range:
    """Returns the spatial axes, in channels-last or channels-first layout, or no axes for another reduction.

    Channels first, at most a batch and a channel axis come before them: a window along the last axis of more than that
    is a sum over channels.
    """
    moved = [axis for axis, row in enumerate(rows) if row != (1, 1, (0, 0), 1)]
    if not moved:
        return range(0)
    first, last = moved[0], len(rows) - 1
    if moved[-1] < last:
        return range(first, last)
    return range(first, last + 1) if 1 <= first <= 2 else range(0)


def _pool(
    function: Callable[..., Array],
    operand: Any,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Array | None:
    """Returns a reduction of windows by a pool of ours, or None where it is not one of a network."""
    given = jax.typeof(operand)
    numbers = (window_dimensions, window_strides, padding, base_dilation, window_dilation)
    if given.dtype not in FLOATS or given.weak_type or any(len(some) != given.ndim for some in numbers):
        return None
    if not all(isinstance(n, int) and n > 0 for n in given.shape) or any(n != 1 for n in base_dilation):
        return None
    rows = []
    for f, s, (low, high), d in zip(window_dimensions, window_strides, padding, window_dilation, strict=True):
        f, s, low, high, d = map(operator.index, (f, s, low, high, d))
        rows.append(_Row(f, s, (low, high), d))
    if not all(min(row.window, row.stride, row.dilation) > 0 for row in rows):
        return None  # lax says what is wrong
    axes = _pooled(rows)
    if not axes or not all(row.is_pool(n) for row, n in zip(rows, given.shape, strict=True)):
        return None
    *batch, channels = [axis for axis in range(given.ndim) if axis not in axes]
    order = [*batch, *axes, channels]
    window, stride, pads, dilation = zip(*(rows[axis] for axis in axes), strict=True)
    y = function(jnp.transpose(operand, order), window, stride=stride, padding=pads, dilation=dilation)
    return jnp.transpose(y, [order.index(axis) for axis in range(given.ndim)])


# What computes each primitive; None from it leaves the primitive to JAX.
_OURS: dict[Any, Callable[..., Array | None]] = {
    lax.conv_general_dilated_p: conv_general_dilated,
    lax.reduce_window_max_p: functools.partial(_pool, max_pool),
    lax.reduce_window_sum_p: functools.partial(_pool, sum_pool),
}


def _binding(primitive: Any, ours: Callable[..., Array | None]) -> Callable[..., Any]:
    known = set(inspect.signature(ours).parameters)

    def bind(*args: Any, **params: Any) -> Any:
        # A parameter that a later JAX adds may mean anything.
        if patched.value and lowering_mode() != "xla" and params.keys() <= known:
            y = ours(*args, **params)
            if y is not None:
                return y
        return type(primitive).bind(primitive, *args, **params)

    return bind


_lock = threading.Lock()
_holders = 0


def _hold(change: int) -> None:
    """Counts the contexts that replace the primitives. The first replaces them, the last restores them."""
    global _holders
    with _lock:
        before, _holders = _holders, _holders + change
        for primitive, ours in _OURS.items():
            if not before and _holders:
                primitive.bind = _binding(primitive, ours)
            elif before and not _holders:
                del primitive.bind


class patch_lax(contextlib.ContextDecorator):
    """A context in which jaxconv computes the convolutions and pools of other people's JAX code.

    Use it for libraries that do not accept a convolution as an argument, such as Equinox, Haiku and Keras on JAX.
    `jaxconv.conv_general_dilated` computes the calls of `jax.lax.conv_general_dilated`, and so those of ``lax.conv``,
    ``lax.conv_with_general_padding``, ``lax.conv_transpose`` and ``jnp.convolve``. `jaxconv.max_pool`, or the sum of
    `jaxconv.avg_pool`, computes a `jax.lax.reduce_window` that is a pool of floating-point numbers, channels first or
    last. It makes no difference how a library imports or stores these functions. Shapes, types and errors are those of
    lax; values are equal up to rounding. lax computes the operations that jaxconv does not support.

    The context affects the thread that enters it. Contexts may be nested, and may decorate functions. The key of jit's
    cache includes the context: JAX compiles a function again if it was compiled outside and is called inside, or the
    reverse. Programs that were compiled ahead of time do not change. Inside ``jaxconv.lowering("xla")`` nothing is
    replaced.

    ``patch_lax.install()`` affects all threads, until ``patch_lax.uninstall()`` or the end of the process.

    >>> image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((3, 3, 3, 4))
    >>> numbers = ("NHWC", "HWIO", "NHWC")
    >>> def f(image):
    ...     return jax.lax.conv_general_dilated(image, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    >>> with patch_lax():
    ...     print([eqn.primitive.name for eqn in jax.make_jaxpr(f)(image).eqns])
    ['jaxconv_conv']
    >>> print([eqn.primitive.name for eqn in jax.make_jaxpr(f)(image).eqns])
    ['conv_general_dilated']
    """

    def __init__(self) -> None:
        self._entered = threading.local()

    def __enter__(self) -> None:
        _hold(1)
        context = patched(True)
        context.__enter__()
        self._entered.__dict__.setdefault("contexts", []).append(context)

    def __exit__(self, *error: Any) -> None:
        self._entered.contexts.pop().__exit__(*error)
        _hold(-1)

    @staticmethod
    def install() -> None:
        """Replaces the primitives in all threads. A second call changes nothing."""
        if not patched.get_global():
            patched.set_global(True)
            _hold(1)

    @staticmethod
    def uninstall() -> None:
        """Undoes `install`. Contexts that are entered stay in force."""
        if patched.get_global():
            patched.set_global(False)
            _hold(-1)


__all__ = ["patch_lax"]
