"""Normalization layers, and layers that scale channels."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import lax

from jaxconv import geometry as geo
from jaxconv import ops
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Params, State, Tree
from jaxconv.layers.base import Geometry, Leaf, Ranked, Stored, group_size, whole_fields
from jaxconv.ops.arrays import to_rank
from jaxconv.ops.norm import check_eps


def _affine(layer: Any, x: Any) -> tuple[Stored, ...]:
    """Returns the declaration of the scale and the bias that a norm has."""
    shape = (None if x is None else x.shape[-1],)
    arrays = Stored("scale", shape, 1.0, torch="weight"), Stored("bias", shape, 0.0)
    return tuple(array for array in arrays if getattr(layer, array.name))


@dataclass(frozen=True, repr=False)
class BatchNorm(Leaf):
    """Normalizes each channel by the batch's statistics in training, by running ones otherwise: `jaxconv.batch_norm`.

    Params are scale and bias; state is mean and var, float32 for any type of x. Like torch, training normalizes by the
    biased variance and averages the unbiased variance.

    Args:
      momentum: the weight of the new value in the running statistics, as in torch; 1 minus the momentum of Keras and
        Flax.
      eps: a number added to the variance.
      axis_name: names of mapped axes that the batch's statistics are averaged over too.
      scale, bias: whether the layer has a scale, and a bias.

    >>> x = jnp.array([[1.0], [3.0]])
    >>> layer = BatchNorm(eps=0.0)
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> y, state = layer.apply(params, state, x, train=True)
    >>> y[:, 0], state["mean"], state["var"]
    (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32), Array([1.1], dtype=float32))
    """

    keras: ClassVar[str] = "BatchNormalization"
    training_only: ClassVar[tuple[str, ...]] = ("momentum", "axis_name")
    momentum: float = 0.1
    eps: float = 1e-5
    axis_name: Any = None
    scale: bool = field(default=True, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def check(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ArgumentError(f"momentum must be between 0 and 1, got {self.momentum}")
        check_eps(self.eps)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        shape = (None if x is None else x.shape[-1],)
        mean = Stored("mean", shape, 0.0, "state", torch="running_mean")
        var = Stored("var", shape, 1.0, "state", torch="running_var", least=0.0)
        return (*_affine(self, x), mean, var)

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        affine = self.entries(params, state)
        running = {name: affine.pop(name) for name in ("mean", "var")}
        if not train:
            return ops.batch_norm(x, **running, **affine, eps=self.eps), running
        mean, var = ops.batch_statistics(x, axis_name=self.axis_name)
        count = math.prod(x.shape[:-1]) * (1 if self.axis_name is None else lax.axis_size(self.axis_name))
        if count < 2:
            raise ShapeError(f"x must have more than one value for each channel in training, got shape {x.shape}")
        new = {"mean": mean, "var": var * (count / (count - 1))}
        moved = {
            name: (old + self.momentum * (lax.stop_gradient(new[name]) - old)).astype(old.dtype)
            for name, old in running.items()
        }
        return ops.batch_norm(x, mean, var, **affine, eps=self.eps), moved


@dataclass(frozen=True, repr=False)
class LayerNorm(Leaf):
    """Normalizes the channels of each position: `jaxconv.layer_norm` with params scale and bias.

    >>> LayerNorm(scale=False, bias=False, eps=0.0).apply({}, {}, jnp.array([[1.0, 3.0]]))[0]
    Array([[-1.,  1.]], dtype=float32)
    """

    keras: ClassVar[str] = "LayerNormalization"
    eps: float = 1e-5
    scale: bool = field(default=True, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def check(self) -> None:
        check_eps(self.eps)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return _affine(self, x)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.layer_norm(x, **self.entries(params), eps=self.eps)


class _SpatialNorm(Ranked):
    """The base class of normalizations of each example over spatial axes."""

    def values(self, x: Any) -> int:
        """Returns the number of values in each mean."""
        raise NotImplementedError

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        self.accept(x)
        if train and self.values(x) == 1:
            raise ShapeError(f"x must have more than one value for each mean in training, got shape {x.shape}")
        return self.forward(params, x), {}

    def geometry(self, x: Any) -> Geometry:
        return whole_fields(x, self.rank)  # Through the statistics each position depends on the whole input.


@dataclass(frozen=True, repr=False)
class GroupNorm(_SpatialNorm):
    """Normalizes each group of channels of each example over space: `jaxconv.group_norm` with params scale and bias.

    Training raises ShapeError where a group has a single value, since its output is then the bias for any x.

    >>> GroupNorm(2).apply(*GroupNorm(2).init(jax.random.key(0), (1, 4, 4, 8)), jnp.ones((1, 4, 4, 8)))[0].shape
    (1, 4, 4, 8)
    """

    keras: ClassVar[str] = "GroupNormalization"
    groups: int
    eps: float = 1e-5
    scale: bool = field(default=True, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def check(self) -> None:
        super().check()
        check_eps(self.eps)
        geo.as_int(self.groups, "groups", least=1)

    def accept(self, x: Tree) -> None:
        super().accept(x)
        group_size(x.shape[-1], self.groups)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return _affine(self, x)

    def values(self, x: Any) -> int:
        return math.prod(x.shape[-1 - self.rank : -1]) * group_size(x.shape[-1], self.groups)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.group_norm(x, self.groups, **self.entries(params), eps=self.eps, rank=self.rank)


@dataclass(frozen=True, repr=False)
class InstanceNorm(_SpatialNorm):
    """Normalizes each channel of each example over space: `jaxconv.instance_norm` with params scale and bias.

    Training raises ShapeError where x has one spatial position, since the output is then the bias for any x.

    >>> layer = InstanceNorm(scale=False, bias=False)
    >>> layer.apply({}, {}, jnp.ones((1, 4, 4, 8)))[0].shape
    (1, 4, 4, 8)
    """

    eps: float = 1e-5
    scale: bool = field(default=True, kw_only=True)
    bias: bool = field(default=True, kw_only=True)

    def check(self) -> None:
        super().check()
        check_eps(self.eps)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return _affine(self, x)

    def values(self, x: Any) -> int:
        return math.prod(x.shape[-1 - self.rank : -1])

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.instance_norm(x, **self.entries(params), eps=self.eps, rank=self.rank)


@dataclass(frozen=True, repr=False)
class LocalResponseNorm(Leaf):
    """Divides by the energy of neighboring channels: `jaxconv.local_response_norm`, with its arguments.

    >>> LocalResponseNorm(5).apply({}, {}, jnp.ones((1, 4, 4, 8)))[0].shape
    (1, 4, 4, 8)
    """

    size: int
    alpha: float = field(default=1e-4, kw_only=True)
    beta: float = field(default=0.75, kw_only=True)
    k: float = field(default=1.0, kw_only=True)

    def check(self) -> None:
        geo.as_int(self.size, "size", least=1)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.local_response_norm(x, self.size, alpha=self.alpha, beta=self.beta, k=self.k)


@dataclass(frozen=True, repr=False)
class LayerScale(Leaf):
    """Multiplies each channel by a learned scale, initially small (Touvron et al., 2021): param scale.

    >>> params, _ = LayerScale(1e-6).init(jax.random.key(0), (1, 7, 7, 96))
    >>> params["scale"].shape
    (96,)
    """

    value: float = 1e-6

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        # In torch a parameter of the block that has this layer, channels first.
        return (Stored("scale", (None if x is None else x.shape[-1],), self.value, torch="", layout="scale"),)

    def forward(self, params: Params, x: Tree) -> Tree:
        return x * to_rank(_scale_for(self, params, x), x.ndim)


@dataclass(frozen=True, repr=False)
class UnitNorm(Leaf):
    """Divides the channels of each position by their Euclidean norm: `jaxconv.unit_norm`, with a learned scale.

    SSD scales its finest feature map so (Liu et al., 2015, "ParseNet"). Without a scale, the end of a network of
    descriptors.

    Args:
      value: the initial value of the param scale of each channel; None for no scale.
      eps: the smallest divisor.

    >>> UnitNorm().apply({}, {}, jnp.array([[3.0, 4.0]]))[0]
    Array([[0.6, 0.8]], dtype=float32)
    """

    value: float | None = None
    eps: float = 1e-12

    def check(self) -> None:
        check_eps(self.eps)

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        shape = (None if x is None else x.shape[-1],)
        # In torch a parameter of the module that has this layer.
        return () if self.value is None else (Stored("scale", shape, self.value, torch=""),)

    def forward(self, params: Params, x: Tree) -> Tree:
        y = ops.unit_norm(x, eps=self.eps)
        return y if self.value is None else y * to_rank(self.entries(params)["scale"], x.ndim)


@dataclass(frozen=True, repr=False)
class PReLU(Leaf):
    """``x`` where positive, ``scale * x`` elsewhere, with a learned slope (He et al., 2015): param scale.

    Args:
      value: the initial slope; 0.25 in the paper and in torch.
      shared: whether all channels share one slope, as in torch by default; otherwise each channel has a slope.

    >>> PReLU().apply({"scale": jnp.array([0.25])}, {}, jnp.array([[-4.0, 4.0]]))[0]
    Array([[-1.,  4.]], dtype=float32)
    """

    keras: ClassVar[str] = "PReLU"
    value: float = 0.25
    shared: bool = True

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        channels = 1 if self.shared else None if x is None else x.shape[-1]
        return (Stored("scale", (channels,), self.value, torch="weight"),)

    def forward(self, params: Params, x: Tree) -> Tree:
        return jnp.where(x > 0, x, to_rank(_scale_for(self, params, x), x.ndim) * x)


def _scale_for(layer: LayerScale | PReLU, params: Params, x: Array) -> Array:
    """Returns the scale, or raises ShapeError where its shape is not the declared one."""
    [scale], [declared] = layer.entries(params).values(), layer.stored(x)
    if scale.shape != declared.shape:
        raise ShapeError(f"scale must have shape {declared.shape} for x of shape {x.shape}, got {scale.shape}")
    return scale


__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LayerScale",
    "LocalResponseNorm",
    "PReLU",
    "UnitNorm",
]
