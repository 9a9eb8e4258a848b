"""The compiled programs of an explorer: each serves all layers and units."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxconv.compiler import jit
from jaxconv.equal_batches import Preprocess
from jaxconv.inspect.activations import activations
from jaxconv.inspect.arguments import one_array
from jaxconv.layer import Array, Layer, Params, State, Tree
from jaxconv.ops import resize
from jaxconv.ops.arrays import largest


def _outputs(
    net: Layer,
    paths: Sequence[str],
    preprocess: Preprocess | None,
    params: Params,
    state: State,
    images: Array,
    add: Any,
) -> tuple[Tree, dict[str, Array]]:
    x = preprocess(images) if preprocess else images
    y, found = activations(net, params, state, x, paths=paths, add=add)
    return y, {path: one_array(a, path, count=len(images)).astype(jnp.float32) for path, a in found.items()}


def _flat(a: Array) -> Array:
    return a.reshape(len(a), -1, a.shape[-1])


@functools.partial(jit, static_argnums=(0, 1, 2))
def survey(
    net: Layer,
    paths: tuple[str, ...],
    preprocess: Preprocess | None,
    params: Params,
    state: State,
    units: dict[str, Array],
    seeing: dict[str, Array],
    positions: dict[str, Array],
    images: Array,
) -> dict[str, tuple[Array, Array, Array]]:
    """Returns for each layer the units' highest activations, their positions, and activations at some positions.

    Args:
      net, paths, preprocess, params, state: the network.
      units: the channels of each layer.
      seeing: whether each position sees a part of the image.
      positions: the positions of the activations that are returned.
      images: floats in [0, 1].
    """
    _, found = _outputs(net, paths, preprocess, params, state, images, None)
    result = {}
    for path, a in found.items():
        chosen = _flat(a)[..., units[path]]
        seen = jnp.where(seeing[path][:, None], chosen, -jnp.inf)
        result[path] = largest(seen, 1), jnp.argmax(seen, axis=1), chosen[:, positions[path]]
    return result


def _zeros(net: Layer, paths: tuple[str, ...], preprocess: Any, params: Any, state: Any, images: Array) -> Any:
    x = preprocess(images) if preprocess else images
    structs = jax.eval_shape(lambda x: activations(net, params, state, x, paths=paths)[1], x)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structs)


@functools.partial(jit, static_argnums=(0, 1, 2))
def feeding(
    net: Layer,
    paths: tuple[str, ...],
    preprocess: Preprocess | None,
    params: Params,
    state: State,
    images: Array,
    layer: Array,
    unit: Array,
    position: Array,
) -> dict[str, Array]:
    """Returns how much each channel of each layer contributes to one unit of another layer, for each image.

    The contribution is activation times gradient, summed over positions. A row of the batch has its own unit, so that
    one program serves all.

    Args:
      net, paths, preprocess, params, state: the network.
      images: floats in [0, 1], ``(batch, ...)``.
      layer, unit, position: for each image the index of a layer in ``paths``, its channel, and its position.

    Returns:
      For each path ``(batch, channels)``.
    """

    def total(extra: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        _, found = _outputs(net, paths, preprocess, params, state, images, extra)
        score: Any = 0.0
        for i, path in enumerate(paths):
            a = _flat(found[path])
            one = a[jnp.arange(len(a)), jnp.minimum(position, a.shape[1] - 1), jnp.minimum(unit, a.shape[2] - 1)]
            score = score + jnp.sum(jnp.where(layer == i, one, 0))
        return score, found

    slopes, found = jax.grad(total, has_aux=True)(_zeros(net, paths, preprocess, params, state, images))
    return {path: jnp.sum(_flat(slopes[path].astype(jnp.float32) * found[path]), axis=1) for path in paths}


@functools.partial(jit, static_argnums=(0, 1, 2, 3))
def responses(
    net: Layer,
    paths: tuple[str, ...],
    preprocess: Preprocess | None,
    size: tuple[int, int],
    params: Params,
    state: State,
    units: dict[str, Array],
    images: Array,
) -> tuple[Array, dict[str, tuple[Array, Array, Array]]]:
    """Returns the scores, and for each layer the strength of its response, Grad-CAM, and the units' maxima.

    Args:
      net, paths, preprocess, params, state, units: as in `survey`.
      size: the size of the maps.
      images: floats in [0, 1].

    Returns:
      The network's output, of which a batch of class scores is used; by path the two maps ``(batch, *size)``, scaled to
      a maximum of 1, zeros for a layer without feature maps or a network without class scores; and the maxima.
    """

    def total(extra: dict[str, Array]) -> tuple[Array, Any]:
        y, found = _outputs(net, paths, preprocess, params, state, images, extra)
        classes = getattr(y, "ndim", 0) == 2
        return (jnp.sum(largest(y, 1)) if classes else jnp.float32(0)), (y, found)

    slopes, (y, found) = jax.grad(total, has_aux=True)(_zeros(net, paths, preprocess, params, state, images))
    maps = {}
    for path in paths:
        a, g = found[path], slopes[path].astype(jnp.float32)
        most = largest(_flat(a)[..., units[path]], 1)
        if a.ndim != images.ndim:
            nothing = jnp.zeros((len(a), *size))
            maps[path] = nothing, nothing, most
            continue
        strength = jnp.sqrt(jnp.mean(jnp.square(a), axis=-1))
        cam = jnp.maximum(jnp.sum(a * jnp.mean(g, axis=(1, 2), keepdims=True), axis=-1), 0)
        shown, lit = (_scaled(resize(m[..., None], size)[..., 0]) for m in (strength, cam))
        maps[path] = shown, lit, most
    return y, maps


def _scaled(maps: Array) -> Array:
    """Returns maps with values from 0 to 1."""
    low, high = jnp.min(maps, axis=(1, 2), keepdims=True), jnp.max(maps, axis=(1, 2), keepdims=True)
    low = jnp.minimum(low, 0.5 * high)
    return (maps - low) / jnp.where(high > low, high - low, 1)


def histogram(values: np.ndarray, bins: int) -> dict[str, Any]:
    """Returns the distribution of one unit's activations for the page."""
    values = values.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-6 * abs(low):
        high = low + max(1.0, abs(low))
    counts, _ = np.histogram(values, bins, (low, high))
    return {
        "low": low,
        "high": high,
        "counts": counts.tolist(),
        "mean": float(values.mean()),
        "zeros": float((values == 0).mean()),
    }
