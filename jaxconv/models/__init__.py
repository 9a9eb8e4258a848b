"""Networks from the literature, one file for each family, with torchvision's names and shapes where it has the network.

Common arguments are the number of classes, ``width`` (a factor or a number of filters), ``dropout`` before the scores,
``drop_path`` for residual blocks, and ``small_images``, a stem for images of about 32x32. A network lacks the arguments
that do not apply. LeNet-5 and the AlexNet of 2012 have their original form; Inception v3 has no stem for small images.
"""

from typing import TYPE_CHECKING

from jaxconv.models.alexnet import *
from jaxconv.models.allconv import *
from jaxconv.models.captioner import *
from jaxconv.models.convnet import *
from jaxconv.models.convnext import *
from jaxconv.models.densenet import *
from jaxconv.models.descriptor import *
from jaxconv.models.detection import *
from jaxconv.models.dqn import *
from jaxconv.models.efficientnet import *
from jaxconv.models.efficientnet_lite import *
from jaxconv.models.faces import *
from jaxconv.models.hed import *
from jaxconv.models.inception import *
from jaxconv.models.katago import *
from jaxconv.models.lenet import *
from jaxconv.models.linknet import *
from jaxconv.models.mnasnet import *
from jaxconv.models.mobilenet import *
from jaxconv.models.mtcnn import *
from jaxconv.models.nanodet import *
from jaxconv.models.nin import *
from jaxconv.models.points import *
from jaxconv.models.rcnn import *
from jaxconv.models.regnet import *
from jaxconv.models.resnet import *
from jaxconv.models.segmentation import *
from jaxconv.models.shufflenet import *
from jaxconv.models.squeezenet import *
from jaxconv.models.ssd import *
from jaxconv.models.stardist import *
from jaxconv.models.style import *
from jaxconv.models.unet import *
from jaxconv.models.vgg import *
from jaxconv.models.video import *
from jaxconv.names import public_names as _public_names

# Type checkers follow the imports with a star.
if not TYPE_CHECKING:
    __all__ = _public_names(globals())


def __dir__() -> list[str]:
    return _public_names(globals())
