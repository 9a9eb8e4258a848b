"""Deep Dream: Mordvintsev, Olah and Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.equal_batches import Preprocess
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect import objectives
from jaxconv.inspect.arguments import check_hashable, check_outside, random_key
from jaxconv.inspect.descent import OnStep, check_rate, import_optax, minimize
from jaxconv.inspect.images import PIXELS, as_images
from jaxconv.inspect.maximization import Seek
from jaxconv.inspect.views import View
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State
from jaxconv.ops.resize import resize


def octave_sizes(size: Sequence[int], octaves: int, scale: float) -> list[tuple[int, int]]:
    """Returns the sizes of an image's octaves, smallest first: each is ``scale`` times larger; the last is the image's.

    >>> octave_sizes((224, 336), 3, 1.4)
    [(114, 171), (160, 240), (224, 336)]
    """
    octaves = as_int(octaves, "octaves", least=1)
    if not scale > 1:
        raise ArgumentError(f"octave_scale must be greater than 1, got {scale}")
    height, width = size
    return [(max(1, round(height / scale**i)), max(1, round(width / scale**i))) for i in range(octaves - 1, -1, -1)]


@functools.cache
def _normalized_steps(rate: float) -> Any:
    """Returns the Optax transformation that steps ``rate`` times the gradient over its mean magnitude, and clips."""
    optax = import_optax()
    check_rate(rate)

    def along(gradients: Array, images: Array) -> Array:
        size = jnp.mean(jnp.abs(gradients), axis=(1, 2, 3), keepdims=True)
        moved = images - rate * gradients / jnp.maximum(size, jnp.finfo(gradients.dtype).tiny)
        return jnp.clip(moved, -0.5, 0.5) - images

    return optax.stateless(along)


def dream(
    net: Layer,
    params: Params,
    state: State,
    x: ArrayLike,
    objective: str | objectives.Objectives,
    *,
    key: KeyLike | None = None,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 10,
    rate: float = 0.01,
    view: Callable[[Array, Array], Array] | None = View(jitter=32, degrees=0, zoom=0),  # noqa: B008
    preprocess: Preprocess | None = None,
    on_step: OnStep | None = None,
) -> Array:
    """Deep Dream: changes an image to increase a layer's activations, coarse structure first, then fine structure.

    A loop on the host. An octave is the image at one size. The change made at one octave is enlarged and added to the
    next. A step is the gradient divided by its mean absolute value, so that the rate suits layers of any scale.

    Args:
      net, params, state: the network. Unless ``octaves=1`` it must take images of any size.
      x: images in [0, 1], or uint8, of shape ``(batch, height, width, channels)``.
      objective: a layer's path ("" for the output), short for `jaxconv.inspect.layer`; or an objective as in
        `maximize`.
      key: a random key for the views; None is seed 0.
      octaves: the number of sizes.
      octave_scale: the ratio of one size to the one before.
      steps: the number of steps in each octave.
      rate: the mean change of a pixel in one step; black is 0 and white is 1.
      view: as in `maximize`. A little blur reduces noise in smooth regions.
      preprocess: maps images in [0, 1] to the network's input.
      on_step: called after each step with the step's number, counted through all octaves from 1, and minus the score.

    Returns:
      Images of x's shape in [0, 1]. A warning names an octave in which the gradient is zero and the images do not
      change.

    Raises:
      ValueError: a path names no layer; images have another rank or values outside of [0, 1]; an octave is too small
        for the network; the rate is not positive.
      NonFiniteGradientError: the gradient is not finite; the error names the octave and the step.

    >>> net = jc.serial(conv=jc.Conv(4), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 16, 16, 3))
    >>> x = jax.random.uniform(jax.random.key(1), (1, 16, 16, 3))
    >>> dream(net, params, state, x, "relu", octaves=2, steps=2).shape
    (1, 16, 16, 3)
    """
    check_outside("dream", params, state, x, inside="jaxconv.inspect.objectives.scores")
    check_hashable(net, preprocess=preprocess, view=view)
    images = as_images(x)
    wanted = objectives.layer(objective) if isinstance(objective, str) else objective
    sizes = octave_sizes(images.shape[1:3], octaves, octave_scale)
    n, c = images.shape[0], images.shape[-1]
    several = objectives.check(net, params, state, images.shape, wanted, preprocess)
    for octave, (height, width) in enumerate(sizes[:-1], 1):
        try:
            objectives.check(net, params, state, (n, height, width, c), several, preprocess)
        except ShapeError as error:
            raise ShapeError(
                f"octaves must give sizes that net accepts, got {height} x {width} pixels in octave {octave} of "
                f"{octaves}: pass fewer octaves, or octaves=1 for a network of one input size ({error})"
            ) from error
    optimizer = _normalized_steps(rate)
    detail = jnp.zeros((n, *sizes[0], c))
    for octave, size in enumerate(sizes):
        base = resize(images, size, method="bilinear", antialias=True)
        seek = Seek(net, preprocess, PIXELS, view, size)
        z = jnp.clip(base + resize(detail, size), 0, 1) - 0.5
        octave_key = jax.random.fold_in(random_key(key), octave)
        before = octave * steps
        z, _ = minimize(
            seek,
            z,
            (params, state, several),
            optimizer,
            steps,
            key=octave_key,
            what=f"dream, octave {octave + 1} of {octaves}",
            on_step=on_step and functools.partial(_counted, on_step, before),
        )
        detail = z + 0.5 - base
    return jnp.clip(base + detail, 0, 1)


def _counted(on_step: OnStep, before: int, step: int, loss: float) -> None:
    on_step(before + step, loss)


__all__ = ["dream", "octave_sizes"]
