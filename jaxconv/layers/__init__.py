"""Layers over the ops: frozen dataclasses of hyperparameters that infer all shapes from their input.

Inputs have at least one batch axis: ``(*batch, *spatial, channels)``. ``init`` returns float32 arrays. By default the
kernel of a convolution is drawn by `jax.nn.initializers.he_normal` (He et al., 2015), the kernel of a Dense by
`jax.nn.initializers.lecun_normal` (LeCun et al., 1998), and a bias is zero.
"""

from typing import TYPE_CHECKING

from jaxconv.layers.conv import *
from jaxconv.layers.noise import *
from jaxconv.layers.norm import *
from jaxconv.layers.pool import *
from jaxconv.layers.shape import *
from jaxconv.names import public_names as _public_names

# Type checkers follow the imports with a star.
if not TYPE_CHECKING:
    __all__ = _public_names(globals())


def __dir__() -> list[str]:
    return _public_names(globals())
