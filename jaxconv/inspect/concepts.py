"""Concepts: directions in the activations of a layer, and how much a class's score depends on them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import (
    check_data,
    check_hashable,
    check_outside,
    check_unstacked,
    naming_preprocess,
    one_array,
    random_key,
    scores,
    split_target,
)
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree

_FOLDS = 3


class Concept(NamedTuple):
    """A direction in the activations of a layer; the result of `concept_vector`.

    Attributes:
      vector: from other images to those of the concept, of norm 1, in the shape of the layer's output for one image.
      accuracy: the fraction of images that the direction classifies correctly, each by a direction that was fitted
        without that image, in three-fold cross-validation; 0.5 is chance.
    """

    vector: np.ndarray
    accuracy: float


class Tcav(NamedTuple):
    """The result of `tcav`, as NumPy arrays.

    Attributes:
      scores: for each run the fraction of images whose score increases toward the concept, ``(runs,)``.
      chance: the same for random directions, ``(runs,)``.
      accuracies: the accuracies of the concept's directions, ``(runs,)``.
      p_value: the probability that means differ as much where the concept is as good as a random direction, by Welch's
        t-test.
    """

    scores: np.ndarray
    chance: np.ndarray
    accuracies: np.ndarray
    p_value: float

    @property
    def score(self) -> float:
        """The mean of the scores."""
        return float(self.scores.mean())


@functools.partial(jit, static_argnums=(0, 1, 2))
def layer_output(net: Layer, path: str, preprocess: Preprocess | None, params: Params, state: State, x: Array) -> Array:
    """Returns the output of one layer for a batch of images, ``(batch, ..., channels)``."""
    x = preprocess(x) if preprocess else x
    found = activations(net, params, state, x, paths=[path])[1][path]
    return one_array(found, path, count=len(x))


def _all_features(
    net: Layer, params: Params, state: State, images: Any, path: str, name: str, **options: Any
) -> np.ndarray:
    images, batch_size = check_data(images, options["batch_size"], name)
    compute = functools.partial(layer_output, net, path, options["preprocess"], params, state)
    with naming_preprocess(images, options["preprocess"]):
        parts = [np.asarray(compute(part.items))[part.skip :] for part in equal_batches(images, batch_size)]
    found = np.concatenate(parts).astype(np.float64)
    if not np.isfinite(found).all():
        raise FloatingPointError(f"path {path!r} must have finite activations on {name}, got inf or NaN")
    return found


def _fitted(x: np.ndarray, labels: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the direction of a ridge regression of labels, 1 and -1, and the mean of x.

    Solved in the space of examples, of which there are fewer than features.
    """
    mean = x.mean(axis=0)
    centered = x - mean
    gram = centered @ centered.T
    weights = np.linalg.solve(gram + (ridge * np.trace(gram) / len(x) or 1.0) * np.eye(len(x)), labels - labels.mean())
    return weights @ centered, mean


def _concept(inside: np.ndarray, outside: np.ndarray, ridge: float) -> Concept:
    shape = inside.shape[1:]
    x = np.concatenate([inside, outside]).reshape(len(inside) + len(outside), -1)
    labels = np.repeat([1.0, -1.0], [len(inside), len(outside)])
    direction, _ = _fitted(x, labels, ridge)
    size = np.linalg.norm(direction)
    if size == 0:
        raise ArgumentError("concept and others must have different activations, got equal activations")
    right = 0
    # Each fold has its share of both classes.
    fold = np.concatenate([np.arange(len(inside)), np.arange(len(outside))]) % _FOLDS
    for held in range(_FOLDS):
        fit, mean = _fitted(x[fold != held], labels[fold != held], ridge)
        middle = labels[fold != held].mean()
        right += int((((x[fold == held] - mean) @ fit + middle > 0) == (labels[fold == held] > 0)).sum())
    return Concept((direction / size).reshape(shape).astype(np.float32), right / len(x))


def _check_ridge(ridge: float) -> None:
    if not ridge > 0:
        raise ArgumentError(f"ridge must be positive, got {ridge}")


