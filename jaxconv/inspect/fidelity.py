"""Tests of attributions: do they predict the network, are they stable, and do they depend on the weights."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.child import child_key
from jaxconv.compiler import jit
from jaxconv.composite import Composite
from jaxconv.errors import ArgumentError, MissingKeyError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect.arguments import Target, as_input, scores, settled, split_target
from jaxconv.inspect.trace import trace
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops.arrays import ArrayLike, accumulator
from jaxconv.paths import plain_path
from jaxconv.structs import as_struct

Perturb = Callable[[Array, Array], tuple[Array, Array]]


@dataclass(frozen=True)
class _Noise:
    """Noise with a standard deviation that is a fraction of each example's range."""

    deviation: float

    def __call__(self, key: Array, x: Array) -> tuple[Array, Array]:
        axes = tuple(range(1, x.ndim))
        span = jnp.max(x, axes, keepdims=True) - jnp.min(x, axes, keepdims=True)
        noise = self.deviation * span * jax.random.normal(key, x.shape, x.dtype)
        return noise, x - noise


def _keys(key: KeyLike, name: str, samples: int) -> Array:
    own = child_key(key, name)
    if own is None:
        raise MissingKeyError("key must be a random key, got None")
    return jax.random.split(own, as_int(samples, "samples", least=1))


def _per_example(a: Array) -> Array:
    return a.reshape(len(a), -1).astype(accumulator(a.dtype))


def infidelity(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    attributions: ArrayLike,
    target: Target = None,
    *,
    key: KeyLike,
    perturb: Perturb | None = None,
    noise: float = 0.1,
    samples: int = 64,
    normalize: bool = False,
) -> Array:
    """Returns the mean squared error of attributions as a prediction of score changes (Yeh et al., 2019).

    A perturbation I of the input predicts the change ``sum(I * attributions)`` of the score, whose true change is
    ``score(x) - score(x - I)``. The gradient of a linear network has infidelity 0.

    Args:
      net, params, state, x: as in `jaxconv.inspect.saliency`.
      attributions: array of x's shape: gradients, the change of the score for each unit of the input. For attributions
        that sum to the score, such as `jaxconv.inspect.integrated_gradients`, ``perturb`` returns as I the fraction of
        each element that is removed: a mask, and x with zeros there.
      target: as in `jaxconv.inspect.saliency`; None is the top class of x.
      key: a random key for the perturbations.
      perturb: ``perturb(key, x)`` returns the perturbations I and the perturbed inputs, of x's shape; None, noise. Pass
        the same function each time: a new function compiles again.
      noise: the standard deviation of the noise, as a fraction of the range of each example.
      samples: the number of perturbations; they are computed one at a time.
      normalize: whether to scale the attributions of each example by the factor with the smallest error.

    Returns:
      Array of shape ``(batch,)``; small where attributions are faithful.

    Raises:
      As `jaxconv.inspect.saliency`; ShapeError where attributions or perturbations do not have x's shape.

    Equals ``captum.metrics.infidelity``.

    >>> net = jc.serial(jc.Flatten(), jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (1, 4, 4, 1))
    >>> x = jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    >>> true, wrong = jc.inspect.saliency(net, params, state, x, 0), jnp.zeros_like(x)
    >>> [infidelity(net, params, state, x, a, 0, key=jax.random.key(2)).max() < 1e-6 for a in (true, wrong)]
    [Array(True, dtype=bool), Array(False, dtype=bool)]
    """
    x = as_input(x)
    attributions = jnp.asarray(attributions, x.dtype)
    if attributions.shape != x.shape:
        raise ShapeError(f"attributions must have the shape of x, {x.shape}, got {attributions.shape}")
    if perturb is None and not noise > 0:
        raise ArgumentError(f"noise must be positive, got {noise}")
    perturb = _Noise(float(noise)) if perturb is None else perturb
    for a in jax.eval_shape(perturb, jax.random.key(0), x):
        if a.shape != x.shape:
            raise ShapeError(f"perturb must return two arrays of the shape of x, {x.shape}, got {a.shape}")
    split = split_target(net, params, state, x, target)
    keys = _keys(key, "infidelity", samples)
    return _infidelity(net, split[0], perturb, bool(normalize), split[1], params, state, x, attributions, keys)


@functools.partial(jit, static_argnums=(0, 1, 2, 3))
def _infidelity(
    net: Layer,
    function: Callable[[Tree], Array] | None,
    perturb: Perturb,
    normalize: bool,
    index: Array | None,
    params: Params,
    state: State,
    x: Array,
    attributions: Array,
    keys: Array,
) -> Array:
    fixed = settled(net, params, state, x, index if function is None else function)

    def score(x: Array) -> Array:
        return scores(net.apply(params, state, x)[0], fixed, len(x))

    before = score(x)

    def changes(key: Array) -> tuple[Array, Array]:
        moved, perturbed = perturb(key, x)
        return jnp.sum(_per_example(moved * attributions), axis=1), before - score(perturbed)

    predicted, true = jax.lax.map(changes, keys)
    if normalize:
        squares = jnp.mean(predicted**2, axis=0)
        predicted *= jnp.mean(predicted * true, axis=0) / jnp.where(squares > 0, squares, 1)
    return jnp.mean((predicted - true) ** 2, axis=0)


