"""Matrix products in half precision, with the result type that is fastest on a platform."""

from collections.abc import Callable
from typing import Any

import jax

from jaxconv.ops.arrays import accumulator
from jaxconv.ops.lowering.problem import Array
from jaxconv.ops.lowering.table import PLATFORMS


def in_sums(compute: Callable[..., Array], *arrays: Array) -> Array:
    """Returns ``compute(dtype, *arrays)``, with ``dtype`` as the type of its matrix products.

    ``dtype`` is the accumulating type of the first array, or half precision on platforms whose libraries accumulate
    half precision in float32 themselves: for a float32 result, JAX would compute gradients from float32 operands, which
    take twice the memory and are slower.

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
