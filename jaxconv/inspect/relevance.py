"""Layer-wise relevance propagation: a score is distributed backward over the inputs of each layer.

The backward pass carries relevance divided by the element that the relevance belongs to. In this form a layer without a
rule has its true gradient: sums, concatenations, average pools and shortcuts share relevance in proportion to their
contributions.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxconv.compose.base import Wrapper
from jaxconv.compose.structure import Gate
from jaxconv.composite import Run
from jaxconv.dataflow import INPUT, follow
from jaxconv.errors import ArgumentError, PathError, no_layer
from jaxconv.folding import fold
from jaxconv.inspect.arguments import Target, as_input, like_input, scores
from jaxconv.inspect.backward import AFFINE, WEIGHTED, Substitute, check_elementwise, forward, gradient
from jaxconv.layer import Array, Layer, Params, State, Tree, children_of
from jaxconv.layers import (
    AdaptiveMaxPool,
    GlobalMaxPool,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LocalResponseNorm,
    LpPool,
    MaxPool,
    PReLU,
)
from jaxconv.ops.arrays import ArrayLike, to_rank
from jaxconv.structs import as_struct
from jaxconv.tree import map_some, walk

_NAMES = ("epsilon", "gamma", "z_plus", "z_box", "gradient")
# Twice the input is twice the output, so that input times gradient sums to the output.
_HOMOGENEOUS = (MaxPool, GlobalMaxPool, AdaptiveMaxPool, LpPool, PReLU)


@dataclass(frozen=True)
class Rule:
    """A rule of `lrp` for the layers with a kernel: how an output's relevance is shared among the inputs.

    Args:
      name: "epsilon": in proportion to the contributions ``x w``, with the bias as one of them. "gamma": the same with
        a larger share for positive weights, for x >= 0. "z_plus": in proportion to the positive contributions; an
        output without any, such as one that only its bias makes positive, loses its relevance. "z_box":
        in proportion to ``x w - low w+ - high w-``, for the layer that reads the image. "gradient": the true gradient,
        for a layer of any type, such as a custom linear layer.
      epsilon: added to the magnitude of a sum of contributions, which relevance is divided by.
      gamma: positive weights are multiplied by ``1 + gamma``, for the rule "gamma".

    >>> Rule("gamma", gamma=0.5)
    Rule(name='gamma', epsilon=1e-06, gamma=0.5)
    """

    name: str = "epsilon"
    epsilon: float = 1e-6
    gamma: float = 0.25

    def __post_init__(self) -> None:
        if self.name not in _NAMES:
            raise ArgumentError(f"name must be one of {', '.join(map(repr, _NAMES))}, got {self.name!r}")
        if not self.epsilon > 0 or not self.gamma >= 0:
            raise ArgumentError(f"epsilon must be positive and gamma not negative, got {self.epsilon} and {self.gamma}")

    def __call__(
        self, layer: Any, params: Params, state: State, x: Array, y: Array, g: Array
    ) -> tuple[Params | None, Array]:
        """Returns the cotangents of ``low`` and ``high`` in the params, and of x: a backward rule of `Substitute`."""
        if self.name == "epsilon":
            return None, gradient(layer, params, state, x, self._divided(g * y, y))
        kernel = params["kernel"]
        if self.name == "gamma":
            more = {
                name: a + self.gamma * jnp.maximum(a, 0) for name, a in params.items() if name in ("kernel", "bias")
            }
            return None, gradient(layer, more, state, x, self._divided(g * y, forward(layer, more, state, x)))
        unbiased = dataclasses.replace(layer, bias=False)
        positive, negative = ({"kernel": clip(kernel, 0)} for clip in (jnp.maximum, jnp.minimum))

        def linear(kernel: Params, x: Array) -> Array:
            return forward(unbiased, kernel, {}, x)

        def plus(up: Array, down: Array) -> Array:
            return linear(positive, up) + linear(negative, down)

        def box(x: Array, low: Array, high: Array) -> Array:
            return linear({"kernel": kernel}, x) - linear(positive, low) - linear(negative, high)

        if self.name == "z_plus":
            z, pull = jax.vjp(plus, jnp.maximum(x, 0), jnp.minimum(x, 0))
            up, down = pull(self._divided(g * y, z))
            return None, jnp.where(x > 0, up, down)
        z, pull = jax.vjp(box, x, params["low"], params["high"])
        back, low, high = pull(self._divided(g * y, z))
        return dict.fromkeys(params) | {"low": low, "high": high}, back

    def _divided(self, relevance: Array, z: Array) -> Array:
        return relevance / (z + jnp.where(z < 0, -self.epsilon, self.epsilon).astype(z.dtype))


def _kept(layer: Layer, params: Params, state: State, x: Array, y: Array, g: Array) -> tuple[None, Array]:
    """Each input of an elementwise function has the relevance of its output."""
    small = jnp.abs(x) < jnp.sqrt(jnp.finfo(x.dtype).tiny)
    return None, jnp.where(small, 0, g * y / jnp.where(small, 1, x))


def _check(layer: Layer, x: Array) -> None:
    check_elementwise(layer, x, "lrp", 'name a Rule("gradient") for its path in rules if it is linear')


def _normalized(layer: Any, params: Params, state: State, x: Array, y: Array, g: Array) -> tuple[None, Array]:
    """Shares relevance as a linear layer does, with the statistics that the input is divided by as constants."""
    if isinstance(layer, LocalResponseNorm):
        factor = y / jnp.where(x == 0, 1, x)
        return None, jnp.where(x == 0, 0, g * factor)
    channels = x.shape[-1]
    groups = {LayerNorm: 1, InstanceNorm: channels}.get(type(layer)) or layer.groups
    rank = 0 if isinstance(layer, LayerNorm) else layer.rank
    shape = (*x.shape[:-1], groups, channels // groups)
    axes = (*range(x.ndim - 1 - rank, x.ndim - 1), x.ndim)
    split = x.reshape(shape)
    deviation = jax.lax.rsqrt(jnp.var(split, axes, keepdims=True) + layer.eps)

    def linear(x: Array) -> Array:
        split = x.reshape(shape)
        y = ((split - jnp.mean(split, axes, keepdims=True)) * deviation).reshape(x.shape)
        return y * to_rank(params["scale"], y.ndim) if layer.scale else y

    return None, jax.vjp(linear, x)[1](g)[0]


@dataclass(frozen=True, repr=False)
class _Constant(Wrapper):
    """A layer whose output is a constant of the backward pass."""

    def route(self, run: Run, x: Tree) -> Tree:
        return run.join(jax.lax.stop_gradient, run("", self.layer, x))


def _rule_of(rules: Mapping[str, Rule], path: str) -> Rule:
    """Returns the rule of the innermost layer with a rule that is, or contains, the layer at ``path``."""
    containing = [given for given in rules if not given or path == given or path.startswith(given + ".")]
    return rules[max(containing, key=len)] if containing else Rule()


def _chosen(net: Layer, rules: Any) -> dict[str, Rule]:
    given = rules if isinstance(rules, Mapping) else {"": rules}
    known = [path for path, _ in walk(net)]
    for path, rule in given.items():
        if path not in ("", *known):
            raise PathError(no_layer("rules", path, known))
        if not isinstance(rule, str | Rule):
            raise ArgumentError(f"rules must be names of rules or a Rule by path, got {rule!r} for {path!r}")
    return {path: Rule(rule) if isinstance(rule, str) else rule for path, rule in given.items()}


def _substituted(net: Layer, rules: Mapping[str, Rule]) -> Layer:
    def substitute(layer: Layer, path: str) -> Layer:
        rule = _rule_of(rules, path)
        if isinstance(layer, Gate):
            # The signal has all relevance of the product, the gate's weights have none.
            return Gate(_Constant(layer.layer))
        if children_of(layer) or rule.name == "gradient":
            return layer
        if isinstance(layer, WEIGHTED):
            return Substitute(layer, rule)
        if isinstance(layer, LayerNorm | InstanceNorm | GroupNorm | LocalResponseNorm):
            return Substitute(layer, _normalized)
        return layer if isinstance(layer, AFFINE + _HOMOGENEOUS) else Substitute(layer, _kept, _check)

    return map_some(net, lambda layer, path: True, substitute)


def _boxed(net: Layer, rules: Mapping[str, Rule], x: Array) -> list[tuple[str, ...]]:
    """Returns the paths of the layers with the rule "z_box", or raises where one does not read the network's input."""
    if all(rule.name != "z_box" for rule in rules.values()):
        return []
    found = {}
    for call in follow(net, as_struct(x)).calls:
        path = ".".join(call.at.path)
        if isinstance(call.layer, WEIGHTED) and _rule_of(rules, path).name == "z_box":
            if any(value.maker != INPUT for value in call.inputs):
                raise ArgumentError(f'rules must name "z_box" only for layers that read the input of net, got {path!r}')
            found[call.at.path] = None
    if not found:
        raise ArgumentError('rules must name "z_box" for a layer that reads the input of net, got none')
    return list(found)


