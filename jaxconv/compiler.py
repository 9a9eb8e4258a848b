"""`jaxconv.jit`: `jax.jit` with the compiler options that measurements show to be faster."""

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, ParamSpec, TypeVar, overload

import jax
import jax.extend
from jax.extend.core import jaxprs_in_params

from jaxconv.ops.lowering.modes import ynnpack
from jaxconv.ops.lowering.table import platform_of
from jaxconv.ops.lowering.target import Blocks, Platform

P = ParamSpec("P")
R = TypeVar("R")


def _platform() -> Platform:
    """Returns the platform of the default backend."""
    return platform_of(jax.default_backend())


@functools.cache
def _top_level() -> Any:
    """Returns JAX's trace state outside of any trace: the state of a new thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(jax.extend.core.get_opaque_trace_state).result()


@functools.cache
def _known(option: str, value: Any) -> bool:
    """Returns whether the compiler of this jaxlib accepts the option, by compiling a program of one scalar."""
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
    return {option: value for option, value in _platform().options.items() if _known(option, value)}


def _block_limit(blocks: Blocks, jaxpr: Any) -> dict[str, int]:
    """Returns the option for a trace.

    A constant would not do: the compiler logs a warning for each array that is larger than a block, and a block that
    is large enough for every program is allocated anew at each call, as without the option.
    """
    size = max(blocks.least, block_for(jaxpr))
    return {blocks.option: size} if size <= blocks.most else {}


def block_for(jaxpr: Any) -> int:
    """Returns 1.5 times the bytes of the largest array in a trace: convolutions pad their arrays."""
    return _largest(jaxpr) * 3 // 2


def _largest(jaxpr: Any) -> int:
    """Returns the bytes of the largest array that is computed, among those of known size."""
    made = (v.aval for eqn in jaxpr.eqns for v in eqn.outvars if hasattr(v.aval, "dtype"))
    sizes = [math.prod(a.shape) * a.dtype.itemsize for a in made if all(isinstance(n, int) for n in a.shape)]
    return max([*sizes, *(_largest(inner) for eqn in jaxpr.eqns for inner in jaxprs_in_params(eqn.params))], default=0)


def _called(passed: bool, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Calls a function whose convolutions are chosen by whether the compiler passes them to YNNPACK."""
    with ynnpack(passed):
        return function(*args, **kwargs)


def _types(args: Any, kwargs: Any) -> Any:
    """Returns the key of a call: the types of its arguments, without the values of static ones."""
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
        """Returns the jitted function for this call, and whether the compiler passes its convolutions to YNNPACK."""
        inside = jax.extend.core.get_opaque_trace_state() != _top_level()
        if inside or jax.config.jax_disable_jit:  # type: ignore[attr-defined]
            return self._plain, ynnpack.value
        # Only the size of blocks depends on the arguments.
        key = _types(args, kwargs) if _platform().blocks else ()
        found = self._top.get(key)
        if found is None:
            found = self._top[key] = self._with_options(args, kwargs)
        return found

    def _with_options(self, args: Any, kwargs: Any) -> tuple[Any, bool]:
        options = helpful_options() | self._options
        passed, blocks = _platform().ynnpack(options), _platform().blocks
        if blocks and blocks.option not in options and _known(blocks.option, blocks.least):
            options |= _block_limit(blocks, _called(passed, self._plain.trace, *args, **kwargs).jaxpr)
        if str(options) not in self._made:
            self._made[str(options)] = self._make(compiler_options=options) if options else self._plain
        return self._made[str(options)], passed

    def __repr__(self) -> str:
        return f"<jaxconv.jit of {self.__wrapped__!r}>"  # type: ignore[attr-defined]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        jitted, passed = self._now(args, kwargs)
        return _called(passed, jitted, *args, **kwargs)  # type: ignore[no-any-return]

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def clear_cache(self) -> None:
        """Discards the compiled programs."""
        for jitted in {self._plain, *self._made.values()}:
            jitted.clear_cache()
        self._top.clear()

    def _cache_size(self) -> int:
        """Returns the number of compiled programs, as `jax.jit` does."""
        return sum(jitted._cache_size() for jitted in {self._plain, *self._made.values()})

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        return self._of("trace", args, kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        return self._of("lower", args, kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        return self._of("eval_shape", args, kwargs)

    def _of(self, name: str, args: Any, kwargs: Any) -> Any:
        jitted, passed = self._now(args, kwargs)
        return _called(passed, getattr(jitted, name), *args, **kwargs)


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
    """`jax.jit` with the compiler options that make programs faster on the current backend.

    The options are chosen at the first call with arguments of these types. An option that this jaxlib does not have is
    left out. Options apply at top level only: inside a trace, this function is `jax.jit`. Where an option changes the
    order of a sum, results differ from those of `jax.jit` by rounding.

    On CPU, XLA does not pass convolutions to the library YNNPACK, which is slower at them, and allocates the
    temporaries of a program in several blocks instead of one, which avoids page faults at each call: jit.json and
    training.json in experiments/benchmarks/results.

    Args:
      function: the function to compile; without it, a decorator is returned.
      compiler_options: further options, which override those of this function.
      arguments: the arguments of `jax.jit`.

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
