"""Metrics of outputs and targets: a value for each example, or sums that are combined over batches and finished once.

A metric of `jaxconv.train` is either a function ``f(outputs, targets)`` of a batch, whose values are averaged over the
data set, or a `Metric`, for a value that is not a mean over examples, such as the mean IoU or the average precision.
"""

from jaxconv.metrics.base import Function as Function
from jaxconv.metrics.base import Metric as Metric
from jaxconv.metrics.base import accuracy as accuracy
from jaxconv.metrics.base import add as add
from jaxconv.metrics.base import is_classification as is_classification
from jaxconv.metrics.base import top_k as top_k
from jaxconv.metrics.detection import average_precision as average_precision
from jaxconv.metrics.detection import instance_precision as instance_precision
from jaxconv.metrics.keypoints import object_keypoint_similarity as object_keypoint_similarity
from jaxconv.metrics.keypoints import pck as pck
from jaxconv.metrics.segmentation import confusion as confusion
from jaxconv.metrics.segmentation import dice as dice
from jaxconv.metrics.segmentation import mean_iou as mean_iou
from jaxconv.metrics.segmentation import pixel_accuracy as pixel_accuracy

__all__ = [
    "Metric",
    "accuracy",
    "add",
    "average_precision",
    "confusion",
    "dice",
    "instance_precision",
    "mean_iou",
    "object_keypoint_similarity",
    "pck",
    "pixel_accuracy",
    "top_k",
]


def __dir__() -> list[str]:
    return sorted(__all__)
