"""A policy of `jax.checkpoint` for our convolutions."""

from typing import Any

import jax

from jaxconv.ops.lowering.primitive import conv_p


def convs_saveable(prim: Any, *args: Any, **params: Any) -> bool:
    """A policy for `jax.checkpoint`: keeps the results of convolutions and of matrix products.

    As `jax.checkpoint_policies.dots_saveable`, which does the same for lax's convolutions and does not know ours.

    >>> f = jax.checkpoint(lambda x, k: jc.conv(jnp.sin(x), k), policy=convs_saveable)
    """
    return prim is conv_p or jax.checkpoint_policies.dots_saveable(prim, *args, **params)
