"""Which functions are rectifiers: zero up to zero, positive after."""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.layer import Layer, walk
from jaxconv.layers import Fn
from jaxconv.pointwise import is_pointwise

_BELOW = np.array([-1e3, -6, -3, -1.5, -0.5, -1e-2, 0], np.float32)
_ABOVE = np.array([1e-2, 0.5, 1.5, 3, 6, 1e3], np.float32)


def is_rectifier(function: Callable[..., Any]) -> bool:
    """Returns whether a function works element by element, gives 0 up to 0, and positive numbers after.

    It is tried on numbers, so that ``jax.nn.relu``, ``jax.nn.relu6`` and one's own ``lambda x: jnp.maximum(x, 0)`` are
    all found. Those that let negative numbers through (leaky ReLU, ELU, GELU, SiLU) are none.

    >>> is_rectifier(jax.nn.relu6), is_rectifier(lambda x: jnp.clip(x, 0, 1)), is_rectifier(jax.nn.gelu)
    (True, True, False)
    """
    try:
        pointwise = is_pointwise(function, jax.ShapeDtypeStruct(_BELOW.shape, jnp.float32))
    except Exception:
        # It does not take an array of any shape, so it does not work element by element.
        return False
    if not pointwise:
        return False
    # Inside a vmap only a compiled function gives numbers here.
    with jax.ensure_compile_time_eval():
        below, above = (np.asarray(jax.jit(function)(probe)) for probe in (_BELOW, _ABOVE))
    return bool((below == 0).all() and (above > 0).all())


def rectifies(layer: Layer) -> TypeGuard[Fn]:
    """Returns whether a layer is a rectifier."""
    return isinstance(layer, Fn) and is_rectifier(layer.function)


def rectifier_paths(net: Layer) -> list[str]:
    """Returns the paths of the rectifiers of a network.

    >>> import jaxconv as jc
    >>> rectifier_paths(jc.serial(jc.Conv(8), jax.nn.relu, jc.MaxPool(2), body=jc.serial(jc.Conv(8), jax.nn.relu)))
    ['1', 'body.1']
    """
    return [path for path, layer in walk(net) if rectifies(layer)]
