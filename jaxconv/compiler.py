"""`jaxconv.jit`: `jax.jit` with the compiler options that are measured to help."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.extend
from jax.extend.core import jaxprs_in_params

from jaxconv.ops.lowering.primitive import ynnpack

# By backend, the option and the value that helps. XLA:CPU of jaxlib 0.10 hands convolutions to YNNPACK, which is slower
# than its own path; what YNNPACK does well are reductions: experiments/benchmarks/results/jit.json.
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
OPTIONS: dict[str, dict[str, Any]] = {"cpu": {YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}}

# XLA:CPU asks for the temporaries of a program in one block at each call. One above 32 MB glibc takes from the system
# each time, which clears it page by page when it is first touched; smaller ones it keeps. With this option there are
# several blocks, of so many bytes each: a step of MobileNetV2 has 1 page fault, not 24,700: training.json.
BLOCKS = "xla_multiheap_size_constraint_per_heap"
LEAST_BLOCK, MOST_BLOCK = 2**24, 2**31 - 1


@functools.cache
def _top_level() -> Any:
    """Returns JAX's trace state where nothing is traced: a new thread's."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(jax.extend.core.get_opaque_trace_state).result()


@functools.cache
def _known(option: str, value: Any) -> bool:
    """Returns whether this jaxlib has the option: asked of the compiler, on a program of one number."""
    try:
        jax.jit(lambda x: x, compiler_options={option: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if option in str(error):
            return False
        raise
    return True


def helpful_options() -> dict[str, Any]:
    """Returns the options that `jit` adds on the default backend with this jaxlib.

    >>> isinstance(helpful_options(), dict)
    True
    """
    wanted = OPTIONS.get(jax.default_backend(), {})
    return {option: value for option, value in wanted.items() if _known(option, value)}


def _block(jaxpr: Any) -> int:
    """Returns how many bytes a block has: half as much again as the largest array, which has to go into one.

    The compiler pads some, and logs a warning for each that is larger than a block.
    """
    return max(LEAST_BLOCK, _largest(jaxpr) * 3 // 2)


def _largest(jaxpr: Any) -> int:
    """Returns the bytes of the largest array that is computed."""
    made = (v.aval for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "dtype"))
    inside = (_largest(inner) for eqn in jaxpr.eqns for inner in jaxprs_in_params(eqn.params))
    return max((*(math.prod(a.shape) * a.dtype.itemsize for a in made), *inside), default=0)


def _told(handed: bool, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function whose convolutions are told whether YNNPACK gets them."""
    with ynnpack(handed):
        return function(*args, **kwargs)


class _Jitted:
    """A jitted function: with options at top level, and without inside a trace, where JAX refuses them."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any] | None, arguments: dict[str, Any]):
        functools.update_wrapper(self, function)
        self._options = options or {}
        self._make = functools.partial(jax.jit, function, **arguments)
        self._plain = self._make()
        self._top: dict[Any, tuple[Any, bool]] = {}  # by the arguments' shapes

    def _now(self, args: Any, kwargs: Any) -> tuple[Any, bool]:
        """Returns the jitted function for here, and whether XLA:CPU hands its convolutions to YNNPACK."""
        inside = jax.extend.core.get_opaque_trace_state() != _top_level()
        if inside or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return self._plain, ynnpack.value
        shapes = tuple(getattr(leaf, "shape", None) for leaf in jax.tree.leaves((args, kwargs)))
        if shapes not in self._top:
            options = helpful_options() | self._options
            handed = "CONVOLUTION" in str(options.get(YNNPACK, "CONVOLUTION"))
            if jax.default_backend() == "cpu" and _known(BLOCKS, LEAST_BLOCK):
                size = _block(_told(handed, self._plain.trace, *args, **kwargs).jaxpr)
                options = {BLOCKS: min(size, MOST_BLOCK)} | options
            self._top[shapes] = self._make(compiler_options=options) if options else self._plain, handed
        return self._top[shapes]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        jitted, handed = self._now(args, kwargs)
        return _told(handed, jitted, *args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def clear_cache(self) -> None:
        """Forgets what was compiled."""
        for jitted, _ in [*self._top.values(), (self._plain, False)]:
            jitted.clear_cache()
        self._top.clear()

    def __getattr__(self, name: str) -> Any:
        """Offers what a jitted function has for arguments: lower, trace, eval_shape."""
        if name.startswith("__") or "_plain" not in self.__dict__ or not hasattr(self._plain, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

        def of(*args: Any, **kwargs: Any) -> Any:
            jitted, handed = self._now(args, kwargs)
            return _told(handed, getattr(jitted, name), *args, **kwargs)

        return of


def jit(
    function: Callable[..., Any] | None = None, *, compiler_options: dict[str, Any] | None = None, **arguments: Any
) -> Any:
    """`jax.jit` with the compiler options that are known to help on the backend in use.

    The options are resolved at the first call with arguments of these shapes. One that this jaxlib does not know is
    left out. They hold at top level only: inside any trace it is plain `jax.jit`. Where they change how a sum is
    ordered, results differ from those of `jax.jit` by rounding.

    On CPU: convolutions and products stay with XLA and oneDNN (YNNPACK's are slower), and a program's temporaries are
    asked for in several blocks, which the system need not clear again at each call: experiments/benchmarks, jit.json
    and training.json.

    Args:
      function: what to compile; without it, a decorator is returned.
      compiler_options: options of your own; they win.
      arguments: those of `jax.jit`.

    >>> @jit
    ... def mean(x):
    ...     return jnp.mean(x)
    >>> float(mean(jnp.arange(3.0)))
    1.0
    """
    if function is None:
        return functools.partial(jit, compiler_options=compiler_options, **arguments)
    return _Jitted(function, compiler_options, arguments)


__all__ = ["jit"]
