"""Descriptors of photographs, for retrieval by a network that was trained on other photographs."""

import functools
import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import pretrained
from jaxconv.inspect import Whitening, activations, pca

# The side to which images are resized, and the layers whose channels make the descriptor.
SIDE = 128
LAYERS = ("_blocks.11._relu0", "_relu1")
POWER = 3.0
COMPONENTS = 256
# From how many images a whitening is learned: at least, and at most.
LEAST, MOST = 64, 4096


def learn_whitening(rows: np.ndarray) -> Whitening:
    """Returns the PCA whitening of descriptors, of at most a quarter as many components as there are images.

    Directions in which images vary little are not amplified without limit, as `jaxconv.inspect.pca_whitening` does: a
    user's folder may have many copies of few images. With few images, descriptors stay as they are.
    """
    rows = np.asarray(rows[:: -(-len(rows) // MOST)], np.float32)
    if len(rows) >= LEAST:
        found = pca(rows, min(COMPONENTS, len(rows) // 4, rows.shape[1]))
        deviation = jnp.std(found.points, axis=0)
        if deviation[0] > 1e-4:
            return Whitening(found.mean, found.components.T / jnp.maximum(deviation, deviation[0] / 100))
    return Whitening(jnp.zeros(rows.shape[1]), jnp.eye(rows.shape[1]))


@functools.partial(jax.jit, static_argnums=(0,))
def _described(net: jc.Layer, params: dict, state: dict, images: jax.Array) -> jax.Array:
    x = pretrained.scaled_around_127(images)
    found = activations(net, params, state, x, paths=LAYERS)[1]
    rows = [jc.unit_norm(jc.global_gem_pool(found[path], jnp.array([POWER]))) for path in LAYERS]
    return jnp.concatenate(rows, -1)


def describer(weights: str | None, batch: int) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Returns the function from images ``(n, SIDE, SIDE, 3)`` uint8 to descriptors, and what it depends on as a text.

    Args:
      weights: as of `experiments.pretrained.efficientnet_lite0`.
      batch: the largest n. Programs are compiled for one image and for ``batch``.
    """
    net, params, state, _ = pretrained.efficientnet_lite0(weights)

    def describe(images: np.ndarray) -> np.ndarray:
        n = len(images)
        # Programs for one image and for a batch.
        padded = images if n == 1 else np.resize(images, (batch, *images.shape[1:]))
        return np.asarray(_described(net, params, state, padded))[:n]

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, state)):
        digest.update(np.asarray(leaf).tobytes())
    return describe, f"EfficientNet-Lite0 {digest.hexdigest()[:16]}, {LAYERS}, GeM {POWER}, {SIDE} pixels"
