"""What losses share."""

from jaxconv.errors import ShapeError
from jaxconv.ops.arrays import Array, accumulator


def wide(a: Array) -> Array:
    """Returns an array in the type in which sums over it are computed: half precision becomes float32."""
    return a.astype(accumulator(a.dtype))


def check_same_shape(name: str, a: Array, other_name: str, b: Array) -> None:
    """Raises ShapeError where two arrays have different shapes."""
    if a.shape != b.shape:
        raise ShapeError(f"{name} must have the shape of {other_name}, {b.shape}, got {a.shape}")
