"""What the families share: a convolution with its norm and activation, squeeze and excitation, the last layers."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.nn import initializers

from jaxconv.compose import LayerLike, Serial, gate, residual, serial
from jaxconv.errors import ShapeError
from jaxconv.geometry import IntOrTuple
from jaxconv.layer import Layer
from jaxconv.layers import AdaptiveAvgPool, BatchNorm, Conv, DropPath

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
) -> Serial:
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
    """Returns the layers of Sandler et al., 2018: a 1x1 convolution that widens, a depthwise one, a linear 1x1 one.

    Args:
      features: the channels that it gives.
      expanded: the channels of the depthwise convolution.
      window, stride, dilation: the depthwise convolution's.
      expand: whether there is a convolution that widens; without one the input has ``expanded`` channels.
      norm, act: of each convolution; the last has no activation.
      excite: stands after the depthwise convolution.
    """
    widen = [conv_norm_act(expanded, 1, norm=norm, act=act)] if expand else []
    depthwise = conv_norm_act(expanded, window, stride=stride, dilation=dilation, groups=expanded, norm=norm, act=act)
    narrow = conv_norm_act(features, 1, norm=norm, act=None)
    return [*widen, depthwise, *([] if excite is None else [excite]), narrow]


def flat(*layers: Layer) -> list[Layer]:
    """Returns the layers one after the other, those inside rows made by `serial` in place of the rows.

    >>> flat(jc.serial(jc.Conv(8), jc.BatchNorm()), jc.Identity())
    [Conv(features=8), BatchNorm(), Identity()]
    """
    rows = (layer.children if isinstance(layer, Serial) else (("", layer),) for layer in layers)
    return [layer for row in rows for _, layer in row]


def drop_rates(drop_path: float, blocks: int) -> Iterator[float]:
    """Yields the rate at which each block is dropped: it grows linearly from 0 to ``drop_path`` at the last one.

    >>> list(drop_rates(0.5, 3))
    [0.0, 0.25, 0.5]
    """
    if not 0 <= drop_path <= 1:
        raise ShapeError(f"drop_path must lie between 0 and 1, got {drop_path}")
    return (drop_path * i / max(1, blocks - 1) for i in range(blocks))


def with_shortcut(shortcut: bool, drop_path: float = 0.0, **body: LayerLike) -> Layer:
    """Returns the layers of ``body`` in a row, and with a shortcut around them the noise ``stochastic_depth``."""
    if not 0 <= drop_path <= 1:
        raise ShapeError(f"drop_path must lie between 0 and 1, got {drop_path}")
    if not shortcut:
        return serial(**body)
    noise = {"stochastic_depth": DropPath(drop_path)} if drop_path else {}
    return residual(serial(**body, **noise))


def scaled(features: int, width: float, divisor: int = 8) -> int:
    """Returns how many channels ``features`` become in a network ``width`` times as wide: `divisible`.

    >>> scaled(32, 1.4), scaled(32, 0.1)
    (48, 8)
    """
    if not width > 0:
        raise ShapeError(f"width must be positive, got {width}")
    return divisible(features * width, divisor)


def strides_for(strides: Sequence[int], small_images: bool) -> list[int]:
    """Returns the strides of the stages after a stem; for small images the first that is not 1 becomes 1.

    >>> strides_for((1, 2, 2), True)
    [1, 1, 2]
    """
    skipped = next((i for i, stride in enumerate(strides) if stride > 1), None) if small_images else None
    return [1 if i == skipped else stride for i, stride in enumerate(strides)]


def divisible(value: float, divisor: int = 8) -> int:
    """Returns the multiple of ``divisor`` that is nearest to ``value`` and not below nine tenths of it.

    >>> divisible(30), divisible(32 * 0.35)
    (32, 16)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
