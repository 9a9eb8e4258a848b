"""Networks of the literature, one readable file a family; names and shapes are torchvision's where it has them."""

from jaxconv.models.alexnet import *
from jaxconv.models.allconv import *
from jaxconv.models.convnet import *
from jaxconv.models.convnext import *
from jaxconv.models.densenet import *
from jaxconv.models.efficientnet import *
from jaxconv.models.efficientnet_lite import *
from jaxconv.models.hed import *
from jaxconv.models.inception import *
from jaxconv.models.lenet import *
from jaxconv.models.mnasnet import *
from jaxconv.models.mobilenet import *
from jaxconv.models.nin import *
from jaxconv.models.regnet import *
from jaxconv.models.resnet import *
from jaxconv.models.segmentation import *
from jaxconv.models.shufflenet import *
from jaxconv.models.squeezenet import *
from jaxconv.models.unet import *
from jaxconv.models.vgg import *
from jaxconv.models.video import *
