"""Networks run by their shapes alone, and arrays for them: no initialiser is compiled."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxconv as jc


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
