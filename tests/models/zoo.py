"""The networks that torchvision has too, one row each, and weights for them that need no file.

Names and shapes of all are recorded by `tests.record_torchvision`, and logits of the smallest of each family.
"""

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Known:
    """A network of torchvision.

    Attributes:
      name: the function's, in torchvision and in `jaxconv.models`.
      family: the file in `jaxconv.models`.
      size: of the test's images, ``(*spatial)``.
      smallest: whether it stands for its family where one is enough.
      theirs: the package below ``torchvision.models`` in which torchvision's function is.
      options, their_options: keyword arguments.
    """

    name: str
    family: str
    size: tuple[int, ...] = (64, 64)
    smallest: bool = False
    theirs: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    their_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return (2, *self.size, 3)

    def __str__(self) -> str:
        return self.name


def _family(family: str, names: str, **kwargs: Any) -> tuple[Known, ...]:
    """Returns the rows of one family; the first is its smallest."""
    return tuple(Known(name, family, smallest=i == 0, **kwargs) for i, name in enumerate(names.split()))


KNOWN = (
    *_family(
        "resnet",
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d "
        "wide_resnet50_2 wide_resnet101_2",
    ),
    *_family(
        "efficientnet",
        "efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4 efficientnet_b5 "
        "efficientnet_b6 efficientnet_b7 efficientnet_v2_s efficientnet_v2_m efficientnet_v2_l",
    ),
    *_family("mobilenet", "mobilenet_v3_small mobilenet_v2 mobilenet_v3_large"),
    *_family("mnasnet", "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3"),
    *_family("shufflenet", "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0"),
    *_family(
        "regnet",
        "regnet_y_400mf regnet_y_800mf regnet_y_1_6gf regnet_y_3_2gf regnet_y_8gf regnet_y_16gf regnet_y_32gf "
        "regnet_y_128gf regnet_x_400mf regnet_x_800mf regnet_x_1_6gf regnet_x_3_2gf regnet_x_8gf regnet_x_16gf "
        "regnet_x_32gf",
    ),
    *_family("convnext", "convnext_tiny convnext_small convnext_base convnext_large"),
    *_family(
        "segmentation",
        "deeplabv3_mobilenet_v3_large fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_resnet101",
        size=(24, 17),
        theirs="segmentation",
        options={"aux_loss": True},
        their_options={"aux_loss": True, "weights_backbone": None},
    ),
    Known(
        "lraspp_mobilenet_v3_large",
        "segmentation",
        (24, 17),
        theirs="segmentation",
        their_options={"weights_backbone": None},
    ),
    *_family("video", "r3d_18 mc3_18 r2plus1d_18", size=(4, 32, 32), theirs="video"),
    *_family("alexnet", "alexnet"),
    *_family("vgg", "vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn", size=(32, 32)),
    *_family("squeezenet", "squeezenet1_1 squeezenet1_0", size=(32, 32)),
    *_family("densenet", "densenet121 densenet161 densenet169 densenet201", size=(32, 32)),
    *_family("inception", "googlenet", size=(32, 32), their_options={"init_weights": False}),
    *_family("inception", "inception_v3", size=(299, 299), their_options={"init_weights": False}),
)


def tensors(shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Returns an array for each of torch's names, drawn from the name, so that activations neither grow nor vanish."""
    return {name: _tensor(name, tuple(shape)).astype(dtype) for name, shape in shapes.items()}


# The blocks of EfficientNet, ConvNeXt, RegNet and MNASNet after the first of a stage: all have a shortcut. Were each as
# large as what it is added to, dozens of them would make a difference in the last bit as large as the output.
_ADDED = re.compile(r"\d[.-][1-9]\d*\.(block|f|layers)\.")
# What opens the gates of squeeze and excitation, so that behind a dozen of them the image still matters.
_GATE = "fc2.bias"


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape)
    if name.endswith("layer_scale"):
        return random.uniform(0.2, 0.4, shape)
    if len(shape) > 1:
        gain = 0.5 if _ADDED.search(name) else 2
        return random.normal(size=shape) * np.sqrt(gain / np.prod(shape[1:]))
    if name.endswith("weight"):
        return random.uniform(0.7, 1.3, shape)
    return random.normal(size=shape) * 0.1 + 2 * name.endswith(_GATE)


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Returns images, channels last, the same each time."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
