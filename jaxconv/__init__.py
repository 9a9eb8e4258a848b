"""ConvNets as functions of arrays: ops in lower case, layers in camel case.

>>> import jax.numpy as jnp
>>> import jaxconv as jc
>>> jc.conv(jnp.ones((32, 32, 3)), jnp.ones((5, 5, 3, 6)), padding="VALID").shape
(28, 28, 6)
"""

from jaxconv.errors import DTypeError, MissingKeyError, ShapeError
from jaxconv.geometry import conv_output_size, conv_transpose_output_size
from jaxconv.ops import *
