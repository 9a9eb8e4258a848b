"""Faces: descriptors and 68 landmarks.

King, "dlib-ml: a machine learning toolkit", 2009: its descriptor of 2017 is a residual network. Layers have
the names of the package face-api, which has the weights of this network and of a small network of landmarks.
"""

import jax

from jaxconv.compose import inline, residual, serial
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AvgPool, Conv, Dense, GlobalAvgPool, MaxPool, Pad
from jaxconv.models.resnet import adding_channels

# The stages: filters, blocks after the one that subsamples, and whether that one adds a row and a column of zeros,
# where its convolution without padding returns one less than its pool.
STAGES = ((64, 3, False), (128, 2, False), (256, 2, True))


def _block(features: int) -> Layer:
    body = serial(conv1=Conv(features), relu=jax.nn.relu, conv2=Conv(features))
    return residual(body, after=jax.nn.relu)


def _subsampling(features: int, more_channels: bool, more_rows: bool) -> Layer:
    body: dict[str, LayerLike] = {
        "conv1": Conv(features, stride=2, padding=0),
        "relu": jax.nn.relu,
        "conv2": Conv(features),
    }
    body |= {"pad": Pad([(0, 1), (0, 1)])} if more_rows else {}
    pool = AvgPool(2)
    shortcut = serial(pool, adding_channels(features)) if more_channels else pool
    return residual(serial(**body), shortcut, after=jax.nn.relu)


def face_descriptor() -> Layer:
    """Returns dlib's network of face descriptors, for images of 150x150: 5,607,488 parameters.

    The input is RGB from 0 to 255, less (122.782, 117.001, 104.298), divided by 255. The output is ``(batch, 128)``:
    the distance of two descriptors of one person is usually less than 0.6.

    face-api scales the channels after each convolution. This network has no such layers: multiply the kernel and the
    bias by the scale, and add the offset to the bias, as `experiments.pretrained` does.

    >>> jc.summary(face_descriptor(), (1, 150, 150, 3)).parameters
    5607488
    """
    layers: dict[str, LayerLike] = {"conv32_down": Conv(32, 7, stride=2, padding=0), "relu": jax.nn.relu}
    layers |= {"pool": MaxPool(3, stride=2)}
    layers |= {f"conv32_{i}": _block(32) for i in (1, 2, 3)}
    for features, blocks, more_rows in STAGES:
        layers[f"conv{features}_down"] = _subsampling(features, True, more_rows)
        layers |= {f"conv{features}_{i}": _block(features) for i in range(1, blocks + 1)}
    layers |= {"conv256_down_out": _subsampling(256, False, True), "mean": GlobalAvgPool()}
    return serial(**layers, fc=Dense(128, bias=False))


def _separable(channels: int, features: int, stride: int = 1) -> Layer:
    return serial(depthwise=Conv(channels, stride=stride, groups=channels, bias=False), pointwise=Conv(features, 1))


def _dense(channels: int, features: int) -> Layer:
    """Returns a block in which the input of each convolution is the sum of the outputs of all before it."""
    first = Conv(features, stride=2) if channels == 3 else _separable(channels, features, 2)
    parts: list[Layer] = [serial(conv0=first, relu0=jax.nn.relu)]
    for i in (1, 2, 3):
        body: dict[str, LayerLike] = {f"relu{i}": jax.nn.relu, f"conv{i}": _separable(features, features)}
        parts.append(residual(serial(**body)))
    return serial(*map(inline, parts), relu4=jax.nn.relu)


def face_landmarks() -> Layer:
    """Returns face-api's network of 68 landmarks, for images of 112x112: 356,840 parameters.

    The input is as for `face_descriptor`. The output is ``(batch, 136)``: x and y of each landmark, in sides of the
    image.

    >>> jc.summary(face_landmarks(), (1, 112, 112, 3)).parameters
    356840
    """
    widths = (3, 32, 64, 128, 256)
    blocks = {f"dense{i}": _dense(*widths[i : i + 2]) for i in range(4)}
    return serial(**blocks, mean=GlobalAvgPool(), fc=Dense(136))


__all__ = ["face_descriptor", "face_landmarks"]
