"""ConvNets as functions of arrays: ops in lower case, layers in camel case.

>>> import jax.numpy as jnp
>>> import jaxconv as jc
>>> jc.conv(jnp.ones((32, 32, 3)), jnp.ones((5, 5, 3, 6)), padding="VALID").shape
(28, 28, 6)
"""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from jaxconv.backbones import *
from jaxconv.compiler import *
from jaxconv.compose import *
from jaxconv.composite import *
from jaxconv.errors import ArgumentError as ArgumentError
from jaxconv.errors import DTypeError as DTypeError
from jaxconv.errors import MissingKeyError as MissingKeyError
from jaxconv.errors import ParameterError as ParameterError
from jaxconv.errors import PathError as PathError
from jaxconv.errors import ShapeError as ShapeError
from jaxconv.folding import *
from jaxconv.geometry import conv_output_size as conv_output_size
from jaxconv.geometry import conv_transpose_output_size as conv_transpose_output_size
from jaxconv.layer import *
from jaxconv.layers import *
from jaxconv.names import public_names as _public_names
from jaxconv.ops import *
from jaxconv.ops.lowering import convs_saveable as convs_saveable
from jaxconv.ops.lowering import explain as explain
from jaxconv.ops.lowering import lowering as lowering
from jaxconv.patch import patch_lax as patch_lax
from jaxconv.predict import *
from jaxconv.pyramid import *
from jaxconv.search import *
from jaxconv.tree import *

_PACKAGES = ("data", "detect", "inspect", "instances", "interop", "losses", "metrics", "models", "train", "weights")
_LAZY = {"summary": "inspect"}

__version__ = "0.1.0.dev0"

# Type checkers read the first branch only. They would take every name for known if they saw __getattr__.
if TYPE_CHECKING:
    from jaxconv import data as data
    from jaxconv import detect as detect
    from jaxconv import inspect as inspect
    from jaxconv import instances as instances
    from jaxconv import interop as interop
    from jaxconv import losses as losses
    from jaxconv import metrics as metrics
    from jaxconv import models as models
    from jaxconv import train as train
    from jaxconv import weights as weights
    from jaxconv.inspect.table import summary as summary
else:
    __all__ = _public_names(globals())

    def __getattr__(name):
        """Loads a sub-package at its first use: they need more than jax and numpy, or take time."""
        if name in _PACKAGES:
            return _import_module(f"jaxconv.{name}")
        if name in _LAZY:
            return getattr(_import_module(f"jaxconv.{_LAZY[name]}"), name)
        raise AttributeError(f"module 'jaxconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*_public_names(globals()), *_PACKAGES, *_LAZY, "__version__"])
