"""Neural style: the content of one image in the style of another (Gatys et al., 2016; Johnson et al., 2016)."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import as_paths, check_hashable, check_outside, check_unstacked, one_array, random_key
from jaxconv.inspect.descent import OnStep, adam, minimize
from jaxconv.inspect.images import PIXELS, Parameterization, as_images, total_variation
from jaxconv.keys import KeyLike
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops.arrays import accumulator

Weighted = tuple[tuple[str, float], ...]


def gram(y: ArrayLike) -> Array:
    """Returns the Gram matrix of channels over all positions: ``sum_positions y_i y_j / (positions channels)``.

    Args:
      y: a layer's output, ``(batch, *spatial, channels)``.

    Returns:
      Array of shape ``(batch, channels, channels)``, scaled as in Johnson et al., 2016; Gatys et al., 2016, do not
      divide.

    Raises:
      ShapeError: there is no spatial axis.

    >>> gram(jnp.array([[[1.0, 0.0], [1.0, 2.0]]]))
    Array([[[0.5, 0.5],
            [0.5, 1. ]]], dtype=float32)
    """
    y = jnp.asarray(y)
    if y.ndim < 3:
        raise ShapeError(f"y must have shape (batch, *spatial, channels), got {y.shape}")
    flat = y.reshape(y.shape[0], -1, y.shape[-1])
    products = jnp.einsum("npi,npj->nij", flat, flat, preferred_element_type=accumulator(y.dtype))
    return products / (flat.shape[1] * flat.shape[2])


def _gram(y: Array, path: str) -> Array:
    if y.ndim < 3:
        raise ShapeError(f"style path {path!r} must name a layer with feature maps, got an output of shape {y.shape}")
    return gram(y)


@dataclass(frozen=True)
class PerceptualLoss:
    """The perceptual loss of an image: distances to the content of one image and the style of another.

    The content loss of a layer is the squared distance of features, the style loss that of Gram matrices (`gram`).
    Each is divided by the squared norm of its target, so that weights have the same meaning in all layers.

    Args:
      net: the network.
      content, style: paths of layers with equal shares of the weight, or shares by path; "" is the network's output.
      content_weight, style_weight: the weight of all content layers together, and of all style layers together.
      variation_weight: the weight of the image's total variation; see `total_variation`.
      preprocess: maps images in [0, 1] to the network's input.

    Raises:
      ValueError: a path names no layer, or is repeated; content and style are both empty; weights or shares are
        negative, or all shares are zero.

    >>> net = jc.serial(conv1=jc.Conv(4), conv2=jc.Conv(8))
    >>> PerceptualLoss(net, content=["conv2"], style={"conv1": 1, "conv2": 3}).style
    (('conv1', 0.25), ('conv2', 0.75))
    """

    net: Layer
    content: Sequence[str] | Mapping[str, float] | Weighted
    style: Sequence[str] | Mapping[str, float] | Weighted
    content_weight: float = 1.0
    style_weight: float = 1.0
    variation_weight: float = 0.0
    preprocess: Preprocess | None = None

    def __post_init__(self) -> None:
        check_hashable(self.net, preprocess=self.preprocess)
        for name in ("content", "style"):
            object.__setattr__(self, name, _shares(self.net, getattr(self, name), name))
        if not self.content and not self.style:
            raise ArgumentError("content or style must name a layer, got none")
        for name in ("content_weight", "style_weight", "variation_weight"):
            weight = getattr(self, name)
            if not 0 <= weight < math.inf:
                raise ArgumentError(f"{name} must be a number that is not negative, got {weight}")

    def _found(self, params: Params, state: State, x: Array, *shares: Any) -> dict[str, Array]:
        paths = {path for pairs in shares for path, _ in pairs}
        shown = x if self.preprocess is None else self.preprocess(x)
        _, found = activations(self.net, params, state, shown, paths=paths)
        return {path: one_array(y, path, count=len(x)) for path, y in found.items()}

    def features(self, params: Params, state: State, x: Array) -> dict[str, Array]:
        """Returns the content layers' outputs on images in [0, 1]."""
        return self._found(params, state, x, self.content)

    def grams(self, params: Params, state: State, x: Array) -> dict[str, Array]:
        """Returns the style layers' Gram matrices on images in [0, 1]."""
        return {path: _gram(y, path) for path, y in self._found(params, state, x, self.style).items()}

    def __call__(
        self, params: Params, state: State, x: Array, features: Mapping[str, Array], grams: Mapping[str, Array]
    ) -> Array:
        """Returns the loss of each image in [0, 1], shape ``(batch,)``, for target `features` and `grams`."""
        found = self._found(params, state, x, self.content, self.style)
        total = self.variation_weight * total_variation(x)
        for path, share in dict(self.content).items():  # type: ignore[arg-type]
            total += self.content_weight * share * relative_distance(found[path], features[path])
        for path, share in dict(self.style).items():  # type: ignore[arg-type]
            total += self.style_weight * share * relative_distance(_gram(found[path], path), grams[path])
        return total


