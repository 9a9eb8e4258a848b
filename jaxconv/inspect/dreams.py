"""Deep Dream: Mordvintsev, Olah and Tyka, "Inceptionism: Going Deeper into Neural Networks", 2015."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxconv.batches import Preprocess
from jaxconv.errors import ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect import objectives
from jaxconv.inspect.arguments import check_hashable, check_outside, random_key
from jaxconv.inspect.descent import OnStep, check_rate, import_optax, minimize
from jaxconv.inspect.images import PIXELS, as_images
from jaxconv.inspect.maximization import Seek
from jaxconv.inspect.views import View
from jaxconv.layer import Array, Layer, Params, State
from jaxconv.ops.resize import resize


def octave_sizes(size: Sequence[int], octaves: int, scale: float) -> list[tuple[int, int]]:
    """Returns the sizes of an image's octaves, the smallest first: each ``scale`` times larger, the last the image's.

    >>> octave_sizes((224, 336), 3, 1.4)
    [(114, 171), (160, 240), (224, 336)]
    """
    octaves = as_int(octaves, "octaves", least=1)
    if not scale > 1:
        raise ShapeError(f"octave_scale must be greater than 1, got {scale}")
    height, width = size
    return [(max(1, round(height / scale**i)), max(1, round(width / scale**i))) for i in range(octaves - 1, -1, -1)]


@functools.cache
def _normalized_steps(rate: float) -> Any:
    """Returns the Optax transformation that goes ``rate`` along the gradient over its mean size, and stays in range."""
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
    key: Array | None = None,
    octaves: int = 4,
    octave_scale: float = 1.4,
    steps: int = 10,
    rate: float = 0.01,
    view: Callable[[Array, Array], Array] | None = View(jitter=32, degrees=0, zoom=0),  # noqa: B008
    preprocess: Preprocess | None = None,
    on_step: OnStep | None = None,
) -> Array:
    """Makes an image show more of what a layer sees in it already, coarse shapes first, fine ones in them.

    A loop on the host. An octave is the image at one size. What the network dreamt into it is enlarged and added to the
    next. A step goes along the gradient divided by its mean absolute value, so that strong and weak layers dream alike.

    Args:
      net, params, state: the network, which takes images of any size; with ``octaves=1`` only of x's.
      x: images in [0, 1], or uint8, of shape ``(batch, height, width, channels)``.
      objective: a layer's path, "" for the output, for `jaxconv.inspect.objectives.layer`; or what `maximize` takes.
      key: a random key for the views; by default that of seed 0.
      octaves: how many sizes.
      octave_scale: from one to the next.
      steps: in each octave.
      rate: how far a step goes, in the mean over pixels, where white is 1.
      view: what the network is shown at a step; see `maximize`. A little blur calms smooth places.
      preprocess: from images in [0, 1] to what the network takes.
      on_step: called after each step with its number, counted through all octaves from 1, and minus the score.

    Returns:
      Images of x's shape in [0, 1]. A warning names an octave in which they did not change, as nothing fires.

    Raises:
      ShapeError: a path names no layer (it lists the nearest); images of another rank or outside of [0, 1]; an octave
        is too small for the network; a rate that is not positive.
      NonFiniteGradientError: the gradient is not finite; it names the octave and the step.

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
                f"octave {octave} of {octaves} is {height} x {width} pixels, which net does not take: pass fewer "
                f"octaves, or octaves=1 and images of its size where it takes one size only ({error})"
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
