"""The networks that torchvision has too, one row each, and weights for them that need no file.

Names and shapes of all are recorded by `tests.record_torchvision`, and logits of the smallest of each family.
"""

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
      theirs: where torchvision's function is, below ``torchvision.models``.
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
)


def tensors(shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Returns an array for each of torch's names, drawn from the name, so that activations neither grow nor vanish."""
    return {name: _tensor(name, tuple(shape)).astype(dtype) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return random.uniform(0.5, 1.5, shape)
    if name.endswith("layer_scale"):
        return random.uniform(0.2, 0.4, shape)
    if len(shape) > 1:
        return random.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))
    if name.endswith("weight"):
        return random.uniform(0.7, 1.3, shape)
    return random.normal(size=shape) * 0.1


def images(shape: tuple[int, ...]) -> np.ndarray:
    """Returns images, channels last, the same each time."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)
