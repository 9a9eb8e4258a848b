"""Detection of rectifiers: functions that are zero for x <= 0 and positive for x > 0."""

from collections.abc import Callable
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.layer import Array, Layer
from jaxconv.layers import Fn
from jaxconv.pointwise import is_pointwise
from jaxconv.tree import map_layers, walk

_BELOW = np.array([-1e3, -6, -3, -1.5, -0.5, -1e-2, 0], np.float32)
_ABOVE = np.array([1e-2, 0.5, 1.5, 3, 6, 1e3], np.float32)


def is_rectifier(function: Callable[..., Any]) -> bool:
    """Returns whether a function is elementwise, zero for x <= 0 and positive for x > 0.

    The function is evaluated on test values, so that ``jax.nn.relu``, ``jax.nn.relu6`` and a custom
    ``lambda x: jnp.maximum(x, 0)`` are all recognized. Leaky ReLU, ELU, GELU and SiLU are not rectifiers, since they
    are not zero for x < 0.

    >>> is_rectifier(jax.nn.relu6), is_rectifier(lambda x: jnp.clip(x, 0, 1)), is_rectifier(jax.nn.gelu)
    (True, True, False)
    """
    try:
        pointwise = is_pointwise(function, jax.ShapeDtypeStruct(_BELOW.shape, jnp.float32))
    except Exception:
        # A function that does not accept an array of any shape is not elementwise.
        return False
    if not pointwise:
        return False
    # Inside a vmap only a compiled function returns concrete values here.
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
    """Returns the same network with rectifiers whose gradient is not zero where no unit fires.

    Where the gradient of an image is zero behind a rectifier, the incoming gradient is passed to the elements x <= 0
    that a gradient descent step would increase (the redirected ReLU of Lucid; Olah et al., "Feature Visualization",
    2017). Where some gradient of the image passes, the gradient is unchanged.

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
        # Descent moves against the gradient: a negative gradient increases x.
        return (jnp.where(nothing & (x <= 0), jnp.minimum(g, 0), passed),)

    def forward(x: Array) -> tuple[Array, Any]:
        y, pull = jax.vjp(function, x)
        return y, (x, pull)

    new = jax.custom_vjp(function)
    new.defvjp(forward, backward)
    return new
