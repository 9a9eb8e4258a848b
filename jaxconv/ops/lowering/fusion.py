"""A barrier that keeps a compiler from fusing a program with its operands and its readers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.ops.lowering.problem import Array


def without_fusion(compute: Callable[[], Any], first: Array) -> Any:
    """Runs ``compute``, which reads ``first``, in a branch that is always taken, which the compiler cannot know.

    XLA:CPU fuses nothing into a branch and nothing out of it. So a result is not computed again for each of its
    readers, and an operand is not computed again for each element that is read of it. The condition reads the first
    element's bits: an odd integer is never 0.
    """
    bits = jax.lax.bitcast_convert_type(first[(0,) * first.ndim], jnp.int8).reshape(-1)[0]
    results = jax.eval_shape(compute)
    return jax.lax.cond(
        (bits | 1) != 0, compute, lambda: jax.tree.map(lambda result: jnp.zeros(result.shape, result.dtype), results)
    )
