"""Losses of classification, boxes, segmentation, embeddings and captions, without reduction over a batch.

Half precision is computed, and returned, in float32, as sums over many boxes or pixels need.
"""

from jaxconv.losses.boxes import complete_box_iou_loss as complete_box_iou_loss
from jaxconv.losses.boxes import distance_box_iou_loss as distance_box_iou_loss
from jaxconv.losses.boxes import generalized_box_iou_loss as generalized_box_iou_loss
from jaxconv.losses.captions import doubly_stochastic_loss as doubly_stochastic_loss
from jaxconv.losses.classification import sigmoid_focal_loss as sigmoid_focal_loss
from jaxconv.losses.embeddings import arcface_loss as arcface_loss
from jaxconv.losses.embeddings import contrastive_loss as contrastive_loss
from jaxconv.losses.embeddings import triplet_loss as triplet_loss
from jaxconv.losses.segmentation import dice_loss as dice_loss
from jaxconv.losses.segmentation import lovasz_loss as lovasz_loss
from jaxconv.losses.segmentation import stardist_loss as stardist_loss
from jaxconv.losses.segmentation import tversky_loss as tversky_loss

__all__ = [
    "arcface_loss",
    "complete_box_iou_loss",
    "contrastive_loss",
    "dice_loss",
    "distance_box_iou_loss",
    "doubly_stochastic_loss",
    "generalized_box_iou_loss",
    "lovasz_loss",
    "sigmoid_focal_loss",
    "stardist_loss",
    "triplet_loss",
    "tversky_loss",
]


def __dir__() -> list[str]:
    return sorted(__all__)
