"""MTCNN: Zhang, Zhang, Li and Qiao, "Joint face detection and alignment using multitask cascaded networks", 2016.

Three networks, each for the faces that the one before finds. Names and shapes are those of the package
facenet-pytorch, whose weights `jaxconv.weights.from_torch` reads. Images are ``(x - 127.5) / 128``.
`jaxconv.detect.find_faces` runs them one after another.
"""

import jax
import jax.numpy as jnp

from jaxconv.compose import heads, inline, serial
from jaxconv.layer import Array, Layer, LayerLike
from jaxconv.layers import Conv, Dense, MaxPool, PReLU

PRELU = PReLU(shared=False)


def columns_first(x: Array) -> Array:
    """Flattens column by column, as the networks' authors do; in each position channels are last."""
    return jnp.swapaxes(x, -3, -2).reshape(*x.shape[:-3], -1)


def _trunk(rows: list[tuple[int, int, MaxPool | None]]) -> dict[str, LayerLike]:
    """Returns convolutions without padding, each with a PReLU and perhaps a pool."""
    layers: dict[str, LayerLike] = {}
    for i, (features, window, pool) in enumerate(rows, 1):
        layers |= {f"conv{i}": Conv(features, window, padding=0), f"prelu{i}": PRELU}
        layers |= {} if pool is None else {f"pool{i}": pool}
    return layers


def _pool(window: int) -> MaxPool:
    return MaxPool(window, stride=2, ceil_mode=True)


def _last(trunk: dict[str, LayerLike], scores: str, **heads_: LayerLike) -> Layer:
    """Returns a trunk with heads at its level; ``scores`` is the name of the one that a softmax follows."""
    ends = {name: serial(inline(head), jax.nn.softmax) if name == scores else head for name, head in heads_.items()}
    return serial(inline(serial(**trunk)), inline(heads(**ends)))


def pnet() -> Layer:
    """Returns the proposal network: 6,632 parameters. It takes images of any size from 12x12.

    The output is an OrderedDict of conv4_1 ``(batch, height, width, 2)``, the probabilities of no face and of a face in
    the square of 12 pixels at twice the position, and conv4_2 ``(batch, height, width, 4)``, offsets of its corners in
    sides of the square.

    >>> jc.summary(pnet(), (1, 12, 12, 3)).parameters
    6632
    """
    trunk = _trunk([(10, 3, _pool(2)), (16, 3, None), (32, 3, None)])
    return _last(trunk, "conv4_1", conv4_1=Conv(2, 1), conv4_2=Conv(4, 1))


def rnet() -> Layer:
    """Returns the refinement network for images of 24x24: 100,178 parameters.

    The output is an OrderedDict of dense5_1 ``(batch, 2)``, the probabilities, and dense5_2 ``(batch, 4)``, offsets.

    >>> jc.summary(rnet(), (1, 24, 24, 3)).parameters
    100178
    """
    trunk = _trunk([(28, 3, _pool(3)), (48, 3, _pool(3)), (64, 2, None)])
    trunk |= {"flatten": columns_first, "dense4": Dense(128), "prelu4": PRELU}
    return _last(trunk, "dense5_1", dense5_1=Dense(2), dense5_2=Dense(4))


def onet() -> Layer:
    """Returns the output network for images of 48x48: 389,040 parameters.

    The output is an OrderedDict of dense6_1 ``(batch, 2)``, the probabilities, dense6_2 ``(batch, 4)``, offsets, and
    dense6_3 ``(batch, 10)``, x of eyes, nose and corners of the mouth, then their y, in sides of the image.

    >>> jc.summary(onet(), (1, 48, 48, 3)).parameters
    389040
    """
    trunk = _trunk([(32, 3, _pool(3)), (64, 3, _pool(3)), (64, 3, _pool(2)), (128, 2, None)])
    trunk |= {"flatten": columns_first, "dense5": Dense(256), "prelu5": PRELU}
    return _last(trunk, "dense6_1", dense6_1=Dense(2), dense6_2=Dense(4), dense6_3=Dense(10))


__all__ = ["onet", "pnet", "rnet"]
