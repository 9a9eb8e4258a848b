"""Networks of the literature, one readable file a family."""

from jaxconv.models.convnet import convnet
from jaxconv.models.lenet import lenet5

__all__ = ["convnet", "lenet5"]