def _shares(net: Layer, given: Any, argument: str) -> Weighted:
    entries = given.items() if isinstance(given, Mapping) else as_paths(given, argument)
    pairs = [(entry, 1.0) if isinstance(entry, str) else entry for entry in entries]
    for path, _ in pairs:
        check_unstacked(net, path)
    if len(dict(pairs)) < len(pairs):
        raise ArgumentError(f"{argument} must name each layer once, got {[path for path, _ in pairs]}")
    whole = sum(share for _, share in pairs)
    if pairs and not (0 < whole < math.inf and all(share >= 0 for _, share in pairs)):
        raise ArgumentError(f"{argument} must have shares that are not negative and not all zero, got {pairs}")
    return tuple((path, share / whole) for path, share in pairs)


def _square(y: Array) -> Array:
    """Returns the sum of squares of each example, in float32 at least."""
    return jnp.sum(jnp.square(y.astype(accumulator(y.dtype))), axis=tuple(range(1, y.ndim)))


def relative_distance(y: Array, target: Array) -> Array:
    """Returns ``|y - target|^2 / |target|^2`` of each example, in float32 at least."""
    norm = _square(target)
    apart = y.astype(accumulator(y.dtype)) - target.astype(accumulator(target.dtype))
    return _square(apart) / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)


def check_targets(targets: Mapping[str, Array]) -> None:
    """Raises ArgumentError where a target is zero, so that `relative_distance` is not defined."""
    for path, target in targets.items():
        if (_square(target) == 0).any():
            raise ArgumentError(
                f"path {path!r} must have a target with a value other than 0, got zeros: omit this layer"
            )


@dataclass(frozen=True)
class _Transfer:
    """The loss of an image's parameters."""

    loss: PerceptualLoss
    parameterization: Parameterization
    size: tuple[int, int]

    def __call__(self, z: Array, data: Tree, key: Array) -> Array:
        params, state, features, grams = data
        return jnp.sum(self.loss(params, state, self.parameterization.decode(z, self.size), features, grams))