def concept_vector(
    net: Layer,
    params: Params,
    state: State,
    concept: Any,
    others: Any,
    *,
    path: str,
    ridge: float = 0.01,
    batch_size: int = 64,
    preprocess: Preprocess | None = None,
) -> Concept:
    """Returns the direction in a layer's activations that separates images of a concept from others (Kim et al., 2018).

    The concept activation vector is the normal of a linear classifier, here a ridge regression, which has one solution.

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      concept: images of the concept, such as striped textures, ``(count, ...)``; at least 3.
      others: other images, such as random photographs, ``(count, ...)``; at least 3.
      path: the layer's path.
      ridge: the weight of the penalty, relative to the mean square of the activations.
      batch_size: images for each call of the network.
      preprocess: ``preprocess(images)``, run inside the compiled program. Pass the same function each time: a new
        function compiles again.

    Returns:
      A `Concept`.

    Raises:
      ValueError: the path names no layer, or one inside a `repeat`; there are fewer than 3 images; all activations are
        equal; ridge is not positive.
      DTypeError: the network does not accept the images' element type, and there is no preprocess.

    >>> net = jc.serial(jc.Identity())
    >>> found = concept_vector(net, {}, {}, jnp.array([[1.0, 0.0]] * 4), jnp.array([[-1.0, 0.0]] * 4), path="0")
    >>> found.vector.tolist(), found.accuracy
    ([1.0, 0.0], 1.0)
    """
    check_outside("concept_vector", params, state, concept, others, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    check_unstacked(net, path)
    _check_ridge(ridge)
    found = [
        _all_features(net, params, state, images, path, name, batch_size=batch_size, preprocess=preprocess)
        for name, images in (("concept", concept), ("others", others))
    ]
    for name, features in zip(("concept", "others"), found, strict=True):
        if len(features) < _FOLDS:
            raise ShapeError(f"{name} must have at least {_FOLDS} images, got {len(features)}")
    return _concept(found[0], found[1], ridge)


@functools.partial(jit, static_argnums=(0, 1, 2, 3))
def _toward(
    net: Layer,
    path: str,
    preprocess: Preprocess | None,
    function: Callable[[Tree], Array] | None,
    index: Array | None,
    params: Params,
    state: State,
    images: Array,
    vectors: Array,
) -> Array:
    """Returns the derivatives of the images' scores in the directions ``vectors``: ``(batch, directions)``."""
    x = preprocess(images) if preprocess else images
    struct = jax.eval_shape(lambda x: activations(net, params, state, x, paths=[path])[1][path], x)

    def total(extra: Array) -> Array:
        y, _ = activations(net, params, state, x, add={path: extra})
        return jnp.sum(scores(y, index if function is None else function, len(x)))

    slopes = jax.grad(total)(jnp.zeros(struct.shape, struct.dtype))
    return slopes.reshape(len(x), -1).astype(jnp.float32) @ vectors.T


def tcav(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    target: int | Callable[[Tree], Array],
    *,
    concept: Any,
    others: Any,
    path: str,
    runs: int = 20,
    key: KeyLike | None = None,
    ridge: float = 0.01,
    batch_size: int = 64,
    preprocess: Preprocess | None = None,
) -> Tcav:
    """Tests whether a class's score depends on a concept (Kim et al., "TCAV", 2018).

    Each run fits a direction of the concept against a random part of ``others``, and measures the fraction of images
    whose score increases in that direction. Random directions separate two random parts of ``others``. The scores of
    both are compared: a concept whose scores are like those of random directions has no meaning, however high they are.

    Args:
      net, params, state: as in `concept_vector`.
      images: images of the class, ``(count, ...)``.
      target: the class, or a function from the network's output to a score for each example.
      concept: images of the concept, at least 3.
      others: other images, at least twice as many as of the concept; several times as many for different runs.
      path: the layer's path; it must come before the scores.
      runs: the number of directions of each type, at least 2.
      key: a random key for the parts; None is seed 0.
      ridge, batch_size, preprocess: as in `concept_vector`.

    Returns:
      A `Tcav`.

    Raises:
      As `concept_vector`; ShapeError where there are too few other images; ArgumentError where runs is below 2.

    >>> net = jc.serial(features=jc.Identity(), scores=jc.Dense(1, bias=False))
    >>> params = {"scores": {"kernel": jnp.array([[1.0], [0.0]])}}
    >>> draw = lambda n, seed: jax.random.normal(jax.random.key(seed), (n, 2))
    >>> found = tcav(net, params, {}, draw(8, 0), 0, concept=draw(9, 1) + jnp.array([5.0, 0.0]), others=draw(90, 2),
    ...              path="features")
    >>> found.score, found.p_value < 0.01
    (1.0, True)
    """
    check_outside("tcav", params, state, images, concept, others, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    check_unstacked(net, path)
    _check_ridge(ridge)
    images, batch_size = check_data(images, batch_size)
    options = {"batch_size": batch_size, "preprocess": preprocess}
    inside = _all_features(net, params, state, concept, path, "concept", **options)
    outside = _all_features(net, params, state, others, path, "others", **options)
    n, runs = len(inside), as_int(runs, "runs", least=2)
    if n < _FOLDS or len(outside) < 2 * n:
        raise ShapeError(
            f"concept must have at least {_FOLDS} images, and others twice as many, got {n} and {len(outside)}"
        )
    rng = np.random.default_rng(np.asarray(jax.random.key_data(random_key(key))).ravel())
    found, random = [], []
    for _ in range(runs):
        drawn = outside[rng.permutation(len(outside))[: 2 * n]]
        found.append(_concept(inside, drawn[:n], ridge))
        random.append(_concept(drawn[:n], drawn[n:], ridge))
    vectors = np.stack([direction.vector.ravel() for direction in (*found, *random)])
    first = jnp.asarray(images[:batch_size])
    split = split_target(net, params, state, preprocess(first) if preprocess else first, target)
    toward = functools.partial(_toward, net, path, preprocess, *split, params, state)
    slopes = np.concatenate(
        [np.asarray(toward(part.items, vectors))[part.skip :] for part in equal_batches(images, batch_size)]
    )
    fractions = (slopes > 0).mean(axis=0)
    accuracies = np.array([direction.accuracy for direction in found])
    return Tcav(fractions[:runs], fractions[runs:], accuracies, _welch(fractions[:runs], fractions[runs:]))


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the two-sided p-value of Welch's t-test."""
    parts = [sample.var(ddof=1) / len(sample) for sample in (a, b)]
    difference, spread = a.mean() - b.mean(), sum(parts)
    if spread == 0:
        return float(difference == 0)
    freedom = spread**2 / sum(part**2 / (len(s) - 1) for part, s in zip(parts, (a, b), strict=True))
    return float(jax.scipy.special.betainc(freedom / 2, 0.5, freedom / (freedom + difference**2 / spread)))


__all__ = ["Concept", "Tcav", "concept_vector", "tcav"]
