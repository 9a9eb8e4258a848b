"""The classic ConvNet of CS231n, lecture 5: ``[(CONV-RELU)*N-POOL]*M-(FC-RELU)*K`` and scores.

Batch norm: Ioffe and Szegedy, 2015. Dropout: Srivastava et al., 2014.
"""

from collections.abc import Sequence

import jax

from jaxconv.compose import LayerLike, serial
from jaxconv.layer import Layer
from jaxconv.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool


def convnet(
    classes: int = 10,
    *,
    widths: Sequence[int] = (32, 64, 128),
    convs: int = 1,
    window: int = 3,
    hidden: Sequence[int] = (),
    norm: bool = True,
    dropout: float = 0.0,
) -> Layer:
    """Returns M blocks of N convolutions and a pool, then K hidden fully connected layers, then the scores.

    Args:
      classes: how many scores come out.
      widths: the filters of each block's convolutions: M numbers.
      convs: N, convolutions in a block.
      window: their window.
      hidden: the widths of the hidden fully connected layers: K numbers.
      norm: batch norm between each convolution and its ReLU.
      dropout: rate before each fully connected layer, the scores included; 0 puts none.

    >>> net = convnet(widths=(8, 16), hidden=(32,))
    >>> [name for name, _ in net.children]
    ['block1', 'block2', 'flatten', 'fc1', 'relu1', 'scores']
    """
    layers: dict[str, LayerLike] = {}
    for m, width in enumerate(widths, 1):
        block: dict[str, LayerLike] = {}
        for n in range(1, convs + 1):
            block[f"conv{n}"] = Conv(width, window, bias=not norm)
            if norm:
                block[f"bn{n}"] = BatchNorm()
            block[f"relu{n}"] = jax.nn.relu
        layers[f"block{m}"] = serial(**block, pool=MaxPool(2))
    layers["flatten"] = Flatten()
    for k, width in enumerate(hidden, 1):
        if dropout:
            layers[f"dropout{k}"] = Dropout(dropout)
        layers |= {f"fc{k}": Dense(width), f"relu{k}": jax.nn.relu}
    if dropout:
        layers["dropout"] = Dropout(dropout)
    return serial(**layers, scores=Dense(classes))


__all__ = ["convnet"]
