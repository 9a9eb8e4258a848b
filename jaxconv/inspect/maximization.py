"""Preferred inputs of units, channels, layers and classes, found by gradient ascent (feature visualization)."""

import dataclasses
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.equal_batches import Preprocess
from jaxconv.geometry import as_int
from jaxconv.inspect import objectives
from jaxconv.inspect.arguments import check_hashable, check_outside, random_key
from jaxconv.inspect.descent import Descent, OnStep, adam
from jaxconv.inspect.images import Parameterization, begin
from jaxconv.inspect.rectifiers import redirected
from jaxconv.inspect.views import View
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree

_REDIRECTED_STEPS = 16


@dataclass(frozen=True)
class Seek:
    """The loss of an image's parameters: minus the sum of all images' scores."""

    net: Layer
    preprocess: Preprocess | None
    parameterization: Parameterization
    view: Callable[[Array, Array], Array] | None
    size: tuple[int, int]

    def scores(self, z: Array, data: Tree, key: Array) -> Array:
        """Returns each image's score."""
        params, state, wanted = data
        x = self.parameterization.decode(z, self.size)
        x = x if self.view is None else self.view(key, x)
        return objectives.scores(self.net, params, state, x, wanted, self.preprocess)

    def __call__(self, z: Array, data: Tree, key: Array) -> Array:
        return -jnp.sum(self.scores(z, data, key))


@dataclass(frozen=True)
class _Redirected:
    """The same loss, with `redirected` gradients only for the images that are marked in the data."""

    seek: Seek

    def __call__(self, z: Array, data: Tree, key: Array) -> Array:
        data, marked = data
        past = dataclasses.replace(self.seek, net=redirected(self.seek.net))
        return -jnp.sum(jnp.where(marked, past.scores(z, data, key), self.seek.scores(z, data, key)))


def maximize(
    net: Layer,
    params: Params,
    state: State,
    x: Any,
    objective: objectives.Objectives,
    *,
    key: KeyLike | None = None,
    steps: int = 256,
    rate: float = 0.1,
    preprocess: Preprocess | None = None,
    parameterization: Parameterization = Parameterization(),  # noqa: B008
    view: Callable[[Array, Array], Array] | None = View(),  # noqa: B008
    optimizer: Any = None,
    on_step: OnStep | None = None,
) -> tuple[Array, Array]:
    """Finds images that maximize an objective (Olah et al., "Feature Visualization", 2017).

    A loop on the host. The images of the batch are independent: ``objectives.channel(path, range(n))`` shows n channels
    in one call.

    A unit behind a rectifier has no gradient while it does not fire. So an image whose gradient is zero at the first
    step uses a redirected gradient (Lucid's redirected ReLU) for the next 16 steps, or for half of all steps if that is
    fewer; the gradient passes rectifiers whose whole gradient is zero. The other steps use the true gradient. A warning
    names the units whose true gradient is zero at all steps.

    Args:
      net, params, state: the network.
      x: the initial images in [0, 1], or the shape ``(batch, height, width, channels)`` of initial noise.
      objective: one of `jaxconv.inspect.objectives`, or a sequence of objectives whose scores are added.
      key: a random key for the noise and the views; None is seed 0.
      steps: the number of steps.
      rate: Adam's learning rate.
      preprocess: maps images in [0, 1] to the network's input; None passes the images unchanged.
      parameterization: the parameters of an image that the optimizer updates.
      view: ``view(key, images)``, the random transformation of the images at each step; None is the identity.
      optimizer: an Optax transformation in place of Adam.
      on_step: called after each step with the step's number, from 1, and minus the score, for a progress bar.

    Returns:
      The images, in [0, 1] if the parameterization is bounded, and the sum of their scores before each step,
      ``(steps,)``.

    Raises:
      ValueError: a path names no layer; the layer lacks a channel or position; images have another rank or values
        outside of [0, 1]; the network does not accept the images.
      NonFiniteGradientError: the gradient is not finite; the error names the step.

    >>> net = jc.serial(conv=jc.Conv(4))
    >>> params, state = net.init(jax.random.key(0), (1, 16, 16, 3))
    >>> wanted = objectives.channel("conv", [0, 3])
    >>> images, scores = maximize(net, params, state, (2, 16, 16, 3), wanted, steps=8)
    >>> images.shape, bool(scores[-1] > scores[0])
    ((2, 16, 16, 3), True)
    """
    check_outside("maximize", params, state, x, objective, inside="jaxconv.inspect.objectives.scores")
    check_hashable(net, preprocess=preprocess, view=view, optimizer=optimizer)
    noise_key, view_key = jax.random.split(random_key(key))
    z, shape = begin(noise_key, x, parameterization)
    wanted = objectives.check(net, params, state, shape, objective, preprocess)
    seek = Seek(net, preprocess, parameterization, view, shape[1:3])
    data = (params, state, wanted)
    optimizer = adam(rate) if optimizer is None else optimizer
    steps = as_int(steps, "steps", least=1)
    descent = Descent(z, optimizer, steps, key=view_key, what="maximize", on_step=on_step)
    unmoved = descent.run(seek, data, 1)
    count = min(_REDIRECTED_STEPS, (steps - 1) // 2)
    if count and unmoved.any():
        descent.run(_Redirected(seek), (data, unmoved), count)
    unmoved = unmoved & descent.run(seek, data, steps - len(descent.losses))
    if unmoved.any():
        which = "; ".join(f"image {i}, {objectives.describe(wanted, int(i))}" for i in np.flatnonzero(unmoved))
        warnings.warn(
            f"maximize: the gradient of the score is zero at all steps for {which}: the unit does not fire (see "
            "jaxconv.inspect.dead_units); start from other images, or maximize the layer before the rectifier",
            stacklevel=2,
        )
    return parameterization.decode(descent.z, shape[1:3]), -jnp.stack(descent.losses)


__all__ = ["maximize"]
