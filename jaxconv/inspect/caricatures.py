"""Caricatures: images that exaggerate what a layer sees in an image."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.equal_batches import Preprocess
from jaxconv.errors import ArgumentError
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import check_hashable, check_outside, check_unstacked, one_array
from jaxconv.inspect.descent import OnStep
from jaxconv.inspect.images import Parameterization, as_images
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.objectives import Objective
from jaxconv.inspect.views import View
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State

# A product with the cosine alone has no gradient where activations are far from those that are wanted.
_LEAST_COSINE = 0.1


def alignment(y: Array, wanted: tuple[Array, Array]) -> Array:
    """Returns ``a . b cos(a, b)^power`` for each image, with the activations a and the wanted activations b of norm 1.

    The score of an objective: ``wanted`` is b, one for each image, and the power. A b without positions is
    compared with each position, and the score is the mean over positions.

    >>> print(alignment(jnp.array([[3.0, 4.0]]), (jnp.array([[2.0, 0.0]]), jnp.array(1.0))).round(2))
    [1.8]
    """
    b, power = wanted
    a = y.astype(jnp.float32)
    everywhere = b.ndim < a.ndim
    b = b.reshape(len(b), *(1,) * (a.ndim - b.ndim), *b.shape[1:]).astype(jnp.float32)
    axes = -1 if everywhere else tuple(range(1, a.ndim))
    tiny = jnp.finfo(jnp.float32).tiny
    along = jnp.sum(a * b, axes) * jax.lax.rsqrt(jnp.sum(b * b, axes) + tiny)
    cosine = along * jax.lax.rsqrt(jnp.sum(a * a, axes) + 1e-12)
    score = along * jnp.maximum(cosine, _LEAST_COSINE) ** power
    return jnp.mean(score.reshape(len(a), -1), axis=1)


def check_power(power: float) -> np.ndarray:
    """Returns the power as an array, or raises ArgumentError where it is negative."""
    if not power >= 0:
        raise ArgumentError(f"power must be at least 0, got {power}")
    return np.asarray(power, np.float32)


def caricature(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    path: str,
    *,
    power: float = 2.0,
    key: KeyLike | None = None,
    steps: int = 256,
    rate: float = 0.05,
    preprocess: Preprocess | None = None,
    parameterization: Parameterization = Parameterization(),  # noqa: B008
    view: Callable[[Array, Array], Array] | None = View(jitter=8, degrees=3, zoom=0.03),  # noqa: B008
    on_step: OnStep | None = None,
) -> tuple[Array, Array]:
    """Returns images, from noise, whose activations exaggerate those of given images (Cammarata et al., 2020).

    An image maximizes the product of its activations with those of the given image, times a power of their cosine: what
    the layer responds to becomes stronger, what it does not see is lost. A loop on the host.

    Args:
      net, params, state: the network.
      images: array of shape ``(batch, height, width, channels)``: uint8, or floats in [0, 1].
      path: the layer's path.
      power: the exponent of the cosine; larger values keep closer to the image, 0 exaggerates most.
      key, steps, rate, preprocess, parameterization, view, on_step: as in `jaxconv.inspect.maximize`.

    Returns:
      The images, of the same shape, and the sum of their scores before each step.

    Raises:
      As `jaxconv.inspect.maximize`; ArgumentError where the power is negative.

    >>> net = jc.serial(conv=jc.Conv(4), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 16, 16, 3))
    >>> given = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
    >>> images, scores = caricature(net, params, state, given, "relu", steps=4)
    >>> images.shape, bool(scores[-1] > scores[0])
    ((1, 16, 16, 3), True)
    """
    check_outside("caricature", params, state, images, inside="jaxconv.inspect.objectives.scores")
    check_hashable(net, preprocess=preprocess)
    check_unstacked(net, path)
    images = as_images(images, "images")
    x = images if preprocess is None else preprocess(images)
    found = one_array(activations(net, params, state, x, paths=[path])[1][path], path, count=len(images))
    return maximize(
        net,
        params,
        state,
        images.shape,
        Objective(path, alignment, (found, check_power(power))),
        key=key,
        steps=steps,
        rate=rate,
        preprocess=preprocess,
        parameterization=parameterization,
        view=view,
        on_step=on_step,
    )


__all__ = ["caricature"]
