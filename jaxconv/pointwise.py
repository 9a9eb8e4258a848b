"""Detection of elementwise functions, from their jaxpr."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# Primitives whose output elements each depend only on the same element of each operand.
_ELEMENTWISE = frozenset(
    (
        "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type copy copy_p "
        "cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log "
        "log1p logistic lt max min mul ne neg nextafter not or pow reduce_precision rem round rsqrt select_n sign sin "
        "sinh sqrt square stop_gradient sub tan tanh xor"
    ).split(" ")
)


def is_pointwise(function: Callable[..., Any], x: Any) -> bool:
    """Returns whether ``function`` is elementwise: from one array shaped like ``x`` to one of the same shape.

    >>> import jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    >>> is_pointwise(jax.nn.gelu, x), is_pointwise(lambda x: x - x.mean(), x)
    (True, False)
    """
    if not hasattr(x, "shape"):
        return False
    closed = jax.make_jaxpr(function)(x)
    outs = closed.out_avals
    return len(outs) == 1 and outs[0].shape == x.shape and _follows(closed.jaxpr, [True], x.shape) == [True]


def _follows(jaxpr: core.Jaxpr, depends: list[bool], shape: tuple[int, ...]) -> list[bool] | None:
    """Returns which outputs depend on the inputs marked in ``depends``; None if one does not depend elementwise."""
    live = {var for var, flag in zip(jaxpr.invars, depends, strict=True) if flag}

    def is_live(atom: Any) -> bool:
        return not isinstance(atom, core.Literal) and atom in live

    for eqn in jaxpr.eqns:
        flags = [is_live(v) for v in eqn.invars]
        if not any(flags):
            continue
        inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
        if inner is not None and eqn.primitive.name in ("jit", "pjit", "custom_jvp_call", "custom_vjp_call"):
            followed = _follows(getattr(inner, "jaxpr", inner), flags, shape)
            if followed is None:
                return None
            live |= {var for var, flag in zip(eqn.outvars, followed, strict=True) if flag}
        elif eqn.primitive.name in _ELEMENTWISE and all(getattr(v.aval, "shape", None) == shape for v in eqn.outvars):
            live |= set(eqn.outvars)
        else:
            return None
    return [is_live(v) for v in jaxpr.outvars]


__all__ = ["is_pointwise"]
