"""DeepLIFT: differences from a baseline, distributed backward over the inputs of each layer.

The network runs on the examples and on their baselines as one batch, the examples first.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxconv.compose.base import Wrapper
from jaxconv.compose.structure import Gate, multiply
from jaxconv.composite import Run
from jaxconv.inspect.arguments import Target, as_input, like_input, scores
from jaxconv.inspect.backward import AFFINE, Substitute, check_elementwise, forward, gradient
from jaxconv.layer import Array, Layer, Params, State, Tree, children_of
from jaxconv.layers import AdaptiveMaxPool, GlobalMaxPool, MaxPool, PReLU
from jaxconv.ops.arrays import ArrayLike
from jaxconv.tree import map_some

_MAXIMA = (MaxPool, GlobalMaxPool, AdaptiveMaxPool)
# Below this difference of inputs the ratio of differences is the derivative.
_NEAR = 1e-10


def _halves(a: Array) -> tuple[Array, Array]:
    return a[: len(a) // 2], a[len(a) // 2 :]


def _only_first(a: Array) -> Array:
    """Returns the cotangent of the whole batch, where the baselines have none."""
    return jnp.concatenate([a, jnp.zeros_like(a)])


def _ratio(numerator: Array, x: Array, otherwise: Array) -> Array:
    """Returns ``numerator`` divided by the differences of x from its baseline, or ``otherwise`` where there is none."""
    value, base = _halves(x)
    far = jnp.abs(value - base) > _NEAR
    return _only_first(jnp.where(far, numerator / jnp.where(far, value - base, 1), _halves(otherwise)[0]))


def _rescale(layer: Layer, params: Params, state: State, x: Array, y: Array, g: Array) -> tuple[None, Array]:
    value, base = _halves(y)
    return None, _ratio(_halves(g)[0] * (value - base), x, gradient(layer, params, state, x, g))


def _check(layer: Layer, x: Array) -> None:
    if not isinstance(layer, PReLU):
        check_elementwise(layer, x, "deep_lift", "use integrated_gradients")


def _maximum(layer: Layer, params: Params, state: State, x: Array, y: Array, g: Array) -> tuple[None, Array]:
    """Shares a difference of maxima between the largest element of the example and that of the baseline."""
    value, base = _halves(y)
    g, higher = _halves(g)[0], jnp.maximum(value, base)
    shares = gradient(layer, params, state, x, jnp.concatenate([g * (higher - base), g * (value - higher)]))
    return None, _ratio(sum(_halves(shares)), x, gradient(layer, params, state, x, _only_first(g)))  # type: ignore[arg-type]


@jax.custom_vjp
def _product(x: Array, weights: Array) -> Array:
    return multiply(x, weights)


def _product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    # The difference of products is exactly that of their tangent at the midpoint.
    middle = (sum(_halves(a)) / 2 for a in saved)  # type: ignore[arg-type]
    x, weights = jax.vjp(multiply, *middle)[1](_halves(g)[0])
    return _only_first(x), _only_first(weights)


_product.defvjp(lambda x, weights: (multiply(x, weights), (x, weights)), _product_backward)


@dataclass(frozen=True, repr=False)
class _Product(Wrapper):
    """A `jaxconv.gate` whose product shares differences between both factors."""

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(_product, x, run("", self.layer, x))


def _substitute(layer: Layer) -> Layer:
    if isinstance(layer, Gate):
        return _Product(layer.layer)
    if children_of(layer) or isinstance(layer, AFFINE):
        return layer
    return Substitute(layer, _maximum) if isinstance(layer, _MAXIMA) else Substitute(layer, _rescale, _check)


def deep_lift(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    baseline: ArrayLike = 0.0,
) -> Array:
    """Returns the contributions of input elements to a score's difference from that of a baseline, by rescaling.

    DeepLIFT with the rescale rule (Shrikumar et al., 2017): an activation passes the ratio of its output's and its
    input's differences from the baseline in place of the derivative. The attributions of an example sum to its score
    minus the score of the baseline, up to rounding, at the cost of one gradient of two examples; compare
    `jaxconv.inspect.integrated_gradients`. The functions that a custom composite computes itself have their gradient.

    Args:
      net, params, state, x, target: as in `jaxconv.inspect.saliency`.
      baseline: the input that x is compared with: a number, or an array that broadcasts to x.

    Returns:
      Array of x's shape and type, with signs.

    Raises:
      As `jaxconv.inspect.saliency`; ShapeError where the baseline does not broadcast to x; ArgumentError where a layer
      is not linear, elementwise or a maximum.

    Equals ``captum.attr.DeepLift``, whose attributions do not sum to the difference where two nonlinear modules follow
    each other directly.

    >>> net = jc.serial(jc.Dense(1, bias=False), jax.nn.relu)
    >>> x, baseline = jnp.array([[3.0, 2.0]]), jnp.array([[-1.0, 0.0]])
    >>> print(deep_lift(net, {"0": {"kernel": jnp.ones((2, 1))}}, {}, x, baseline=baseline).round(2))
    [[3.33 1.67]]
    """
    x = as_input(x)
    start = jnp.broadcast_to(like_input(baseline, x, "baseline"), x.shape)
    other = map_some(net, lambda layer, path: True, lambda layer, path: _substitute(layer))

    def total(both: Array) -> Array:
        y = jax.tree.map(lambda a: _halves(a)[0], forward(other, params, state, both))
        return jnp.sum(scores(y, target, len(x)))

    return (x - start) * _halves(jax.grad(total)(jnp.concatenate([x, start])))[0]


__all__ = ["deep_lift"]
