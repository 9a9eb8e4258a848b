"""Semantic segmentation with backbones whose last stages dilate their filters in place of striding.

Long, Shelhamer and Darrell, "Fully convolutional networks for semantic segmentation", 2015: FCN.
Howard et al., "Searching for MobileNetV3", 2019: LR-ASPP.
Chen, Papandreou, Schroff and Adam, "Rethinking atrous convolution for semantic image segmentation", 2017: DeepLab v3.
Names and shapes are torchvision's. An auxiliary head runs in training only, where the output is
``(scores, {"aux_classifier": scores})``; torchvision returns both in evaluation too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxconv.backbones import auxiliary, backbone, backbone_in, map_of, on_map
from jaxconv.compose import concat, resized, serial
from jaxconv.composite import Composite, Run
from jaxconv.described import name_of
from jaxconv.errors import ArgumentError
from jaxconv.layer import Children, Layer, Tree, children_of
from jaxconv.layers import AdaptiveAvgPool, BatchNorm, Conv, Dropout, Resize
from jaxconv.layers.base import batched_sizes
from jaxconv.models.mobilenet import mobilenet_v3_large
from jaxconv.models.resnet import resnet50, resnet101

DILATE = (False, True, True)
# How the names of the auxiliary head's tensors begin, and the argument that adds the head.
AUXILIARY = {"aux_classifier.": "aux_loss"}


def _conv(features: int, window: int = 3, dilation: int = 1) -> Conv:
    return Conv(features, window, padding=dilation * (window // 2), dilation=dilation, bias=False)


def fcn_head(width: int, classes: int, dropout: float = 0.1) -> Layer:
    """Returns FCN's head: a 3x3 convolution with norm, dropout, and the scores of each position.

    Args:
      width: the channels of the 3x3 convolution, a quarter of the input's in torchvision.
      classes: the number of classes.
      dropout: the dropout rate.
    """
    return serial(_conv(width), BatchNorm(), jax.nn.relu, Dropout(dropout), Conv(classes, 1))


def aspp(width: int = 256, rates: Sequence[int] = (12, 24, 36), dropout: float = 0.5) -> Layer:
    """Returns atrous spatial pyramid pooling: convolutions with several dilations, and global pooling, concatenated.

    Args:
      width: the channels of each branch, and of the output.
      rates: the dilation of each 3x3 convolution.
      dropout: the dropout rate after the projection.
    """

    def branch(window: int, dilation: int = 1) -> Layer:
        return serial(_conv(width, window, dilation), BatchNorm(), jax.nn.relu)

    whole = resized(serial(AdaptiveAvgPool(1), _conv(width, 1), BatchNorm(), jax.nn.relu))
    return serial(
        convs=concat(branch(1), *(branch(3, rate) for rate in rates), whole),
        project=serial(_conv(width, 1), BatchNorm(), jax.nn.relu, Dropout(dropout)),
    )


def segmenter(trunk: Layer, classifier: Layer, aux_classifier: Layer | None = None) -> Layer:
    """Returns a backbone with a head on its feature map "out", whose scores are resized to the size of the image.

    Args:
      trunk: a backbone with a feature map "out", and "aux" for the auxiliary head.
      classifier: the head; torchvision has the same name for it.
      aux_classifier: a second head on the feature map "aux", in training only.

    Raises:
      ArgumentError: the backbone has no such feature map.
    """
    made = backbone_in(trunk)
    gives = list(made.source()[1].values()) if made else []
    for wanted in ["out"] if aux_classifier is None else ["out", "aux"]:
        if made and wanted not in gives:
            raise ArgumentError(
                f"trunk must have a feature map {wanted!r}, got {', '.join(map(repr, gives))}: jaxconv.backbone names "
                f"feature maps by a mapping, {{path: {wanted!r}}}"
            )
    net = serial(backbone=trunk, classifier=on_map("out", classifier))
    if aux_classifier is None:
        return resized(net)
    return resized(auxiliary(net, aux_classifier=("backbone", on_map("aux", aux_classifier))))


def fcn(
    trunk: Layer, classes: int = 21, *, width: int = 512, aux_width: int | None = None, dropout: float = 0.1
) -> Layer:
    """Returns FCN on any backbone: scores ``(batch, height, width, classes)`` for each pixel of the image.

    Args:
      trunk: made by `jaxconv.backbone`, with a feature map "out", and "aux" for an auxiliary head.
      classes: the number of classes, background included.
      width: the channels between the feature map and the scores.
      aux_width: the channels between them in the auxiliary head; None for no auxiliary head.
      dropout: the dropout rate before the scores.

    >>> trunk = jc.backbone(jc.models.resnet18(dilate=(False, True, True)), {"layer4": "out"})
    >>> jc.summary(fcn(trunk, 5, width=128), (1, 64, 64, 3)).rows[-1].output.shape
    (1, 64, 64, 5)
    """
    aux = None if aux_width is None else fcn_head(aux_width, classes, dropout)
    return segmenter(trunk, fcn_head(width, classes, dropout), aux)


def deeplabv3(
    trunk: Layer,
    classes: int = 21,
    *,
    width: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    aux_width: int | None = None,
    dropout: float = 0.5,
) -> Layer:
    """Returns DeepLab v3 on any backbone: scores ``(batch, height, width, classes)`` for each pixel of the image.

    Args:
      trunk: made by `jaxconv.backbone`, with a feature map "out", and "aux" for an auxiliary head.
      classes: the number of classes, background included.
      width: the channels of the head.
      rates: the dilations of `aspp`; the paper halves them for a feature map with a stride of 16.
      aux_width: the channels of the auxiliary head, which is FCN's; None for no auxiliary head.
      dropout: the dropout rate in `aspp`.

    >>> trunk = jc.backbone(jc.models.resnet18(dilate=(False, True, True)), {"layer4": "out"})
    >>> jc.summary(deeplabv3(trunk, 5, width=64), (1, 64, 64, 3)).rows[-1].output.shape
    (1, 64, 64, 5)
    """
    head = (aspp(width, rates, dropout), _conv(width), BatchNorm(), jax.nn.relu, Conv(classes, 1))
    aux = None if aux_width is None else fcn_head(aux_width, classes)
    return segmenter(trunk, serial(*head), aux)


def _trunk(net: Layer, aux_loss: bool, aux_width: int | None) -> tuple[Layer, int | None]:
    """Returns a ResNet as a backbone, and the width of the auxiliary head: 256 where no other is given."""
    aux = {"layer3": "aux"} if aux_loss else {}
    return backbone(net, {**aux, "layer4": "out"}), 256 if aux_loss and aux_width is None else aux_width


def fcn_resnet50(
    classes: int = 21,
    *,
    aux_loss: bool = False,
    width: int = 512,
    aux_width: int | None = None,
    dropout: float = 0.1,
) -> Layer:
    """Returns FCN on ResNet-50 at a stride of 8: 32,957,013 parameters, 35,322,218 with ``aux_loss``.

    >>> jc.summary(fcn_resnet50(aux_loss=True), (1, 64, 64, 3)).parameters
    35322218
    """
    trunk, aux_width = _trunk(resnet50(dilate=DILATE), aux_loss, aux_width)
    return fcn(trunk, classes, width=width, aux_width=aux_width, dropout=dropout)


def fcn_resnet101(
    classes: int = 21,
    *,
    aux_loss: bool = False,
    width: int = 512,
    aux_width: int | None = None,
    dropout: float = 0.1,
) -> Layer:
    """Returns FCN on ResNet-101 at a stride of 8: 54,314,346 parameters with ``aux_loss``."""
    trunk, aux_width = _trunk(resnet101(dilate=DILATE), aux_loss, aux_width)
    return fcn(trunk, classes, width=width, aux_width=aux_width, dropout=dropout)


def deeplabv3_resnet50(
    classes: int = 21,
    *,
    aux_loss: bool = False,
    width: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    aux_width: int | None = None,
    dropout: float = 0.5,
) -> Layer:
    """Returns DeepLab v3 on ResNet-50 at a stride of 8: 42,004,074 parameters with ``aux_loss``."""
    trunk, aux_width = _trunk(resnet50(dilate=DILATE), aux_loss, aux_width)
    return deeplabv3(trunk, classes, width=width, rates=rates, aux_width=aux_width, dropout=dropout)


def deeplabv3_resnet101(
    classes: int = 21,
    *,
    aux_loss: bool = False,
    width: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    aux_width: int | None = None,
    dropout: float = 0.5,
) -> Layer:
    """Returns DeepLab v3 on ResNet-101 at a stride of 8: 60,996,202 parameters with ``aux_loss``."""
    trunk, aux_width = _trunk(resnet101(dilate=DILATE), aux_loss, aux_width)
    return deeplabv3(trunk, classes, width=width, rates=rates, aux_width=aux_width, dropout=dropout)


def deeplabv3_mobilenet_v3_large(
    classes: int = 21,
    *,
    aux_loss: bool = False,
    width: int = 256,
    rates: Sequence[int] = (12, 24, 36),
    dropout: float = 0.5,
) -> Layer:
    """Returns DeepLab v3 on MobileNet v3 large at a stride of 16: 11,029,328 parameters with ``aux_loss``."""
    features = dict(children_of(mobilenet_v3_large(dilate=True)))["features"]
    aux = {"4": "aux"} if aux_loss else {}
    trunk = backbone(features, {**aux, "16": "out"})
    return deeplabv3(trunk, classes, width=width, rates=rates, aux_width=10 if aux_loss else None, dropout=dropout)


@dataclass(frozen=True, repr=False)
class Lraspp(Composite):
    """The head of LR-ASPP, on feature maps "low" and "high"; created by `lraspp`."""

    call: ClassVar[str] = "lraspp_head"
    children: Children

    def arguments(self) -> list[str]:
        return [f"{name}={name_of(layer)}" for name, layer in self.children]

    def route(self, run: Run, x: Tree) -> Tree:
        layers = dict(self.children)
        low, high = map_of(x, "low"), map_of(x, "high")
        y = run.join(jnp.multiply, run("cbr", layers["cbr"], high), run("scale", layers["scale"], high))
        y = run("", Resize(batched_sizes(low, 2)), y)
        scores = run("low_classifier", layers["low_classifier"], low)
        return run.join(jnp.add, scores, run("high_classifier", layers["high_classifier"], y))


def lraspp(trunk: Layer, classes: int = 21, *, width: int = 128) -> Layer:
    """Returns LR-ASPP on any backbone: scores ``(batch, height, width, classes)`` for each pixel of the image.

    Args:
      trunk: made by `jaxconv.backbone`, with feature maps "low", the finer, and "high".
      classes: the number of classes, background included.
      width: the channels of the head.

    >>> trunk = jc.backbone(jc.models.resnet18(), {"layer2": "low", "layer4": "high"})
    >>> jc.summary(lraspp(trunk, 5), (1, 64, 64, 3)).rows[-1].output.shape
    (1, 64, 64, 5)
    """
    head = serial(
        cbr=serial(_conv(width, 1), BatchNorm(), jax.nn.relu),
        scale=serial(AdaptiveAvgPool(1), _conv(width, 1), jax.nn.sigmoid),
        low_classifier=Conv(classes, 1),
        high_classifier=Conv(classes, 1),
    )
    return resized(serial(backbone=trunk, classifier=Lraspp(head.children)))


def lraspp_mobilenet_v3_large(classes: int = 21, *, width: int = 128) -> Layer:
    """Returns LR-ASPP on MobileNet v3 large at a stride of 16: 3,221,538 parameters."""
    features = dict(children_of(mobilenet_v3_large(dilate=True)))["features"]
    return lraspp(backbone(features, {"4": "low", "16": "high"}), classes, width=width)


__all__ = [
    "deeplabv3",
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp",
    "lraspp_mobilenet_v3_large",
]