def max_sensitivity(
    explain: Callable[[Array], Array], x: ArrayLike, *, key: KeyLike, radius: float = 0.02, samples: int = 10
) -> Array:
    """Returns the largest relative change of attributions where the input changes little (Yeh et al., 2019).

    Args:
      explain: ``explain(x)``, the attributions of a batch, such as ``functools.partial(saliency, net, params, state)``.
      x: floating-point array of shape ``(batch, ..., channels)``.
      key: a random key.
      radius: each element of x changes by a uniform draw between ``-radius`` and ``radius``.
      samples: the number of changed inputs; they are computed one at a time.

    Returns:
      Array of shape ``(batch,)``: the largest norm of a change of the attributions, divided by the norm of the
      attributions of x where that is not 0.

    Raises:
      ValueError: radius is not positive, samples is below 1, or explain returns another batch.

    Equals ``captum.metrics.sensitivity_max``.

    >>> x = jnp.ones((2, 3))
    >>> print(max_sensitivity(lambda x: jnp.ones_like(x), x, key=jax.random.key(0)))
    [0. 0.]
    """
    x = as_input(x)
    if not radius > 0:
        raise ArgumentError(f"radius must be positive, got {radius}")
    first = explain(x)
    if jnp.shape(first)[:1] != x.shape[:1]:
        raise ShapeError(f"explain must return attributions of {len(x)} examples, got shape {jnp.shape(first)}")
    size = jnp.linalg.norm(_per_example(first), axis=1)

    def change(key: Array) -> Array:
        moved = x + jax.random.uniform(key, x.shape, x.dtype, -radius, radius)
        return jnp.linalg.norm(_per_example(explain(moved) - first), axis=1)

    changes = jax.lax.map(change, _keys(key, "max_sensitivity", samples))
    return jnp.max(changes, axis=0) / jnp.where(size > 0, size, 1)


class SanityCheck(NamedTuple):
    """The result of `sanity_check`.

    Attributes:
      paths: the layers in the order in which their weights are replaced, last layer first.
      similarities: the rank correlation of each example's attributions with the original ones after each replacement,
        ``(layers, batch)``.
      flagged: whether the attributions do not depend on the weights: the mean similarity is at least the threshold
        when all weights are random.
    """

    paths: tuple[str, ...]
    similarities: np.ndarray
    flagged: bool


def sanity_check(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    explain: Callable[[Layer, Params, State, Array], ArrayLike],
    *,
    key: KeyLike,
    threshold: float = 0.5,
) -> SanityCheck:
    """Tests whether attributions depend on the weights, by replacing them with random ones (Adebayo et al., 2018).

    The weights are replaced layer by layer, from the last to the first, each by those of ``net.init``, and the
    attributions compared with those of the trained network. Attributions that stay alike show edges of the image, and
    say nothing about the network.

    Args:
      net, params, state: the trained network.
      x: floating-point array of shape ``(batch, ..., channels)``.
      explain: ``explain(net, params, state, x)``, the attributions, such as ``functools.partial(saliency, target=3)``.
        With a fixed target: the class with the highest score changes with the weights.
      key: a random key for the weights.
      threshold: the mean similarity from which on attributions are flagged.

    Returns:
      A `SanityCheck`. A similarity is Spearman's rank correlation of magnitudes; 1 where both attributions are equal,
      and 0 where one is constant.

    Raises:
      ValueError: net has no weights; x does not fit.

    >>> net = jc.serial(jc.Dense(8), jax.nn.relu, jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (1, 16))
    >>> x = jax.random.normal(jax.random.key(1), (4, 16))
    >>> found = sanity_check(net, params, state, x, lambda net, params, state, x: x, key=jax.random.key(2))
    >>> found.paths, found.flagged
    (('2', '0'), True)
    """
    x = as_input(x)
    if key is None:
        raise MissingKeyError("key must be a random key, got None")
    fresh = net.init(key, as_struct(x))  # type: ignore[arg-type]
    rows = [row for row in trace(net, x) if row.parameters and not isinstance(row.layer, Composite)]
    paths = tuple(dict.fromkeys(plain_path(row.path) for row in reversed(rows)))
    if not paths:
        raise ArgumentError("net must have weights, got a network without any")
    original = np.asarray(explain(net, params, state, x))
    similarities = []
    for path in paths:
        names = path.split(".") if path else []
        params, state = (_replaced(tree, other, names) for tree, other in zip((params, state), fresh, strict=True))
        attributions = np.asarray(explain(net, params, state, x))
        similarities.append([_similarity(a, b) for a, b in zip(original, attributions, strict=True)])
    found = np.array(similarities)
    return SanityCheck(paths, found, bool(found[-1].mean() >= threshold))


def _replaced(tree: dict[str, Any], other: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Returns a tree with the entries of another at a path."""
    if not names:
        return other
    first, *rest = names
    return tree | ({first: _replaced(tree[first], other[first], rest)} if first in tree else {})


def _similarity(a: np.ndarray, b: np.ndarray) -> float:
    if np.array_equal(a, b):
        return 1.0
    ranks = [_ranks(np.abs(each).ravel()) for each in (a, b)]
    if any(r.min() == r.max() for r in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Returns the ranks of values; equal values have their mean rank."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which.ravel()]


__all__ = ["SanityCheck", "infidelity", "max_sensitivity", "sanity_check"]
