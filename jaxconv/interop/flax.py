"""Flax in both directions: networks as linen and nnx modules, and linen and nnx modules as layers.

The smallest change for Flax users is one argument: the ``Conv`` of linen and of nnx then runs jaxconv's convolution,
with the same parameters, outputs and gradients. `jaxconv.explain` prints the algorithm that replaces lax's.

>>> from flax import linen, nnx
>>> layer = linen.Conv(8, (3, 3), conv_general_dilated=jc.conv_general_dilated)
>>> layer = nnx.Conv(3, 8, (3, 3), conv_general_dilated=jc.conv_general_dilated, rngs=nnx.Rngs(0))
>>> x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
>>> flaxs = nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0))
>>> both = [(conv(x), nnx.grad(lambda conv: (conv(x) ** 2).sum())(conv)) for conv in (layer, flaxs)]
>>> jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-4), *both))
True
"""

from jaxconv.extras import missing as _missing

if _error := _missing("jaxconv.interop.flax", "flax", extra="flax"):
    raise _error

from jaxconv.interop.linen import from_linen, to_linen
from jaxconv.interop.nnx import from_nnx, to_nnx

__all__ = ["from_linen", "from_nnx", "to_linen", "to_nnx"]
