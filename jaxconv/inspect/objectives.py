"""Objectives of optimized images: scores of a network's inner layers or of its output, as data."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxconv.equal_batches import Preprocess
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import check_hashable, check_unstacked
from jaxconv.layer import Array, Layer, Params, State, Tree


@functools.partial(jax.tree_util.register_dataclass, data_fields=["wanted"], meta_fields=["path", "score"])
@dataclass(frozen=True)
class Objective:
    """A score of one layer's output, or of the network's output.

    Args:
      path: the layer's path; "" for the output.
      score: ``score(y, wanted)``, a number for each image, shape ``(batch,)``; y is the layer's output. With a function
        at module level one compiled step serves all objectives that differ in ``wanted`` only.
      wanted: arrays that the score needs, such as the channel.

    >>> Objective("", lambda y, weights: y @ weights, jnp.array([1.0, -1.0])).path
    ''
    """

    path: str
    score: Callable[[Tree, Any], Array]
    wanted: Any = None


Objectives = Objective | Sequence[Objective]


def channel(path: str, c: ArrayLike | Sequence[int]) -> Objective:
    """Scores an image by the mean of a channel over all positions.

    Args:
      path: the layer's path; "" for the network's output.
      c: the channel; or one for each image, where -1 leaves this layer out of that image's score.

    >>> total(channel("", [2, 0]), jnp.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), {})
    Array([3., 4.], dtype=float32)
    """
    return Objective(path, _channel, _channels(c))


def unit(path: str, position: Sequence[int], c: ArrayLike | Sequence[int]) -> Objective:
    """Scores an image by one channel at one position.

    Args:
      path, c: as in `channel`.
      position: the unit's index along each spatial axis of the layer's output.

    >>> y = jnp.arange(8.0).reshape(1, 2, 2, 2)
    >>> total(unit("", (1, 0), 1), y, {})
    Array([5.], dtype=float32)
    """
    return Objective(path, _unit, (_indices(position, "position", least=0), _channels(c)))


def layer(path: str) -> Objective:
    """Scores an image by the mean square of a layer's output: Deep Dream's objective.

    >>> total(layer(""), jnp.array([[1.0, 3.0]]), {})
    Array([5.], dtype=float32)
    """
    return Objective(path, _mean_square)


def logit(c: ArrayLike | Sequence[int]) -> Objective:
    """Scores an image by a class's score in the network's output, ``(batch, classes)``; c as in `channel`.

    >>> total(logit(1), jnp.array([[1.0, 3.0]]), {})
    Array([3.], dtype=float32)
    """
    return channel("", c)


def _indices(value: Any, name: str, *, least: int) -> np.ndarray:
    indices = np.asarray(value)
    if indices.ndim > 1 or not np.issubdtype(indices.dtype, np.integer) or (indices < least).any():
        raise ArgumentError(f"{name} must be an int or a sequence of ints, at least {least}, got {value!r}")
    return indices.astype(np.int32)


def _channels(c: Any) -> np.ndarray:
    """Returns channels; -1, no channel, is allowed only where each image has a channel."""
    return _indices(c, "c", least=-1 if np.ndim(c) else 0)


def _check_below(indices: Any, n: int, what: str) -> None:
    """Raises where an index that is not traced is out of range."""
    if isinstance(indices, np.ndarray) and (indices >= n).any():
        raise ArgumentError(f"{what} must be below {n}, got {indices.tolist()}")


def _channel(y: Array, c: Any) -> Array:
    if c.shape not in ((), y.shape[:1]):
        raise ShapeError(f"c must be one channel, or one for each of the {len(y)} images, got {c.shape[0]} channels")
    _check_below(c, y.shape[-1], f"c for an output of shape {y.shape}")
    means = jnp.mean(y, axis=tuple(range(1, y.ndim - 1)), dtype=jnp.float32)
    picked = jnp.take_along_axis(means, jnp.broadcast_to(c, len(y))[:, None], axis=-1, mode="clip")[:, 0]
    # With a product by zero an infinite channel would change the scores of other images.
    return jnp.where(c < 0, 0, jnp.where(c < y.shape[-1], picked, jnp.nan))


def _unit(y: Array, wanted: Any) -> Array:
    position, c = wanted
    if len(position) != y.ndim - 2:
        raise ShapeError(
            f"position must have {y.ndim - 2} indices for an output of shape {y.shape}, got {len(position)}"
        )
    for axis, n in enumerate(y.shape[1:-1]):
        _check_below(position[axis : axis + 1], n, f"position, index {axis}, for an output of shape {y.shape},")
    return _channel(y[(slice(None), *position)], c)


def _mean_square(y: Array, _: None) -> Array:
    return jnp.mean(jnp.square(y), axis=tuple(range(1, y.ndim)), dtype=jnp.float32)


def total(objectives: Objectives, y: Tree, found: dict[str, Tree]) -> Array:
    """Returns the sum of the objectives for each image, given the outputs of a network and of its inner layers.

    >>> total([channel("a", 0), layer("")], jnp.ones((2, 3)), {"a": jnp.full((2, 4, 4, 1), 2.0)})
    Array([3., 3.], dtype=float32)
    """
    total: Any = 0
    for objective in (objectives,) if isinstance(objectives, Objective) else objectives:
        out = found[objective.path] if objective.path else y
        if not hasattr(out, "ndim"):
            raise ShapeError(
                f"path {objective.path!r} must name a layer that returns one array, got {jax.tree.structure(out)}"
            )
        total = total + objective.score(out, objective.wanted)
    return total


def describe(objectives: Sequence[Objective], image: int) -> str:
    """Returns the objectives of one image in words.

    >>> describe([unit("conv", (2, 2), [1, 3]), layer("pool"), logit(7)], 1)
    "channel 3 at (2, 2) of 'conv', 'pool', channel 7 of the output"
    """
    parts = []
    for objective in objectives:
        part = repr(objective.path) if objective.path else "the output"
        if objective.score in (_channel, _unit):
            position, c = objective.wanted if objective.score is _unit else (None, objective.wanted)
            c = int(np.broadcast_to(c, np.shape(c) or image + 1)[image])
            if c < 0:
                continue
            part = f"channel {c}{'' if position is None else f' at {tuple(position.tolist())}'} of {part}"
        parts.append(part)
    return ", ".join(parts) or "nothing"


def scores(
    net: Layer, params: Params, state: State, x: Array, objectives: Objectives, preprocess: Preprocess | None = None
) -> Array:
    """Returns the sum of the objectives for each image of ``x``, shape ``(batch,)``, under jit, grad and vmap too.

    >>> net = jc.serial(jc.GlobalAvgPool())
    >>> scores(net, {}, {}, jnp.ones((2, 4, 4, 3)), logit(0))
    Array([1., 1.], dtype=float32)
    """
    several = (objectives,) if isinstance(objectives, Objective) else objectives
    paths = {objective.path for objective in several if objective.path}
    y, found = activations(net, params, state, x if preprocess is None else preprocess(x), paths=paths)
    return total(several, y, found)


def check(
    net: Layer,
    params: Params,
    state: State,
    shape: tuple[int, ...],
    objectives: Objectives,
    preprocess: Preprocess | None,
) -> tuple[Objective, ...]:
    """Returns the objectives as a tuple, or raises where one does not fit the network; only shapes are computed."""
    if isinstance(objectives, str):
        raise TypeError(
            f"objective must be an Objective or a sequence of them, got the string {objectives!r}: write "
            f"jaxconv.inspect.channel({objectives!r}, 0) for a channel of that layer, jaxconv.inspect.layer(...) for "
            "the whole layer, or jaxconv.inspect.logit(0) for a class"
        )
    several = tuple(objectives) if isinstance(objectives, Sequence) else (objectives,)
    if not several or not all(isinstance(objective, Objective) for objective in several):
        raise TypeError(f"objective must be an Objective or a sequence of them, got {objectives!r}")
    check_hashable(net, preprocess=preprocess)
    for objective in several:
        check_unstacked(net, objective.path)
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    given = jax.eval_shape(lambda p, s, x: scores(net, p, s, x, several, preprocess), params, state, x)
    if given.shape != shape[:1]:
        raise ShapeError(f"objective must return {shape[:1]} scores, one for each image of {shape}, got {given.shape}")
    return several


__all__ = ["Objective", "channel", "layer", "logit", "scores", "unit"]
