"""`jaxconv.jit`: `jax.jit` with the compiler options that are measured to help."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.extend

from jaxconv.ops.lowering.primitive import ynnpack

# By backend, the option and the value that helps. XLA:CPU of jaxlib 0.10 hands convolutions to YNNPACK, which is slower
# than its own path; what YNNPACK does well are reductions: experiments/benchmarks/results/jit.json.
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
OPTIONS: dict[str, dict[str, Any]] = {"cpu": {YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}}


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


def _told(handed: bool, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function whose convolutions are told whether YNNPACK gets them."""
    with ynnpack(handed):
        return function(*args, **kwargs)


class _Jitted:
    """A jitted function, in one form for top level and one for use inside a trace, where JAX refuses options."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any] | None, arguments: dict[str, Any]):
        functools.update_wrapper(self, function)
        self._options = options or {}
        self._make = functools.partial(jax.jit, function, **arguments)
        self._plain = self._make()
        self._top: Any = None

    def _now(self) -> tuple[Any, bool]:
        """Returns the jitted function for here, and whether XLA:CPU hands its convolutions to YNNPACK."""
        if jax.extend.core.get_opaque_trace_state() != _top_level():
            return self._plain, ynnpack.value
        if self._top is None:
            options = helpful_options() | self._options
            top = self._make(compiler_options=options) if options else self._plain
            self._top = top, "CONVOLUTION" in str(options.get(YNNPACK, "CONVOLUTION"))
        return self._top

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        jitted, handed = self._now()
        return _told(handed, jitted, *args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __getattr__(self, name: str) -> Any:
        """Offers what a jitted function has: lower, trace, eval_shape, clear_cache."""
        if name.startswith("__") or "_plain" not in self.__dict__:
            raise AttributeError(name)
        jitted, handed = self._now()
        found = getattr(jitted, name)
        return functools.partial(_told, handed, found) if callable(found) else found


def jit(
    function: Callable[..., Any] | None = None, *, compiler_options: dict[str, Any] | None = None, **arguments: Any
) -> Any:
    """`jax.jit` with the compiler options that are known to help on the backend in use.

    The options are resolved at the first call. One that this jaxlib does not know is left out. They hold at top level
    only: inside any trace it is plain `jax.jit`. Where they change how a sum is ordered, results differ from those of
    `jax.jit` by rounding.

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
