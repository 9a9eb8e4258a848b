"""Convolutions and fully connected layers."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
from jax.nn import initializers

from jaxconv import geometry as geo
from jaxconv import ops
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.fields import Field, transpose_field
from jaxconv.geometry import IntOrTuple, Padding
from jaxconv.layer import Array, Params, Tree
from jaxconv.layers.base import (
    Initializer,
    Stored,
    Weighted,
    Windowed,
    batched_sizes,
    copied_fields,
    group_size,
    initializer,
)
from jaxconv.ops.arrays import window_tuple
from jaxconv.ops.draws import drawn
from jaxconv.ops.pad import check_mode

HE = initializers.he_normal()
# The kernel of a transposed convolution has its input channels last.
HE_TRANSPOSED = initializers.he_normal(in_axis=-1, out_axis=-2)
LECUN = initializers.lecun_normal()


def _check_groups(features: int, groups: int) -> None:
    if features % geo.as_int(groups, "groups", least=1):
        raise ArgumentError(f"groups must divide features, got {groups} groups for {features} features")


@dataclass(frozen=True, repr=False)
class Conv(Weighted, Windowed):
    """A convolution with learned filters: `jaxconv.conv` with params kernel ``(*window, in // groups, out)`` and bias.

    Args:
      features: output channels.
      window: an int is square, 2-D; the length of a tuple is the number of spatial axes.
      stride, padding, dilation, groups, pad_mode: as in `jaxconv.conv`.
      bias: whether there is one.
      kernel_init, bias_init: `jax.nn.initializers`; by default ``he_normal()`` and ``zeros``.

    >>> import jaxconv as jc
    >>> params, state = Conv(10, 5, padding=2).init(jax.random.key(0), (1, 32, 32, 3))
    >>> sum(leaf.size for leaf in params.values())
    760
    """

    keras: ClassVar[str] = "Conv{rank}D"
    features: int
    window: IntOrTuple = 3
    stride: IntOrTuple = field(default=1, kw_only=True)
    padding: Padding = field(default="SAME", kw_only=True)
    dilation: IntOrTuple = field(default=1, kw_only=True)
    groups: int = field(default=1, kw_only=True)
    pad_mode: str = field(default="zeros", kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    kernel_init: Initializer = initializer(HE)
    bias_init: Initializer = initializer(initializers.zeros)

    def options(self) -> dict[str, Any]:
        return super().options() | {"groups": self.groups, "pad_mode": self.pad_mode}

    def check(self) -> None:
        super().check()
        _check_groups(self.features, self.groups)
        check_mode(self.pad_mode, "pad_mode")

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        channels = None if x is None else group_size(x.shape[-1], self.groups)
        return self.kernel_and_bias(*window_tuple(self.window), channels, self.features)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.conv(x, **self.entries(params), **self.options())

    def geometry(self, x: Any) -> tuple[Field, ...]:
        fields = super().geometry(x)
        # The padding has elements of other positions.
        if self.pad_mode == "zeros" or not any(map(any, pairs := self.pairs(x))):
            return fields
        return copied_fields(fields, self.pad_mode, pairs, batched_sizes(x, self.rank))

    def macs(self, x: Any) -> int:
        taps = math.prod(window_tuple(self.window)) * x.shape[-1] // self.groups
        return math.prod(x.shape[: -1 - self.rank]) * math.prod(self.out(x)) * self.features * taps


@dataclass(frozen=True, repr=False)
class ConvTranspose(Weighted, Windowed):
    """A transposed convolution: `jaxconv.conv_transpose` with params kernel ``(*window, out // groups, in)`` and bias.

    Args:
      features: output channels.
      window: an int is square, 2-D.
      stride, padding, output_padding, dilation, groups: as in `jaxconv.conv_transpose`.
      bias: whether there is one.
      kernel_init, bias_init: by default ``he_normal`` with the inputs last, and ``zeros``.

    >>> y, _ = ConvTranspose(8, 4, stride=2).apply({"kernel": jnp.ones((4, 4, 8, 3)), "bias": jnp.zeros(8)}, {},
    ...                                            jnp.ones((1, 7, 7, 3)))
    >>> y.shape
    (1, 14, 14, 8)
    """

    keras: ClassVar[str] = "Conv{rank}DTranspose"
    features: int
    window: IntOrTuple = 3
    stride: IntOrTuple = field(default=1, kw_only=True)
    padding: Padding = field(default="SAME", kw_only=True)
    output_padding: IntOrTuple = field(default=0, kw_only=True)
    dilation: IntOrTuple = field(default=1, kw_only=True)
    groups: int = field(default=1, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    kernel_init: Initializer = initializer(HE_TRANSPOSED)
    bias_init: Initializer = initializer(initializers.zeros)

    def options(self) -> dict[str, Any]:
        return super().options() | {"groups": self.groups, "output_padding": self.output_padding}

    def check(self) -> None:
        super().check()
        _check_groups(self.features, self.groups)
        geo.transpose_padding(self.padding, *self.axes(), self.output_padding)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        if x is not None:
            group_size(x.shape[-1], self.groups)
        channels = None if x is None else x.shape[-1]
        return self.kernel_and_bias(*window_tuple(self.window), self.features // self.groups, channels)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.conv_transpose(x, **self.entries(params), **self.options())

    def geometry(self, x: Any) -> tuple[Field, ...]:
        window, strides, dilations = self.axes()
        pairs, _ = geo.transpose_padding(self.padding, window, strides, dilations, self.output_padding)
        return tuple(
            transpose_field(f, s, low, d) for f, s, (low, _), d in zip(window, strides, pairs, dilations, strict=True)
        )

    def macs(self, x: Any) -> int:
        return math.prod(x.shape) * math.prod(window_tuple(self.window)) * self.features // self.groups


def _per_position(init: Initializer, rank: int, key: Array, shape: Sequence[int], dtype: Any) -> Array:
    """Draws the kernels of all positions as one kernel with many features, so that ``init`` sees the true fan-in."""
    out, kernel, features = shape[:rank], shape[rank:-1], shape[-1]
    positions = math.prod(out)
    drawn_at_once = drawn(init, key, (*kernel, positions * features), dtype)
    return jnp.moveaxis(drawn_at_once.reshape(*kernel, positions, features), -2, 0).reshape(shape)


@dataclass(frozen=True, repr=False)
class ConvLocal(Weighted, Windowed):
    """A locally connected layer, with separate filters for each position: `jaxconv.conv_local`.

    Params are kernel ``(*output, *window, in, out)`` and bias ``(*output, out)``.

    Args:
      features: output channels.
      window: an int is square, 2-D.
      stride, padding, dilation: as in `jaxconv.conv_local`.
      bias: whether there is one.
      kernel_init, bias_init: by default ``he_normal()`` for each position, and ``zeros``.

    >>> params, _ = ConvLocal(8).init(jax.random.key(0), (1, 6, 6, 3))
    >>> params["kernel"].shape
    (4, 4, 3, 3, 3, 8)
    """

    features: int
    window: IntOrTuple = 3
    stride: IntOrTuple = field(default=1, kw_only=True)
    padding: Padding = field(default="VALID", kw_only=True)
    dilation: IntOrTuple = field(default=1, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    kernel_init: Initializer = initializer(HE)
    bias_init: Initializer = initializer(initializers.zeros)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        kernel, bias = None, None
        if x is not None:
            out = self.out(x)
            kernel, bias = (*out, *window_tuple(self.window), x.shape[-1], self.features), (*out, self.features)
        init = functools.partial(_per_position, self.kernel_init, self.rank)
        arrays = Stored("kernel", kernel, init), Stored("bias", bias, self.bias_init)
        return arrays if self.bias else arrays[:1]

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.conv_local(x, **self.entries(params), **self.options())

    def macs(self, x: Any) -> int:
        taps = math.prod(window_tuple(self.window)) * x.shape[-1]
        return math.prod(x.shape[: -1 - self.rank]) * math.prod(self.out(x)) * self.features * taps


@dataclass(frozen=True, repr=False)
class Dense(Weighted):
    """A fully connected layer over the last axis: `jaxconv.dense` with params kernel ``(in, out)`` and bias.

    Args:
      features: outputs.
      bias: whether there is one.
      kernel_init, bias_init: by default ``lecun_normal()`` and ``zeros``.

    >>> params, _ = Dense(10).init(jax.random.key(0), (1, 3072))
    >>> params["kernel"].shape, params["bias"].shape
    ((3072, 10), (10,))
    """

    keras: ClassVar[str] = "Dense"
    features: int
    bias: bool = field(default=True, kw_only=True)
    kernel_init: Initializer = initializer(LECUN)
    bias_init: Initializer = initializer(initializers.zeros)

    def accept(self, x: Tree) -> None:
        if len(x.shape) < 2:
            raise ShapeError(f"x must have a batch axis and a feature axis, got shape {x.shape}")

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return self.kernel_and_bias(None if x is None else x.shape[-1], self.features)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.dense(x, **self.entries(params))

    def macs(self, x: Any) -> int:
        return math.prod(x.shape) * self.features


__all__ = [
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "Dense",
]
