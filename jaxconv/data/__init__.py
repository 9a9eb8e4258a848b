"""Data sets as arrays, and random augmentation of images as functions of a key.

Downloads happen only with ``download=True``. Optional packages are imported on first use.
"""

from jaxconv.data.affine import Affine, draw_affine, warp, warp_boxes, warp_masks, warp_points
from jaxconv.data.cache import ImageCache, image_cache
from jaxconv.data.captions import Captions, Vocabulary, coco_captions, flickr8k, vocabulary
from jaxconv.data.cifar import cifar10
from jaxconv.data.color import color_jitter
from jaxconv.data.crops import (
    draw_crop,
    draw_flip,
    draw_resized_crop,
    draw_shift,
    random_crop,
    random_flip,
    random_resized_crop,
    random_shift,
)
from jaxconv.data.dataset import DataError, Dataset, split
from jaxconv.data.folder import ImageFolder, image_folder
from jaxconv.data.galaxies import galaxy10
from jaxconv.data.idx import read_idx
from jaxconv.data.images import read_image
from jaxconv.data.loader import Batches, batches
from jaxconv.data.mixing import cutmix, cutout, mixup
from jaxconv.data.mnist import fashion_mnist, mnist5k
from jaxconv.data.normalize import channel_statistics, normalize
from jaxconv.data.rand_augment import draw_rand_augment, rand_augment
from jaxconv.data.signs import gtsrb
from jaxconv.data.video import read_video
from jaxconv.data.video_folder import VideoFolder, video_folder
from jaxconv.data.windows import CenterCrop, RandomResizedCrop

__all__ = [
    "Affine",
    "Batches",
    "Captions",
    "CenterCrop",
    "DataError",
    "Dataset",
    "ImageCache",
    "ImageFolder",
    "RandomResizedCrop",
    "VideoFolder",
    "Vocabulary",
    "batches",
    "channel_statistics",
    "cifar10",
    "coco_captions",
    "color_jitter",
    "cutmix",
    "cutout",
    "draw_affine",
    "draw_crop",
    "draw_flip",
    "draw_rand_augment",
    "draw_resized_crop",
    "draw_shift",
    "fashion_mnist",
    "flickr8k",
    "galaxy10",
    "gtsrb",
    "image_cache",
    "image_folder",
    "mixup",
    "mnist5k",
    "normalize",
    "rand_augment",
    "random_crop",
    "random_flip",
    "random_resized_crop",
    "random_shift",
    "read_idx",
    "read_image",
    "read_video",
    "split",
    "video_folder",
    "vocabulary",
    "warp",
    "warp_boxes",
    "warp_masks",
    "warp_points",
]


def __dir__() -> list[str]:
    return sorted(__all__)
