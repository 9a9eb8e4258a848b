"""Pooling layers."""

from dataclasses import dataclass, field
from typing import Any

from jaxconv import fields, ops
from jaxconv import geometry as geo
from jaxconv.errors import ArgumentError
from jaxconv.geometry import IntOrTuple, Padding
from jaxconv.layer import Params, Tree
from jaxconv.layers.base import Geometry, Ranked, Stored, Windowed, batched_sizes, whole_fields
from jaxconv.ops.pools.average import check_power


@dataclass(frozen=True, repr=False)
class _Pool(Windowed):
    window: IntOrTuple
    stride: IntOrTuple | None = field(default=None, kw_only=True)
    padding: Padding = field(default="VALID", kw_only=True)
    dilation: IntOrTuple = field(default=1, kw_only=True)
    ceil_mode: bool = field(default=False, kw_only=True)

    def options(self) -> dict[str, Any]:
        return super().options() | {"ceil_mode": self.ceil_mode}


@dataclass(frozen=True, repr=False)
class MaxPool(_Pool):
    """The largest element of each window: `jaxconv.max_pool`, with its arguments.

    >>> MaxPool(2).apply({}, {}, jnp.ones((1, 224, 224, 64)))[0].shape
    (1, 112, 112, 64)
    """

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.max_pool(x, self.window, **self.options())


@dataclass(frozen=True, repr=False)
class AvgPool(_Pool):
    """The mean of each window: `jaxconv.avg_pool`, with its arguments.

    >>> AvgPool(2).apply({}, {}, jnp.ones((1, 8, 8, 3)))[0].shape
    (1, 4, 4, 3)
    """

    count_include_pad: bool = field(default=True, kw_only=True)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.avg_pool(x, self.window, **self.options(), count_include_pad=self.count_include_pad)


@dataclass(frozen=True, repr=False)
class LpPool(_Pool):
    """The p-norm of each window: `jaxconv.lp_pool`, with its arguments.

    >>> LpPool(2, p=1).apply({}, {}, jnp.ones((1, 2, 2, 1)))[0].item()
    4.0
    """

    p: float = field(default=2, kw_only=True)

    def check(self) -> None:
        super().check()
        check_power(self.p)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.lp_pool(x, self.window, **self.options(), p=self.p)


class _GlobalPool(Ranked):
    def geometry(self, x: Any) -> Geometry:
        return whole_fields(x, self.rank)


@dataclass(frozen=True, repr=False)
class GlobalAvgPool(_GlobalPool):
    """The mean over all positions: `jaxconv.global_avg_pool`; ``(batch, *spatial, channels)`` to ``(batch, channels)``.

    >>> GlobalAvgPool().apply({}, {}, jnp.ones((8, 7, 7, 64)))[0].shape
    (8, 64)
    """

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.global_avg_pool(x, rank=self.rank)


@dataclass(frozen=True, repr=False)
class GlobalMaxPool(_GlobalPool):
    """The largest element over all positions: `jaxconv.global_max_pool`.

    >>> GlobalMaxPool().apply({}, {}, jnp.ones((8, 7, 7, 64)))[0].shape
    (8, 64)
    """

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.global_max_pool(x, rank=self.rank)


@dataclass(frozen=True, repr=False)
class GlobalGemPool(_GlobalPool):
    """The generalized mean over all positions with a trained power: `jaxconv.global_gem_pool` with param p.

    Args:
      p: the initial power, one for all channels; 3 in the paper.
      eps: the smallest element that counts.

    >>> layer = GlobalGemPool()
    >>> params, state = layer.init(jax.random.key(0), (8, 7, 7, 64))
    >>> params["p"], layer.apply(params, state, jnp.ones((8, 7, 7, 64)))[0].shape
    (Array([3.], dtype=float32), (8, 64))
    """

    p: float = 3.0
    eps: float = field(default=1e-6, kw_only=True)

    def check(self) -> None:
        super().check()
        for name in ("p", "eps"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name} must be positive, got {getattr(self, name)!r}")

    def stored(self, x: Any = None) -> tuple[Stored, ...]:
        return (Stored("p", (1,), self.p),)

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.global_gem_pool(x, **self.entries(params), eps=self.eps, rank=self.rank)


@dataclass(frozen=True, repr=False)
class _AdaptivePool(Ranked):
    size: IntOrTuple

    def check(self) -> None:
        super().check()
        geo.as_tuple(self.size, self.rank, "size")

    def geometry(self, x: Any) -> Geometry:
        pooled = zip(batched_sizes(x, self.rank), geo.as_tuple(self.size, self.rank, "size"), strict=True)
        return tuple(fields.bins_field(geo.adaptive_bins(n, m), n) for n, m in pooled)


@dataclass(frozen=True, repr=False)
class AdaptiveAvgPool(_AdaptivePool):
    """The means of ``size`` bins along each axis: `jaxconv.adaptive_avg_pool`.

    >>> AdaptiveAvgPool(6).apply({}, {}, jnp.ones((1, 13, 13, 256)))[0].shape
    (1, 6, 6, 256)
    """

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.adaptive_avg_pool(x, self.size, rank=self.rank)


@dataclass(frozen=True, repr=False)
class AdaptiveMaxPool(_AdaptivePool):
    """The largest elements of ``size`` bins along each axis: `jaxconv.adaptive_max_pool`.

    >>> AdaptiveMaxPool(6).apply({}, {}, jnp.ones((1, 13, 13, 256)))[0].shape
    (1, 6, 6, 256)
    """

    def forward(self, params: Params, x: Tree) -> Tree:
        return ops.adaptive_max_pool(x, self.size, rank=self.rank)


__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool",
    "GlobalAvgPool",
    "GlobalGemPool",
    "GlobalMaxPool",
    "LpPool",
    "MaxPool",
]
