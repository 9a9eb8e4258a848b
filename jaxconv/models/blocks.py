"""Building blocks: convolution with norm and activation, squeeze and excitation, inverted bottleneck, shortcuts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxconv.compose import gate, residual, serial
from jaxconv.compose.structure import Serial
from jaxconv.errors import ArgumentError
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Layer, LayerLike
from jaxconv.layers import AdaptiveAvgPool, BatchNorm, Conv, DropPath

Activation = Callable[[Any], Any]

# He et al., 2015, scaled by the number of output connections: torchvision's initializer of kernels.
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
) -> Serial:
    """Returns a convolution "0", which keeps the size at stride 1, with its norm "1" and its activation "2".

    Equals torchvision's ``Conv2dNormActivation``, with a padding of ``dilation (window - 1) / 2`` on both sides.
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
      features: the channels of the input.
      squeezed: the channels between the two layers.
      act: the activation after the first layer.
      scale: the activation after the second layer.
    """
    return gate(serial(avgpool=AdaptiveAvgPool(1), fc1=Conv(squeezed, 1), act=act, fc2=Conv(features, 1), scale=scale))


def inverted_bottleneck(
    features: int,
    expanded: int,
    window: int = 3,
    *,
    expand: bool = True,
    stride: int = 1,
    dilation: int = 1,
    norm: Layer | None = None,
    act: Activation = jax.nn.relu,
    excite: Layer | None = None,
) -> list[Layer]:
    """Returns the layers of Sandler et al., 2018: an expanding 1x1, a depthwise, and a linear 1x1 convolution.

    Args:
      features: the channels of the output.
      expanded: the channels of the depthwise convolution.
      window, stride, dilation: arguments of the depthwise convolution.
      expand: whether to add the expanding convolution; without it the input has ``expanded`` channels.
      norm, act: the norm and activation of each convolution; the last convolution has no activation.
      excite: a layer after the depthwise convolution.
    """
    widen = [conv_norm_act(expanded, 1, norm=norm, act=act)] if expand else []
    depthwise = conv_norm_act(expanded, window, stride=stride, dilation=dilation, groups=expanded, norm=norm, act=act)
    narrow = conv_norm_act(features, 1, norm=norm, act=None)
    return [*widen, depthwise, *([] if excite is None else [excite]), narrow]


def flat(*layers: Layer) -> list[Layer]:
    """Returns the layers in a list, with the children of each `serial` in place of the serial.

    >>> flat(jc.serial(jc.Conv(8), jc.BatchNorm()), jc.Identity())
    [Conv(features=8), BatchNorm(), Identity()]
    """
    rows = (layer.children if isinstance(layer, Serial) else (("", layer),) for layer in layers)
    return [layer for row in rows for _, layer in row]


def drop_rates(drop_path: float, blocks: int) -> Iterator[float]:
    """Yields the drop rate of each block, which increases linearly from 0 to ``drop_path`` at the last block.

    >>> list(drop_rates(0.5, 3))
    [0.0, 0.25, 0.5]
    """
    if not 0 <= drop_path <= 1:
        raise ArgumentError(f"drop_path must be between 0 and 1, got {drop_path}")
    return (drop_path * i / max(1, blocks - 1) for i in range(blocks))


def with_shortcut(shortcut: bool, drop_path: float = 0.0, **body: LayerLike) -> Layer:
    """Returns the layers of ``body`` in sequence, or with a shortcut and the drop path ``stochastic_depth``."""
    if not 0 <= drop_path <= 1:
        raise ArgumentError(f"drop_path must be between 0 and 1, got {drop_path}")
    if not shortcut:
        return serial(**body)
    noise = {"stochastic_depth": DropPath(drop_path)} if drop_path else {}
    return residual(serial(**body, **noise))


def scaled(features: int, width: float, divisor: int = 8) -> int:
    """Returns ``features`` times ``width``, rounded by `divisible`.

    >>> scaled(32, 1.4), scaled(32, 0.1)
    (48, 8)
    """
    if not width > 0:
        raise ArgumentError(f"width must be positive, got {width}")
    return divisible(features * width, divisor)


def strides_for(strides: Sequence[int], small_images: bool) -> list[int]:
    """Returns the strides of the stages after a stem; for small images the first stride that is not 1 becomes 1.

    >>> strides_for((1, 2, 2), True)
    [1, 1, 2]
    """
    skipped = next((i for i, stride in enumerate(strides) if stride > 1), None) if small_images else None
    return [1 if i == skipped else stride for i, stride in enumerate(strides)]


def divisible(value: float, divisor: int = 8) -> int:
    """Returns the multiple of ``divisor`` that is nearest to ``value`` and at least 0.9 times ``value``.

    >>> divisible(30), divisible(32 * 0.35)
    (32, 16)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