def _with_range(params: Params, path: tuple[str, ...], entries: Params) -> Params:
    return params | (entries if not path else {path[0]: _with_range(params[path[0]], path[1:], entries)})


def lrp(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    rules: str | Rule | Mapping[str, str | Rule] = "epsilon",
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
) -> Array:
    """Returns the relevance of each input element: a score, distributed backward layer by layer (Bach et al., 2015).

    The relevances of an example sum to its score, except for the relevance of biases. The rules "z_plus" and "z_box"
    give biases none, but lose the relevance of outputs without positive contributions. Batch norms are first folded
    into the layers beside them by `jaxconv.fold`. Activations pass relevance unchanged; a maximum passes it to the
    largest element; norms have their statistics as constants; in a `jaxconv.gate` the signal has all relevance. The
    functions that a custom composite computes itself have their gradient.

    Rules that work well for images (Montavon et al., 2019): "epsilon" for the last layers, "gamma" or "z_plus" for
    convolutions, "z_box" for the first.

    Args:
      net, params, state, x, target: as in `jaxconv.inspect.saliency`.
      rules: the name of a rule, or a `Rule`, for all layers with a kernel; or rules by path, each for the layer at its
        path and the layers inside it. The longest path counts; "" is the network; without any, "epsilon".
      low, high: the range of x, numbers or arrays that broadcast to x: the values of black and white after
        normalization. For the rule "z_box".

    Returns:
      Array of x's shape and type, with signs.

    Raises:
      As `jaxconv.inspect.saliency`; ArgumentError where a layer has no rule, a rule does not exist, or the range is
      missing for "z_box"; PathError where a path of the rules names no layer.

    Equals ``captum.attr.LRP`` with ``EpsilonRule``, with ``GammaRule`` where no bias is positive, and with
    ``Alpha1_Beta0_Rule(set_bias_to_zero=True)`` on inputs that are not negative.

    >>> net = jc.serial(jc.Dense(2, bias=False), jax.nn.relu, jc.Dense(1, bias=False))
    >>> params = {"0": {"kernel": jnp.array([[1.0, 0.0], [1.0, 1.0]])}, "2": {"kernel": jnp.array([[1.0], [1.0]])}}
    >>> print(lrp(net, params, {}, jnp.array([[1.0, 2.0]])).round(3))
    [[1. 4.]]
    """
    x = as_input(x)
    chosen = _chosen(net, rules)
    net, params, state = fold(net, params, state, as_struct(x))
    boxed = _boxed(net, chosen, x)
    if boxed and (low is None or high is None):
        raise ArgumentError(f'low and high must be given for the rule "z_box", got {low} and {high}')
    bounds = {
        name: jnp.broadcast_to(like_input(value, x, name), x.shape)
        for name, value in (("low", low), ("high", high))
        if boxed and value is not None
    }
    other = _substituted(net, chosen)

    def total(x: Array, ranges: list[Params]) -> Array:
        given = params
        for path, entries in zip(boxed, ranges, strict=True):
            given = _with_range(given, path, entries)
        return jnp.sum(scores(forward(other, given, state, x), target, len(x)))

    ranges = [bounds for _ in boxed]
    back, of_ranges = jax.grad(total, argnums=(0, 1))(x, ranges)
    return sum(jax.tree.leaves(jax.tree.map(jnp.multiply, ranges, of_ranges)), x * back)


__all__ = ["Rule", "lrp"]
