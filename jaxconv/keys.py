"""Random keys. A function that accepts a key also accepts an int, the seed of the key."""

from typing import Any, overload

import jax
import numpy as np

KeyLike = jax.Array | int


@overload
def as_key(key: KeyLike) -> jax.Array: ...
@overload
def as_key(key: KeyLike | None) -> jax.Array | None: ...
def as_key(key: Any) -> Any:
    """Returns the random key whose seed is an int; returns a key or None unchanged.

    >>> bool(as_key(3) == jax.random.key(3))
    True
    """
    return jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
