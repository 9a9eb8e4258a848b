"""Networks whose layers compute the same, and pass something else backward than the gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from jaxconv.errors import ArgumentError
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.layers import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    Conv,
    ConvLocal,
    ConvTranspose,
    Dense,
    Dropout,
    DropPath,
    Flatten,
    Fn,
    GlobalAvgPool,
    Identity,
    LayerScale,
    Pad,
    PixelShuffle,
    Resize,
)
from jaxconv.pointwise import is_pointwise

WEIGHTED = (Conv, ConvLocal, ConvTranspose, Dense)
# In evaluation the output is a linear function of the input, plus a constant.
AFFINE = (
    *WEIGHTED, AdaptiveAvgPool, AvgPool, BatchNorm, ChannelShuffle, Dropout, DropPath, Flatten, GlobalAvgPool, Identity,
    LayerScale, Pad, PixelShuffle, Resize,
)  # fmt: skip

# ``backward(layer, params, state, x, y, g)``: the cotangents of params and x, given g, the cotangent of y. A cotangent
# that is None is zero.
BackwardRule = Callable[[Layer, Params, State, Array, Array, Array], tuple[Any, Array]]


@dataclass(frozen=True)
class Substitute:
    """A layer with another backward pass, for evaluation.

    Args:
      layer: the layer.
      backward: see `BackwardRule`.
      check: ``check(layer, x)`` raises where the rule does not fit the layer.
    """

    layer: Layer
    backward: BackwardRule
    check: Callable[[Layer, Array], None] | None = None

    @property
    def type_name(self) -> str:
        """The layer's name in errors."""
        return getattr(self.layer, "type_name", type(self.layer).__name__)

    def init(self, key: KeyLike, x: Tree) -> tuple[Params, State]:
        """Returns the layer's params and state."""
        return self.layer.init(key, x)  # type: ignore[arg-type]

    def apply(
        self, params: Params, state: State, x: Tree, *, train: bool = False, key: KeyLike | None = None
    ) -> tuple[Tree, State]:
        """Returns the layer's output in evaluation, and the state unchanged."""
        if not hasattr(x, "ndim"):
            raise ArgumentError(f"the layer must have one array as its input here, got {jax.tree.structure(x)}")
        if self.check is not None:
            self.check(self.layer, x)
        return _run(self, params, state, x), state


def forward(layer: Layer, params: Params, state: State, x: Array) -> Array:
    """Returns a layer's output in evaluation."""
    return layer.apply(params, state, x)[0]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(substitute: Substitute, params: Params, state: State, x: Array) -> Array:
    return forward(substitute.layer, params, state, x)


def _forward(substitute: Substitute, params: Params, state: State, x: Array) -> tuple[Array, Any]:
    y = forward(substitute.layer, params, state, x)
    return y, (params, state, x, y)


def _backward(substitute: Substitute, saved: Any, g: Array) -> tuple[Any, None, Array]:
    params, state, x, y = saved
    moved, back = substitute.backward(substitute.layer, params, state, x, y, g)
    return moved, None, back


_run.defvjp(_forward, _backward)


def check_elementwise(layer: Layer, x: Array, method: str, otherwise: str) -> None:
    """Raises ArgumentError where a layer is neither elementwise nor of a type that ``method`` has a rule for."""
    if not isinstance(layer, Fn):
        raise ArgumentError(f"{method} must have a rule for each layer, got {type(layer).__name__}: {otherwise}")
    if not is_pointwise(layer.function, jax.ShapeDtypeStruct(x.shape, x.dtype)):
        name = getattr(layer.function, "__qualname__", repr(layer.function))
        raise ArgumentError(f"{method} must have a rule for each layer, got {name}, not elementwise: {otherwise}")


def gradient(layer: Layer, params: Params, state: State, x: Array, g: Array) -> Array:
    """Returns the cotangent of x in the true backward pass."""
    _, pull = jax.vjp(lambda x: forward(layer, params, state, x), x)
    return pull(g)[0]
