"""What the families share: a convolution with its norm and activation, squeeze and excitation, the last layers."""

from collections.abc import Callable
from typing import Any

import jax
from jax.nn import initializers

from jaxconv.compose import LayerLike, gate, serial
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Layer
from jaxconv.layers import AdaptiveAvgPool, BatchNorm, Conv

Activation = Callable[[Any], Any]

# He et al., 2015, by the filters that a unit feeds: what torchvision draws kernels from.
FAN_OUT = initializers.variance_scaling(2.0, "fan_out", "normal")


def conv_norm_act(
    features: int,
    window: IntOrTuple = 3,
    *,
    stride: IntOrTuple = 1,
    dilation: int = 1,
    groups: int = 1,
    norm: Layer | None = None,
    act: Activation | None = jax.nn.relu,
    kernel_init: Any = FAN_OUT,
) -> Layer:
    """Returns a convolution "0" that keeps the size, but for its stride, its norm "1" and its activation "2".

    Torchvision's ``Conv2dNormActivation``, padding ``dilation (window - 1) / 2`` on both sides.
    """
    windows = (window,) * 2 if isinstance(window, int) else window
    padding = tuple(dilation * (f - 1) // 2 for f in windows)
    conv = Conv(
        features,
        windows if len(set(windows)) > 1 or len(windows) != 2 else windows[0],
        stride=stride,
        padding=padding[0] if len(set(padding)) == 1 else padding,
        dilation=dilation,
        groups=groups,
        bias=False,
        kernel_init=kernel_init,
    )
    layers: list[LayerLike] = [conv, BatchNorm() if norm is None else norm]
    return serial(*layers, *([] if act is None else [act]))


def squeeze_excite(
    features: int, squeezed: int, *, act: Activation = jax.nn.relu, scale: Activation = jax.nn.sigmoid
) -> Layer:
    """Returns the gate of Hu et al., 2018, with torchvision's names fc1 and fc2.

    Args:
      features: the channels of its input.
      squeezed: the channels between the two layers.
      act: after the first.
      scale: after the second.
    """
    return gate(serial(avgpool=AdaptiveAvgPool(1), fc1=Conv(squeezed, 1), act=act, fc2=Conv(features, 1), scale=scale))


def divisible(value: float, divisor: int = 8) -> int:
    """Returns the multiple of ``divisor`` that is nearest to ``value`` and not below nine tenths of it.

    >>> divisible(30), divisible(32 * 0.35)
    (32, 16)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
