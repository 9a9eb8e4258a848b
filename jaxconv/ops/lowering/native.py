"""Products of arrays in half precision, in the type that a platform's libraries compute best."""

from collections.abc import Callable
from typing import Any

import jax

from jaxconv.ops.arrays import accumulator
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.table import PLATFORMS


def in_sums(compute: Callable[..., Array], *arrays: Array) -> Array:
    """Returns ``compute(dtype, *arrays)``, whose products of matrices have the type ``dtype``.

    That is the accumulating type of the first array. But libraries that accumulate half precision in float32
    themselves are asked for half precision: with a float32 result, JAX would take the gradients from float32 operands,
    which take twice the memory and are slower.

    Args:
      compute: differentiable; its result has one type, whatever ``dtype`` is.
      arrays: floating-point arrays of one type.
    """
    given = arrays[0].dtype
    wide = accumulator(given)
    if wide == given:
        return compute(given, *arrays)
    native: dict[str, Any] = {
        name: lambda *arrays: compute(given, *arrays) for name, platform in PLATFORMS.items() if name and platform.half
    }
    return jax.lax.platform_dependent(*arrays, default=lambda *arrays: compute(wide, *arrays), **native)


__all__ = ["in_sums"]
