"""lax's own functions, for the forms that are made of them: never jaxconv's, not even inside `jaxconv.patch_lax`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

# Whether lax's primitives are computed by jaxconv here: what `jaxconv.patch_lax` sets. Part of the key of jit's cache.
patched = jax.make_user_context(False)


def _original(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not patched.value:
            return function(*args, **kwargs)
        with patched(False):
            return function(*args, **kwargs)

    return call


# Bound here, at import: users may replace lax's attribute by the drop-in.
conv_general_dilated = _original(lax.conv_general_dilated)
reduce_window = _original(lax.reduce_window)
