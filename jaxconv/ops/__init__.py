"""Pure functions of arrays, channels last."""

from typing import TYPE_CHECKING

from jaxconv.names import public_names as _public_names
from jaxconv.ops.anchors import *
from jaxconv.ops.boxes import *
from jaxconv.ops.conv import *
from jaxconv.ops.dense import *
from jaxconv.ops.dropin import *
from jaxconv.ops.dropout import *
from jaxconv.ops.heatmaps import *
from jaxconv.ops.nms import *
from jaxconv.ops.norm import *
from jaxconv.ops.offsets import *
from jaxconv.ops.overlaps import *
from jaxconv.ops.pad import *
from jaxconv.ops.polygons import *
from jaxconv.ops.pools.adaptive import *
from jaxconv.ops.pools.average import *
from jaxconv.ops.pools.maximum import *
from jaxconv.ops.pools.unpool import *
from jaxconv.ops.regions import *
from jaxconv.ops.resize import *

# Type checkers follow the imports with a star.
if not TYPE_CHECKING:
    __all__ = _public_names(globals())


def __dir__() -> list[str]:
    return _public_names(globals())
