"""ConvNets as functions of arrays: ops in lower case, layers in camel case.

>>> import jax.numpy as jnp
>>> import jaxconv as jc
>>> jc.conv(jnp.ones((32, 32, 3)), jnp.ones((5, 5, 3, 6)), padding="VALID").shape
(28, 28, 6)
"""

import importlib
from typing import Any

from jaxconv.branches import *
from jaxconv.compiler import *
from jaxconv.compose import *
from jaxconv.errors import DTypeError, MissingKeyError, ParameterError, ShapeError
from jaxconv.geometry import conv_output_size, conv_transpose_output_size
from jaxconv.layer import Composite, Layer, Run, map_layers
from jaxconv.layers import *
from jaxconv.ops import *
from jaxconv.ops.lowering import convs_saveable, explain, lowering
from jaxconv.patch import patch_lax

_PACKAGES = ("data", "inspect", "interop", "models", "train", "weights")
_LAZY = {"summary": "inspect"}

__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    """Loads a sub-package when it is first asked for: they want more than jax and numpy, or take time."""
    if name in _PACKAGES:
        return importlib.import_module(f"jaxconv.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(f"jaxconv.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'jaxconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PACKAGES, *_LAZY])
