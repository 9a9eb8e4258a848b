"""Networks run by their shapes alone, and arrays for them: no initializer is compiled."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxconv as jc
from jaxconv.tree import walk


def drawn(net: jc.Layer, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns the shapes of ``(params, state)``."""
    return jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0))


def trained(net: jc.Layer, shape: tuple[int, ...], key: jax.Array | None = None) -> tuple[int, ...]:
    """Returns the shape of a network's output in training."""
    return by_shapes(net, shape)[1](key).shape


def outputs(net: jc.Layer, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each layer's output by path."""
    return {row.path: row.output.shape for row in jc.inspect.trace(net, shape)}


def before(net: jc.Layer, shape: tuple[int, ...], path: str) -> tuple[int, ...]:
    """Returns the shape of what comes to the layer at a path."""
    (found,) = (row.input.shape for row in jc.inspect.trace(net, shape) if row.path == path)
    return found


def rates(net: jc.Layer, kind: type) -> list[float]:
    """Returns the rates of the layers of one type, in their order."""
    return [layer.rate for _, layer in walk(net) if isinstance(layer, kind)]


def by_shapes(net: jc.Layer, shape: tuple[int, ...]) -> tuple[Any, Callable[..., Any]]:
    """Returns the shapes of a network's output in evaluation, and a function that gives those of training.

    The function takes the random key of training.
    """
    x = jax.ShapeDtypeStruct(shape, "float32")
    params, state = jax.eval_shape(lambda key: net.init(key, x), jax.random.key(0))

    def outputs(train: bool, key: jax.Array | None = None) -> Any:
        return jax.eval_shape(functools.partial(net.apply, train=train, key=key), params, state, x)[0]

    return outputs(False), functools.partial(outputs, True)


def filled(net: jc.Layer, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Returns ``(params, state)`` of random numbers between 0.1 and 0.5 and of either sign where they are kernels."""
    random = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        signs = random.choice([-1, 1], leaf.shape) if len(leaf.shape) > 1 else 1
        return (signs * random.uniform(0.1, 0.5, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(fill, jax.eval_shape(lambda key: net.init(key, shape), jax.random.key(0)))
