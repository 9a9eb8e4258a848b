"""Shapes in place of arrays: what `init` and `summary` run a network on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.errors import ArgumentError
from jaxconv.layer import Tree


def struct_of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Returns the struct of a JAX array of this shape and type; float64 becomes float32 unless x64 is enabled."""
    if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(shape, dtype)


def as_struct(x: Tree) -> Tree:
    """Returns ``x`` with each array, ShapeDtypeStruct or shape tuple in it as a ShapeDtypeStruct; tuples are float32.

    >>> as_struct((8, 28, 28, 1))
    ShapeDtypeStruct(shape=(8, 28, 28, 1), dtype=float32)
    """

    def is_shape(node: Any) -> bool:
        return isinstance(node, tuple) and len(node) > 0 and all(isinstance(n, int | np.integer) for n in node)

    def struct(leaf: Any) -> jax.ShapeDtypeStruct:
        if is_shape(leaf):
            return jax.ShapeDtypeStruct(leaf, jnp.float32)
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return struct_of(leaf.shape, leaf.dtype)
        raise ArgumentError(
            f"x must be an array, a ShapeDtypeStruct or a shape tuple, batch axis included, got {leaf!r}"
        )

    return jax.tree.map(struct, x, is_leaf=is_shape)


def shape_of(function: Callable[..., Tree], *xs: Tree) -> Tree:
    """Returns the result of `jax.eval_shape` under standard type promotion, whatever ``jax_numpy_dtype_promotion`` is.

    In `mixed_precision` params are initialized in float32 and x has another type; shapes do not depend on the types.
    """
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(function, *xs)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Returns whether an array of ``shape`` can be broadcast to the shape ``to``."""
    return len(shape) <= len(to) and all(n in (1, m) for n, m in zip(shape[::-1], to[::-1], strict=False))
