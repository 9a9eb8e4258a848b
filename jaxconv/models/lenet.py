"""LeNet-5: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998."""

import jax.numpy as jnp

from jaxconv.compose import serial
from jaxconv.layer import Layer
from jaxconv.layers import AvgPool, Conv, Dense, Flatten


def lenet5(classes: int = 10, *, padding: int = 2) -> Layer:
    """Returns LeNet-5 for gray images of 28x28, padded to the 32x32 of the paper. Other sizes work, from 12x12 on.

    The usual modern form: the second convolution uses all feature maps of the first, the pools have no weights, and the
    last layer is linear. 61,706 parameters on 28x28x1.

    Args:
      classes: the number of classes.
      padding: zeros around the image; 0 for images of 32x32.

    >>> str(jc.summary(lenet5(), (1, 28, 28, 1))).splitlines()[-1].split(",")[:2]
    ['61', '706 parameters']
    """
    return serial(
        conv1=Conv(6, 5, padding=padding),
        tanh1=jnp.tanh,
        pool1=AvgPool(2),
        conv2=Conv(16, 5, padding="VALID"),
        tanh2=jnp.tanh,
        pool2=AvgPool(2),
        flatten=Flatten(channels_first=True),
        fc1=Dense(120),
        tanh3=jnp.tanh,
        fc2=Dense(84),
        tanh4=jnp.tanh,
        scores=Dense(classes),
    )


__all__ = ["lenet5"]
