"""Which functions are rectifiers: zero up to zero, positive after."""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.layer import Array, Layer, map_layers, walk
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


def redirected(net: Layer) -> Layer:
    """Returns the same network with rectifiers whose gradient is not zero where nothing fires.

    For each image of the batch: where no gradient of a loss passes a rectifier, it reaches the elements that are not
    positive as if it did, but only there where it would raise them (Olah et al., "Feature Visualization", 2017, whose
    code calls it the redirected ReLU). Where some gradient passes, all is as it was.

    >>> import jaxconv as jc
    >>> net = jc.serial(jax.nn.relu)
    >>> def loss(x, net): return jnp.sum(net.apply({}, {}, x)[0] * jnp.array([1.0, -1.0]))
    >>> x = jnp.array([[-1.0, -1.0], [1.0, -1.0]])
    >>> print(jax.grad(loss)(x, net))
    [[0. 0.]
     [1. 0.]]
    >>> print(jax.grad(loss)(x, redirected(net)))
    [[ 0. -1.]
     [ 1.  0.]]
    """
    return map_layers(net, lambda layer: Fn(_redirected(layer.function)) if rectifies(layer) else layer)


def _redirected(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def backward(saved: tuple[Array, Callable[[Array], tuple[Array]]], g: Array) -> tuple[Array]:
        x, pull = saved
        (passed,) = pull(g)
        nothing = (passed == 0).all(axis=tuple(range(1, x.ndim)), keepdims=True)
        # A loss falls against its gradient: a negative one raises x.
        return (jnp.where(nothing & (x <= 0), jnp.minimum(g, 0), passed),)

    def forward(x: Array) -> tuple[Array, Any]:
        y, pull = jax.vjp(function, x)
        return y, (x, pull)

    new = jax.custom_vjp(function)
    new.defvjp(forward, backward)
    return new
