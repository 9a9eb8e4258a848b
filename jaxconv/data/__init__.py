"""Data sets as arrays, and random augmentation of images as functions of a key.

Downloads happen only with ``download=True``. Optional packages are imported on first use.
"""

from jaxconv.data.augment import channel_statistics, cutout, normalize, random_crop, random_flip, random_shift
from jaxconv.data.cache import ImageCache, image_cache
from jaxconv.data.cifar import cifar10
from jaxconv.data.dataset import DataError, Dataset, split
from jaxconv.data.folder import ImageFolder, image_folder
from jaxconv.data.idx import read_idx
from jaxconv.data.images import read_image
from jaxconv.data.loader import Batches, batches
from jaxconv.data.mnist import fashion_mnist, mnist5k
from jaxconv.data.windows import CenterCrop, RandomResizedCrop

__all__ = [
    "Batches",
    "CenterCrop",
    "DataError",
    "Dataset",
    "ImageCache",
    "ImageFolder",
    "RandomResizedCrop",
    "batches",
    "channel_statistics",
    "cifar10",
    "cutout",
    "fashion_mnist",
    "image_cache",
    "image_folder",
    "mnist5k",
    "normalize",
    "random_crop",
    "random_flip",
    "random_shift",
    "read_idx",
    "read_image",
    "split",
]


def __dir__() -> list[str]:
    return sorted(__all__)
