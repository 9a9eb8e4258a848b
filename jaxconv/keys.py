"""Random keys. Wherever one is taken, an int stands for the key of that seed."""

from typing import Any, overload

import jax
import numpy as np

KeyLike = jax.Array | int


@overload
def as_key(key: KeyLike) -> jax.Array: ...
@overload
def as_key(key: KeyLike | None) -> jax.Array | None: ...
def as_key(key: Any) -> Any:
    """Returns the random key of an int, its seed; a key and None as they are.

    >>> bool(as_key(3) == jax.random.key(3))
    True
    """
    return jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
