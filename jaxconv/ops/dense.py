"""The fully connected layer's function."""

import jax.numpy as jnp

from jaxconv.errors import ShapeError
from jaxconv.ops.arrays import Array, ArrayLike, DType, add_bias, as_floats
from jaxconv.ops.lowering.native import in_sums


def dense(x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """Returns ``x @ kernel + bias``: each output is a dot product with the whole last axis.

    Args:
      x: floating-point array of shape ``(*batch, in)``; half precision accumulates in float32.
      kernel: array of shape ``(in, out)``.
      bias: array of shape ``(out,)``.

    Returns:
      Array of shape ``(*batch, out)``.

    Raises:
      ShapeError: the last axis of x is not the kernel's first, or ranks do not match.
      DTypeError: an argument is not floating-point.

    Equals ``torch.nn.functional.linear(x, kernel.T, bias)``.

    >>> dense(jnp.ones(3072), jnp.ones((3072, 10))).shape
    (10,)
    """
    x, kernel, bias = as_floats(x=x, kernel=kernel, bias=bias)
    if kernel.ndim != 2:
        raise ShapeError(f"kernel must have shape (in, out), got {kernel.shape}")
    if x.ndim < 1 or x.shape[-1] != kernel.shape[0]:
        got = x.shape[-1] if x.ndim else "none"
        symbolic = ", a size that is not a number: a global or an adaptive pool before it fixes the size"
        why = "" if isinstance(got, int | str) else symbolic
        raise ShapeError(f"kernel {kernel.shape} takes {kernel.shape[0]} inputs, x has {got}{why}: shape {x.shape}")
    if bias is not None and bias.shape != kernel.shape[1:]:
        raise ShapeError(f"bias must have shape {kernel.shape[1:]}, got {bias.shape}")
    return in_sums(_product, x, kernel, *([] if bias is None else [bias]))


def _product(sums: DType, x: Array, kernel: Array, bias: Array | None = None) -> Array:
    return add_bias(jnp.matmul(x, kernel, preferred_element_type=sums), bias, x.dtype)


__all__ = ["dense"]
