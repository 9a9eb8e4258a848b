"""Detectors of one stage on feature pyramids: RetinaNet and FCOS, with torchvision's names and shapes.

Lin et al., "Focal loss for dense object detection", 2017: RetinaNet. Zhang et al., "Bridging the gap between
anchor-based and anchor-free detection", 2020: its second version in torchvision. Tian et al., "FCOS: fully
convolutional one-stage object detection", 2019.
"""

import functools
import math
import re
from collections.abc import Mapping

import jax
from jax.nn import initializers

from jaxconv.backbones import backbone
from jaxconv.compose import heads, inline, serial, shared
from jaxconv.detect import FCOS, AnchorGrid, RetinaNet
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import Conv, GroupNorm, MaxPool
from jaxconv.models.resnet import resnet50
from jaxconv.pyramid import LE_CUN_UNIFORM, fpn

relu = jax.nn.relu
SMALL_NORMAL = initializers.normal(0.01)
# torchvision's older files have other names for convolutions that may have a norm now.
PUBLISHED_NAMES = (
    (re.compile(r"((?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (re.compile(r"(_head\.conv)\.(\d+)\.(weight|bias)$"), lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}"),
    (re.compile(r"(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
    (re.compile(r"(mask_head)\.mask_fcn(\d+)\.(weight|bias)$"), lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}"),
)
# A third of an octave between the sizes of a level, in whole pixels.
RETINANET = AnchorGrid(
    tuple((n, int(n * 2 ** (1.0 / 3)), int(n * 2 ** (2.0 / 3))) for n in (32, 64, 128, 256, 512)), stride=8
)
FCOS_CELLS = AnchorGrid(((8,), (16,), (32,), (64,), (128,)), (1.0,), stride=8)
GROUPS = GroupNorm(32)


def coarser(features: int = 256) -> Layer:
    """Returns the layer of RetinaNet's levels p6 and p7: convolutions with a stride of 2."""
    conv = functools.partial(Conv, features, 3, stride=2, padding=1, kernel_init=LE_CUN_UNIFORM)
    return backbone(serial(p6=conv(), relu=relu, p7=conv()), ["p6", "p7"])


def subsampled() -> Layer:
    """Returns the layer of R-CNN's level "pool": every second position of the coarsest level."""
    return backbone(serial(pool=MaxPool(1, stride=2)), ["pool"])


def pyramid(
    net: Layer,
    maps: Mapping[str, str],
    features: int = 256,
    *,
    norm: Layer | None = None,
    extra: Layer | None = None,
    extra_from_input: bool = False,
) -> Layer:
    """Returns a network's feature maps ("body") with a feature pyramid on them ("fpn"), torchvision's names.

    Args:
      net: a classifier whose layers the paths of ``maps`` name.
      maps: from paths to names, finest first.
      features, norm, extra, extra_from_input: as in `jaxconv.fpn`.

    >>> trunk = pyramid(jc.models.resnet18(), {"layer3": "0", "layer4": "1"}, 16, extra=subsampled())
    >>> {name: y.shape for name, y in jc.inspect.trace(trunk, (1, 64, 64, 3))[-1].output.items()}
    {'0': (1, 4, 4, 16), '1': (1, 2, 2, 16), 'pool': (1, 1, 1, 16)}
    """
    return serial(
        body=backbone(net, maps),
        fpn=fpn(list(maps.values()), features, norm=norm, extra=extra, extra_from_input=extra_from_input),
    )


def prior_bias(probability: float = 0.01) -> initializers.Initializer:
    """Returns the initializer of a bias by which each class has this probability at first."""
    return initializers.constant(-math.log((1 - probability) / probability))


def retinanet(
    trunk: Layer,
    classes: int = 91,
    *,
    width: int = 256,
    convs: int = 4,
    norm: Layer | None = None,
    anchors: AnchorGrid = RETINANET,
    box_loss: str = "l1",
) -> RetinaNet:
    """Returns RetinaNet on any feature pyramid.

    Args:
      trunk: a layer that returns an OrderedDict of feature maps, finest first, each with ``width`` channels.
      classes: the number of classes; torchvision counts an unused class 0 among them.
      width: the channels of the heads.
      convs: the number of 3x3 convolutions of each head before the last.
      norm: a layer after each of these, which then have no bias.
      anchors: the anchors of each feature map.
      box_loss: "l1" of the encoded boxes, or "giou".

    >>> body = jc.backbone(jc.models.resnet18(), {"layer3": "0", "layer4": "1"})
    >>> trunk = jc.serial(body=body, fpn=jc.fpn(["0", "1"], 16))
    >>> anchors = jc.detect.AnchorGrid(((64,), (128,)), stride=16)
    >>> net = retinanet(trunk, 3, width=16, convs=1, anchors=anchors)
    >>> output = jc.inspect.trace(net, (1, 64, 64, 3))[-1].output
    >>> [y.shape for y in output["classification_head"].values()]
    [(1, 4, 4, 9), (1, 2, 2, 9)]
    """
    count = anchors.counts[0]

    def head(**last: LayerLike) -> Layer:
        conv = Conv(width, padding=1, bias=norm is None, kernel_init=SMALL_NORMAL)
        block = serial(conv, *([] if norm is None else [norm]), relu)
        return serial(conv=serial(*[block] * convs), **last)

    scores = Conv(count * classes, padding=1, kernel_init=SMALL_NORMAL, bias_init=prior_bias())
    boxes = Conv(count * 4, padding=1, kernel_init=SMALL_NORMAL)
    both = heads(
        classification_head=shared(head(cls_logits=scores)),
        regression_head=shared(head(bbox_reg=boxes)),
    )
    return RetinaNet(serial(backbone=trunk, head=both), classes, anchors, box_loss)


_MAPS = {"layer2": "0", "layer3": "1", "layer4": "2"}


def retinanet_resnet50_fpn(
    classes: int = 91,
    *,
    width: int = 256,
    convs: int = 4,
    norm: Layer | None = None,
    anchors: AnchorGrid = RETINANET,
    box_loss: str = "l1",
) -> RetinaNet:
    """Returns torchvision's ``retinanet_resnet50_fpn``: 34,014,999 parameters, and 53,120 of norms.

    torchvision's weights were trained with frozen norms, which it does not count, whose eps is 0:
    ``jc.map_layers(net, lambda l: jc.frozen(jc.BatchNorm(eps=0.0)) if isinstance(l, jc.BatchNorm) else l)``.
    """
    trunk = pyramid(resnet50(), _MAPS, extra=coarser())
    return retinanet(trunk, classes, width=width, convs=convs, norm=norm, anchors=anchors, box_loss=box_loss)


def retinanet_resnet50_fpn_v2(
    classes: int = 91,
    *,
    width: int = 256,
    convs: int = 4,
    norm: Layer | None = GROUPS,
    anchors: AnchorGrid = RETINANET,
    box_loss: str = "giou",
) -> RetinaNet:
    """Returns torchvision's ``retinanet_resnet50_fpn_v2``, with group norm and GIoU loss: 38,198,935 parameters."""
    trunk = pyramid(resnet50(), _MAPS, extra=coarser(), extra_from_input=True)
    return retinanet(trunk, classes, width=width, convs=convs, norm=norm, anchors=anchors, box_loss=box_loss)


def fcos(
    trunk: Layer,
    classes: int = 91,
    *,
    width: int = 256,
    convs: int = 4,
    norm: Layer | None = GROUPS,
    anchors: AnchorGrid = FCOS_CELLS,
) -> FCOS:
    """Returns FCOS on any feature pyramid.

    Args:
      trunk: a layer that returns an OrderedDict of feature maps, finest first, each with ``width`` channels.
      classes: the number of classes; torchvision counts an unused class 0 among them.
      width: the channels of the heads.
      convs: the number of 3x3 convolutions of each head before the last.
      norm: a layer after each of these.
      anchors: for each feature map a square as large as its stride.

    >>> body = jc.backbone(jc.models.resnet18(), {"layer3": "0", "layer4": "1"})
    >>> trunk = jc.serial(body=body, fpn=jc.fpn(["0", "1"], 16))
    >>> net = fcos(trunk, 3, width=16, norm=None, anchors=jc.detect.AnchorGrid(((16,), (32,)), (1.0,), stride=16))
    >>> output = jc.inspect.trace(net, (1, 64, 64, 3))[-1].output
    >>> output["classification_head"]["0"].shape, output["regression_head"]["1"]["bbox_reg"].shape
    ((1, 4, 4, 3), (1, 2, 2, 4))
    """
    first = Conv(width, padding=1, kernel_init=SMALL_NORMAL)
    block: list[LayerLike] = [first, *([] if norm is None else [norm]), relu]
    conv = inline(serial(conv=serial(*block * convs)))
    scores = Conv(classes, padding=1, kernel_init=SMALL_NORMAL, bias_init=prior_bias())
    boxes = heads(
        bbox_reg=serial(inline(Conv(4, padding=1, kernel_init=SMALL_NORMAL)), relu),
        bbox_ctrness=Conv(1, padding=1, kernel_init=SMALL_NORMAL),
    )
    both = heads(
        classification_head=shared(serial(conv, inline(serial(cls_logits=scores)))),
        regression_head=shared(serial(conv, inline(boxes))),
    )
    return FCOS(serial(backbone=trunk, head=both), classes, anchors)


def fcos_resnet50_fpn(
    classes: int = 91,
    *,
    width: int = 256,
    convs: int = 4,
    norm: Layer | None = GROUPS,
    anchors: AnchorGrid = FCOS_CELLS,
) -> FCOS:
    """Returns torchvision's ``fcos_resnet50_fpn``: 32,269,600 parameters, and 53,120 of norms."""
    trunk = pyramid(resnet50(), _MAPS, extra=coarser())
    return fcos(trunk, classes, width=width, convs=convs, norm=norm, anchors=anchors)


__all__ = [
    "fcos",
    "fcos_resnet50_fpn",
    "retinanet",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
]
