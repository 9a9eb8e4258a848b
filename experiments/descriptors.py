"""Descriptors of images by EfficientNet-Lite0, to find copies that were rotated, cropped, mirrored or recolored.

A descriptor has the generalized means (GeM, Radenovic et al., 2018) of two inner layers, of stride 16 and 32, each
divided by its norm. The last feature map is worse for this task: it has few positions, and was trained to tell types of
things, not pictures, apart. Whitening is learned from the images themselves. A query is described several times,
rotated and cropped, since the network was not trained to ignore this; the nearest of these views counts.
`experiments.duplicates` compares each of these parts with what it replaces.
"""

import functools
import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments import pretrained
from experiments.optional import Image
from jaxconv.equal_batches import equal_batches
from jaxconv.inspect import Neighbors, Whitening, activations, nearest

LAYERS = ("_blocks.11._relu0", "_blocks.15._relu0")
# The power of the paper before training.
POWER = 3.0
COMPONENTS = 512
# From how many images a whitening is learned: at least, and at most.
LEAST, MOST = 64, 4096
# Degrees, then the share of the side that is cropped, and its position from 0 to 1. The first view is the image.
VIEWS = (
    (0, 1.0, 0.0, 0.0),
    (10, 1.0, 0.0, 0.0),
    (-10, 1.0, 0.0, 0.0),
    (0, 0.75, 0.5, 0.5),
    (8, 0.75, 0.0, 0.0),
    (-8, 0.75, 1.0, 0.0),
    (8, 0.75, 1.0, 1.0),
    (-8, 0.75, 0.0, 1.0),
)


def views(image: np.ndarray) -> np.ndarray:
    """Returns an image ``(side, side, 3)`` uint8 as each of VIEWS: ``(views, side, side, 3)``.

    >>> views(np.zeros((8, 8, 3), np.uint8)).shape
    (8, 8, 8, 3)
    """
    found, side = [], len(image)
    for angle, share, x, y in VIEWS:
        picture = Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR)
        left, top = ((1 - share) * side * at for at in (x, y))
        box = (left, top, left + share * side, top + share * side)
        found.append(np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR, box)))
    return np.stack(found)


def nearest_views(queries: np.ndarray, database: np.ndarray, k: int) -> Neighbors:
    """Returns the nearest rows to each query by cosine distance, to whichever of its views is nearest.

    Args:
      queries: ``(queries, views, features)``.
      database: ``(rows, features)``.
      k: the number of neighbors.
    """
    count, n, features = queries.shape
    found = nearest(queries.reshape(-1, features), database, k)
    indices, distances = (array.reshape(count, n * k) for array in found)
    order = np.argsort(distances, 1, kind="stable")
    indices, distances = (np.take_along_axis(array, order, 1) for array in (indices, distances))
    firsts = np.stack([np.sort(np.unique(row, return_index=True)[1])[:k] for row in indices])
    return Neighbors(*(np.take_along_axis(array, firsts, 1) for array in (indices, distances)))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _pooled(net: jc.Layer, params: dict, state: dict, images: jax.Array, paths: tuple[str, ...], side: int) -> dict:
    x = pretrained.scaled_around_127(images)
    x = x if x.shape[1] == side else jc.resize(x, (side, side), antialias=True)
    found = activations(net, params, state, x, paths=paths)[1]
    return {path: jc.unit_norm(jc.global_gem_pool(found[path], POWER)) for path in paths}


def pooled(
    network: pretrained.Pretrained,
    images: np.ndarray,
    paths: Sequence[str] = LAYERS,
    *,
    side: int | None = None,
    batch: int = 128,
) -> dict[str, np.ndarray]:
    """Returns generalized means of layers over positions, of norm 1: ``(images, channels)`` by path.

    Args:
      network: with its preprocessing by `experiments.pretrained.scaled_around_127`.
      images: ``(images, side, side, 3)`` uint8.
      paths: the layers.
      side: the side to which the images are resized; None leaves them as they are.
      batch: images in each call.
    """
    run = functools.partial(_pooled, *network[:3], paths=tuple(paths), side=side or images.shape[1])
    parts = [
        {path: np.asarray(rows)[part.skip :] for path, rows in run(part.items).items()}
        for part in equal_batches(images, batch)
    ]
    return {path: np.concatenate([part[path] for part in parts]) for path in paths}


def learn_whitening(rows: np.ndarray) -> Whitening:
    """Returns the PCA whitening of descriptors, of at most a quarter as many components as there are images.

    Directions in which images vary little are not amplified without limit, as `jaxconv.inspect.pca_whitening` does: a
    user's folder may have many copies of few images. With few images, descriptors stay as they are.

    Args:
      rows: ``(images, features)``, of which at most MOST are used, evenly spaced.
    """
    rows = np.asarray(rows[:: -(-len(rows) // MOST)], np.float32)
    if len(rows) >= LEAST:
        n = min(COMPONENTS, len(rows) // 4, rows.shape[1])
        variances, directions = np.linalg.eigh(np.cov(rows.T).astype(np.float32))
        largest = variances[-1]
        if largest > 1e-8:
            deviation = np.sqrt(np.maximum(variances[::-1][:n], largest * 1e-4))
            return Whitening(jnp.asarray(rows.mean(0)), jnp.asarray(directions[:, ::-1][:, :n] / deviation))
    return Whitening(jnp.zeros(rows.shape[1]), jnp.eye(rows.shape[1]))


def describer(weights: str | None, batch: int) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Returns the function from images to descriptors, and a text that changes with the descriptors.

    Args:
      weights: as of `experiments.pretrained.efficientnet_lite0`.
      batch: images in each call. Programs are compiled for this number and for that of the views.

    Returns:
      describe: from ``(n, side, side, 3)`` uint8 to ``(n, features)``, n at most ``batch`` or the number of views.
      made: the network, a hash of its weights, and the layers.
    """
    network = pretrained.efficientnet_lite0(weights)

    def describe(images: np.ndarray) -> np.ndarray:
        n = len(images)
        padded = np.resize(images, (len(VIEWS) if n <= len(VIEWS) else batch, *images.shape[1:]))
        found = pooled(network, padded, batch=len(padded))
        return np.concatenate([found[path] for path in LAYERS], 1)[:n]

    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((network.params, network.state)):
        digest.update(np.asarray(leaf).tobytes())
    return describe, f"EfficientNet-Lite0 {digest.hexdigest()[:16]}, {', '.join(LAYERS)}, GeM {POWER}"


__all__ = ["describer", "learn_whitening", "nearest_views", "pooled", "views"]
