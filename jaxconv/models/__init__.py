"""Networks of the literature, one readable file a family; names and shapes are torchvision's where it has them."""

from jaxconv.models.convnet import *
from jaxconv.models.lenet import *
from jaxconv.models.resnet import *
