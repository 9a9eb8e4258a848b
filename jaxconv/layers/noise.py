"""Layers that draw random numbers in training."""

from dataclasses import dataclass

from jaxconv import ops
from jaxconv.errors import MissingKeyError, ShapeError
from jaxconv.layer import Array, Params, State, Tree
from jaxconv.layers.base import Leaf


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ShapeError(f"rate must lie between 0 and 1, got {rate}")


@dataclass(frozen=True, repr=False)
class Dropout(Leaf):
    """Drops elements in training: `jaxconv.dropout`. Wants ``key`` only then.

    >>> Dropout(0.5).apply({}, {}, jnp.ones((1, 4)), train=True)
    Traceback (most recent call last):
    jaxconv.errors.MissingKeyError: key must be given in training, got None
    """

    rate: float

    def check(self) -> None:
        _check_rate(self.rate)

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: Array | None = None
    ) -> tuple[Tree, State]:
        if not train or self.rate == 0:
            return x, {}
        if key is None:
            raise MissingKeyError("key must be given in training, got None")
        return self._drop(x, key), {}

    def _drop(self, x: Array, key: Array) -> Array:
        return ops.dropout(x, self.rate, key)


@dataclass(frozen=True, repr=False)
class DropPath(Dropout):
    """Drops whole examples in training: `jaxconv.drop_path`. Wants ``key`` only then.

    >>> DropPath(0.5).apply({}, {}, jnp.ones((1, 4)))[0]
    Array([[1., 1., 1., 1.]], dtype=float32)
    """

    def _drop(self, x: Array, key: Array) -> Array:
        return ops.drop_path(x, self.rate, key)


__all__ = [
    "DropPath",
    "Dropout",
]