def style_transfer(
    loss: PerceptualLoss,
    params: Params,
    state: State,
    content_image: ArrayLike,
    style_image: ArrayLike,
    *,
    start: str | ArrayLike = "content",
    key: KeyLike | None = None,
    steps: int = 200,
    rate: float = 0.02,
    optimizer: Any = None,
    parameterization: Parameterization = PIXELS,
    on_step: OnStep | None = None,
) -> tuple[Array, Array]:
    """Style transfer: an image with the content of one image in the style of another (Gatys et al., 2016).

    A loop on the host: inside jit use the loss itself.

    Args:
      loss: a `PerceptualLoss`.
      params, state: arguments of the loss's network.
      content_image: images in [0, 1], or uint8, ``(batch, height, width, channels)``.
      style_image: one image, or one for each content image, of any size.
      start: "content", "noise", or the initial images.
      key: a random key for the noise; None is seed 0.
      steps: the number of steps.
      rate: Adam's learning rate.
      optimizer: an Optax transformation in place of Adam; the paper uses L-BFGS, `optax.lbfgs()`.
      parameterization: the parameters of an image that the optimizer updates; by default the pixels, which are clipped
        to [0, 1] at the end.
      on_step: called after each step with the step's number, from 1, and the loss, for a progress bar.

    Returns:
      Images of content_image's shape in [0, 1], and the losses, ``(steps,)``, summed over the batch.

    Raises:
      ValueError: images do not fit in rank, number or channels, or have values outside of [0, 1]; start is unknown; a
        layer's target is all zeros; the rate is not positive.
      NonFiniteGradientError: the gradient is not finite; the error names the step.

    >>> net = jc.serial(conv=jc.Conv(4), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 3))
    >>> a, b = jax.random.uniform(jax.random.key(1), (2, 1, 8, 8, 3))
    >>> images, losses = style_transfer(PerceptualLoss(net, ["relu"], ["relu"]), params, state, a, b, steps=8)
    >>> images.shape, bool(losses[-1] < losses[0])
    ((1, 8, 8, 3), True)
    """
    check_outside("style_transfer", params, state, content_image, style_image, inside="the loss itself")
    content_image = as_images(content_image, "content_image")
    n, *size, channels = content_image.shape
    style_image = as_images(style_image, "style_image", channels=channels)
    if style_image.shape[0] not in (1, n):
        raise ShapeError(f"style_image must be one image, or {n} like content_image, got {style_image.shape[0]}")
    if isinstance(start, str):
        if start not in ("content", "noise"):
            raise ArgumentError(f'start must be "content", "noise" or images, got {start!r}')
        noise_key = random_key(key)
        first = content_image if start == "content" else jax.random.uniform(noise_key, content_image.shape)
    else:
        first = as_images(start, "start")
        if first.shape != content_image.shape:
            raise ShapeError(f"start must have content_image's shape {content_image.shape}, got {first.shape}")
    features, grams = _features(loss, params, state, content_image), _grams(loss, params, state, style_image)
    check_targets(features)
    check_targets(grams)
    z, losses = minimize(
        _Transfer(loss, parameterization, (size[0], size[1])),
        parameterization.encode(first),
        (params, state, features, grams),
        adam(rate) if optimizer is None else optimizer,
        steps,
        key=jax.random.key(0),
        what="style_transfer",
        on_step=on_step,
    )
    return jnp.clip(parameterization.decode(z, (size[0], size[1])), 0, 1), losses


@functools.partial(jit, static_argnums=0)
def _features(loss: PerceptualLoss, params: Params, state: State, x: Array) -> dict[str, Array]:
    return loss.features(params, state, x)


@functools.partial(jit, static_argnums=0)
def _grams(loss: PerceptualLoss, params: Params, state: State, x: Array) -> dict[str, Array]:
    return loss.grams(params, state, x)


def fast_style_step(net: Layer, loss: PerceptualLoss, optimizer: Any) -> Callable[..., tuple[Any, Tree]]:
    """Returns a jitted step that trains a network to render any image in one style (Johnson et al., 2016).

    Args:
      net: the network to train, from images in [0, 1] to images in [0, 1], such as `jaxconv.models.transform_net`.
      loss: a `PerceptualLoss`, whose network is fixed.
      optimizer: an Optax transformation.

    Returns:
      ``step(train_state, images, params, state, grams) -> (train_state, metrics)``. ``train_state`` is a
      `jaxconv.train.TrainState` of net, whose arrays are donated; ``params`` and ``state`` belong to the loss's
      network, ``grams`` is ``loss.grams(params, state, style_image)``. ``metrics`` has loss and grad_norm.

    >>> import optax
    >>> net, eye = jc.serial(jc.Conv(3, 1), jax.nn.sigmoid), jc.serial(conv=jc.Conv(4), relu=jax.nn.relu)
    >>> params, state = eye.init(jax.random.key(0), (1, 8, 8, 3))
    >>> x = jax.random.uniform(jax.random.key(1), (1, 8, 8, 3))
    >>> loss, optimizer = PerceptualLoss(eye, ["relu"], ["relu"]), optax.adam(0.01)
    >>> train_state = jc.train.TrainState.create(net, optimizer, 0, x)
    >>> step = fast_style_step(net, loss, optimizer)
    >>> train_state, metrics = step(train_state, x, params, state, loss.grams(params, state, x))
    >>> sorted(metrics)
    ['grad_norm', 'loss']
    """
    from jaxconv.train.step import raw_step

    def step(train_state: Any, images: Array, params: Params, state: State, grams: Tree) -> tuple[Any, Tree]:
        def distance(y: Array, x: Array) -> Array:
            return loss(params, state, y, lax.stop_gradient(loss.features(params, state, x)), grams)

        return raw_step(net, distance, optimizer)(train_state, images, images)

    return jit(step, donate_argnums=0)


__all__ = ["PerceptualLoss", "fast_style_step", "gram", "style_transfer"]
