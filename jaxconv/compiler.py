"""`jaxconv.jit`: `jax.jit` with the compiler options that are measured to help."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar, overload

import jax
import jax.extend
from jax.extend.core import jaxprs_in_params

from jaxconv.ops.lowering.modes import ynnpack

P = ParamSpec("P")
R = TypeVar("R")

# By backend, the option and the value that helps. XLA:CPU of jaxlib 0.10 hands convolutions to YNNPACK, which is slower
# than its own path; what YNNPACK does well are reductions: experiments/benchmarks/results/jit.json.
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
OPTIONS: dict[str, dict[str, Any]] = {"cpu": {YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}}

# XLA:CPU asks for the temporaries of a program in one block at each call. One above 32 MB glibc takes from the system
# each time, which clears it page by page when it is first touched; of smaller ones it keeps many. With this option
# there are several blocks, of so many bytes each, an int32: docs/steps.md has the page faults with and without.
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
    """Returns the options that `jit` adds on the default backend with this jaxlib, whatever the program.

    >>> isinstance(helpful_options(), dict)
    True
    """
    wanted = OPTIONS.get(jax.default_backend(), {})
    return {option: value for option, value in wanted.items() if _known(option, value)}


def _blocks(jaxpr: Any) -> dict[str, int]:
    """Returns the option of so many bytes: half as many again as the largest array that is named in the trace has.

    The compiler logs a warning for each array that is larger than a block. Programs of convolutions pad theirs.
    """
    size = max(LEAST_BLOCK, _largest(jaxpr) * 3 // 2)
    return {BLOCKS: size} if size <= MOST_BLOCK else {}


def _largest(jaxpr: Any) -> int:
    """Returns the bytes of the largest array that is computed, of those whose sizes are known."""
    made = (v.aval for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "dtype"))
    sizes = [math.prod(a.shape) * a.dtype.itemsize for a in made if all(isinstance(n, int) for n in a.shape)]
    return max([*sizes, *(_largest(inner) for eqn in jaxpr.eqns for inner in jaxprs_in_params(eqn.params))], default=0)


def _told(handed: bool, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function whose convolutions are told whether YNNPACK gets them."""
    with ynnpack(handed):
        return function(*args, **kwargs)


def _types(args: Any, kwargs: Any) -> Any:
    """Returns what tells calls apart: all but the values of static arguments, which share the first one's block."""
    leaves, tree = jax.tree.flatten((args, kwargs))
    return tree, tuple((getattr(a, "shape", None), getattr(a, "dtype", None)) for a in leaves)


class _Jitted(Generic[P, R]):
    """A jitted function: with options at top level, and without inside a trace, where JAX refuses them."""

    def __init__(self, function: Callable[P, R], options: dict[str, Any] | None, arguments: dict[str, Any]):
        functools.update_wrapper(self, function)
        self._options = options or {}
        self._make = functools.partial(jax.jit, function, **arguments)
        self._plain = self._make()
        self._made: dict[str, Any] = {}  # by their options
        self._top: dict[Any, tuple[Any, bool]] = {}  # by the arguments' types

    def _now(self, args: Any, kwargs: Any) -> tuple[Any, bool]:
        """Returns the jitted function for here, and whether XLA:CPU hands its convolutions to YNNPACK."""
        inside = jax.extend.core.get_opaque_trace_state() != _top_level()
        if inside or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return self._plain, ynnpack.value
        # Elsewhere the options do not depend on the arguments.
        key = _types(args, kwargs) if jax.default_backend() == "cpu" else ()
        found = self._top.get(key)
        if found is None:
            found = self._top[key] = self._with_options(args, kwargs)
        return found

    def _with_options(self, args: Any, kwargs: Any) -> tuple[Any, bool]:
        options = helpful_options() | self._options
        handed = "CONVOLUTION" in str(options.get(YNNPACK, "CONVOLUTION"))
        if jax.default_backend() == "cpu" and BLOCKS not in options and _known(BLOCKS, LEAST_BLOCK):
            options |= _blocks(_told(handed, self._plain.trace, *args, **kwargs).jaxpr)
        if str(options) not in self._made:
            self._made[str(options)] = self._make(compiler_options=options) if options else self._plain
        return self._made[str(options)], handed

    def __repr__(self) -> str:
        return f"<jaxconv.jit of {self.__wrapped__!r}>"  # type: ignore[attr-defined]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        jitted, handed = self._now(args, kwargs)
        return _told(handed, jitted, *args, **kwargs)  # type: ignore[no-any-return]

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def clear_cache(self) -> None:
        """Forgets what was compiled."""
        for jitted in {self._plain, *self._made.values()}:
            jitted.clear_cache()
        self._top.clear()

    def _cache_size(self) -> int:
        """Returns how many programs are compiled, as a jitted function does."""
        return sum(jitted._cache_size() for jitted in {self._plain, *self._made.values()})

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        return self._of("trace", args, kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        return self._of("lower", args, kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self._of("eval_shape", args, kwargs)

    def _of(self, name: str, args: Any, kwargs: Any) -> Any:
        jitted, handed = self._now(args, kwargs)
        return _told(handed, getattr(jitted, name), *args, **kwargs)


@overload
def jit(
    function: Callable[P, R], *, compiler_options: dict[str, Any] | None = None, **arguments: Any
) -> _Jitted[P, R]: ...
@overload
def jit(
    *, compiler_options: dict[str, Any] | None = None, **arguments: Any
) -> Callable[[Callable[P, R]], _Jitted[P, R]]: ...
def jit(
    function: Callable[..., Any] | None = None, *, compiler_options: dict[str, Any] | None = None, **arguments: Any
) -> Any:
    """`jax.jit` with the compiler options that are known to help on the backend in use.

    The options are resolved at the first call with arguments of these types. One that this jaxlib does not know is
    left out. They hold at top level only: inside any trace it is plain `jax.jit`. Where they change how a sum is
    ordered, results differ from those of `jax.jit` by rounding.

    On CPU: convolutions and products are not handed to YNNPACK, which is slower at them, and a program's temporaries
    are asked for in several blocks instead of one, so that the system need not clear so many pages at each call:
    experiments/benchmarks/results, jit.json and training.json.

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
