"""Dropout layers: random noise in training."""

from dataclasses import dataclass
from typing import ClassVar

from jaxconv import ops
from jaxconv.errors import MissingKeyError
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Params, State, Tree
from jaxconv.layers.base import Leaf
from jaxconv.ops.dropout import check_rate


@dataclass(frozen=True, repr=False)
class _Noise(Leaf):
    training_only: ClassVar[tuple[str, ...]] = ("rate",)
    rate: float

    def check(self) -> None:
        check_rate(self.rate)

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        if not train or self.rate == 0:
            return x, {}
        if key is None:
            raise MissingKeyError("key must be given in training, got None")
        return self._drop(x, key), {}

    def _drop(self, x: Array, key: KeyLike) -> Array:
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Dropout(_Noise):
    """Drops elements in training: `jaxconv.dropout`. Needs ``key`` in training only.

    >>> Dropout(0.5).apply({}, {}, jnp.ones((1, 4)), train=True)
    Traceback (most recent call last):
    jaxconv.errors.MissingKeyError: key must be given in training, got None
    """

    def _drop(self, x: Array, key: KeyLike) -> Array:
        return ops.dropout(x, self.rate, key)


@dataclass(frozen=True, repr=False)
class DropPath(_Noise):
    """Drops whole examples in training: `jaxconv.drop_path`. Needs ``key`` in training only.

    >>> DropPath(0.5).apply({}, {}, jnp.ones((1, 4)))[0]
    Array([[1., 1., 1., 1.]], dtype=float32)
    """

    def _drop(self, x: Array, key: KeyLike) -> Array:
        return ops.drop_path(x, self.rate, key)


__all__ = [
    "DropPath",
    "Dropout",
]
