"""Composition of layers: structure connects several layers, wrappers change how one layer runs."""

from typing import TYPE_CHECKING

from jaxconv.compose.maps import *
from jaxconv.compose.structure import *
from jaxconv.compose.wrappers import *
from jaxconv.names import public_names as _public_names

# Type checkers follow the imports with a star.
if not TYPE_CHECKING:
    __all__ = _public_names(globals())


def __dir__() -> list[str]:
    return _public_names(globals())
