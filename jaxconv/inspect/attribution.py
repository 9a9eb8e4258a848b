"""Attribution: the pixels that a score depends on, by gradients and by occlusion.

All functions take ``(net, params, state, x, target)``, run the network in evaluation mode, and work under jit and vmap.
Functions that run the network many times compile it once for equal networks, and need a hashable network. ``target``
selects the score: a class index for all examples, or an array of one for each; None, the class with the highest score;
or, for an output without classes, a function from the output to a score for each example:
``lambda y: y["boxes"][:, 0, 3]``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.child import child_key
from jaxconv.compiler import jit
from jaxconv.errors import ArgumentError, MissingKeyError, ShapeError
from jaxconv.geometry import IntOrTuple, as_int, as_tuple
from jaxconv.inspect.arguments import Target, as_input, like_input, scores, settled, split_target
from jaxconv.inspect.rectifiers import rectifies
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.layers import Fn
from jaxconv.ops.arrays import ArrayLike, accumulator, apply_along
from jaxconv.tree import map_layers


def saliency(net: Layer, params: Params, state: State, x: ArrayLike, target: Target = None) -> Array:
    """Returns the gradient of a score with respect to the input (Simonyan et al., 2014).

    Args:
      net: a layer.
      params, state: arguments of ``net.apply``.
      x: floating-point array of shape ``(batch, ..., channels)``, scaled as the network expects it.
      target: a class index for all examples, or an array of one index for each; None, the class with the highest score;
        or a function from the network's output to a score for each example.

    Returns:
      Array g of x's shape and type, with signs. The paper shows ``jnp.abs(g).max(-1)``.

    Raises:
      DTypeError: x is not floating-point.
      ValueError: the target is out of range or does not fit the output, or x does not fit the network.

    Equals ``captum.attr.Saliency(abs=False)``.

    >>> net = jc.serial(jc.Flatten(), jc.Dense(2, bias=False))
    >>> params = {"1": {"kernel": jnp.array([[1.0, -1.0], [2.0, 0.0], [0.0, 3.0], [0.0, 0.0]])}}
    >>> saliency(net, params, {}, jnp.ones((1, 2, 2, 1)), 1)[0, :, :, 0]
    Array([[-1.,  0.],
           [ 3.,  0.]], dtype=float32)
    """
    return _gradient(net, params, state, target, as_input(x))


def _gradient(net: Layer, params: Params, state: State, target: Target, x: Array) -> Array:
    def total(x: Array) -> Array:
        y, _ = net.apply(params, state, x)
        return jnp.sum(scores(y, target, len(x)))

    return jax.grad(total)(x)


@functools.partial(jit, static_argnums=(0, 1, 2))
def _mean_gradient(
    net: Layer,
    function: Callable[[Tree], Array] | None,
    move: Callable[[Array, Array, Any], tuple[Array, Array | float]],
    index: Array | None,
    params: Params,
    state: State,
    x: Array,
    data: Array,
    over: Tree,
) -> Array:
    """Returns the mean of the weighted gradients over each ``o`` of ``over``, computed one at a time.

    ``move(x, data, o)`` returns the input of a gradient and its weight.
    """
    fixed = settled(net, params, state, x, index if function is None else function)

    def add(total: Array, o: Any) -> tuple[Array, None]:
        point, weight = move(x, data, o)
        return total + weight * _gradient(net, params, state, fixed, point).astype(total.dtype), None

    total, _ = jax.lax.scan(add, jnp.zeros(x.shape, accumulator(x.dtype)), over)
    return total / len(jax.tree.leaves(over)[0])


def smooth_grad(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    key: KeyLike,
    samples: int = 32,
    noise: float = 0.15,
) -> Array:
    """Returns the mean of `saliency`, with signs, over noisy copies of the input (Smilkov et al., 2017).

    Args:
      net, params, state, x: as in `saliency`.
      target: as in `saliency`; None is the top class of x.
      key: a random key for the noise.
      samples: the number of copies; they are computed one at a time.
      noise: the standard deviation of the noise, as a fraction of the range (maximum minus minimum) of each example.

    Returns:
      Array of x's shape and type.

    Raises:
      As `saliency`; ValueError where samples is below 1 or noise is negative.

    Equals ``captum.attr.NoiseTunnel(Saliency(net))`` with ``abs=False`` and ``nt_type="smoothgrad"``, except that
    captum takes the standard deviation in units of the input.

    >>> net = jc.serial(jc.Flatten(), jc.Dense(2))
    >>> params, state = net.init(jax.random.key(0), (1, 4, 4, 3))
    >>> smooth_grad(net, params, state, jnp.ones((1, 4, 4, 3)), key=jax.random.key(1)).shape
    (1, 4, 4, 3)
    """
    x = as_input(x)
    if not isinstance(noise, jax.core.Tracer) and not noise >= 0:
        raise ArgumentError(f"noise must be at least 0, got {noise}")
    noise_key = child_key(key, "noise")
    if noise_key is None:
        raise MissingKeyError("key must be a random key, got None")
    keys = jax.random.split(noise_key, as_int(samples, "samples", least=1))
    axes = tuple(range(1, x.ndim))
    deviation = (noise * (jnp.max(x, axes, keepdims=True) - jnp.min(x, axes, keepdims=True))).astype(x.dtype)
    split = split_target(net, params, state, x, target)
    return _mean_gradient(net, split[0], _noisy, split[1], params, state, x, deviation, keys).astype(x.dtype)


def _noisy(x: Array, deviation: Array, key: Array) -> tuple[Array, float]:
    return x + deviation * jax.random.normal(key, x.shape, x.dtype), 1.0


def integrated_gradients(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    baseline: ArrayLike = 0.0,
    steps: int = 64,
) -> Array:
    """Returns ``(x - baseline)`` times the mean gradient on the line from the baseline (Sundararajan et al., 2017).

    Attributions are complete: for each example they sum to its score minus the score of the baseline, up to the error
    of the sum over ``steps`` midpoints. More steps make that error smaller.

    Args:
      net, params, state, x: as in `saliency`.
      target: as in `saliency`; None is the top class of x.
      baseline: the start of the line: a number, or an array that broadcasts to x. 0 is the mean image for a network
        that takes normalized images.
      steps: the number of points on the line; they are computed one at a time.

    Returns:
      Array of x's shape and type.

    Raises:
      As `saliency`; ShapeError where the baseline does not broadcast to x; ArgumentError where steps is below 1.

    Equals ``captum.attr.IntegratedGradients`` with the method ``riemann_middle``.

    >>> net = jc.serial(jc.Flatten(), jnp.square)
    >>> a = integrated_gradients(net, {}, {}, jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1), 1)
    >>> print(a.reshape(2))
    [0. 9.]
    """
    x = as_input(x)
    start = like_input(baseline, x, "baseline")
    parts = (jnp.arange(as_int(steps, "steps", least=1), dtype=accumulator(x.dtype)) + 0.5) / steps
    split = split_target(net, params, state, x, target)
    mean = _mean_gradient(net, split[0], _between, split[1], params, state, x, start, parts)
    return ((x - start) * mean).astype(x.dtype)


def _between(x: Array, start: Array, part: Array) -> tuple[Array, float]:
    return (start + part * (x - start)).astype(x.dtype), 1.0


def expected_gradients(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    baselines: ArrayLike,
    key: KeyLike,
    samples: int = 64,
) -> Array:
    """Returns the mean of `integrated_gradients` over the baselines of a data set, by sampling (Erion et al., 2021).

    A sample is a baseline and a point on the line from it to x. All baselines are drawn equally often, in random order,
    and the points are spread evenly over the lines. The attributions of an example sum to its score minus the mean
    score of the baselines, up to the error of the sampling.

    Args:
      net, params, state, x: as in `saliency`.
      target: as in `saliency`; None is the top class of x.
      baselines: array of shape ``(count, ..., channels)``, such as some training images: the distribution that x is
        compared with, instead of one image that no data set has.
      key: a random key for the samples, which all examples share.
      samples: the number of gradients; they are computed one at a time.

    Returns:
      Array of x's shape and type.

    Raises:
      As `saliency`; ShapeError where baselines do not have the shape of examples of x; ArgumentError where samples is
      below 1; MissingKeyError where key is None.

    Equals ``captum.attr.GradientShap(stdevs=0)``, which draws separate samples for each example, in the mean.

    >>> net = jc.serial(jc.Flatten(), jnp.square)
    >>> x, baselines = jnp.array([1.0, 3.0]).reshape(1, 1, 2, 1), jnp.zeros((4, 1, 2, 1)).at[:2].set(1.0)
    >>> a = expected_gradients(net, {}, {}, x, 1, baselines=baselines, key=jax.random.key(0))
    >>> print(a.reshape(2).round(1))
    [0.  8.5]
    """
    x = as_input(x)
    baselines = jnp.asarray(baselines, x.dtype)
    if baselines.ndim != x.ndim or baselines.shape[1:] != x.shape[1:] or not len(baselines):
        raise ShapeError(
            f"baselines must have the shape (count, ...) of examples like {x.shape}, got {baselines.shape}"
        )
    sample_key = child_key(key, "samples")
    if sample_key is None:
        raise MissingKeyError("key must be a random key, got None")
    order_key, offset_key = jax.random.split(sample_key)
    n = as_int(samples, "samples", least=1)
    # In each run through the baselines they have another order, so that a baseline meets points on its whole line.
    rounds = jax.random.split(order_key, -(-n // len(baselines)))
    order = jax.vmap(lambda key: jax.random.permutation(key, len(baselines)))(rounds).reshape(-1)[:n]
    parts = (jnp.arange(n) + jax.random.uniform(offset_key, (n,), accumulator(x.dtype))) / n
    split = split_target(net, params, state, x, target)
    over = (order, parts)
    return _mean_gradient(net, split[0], _toward, split[1], params, state, x, baselines, over).astype(x.dtype)


def _toward(x: Array, baselines: Array, sample: tuple[Array, Array]) -> tuple[Array, Array]:
    index, part = sample
    start = baselines[index]
    return (start + part * (x - start)).astype(x.dtype), x - start


def guided_backprop(net: Layer, params: Params, state: State, x: ArrayLike, target: Target = None) -> Array:
    """Returns the gradient that passes rectifiers only where the gradient is positive (Springenberg et al., 2015).

    Each rectifier that is a layer of the network is replaced: ``jax.nn.relu``, ``jax.nn.relu6``, and any other function
    that is zero for x <= 0 and positive for x > 0. Rectifiers inside a larger function, and activations that pass
    negative values, are not changed.

    Args:
      net, params, state, x, target: as in `saliency`.

    Returns:
      Array of x's shape and type.

    Raises:
      As `saliency`; ArgumentError where the network has no rectifier.

    Equals ``captum.attr.GuidedBackprop``.

    >>> net = jc.serial(jc.Dense(2, bias=False), jax.nn.relu, jc.Dense(1, bias=False))
    >>> params = {"0": {"kernel": jnp.eye(2)}, "2": {"kernel": jnp.array([[1.0], [-1.0]])}}
    >>> x = jnp.ones((1, 2))
    >>> print(saliency(net, params, {}, x), guided_backprop(net, params, {}, x))
    [[ 1. -1.]] [[1. 0.]]
    """
    x = as_input(x)
    guided = map_layers(net, lambda layer: Fn(_guided(layer.function)) if rectifies(layer) else layer)
    if guided is net:
        raise ArgumentError(
            "net must have a rectifier as a layer, such as jax.nn.relu, for guided backpropagation, got none: "
            "without a rectifier use saliency"
        )
    return _gradient(guided, params, state, target, x)


def _guided(function: Callable[[Tree], Tree]) -> Callable[[Tree], Tree]:
    """Returns the same function with a gradient that sets negative cotangents to zero."""
    guided = jax.custom_vjp(function)
    guided.defvjp(
        lambda x: jax.vjp(function, x), lambda pull, g: pull(jax.tree.map(lambda leaf: jnp.maximum(leaf, 0), g))
    )
    return guided


def occlusion(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    target: Target = None,
    *,
    window: IntOrTuple,
    stride: IntOrTuple = 1,
    value: ArrayLike = 0.0,
    batch_size: int = 16,
) -> Array:
    """Returns the decrease of a score where the image is covered (Zeiler and Fergus, 2014).

    A window slides over the image and covers it; the last window along an axis is moved back inside the image. The
    value of a pixel is the mean decrease over the windows that cover the pixel.

    Args:
      net, params, state: as in `saliency`.
      x: floating-point array of shape ``(batch, *spatial, channels)``.
      target: as in `saliency`; None is the top class of x.
      window: the window's sizes, an int or one for each spatial axis.
      stride: the step, at most the window.
      value: the cover: a number, or an array that broadcasts to x, such as the mean color or a blurred image.
      batch_size: the number of positions that are computed at a time, each for all examples.

    Returns:
      Array of shape ``(batch, *spatial)``, positive where covering the pixel lowers the score.

    Raises:
      As `saliency`; ShapeError where the window is larger than the image or smaller than the stride.

    Equals ``captum.attr.Occlusion``, except for the windows at the border, and the mean in place of the sum.

    >>> net = jc.serial(jc.Flatten(), jc.Dense(1, bias=False))
    >>> params = {"1": {"kernel": jnp.array([[0.0], [5.0], [0.0], [0.0]])}}
    >>> occlusion(net, params, {}, jnp.ones((1, 2, 2, 1)), window=1)[0]
    Array([[0., 5.],
           [0., 0.]], dtype=float32)
    """
    x = as_input(x, spatial=True)
    cover = like_input(value, x, "value")
    sizes = x.shape[1:-1]
    windows, strides = as_tuple(window, len(sizes), "window"), as_tuple(stride, len(sizes), "stride")
    for axis, (n, f, s) in enumerate(zip(sizes, windows, strides, strict=True)):
        if not s <= f <= n:
            raise ShapeError(
                f"window must be at least the stride and at most the image, got window {f}, stride {s} "
                f"and size {n} on spatial axis {axis}"
            )
    starts = [
        np.minimum(np.arange(-(-(n - f) // s) + 1) * s, n - f) for n, f, s in zip(sizes, windows, strides, strict=True)
    ]
    positions = np.stack(np.meshgrid(*starts, indexing="ij"), -1).reshape(-1, len(sizes))
    # Batches have one size; the last repeats positions.
    batches = -(-len(positions) // as_int(batch_size, "batch_size", least=1))
    filled = np.resize(positions, (batches, -(-len(positions) // batches), len(sizes)))
    function, index = split_target(net, params, state, x, target)
    falls = _falls(net, function, windows, index, params, state, x, cover, filled)[: len(positions)].T
    falls = falls.reshape(len(x), *map(len, starts), 1)
    # Windows are products of intervals, so the mean over windows is one matrix product for each axis.
    for axis, (n, f, first) in enumerate(zip(sizes, windows, starts, strict=True), 1):
        at = np.arange(n) - first[:, None]
        covers = (at >= 0) & (at < f)
        falls = apply_along(falls, covers / covers.sum(axis=0), axis)
    return falls[..., 0]


@functools.partial(jit, static_argnums=(0, 1, 2))
def _falls(
    net: Layer,
    function: Callable[[Tree], Array] | None,
    windows: tuple[int, ...],
    index: Array | None,
    params: Params,
    state: State,
    x: Array,
    cover: Array,
    positions: Array,
) -> Array:
    """Returns the decrease of each example's score, a row for each of ``positions``, which are given in batches."""
    fixed = settled(net, params, state, x, index if function is None else function)

    def score(x: Array) -> Array:
        return scores(net.apply(params, state, x)[0], fixed, len(x))

    def covered(position: Array) -> Array:
        inside = jnp.ones((*x.shape[1:-1], 1), bool)
        for axis, f in enumerate(windows):
            at = jax.lax.broadcasted_iota(jnp.int32, inside.shape, axis) - position[axis]
            inside &= (at >= 0) & (at < f)
        return score(jnp.where(inside, cover, x))

    return score(x)[None] - jax.lax.map(jax.vmap(covered), positions).reshape(-1, len(x))


__all__ = ["expected_gradients", "guided_backprop", "integrated_gradients", "occlusion", "saliency", "smooth_grad"]
