"""Detection of objects: what turns a network's outputs into boxes, and compares them with targets.

`jaxconv.models` makes the networks. Each is a layer, and has ``decode(outputs)``, which returns `Detections`, and
``loss(outputs, targets)``, which `jaxconv.train.fit` accepts; `PoseNet` has only ``decode``, which returns keypoints
and scores. All are pure functions of arrays of static shapes. `find_faces` runs a cascade of networks on the host.
"""

from typing import TYPE_CHECKING

from jaxconv.detect.anchors import *
from jaxconv.detect.cascade import *
from jaxconv.detect.dense import *
from jaxconv.detect.images import *
from jaxconv.detect.masks import *
from jaxconv.detect.nanodet import *
from jaxconv.detect.points import *
from jaxconv.detect.rcnn import *
from jaxconv.detect.regions import *
from jaxconv.detect.results import *
from jaxconv.names import public_names as _public_names

# Type checkers follow the imports with a star.
if not TYPE_CHECKING:
    __all__ = _public_names(globals())


def __dir__() -> list[str]:
    return _public_names(globals())
