"""Random arrays of several axes, generated along one axis.

XLA:CPU takes seconds to compile the generation of random bits over several axes, and a fraction of a second along one.
The bits are the same: those of element i of the flattened array.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

Array = jax.Array


def drawn(initializer: Callable[..., Array], key: Array, shape: Sequence[int], dtype: Any) -> Array:
    """Returns ``initializer(key, shape, dtype)``, bit for bit; `jax.nn.initializers` generate bits along one axis.

    >>> kernel = drawn(jax.nn.initializers.he_normal(), jax.random.key(0), (3, 3, 8, 12), jnp.float32)
    >>> kernel.shape
    (3, 3, 8, 12)
    """
    if getattr(initializer, "__module__", "") != jax.nn.initializers.he_normal().__module__:
        return initializer(key, shape, dtype)  # a custom one may be anything, and need not be traceable
    return _program(initializer, tuple(shape), np.dtype(dtype))(key)


@functools.lru_cache(maxsize=1024)
def _program(initializer: Callable[..., Array], shape: tuple[int, ...], dtype: Any) -> Callable[[Array], Array]:
    def draw(key: Array) -> Array:
        closed = jax.make_jaxpr(lambda key: initializer(key, shape, dtype))(key)
        return _evaluate(closed.jaxpr, closed.consts, [key])[0]

    return jax.jit(draw)


def _evaluate(jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr with its random bits, those in jitted functions too, drawn along one axis."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    for eqn in jaxpr.eqns:
        inputs = [v.val if isinstance(v, Literal) else values[v] for v in eqn.invars]
        inner = eqn.params.get("jaxpr")
        if eqn.primitive.name == "random_bits":
            shape = eqn.params["shape"]
            bits = eqn.primitive.bind(*inputs, **eqn.params | {"shape": (math.prod(shape),)})
            outputs = [bits.reshape(shape)]
        elif eqn.primitive.name in ("jit", "pjit") and isinstance(inner, ClosedJaxpr):
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            found = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
            outputs = found if eqn.primitive.multiple_results else [found]
        values |= zip(eqn.outvars, outputs, strict=True)
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]
