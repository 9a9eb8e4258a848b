"""Prediction for one image of any size, in overlapping tiles of one shape."""

import functools
from typing import Any

from jaxconv.equal_batches import Preprocess
from jaxconv.errors import shortens_tracebacks
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Layer
from jaxconv.tiles import tiled
from jaxconv.train.arguments import check_batch_size
from jaxconv.train.forward import forward


@shortens_tracebacks
def predict_tiled(
    net: Layer,
    params: Any,
    state: Any,
    image: Any,
    *,
    tile: IntOrTuple,
    overlap: IntOrTuple,
    blend: int = 0,
    batch_size: int = 8,
    preprocess: Preprocess | None = None,
) -> Any:
    """Returns the network's output for one image of any size, computed in overlapping tiles by one compiled program.

    Neighboring tiles meet in the middle of their overlap. If half of the overlap covers half of the receptive field,
    the result is that of the whole image. This includes the borders of the image, which are borders of tiles.

    Tiles begin at multiples of the greatest common divisor of ``tile`` and ``overlap``. Choose both as multiples of the
    network's stride, for example 8 for three pools, so that pools divide a tile as they divide the whole image. The
    last tiles end with the image if its size is such a multiple too; otherwise, and if the image is smaller than a
    tile, the image is padded by reflection (NumPy's mode "symmetric").

    Args:
      net: a layer whose output has the size of its input, or that size divided by a stride; it runs with
        ``train=False``.
      params: its parameters.
      state: its state.
      image: `(*spatial, channels)`, without a batch axis. The host cuts the tiles: a memory map is read tile by tile.
      tile: height and width of a tile, or one number for both.
      overlap: the least number of pixels that neighboring tiles share, less than ``tile``.
      blend: the width, at most ``overlap``, in which the outputs of neighboring tiles are averaged with linear weights,
        to hide seams where the overlap does not cover the receptive field. 0 averages nothing.
      batch_size: tiles in each call of the network.
      preprocess: ``preprocess(tiles)``, run inside the compiled program on a batch of tiles.

    Returns:
      NumPy arrays `(*spatial, ...)` in the structure of the network's output, without a batch axis; an output with
      stride s has `ceil(size / s)` elements along an axis.

    Raises:
      ShapeError: the image has no spatial axis or no pixel, or an output has another size than the tile divided by a
        stride.
      ArgumentError: ``tile``, ``overlap`` or ``blend`` is out of range.
      DTypeError: ``blend`` is given, and an output is not floating-point.

    >>> import numpy as np
    >>> net = jc.serial(jc.Conv(4), jax.nn.relu, jc.Conv(2))
    >>> params, state = net.init(jax.random.key(0), (1, 32, 32, 3))
    >>> image = np.ones((100, 70, 3), np.float32)
    >>> predict_tiled(net, params, state, image, tile=32, overlap=8).shape
    (100, 70, 2)
    """
    run = functools.partial(forward, net, preprocess, params, state)
    size = check_batch_size(batch_size)
    return tiled(run, image, tile=tile, overlap=overlap, blend=blend, batch_size=size, equal=True)


__all__ = ["predict_tiled"]
