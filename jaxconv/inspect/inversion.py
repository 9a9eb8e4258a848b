"""Feature inversion: Mahendran and Vedaldi, "Understanding Deep Image Representations by Inverting Them", 2015."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.equal_batches import Preprocess
from jaxconv.errors import ShapeError
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import check_hashable, check_outside, check_unstacked, one_array, random_key
from jaxconv.inspect.descent import OnStep, adam, minimize
from jaxconv.inspect.images import Parameterization, alpha_norm, begin, total_variation
from jaxconv.inspect.style import check_targets, relative_distance
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree


def _features(net: Layer, params: Params, state: State, x: Array, path: str, preprocess: Preprocess | None) -> Array:
    _, found = activations(net, params, state, x if preprocess is None else preprocess(x), paths=[path])
    return one_array(found[path], path, count=len(x))


@dataclass(frozen=True)
class _Invert:
    """The loss of an image's parameters."""

    net: Layer
    path: str
    preprocess: Preprocess | None
    parameterization: Parameterization
    size: tuple[int, int]

    def __call__(self, z: Array, data: Tree, key: Array) -> Array:
        params, state, features, variation, beta, alpha_weight, alpha = data
        x = self.parameterization.decode(z, self.size)
        y = _features(self.net, params, state, x, self.path, self.preprocess)
        loss = relative_distance(y, features)
        return jnp.sum(loss + variation * total_variation(x, beta=beta) + alpha_weight * alpha_norm(x, alpha=alpha))


def invert(
    net: Layer,
    params: Params,
    state: State,
    x: Any,
    features: ArrayLike,
    path: str,
    *,
    variation_weight: float = 0.1,
    beta: float = 2.0,
    alpha_weight: float = 0.01,
    alpha: float = 6.0,
    key: KeyLike | None = None,
    steps: int = 256,
    rate: float = 0.05,
    preprocess: Preprocess | None = None,
    parameterization: Parameterization = Parameterization(),  # noqa: B008
    optimizer: Any = None,
    on_step: OnStep | None = None,
) -> tuple[Array, Array]:
    """Finds images with given features in a layer, which show the information that the layer keeps about an image.

    A loop on the host: inside jit use `activations`. Minimizes ``|f(x) - features|^2 / |features|^2`` plus the two
    regularizers, each times its weight.

    Args:
      net, params, state: the network.
      x: the initial images in [0, 1], or the shape ``(batch, height, width, channels)`` of initial noise.
      features: the target for the layer's output, for the batch of x.
      path: the layer's path; "" for the network's output.
      variation_weight, beta: the weight and the exponent of `total_variation`.
      alpha_weight, alpha: the weight and the exponent of `alpha_norm`.
      key: a random key for the noise; None is seed 0.
      steps: the number of steps.
      rate: Adam's learning rate.
      preprocess: maps images in [0, 1] to the network's input.
      parameterization: the parameters of an image that the optimizer updates.
      optimizer: an Optax transformation in place of Adam.
      on_step: called after each step with the step's number, from 1, and the loss, for a progress bar.

    Returns:
      The images, and the losses, ``(steps,)``, summed over the batch.

    Raises:
      ValueError: the path names no layer; the features do not have the shape of the layer's output, or are all zero;
        the rate is not positive.
      NonFiniteGradientError: the gradient is not finite; the error names the step.

    >>> net = jc.serial(conv=jc.Conv(8), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> _, found = jc.inspect.activations(net, params, state, jax.random.uniform(jax.random.key(1), (1, 8, 8, 3)))
    >>> images, losses = invert(net, params, state, (1, 8, 8, 3), found["relu"], "relu", steps=32)
    >>> images.shape, bool(losses[-1] < losses[0] / 2)
    ((1, 8, 8, 3), True)
    """
    check_outside("invert", params, state, x, features, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    check_unstacked(net, path)
    key = random_key(key)
    z, shape = begin(key, x, parameterization)
    features = jnp.asarray(features)
    struct = jax.ShapeDtypeStruct(shape, jnp.float32)
    y = jax.eval_shape(lambda p, s, x: _features(net, p, s, x, path, preprocess), params, state, struct)
    if features.shape != y.shape:
        raise ShapeError(
            f"features must have the shape of {path!r} for images {shape}, {y.shape}, got {features.shape}"
        )
    check_targets({path: features})
    size = (shape[1], shape[2])
    z, losses = minimize(
        _Invert(net, path, preprocess, parameterization, size),
        z,
        (params, state, features, variation_weight, beta, alpha_weight, alpha),
        adam(rate) if optimizer is None else optimizer,
        steps,
        key=key,
        what="invert",
        on_step=on_step,
    )
    return jnp.clip(parameterization.decode(z, size), 0, 1), losses


__all__ = ["invert"]
