"""Activation atlases: a map of the activations of a layer, with an image of each region."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxconv.equal_batches import Preprocess, equal_batches
from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.geometry import as_int
from jaxconv.inspect.arguments import (
    check_data,
    check_hashable,
    check_outside,
    check_unstacked,
    naming_preprocess,
    random_key,
)
from jaxconv.inspect.caricatures import alignment, check_power
from jaxconv.inspect.concepts import layer_output
from jaxconv.inspect.descent import OnStep
from jaxconv.inspect.images import Parameterization
from jaxconv.inspect.maximization import maximize
from jaxconv.inspect.objectives import Objective
from jaxconv.inspect.retrieval import pca
from jaxconv.inspect.views import View
from jaxconv.keys import KeyLike
from jaxconv.layer import Layer, Params, State


class Atlas(NamedTuple):
    """The result of `activation_atlas`, as NumPy arrays.

    Attributes:
      images: an image of each cell with enough activations, ``(cells, size, size, channels)`` in [0, 1].
      cells: their rows and columns in the grid, ``(cells, 2)``.
      counts: the number of activations in each, ``(cells,)``.
      vectors: the mean activations, ``(cells, features)``.
      points: the positions of all activations in the layout, in [0, 1], ``(activations, 2)``.
      grid: the number of rows and columns.
    """

    images: np.ndarray
    cells: np.ndarray
    counts: np.ndarray
    vectors: np.ndarray
    points: np.ndarray
    grid: int

    def picture(self, background: float = 1.0) -> np.ndarray:
        """Returns one image of the whole grid, for `jaxconv.inspect.figures.images`."""
        height, width, channels = self.images.shape[1:]
        whole = np.full((self.grid, height, self.grid, width, channels), background, np.float32)
        for (row, column), image in zip(self.cells, self.images, strict=True):
            whole[row, :, column] = image
        return whole.reshape(self.grid * height, self.grid * width, channels)


def _even(points: np.ndarray) -> np.ndarray:
    """Returns ranks along each axis, in [0, 1): cells of a grid then have similar numbers of points."""
    return np.argsort(np.argsort(points, axis=0), axis=0) / len(points)


def activation_atlas(
    net: Layer,
    params: Params,
    state: State,
    images: Any,
    path: str,
    *,
    grid: int = 8,
    least: int = 4,
    positions: int = 1,
    size: int = 64,
    layout: Callable[[np.ndarray], Any] | None = None,
    power: float = 2.0,
    key: KeyLike | None = None,
    steps: int = 128,
    rate: float = 0.05,
    batch_size: int = 32,
    preprocess: Preprocess | None = None,
    on_step: OnStep | None = None,
) -> Atlas:
    """Returns a map of a layer's activations on a data set, with an image of each region (Carter et al., 2019).

    Activations at random positions are laid out in the plane, and averaged over the cells of a grid; each image
    maximizes the product with the average, times a power of the cosine. A loop on the host.

    Args:
      net, params, state: the network.
      images: array of shape ``(count, height, width, channels)``; some hundred images, of which each gives some points.
      path: the layer's path.
      grid: the number of rows and columns.
      least: the smallest number of activations in a cell that has an image.
      positions: the number of random positions of each image.
      size: the side of a cell's image.
      layout: a function from activations ``(points, features)`` to positions ``(points, 2)``, such as
        ``umap.UMAP().fit_transform`` of the paper, or ``sklearn.manifold.TSNE().fit_transform``; None, the first two
        principal components. Ranks of these positions fill the grid evenly.
      power: the exponent of the cosine.
      key: a random key for positions, noise and views; None is seed 0.
      steps, rate: steps of gradient ascent and their rate.
      batch_size: images for each call of the network, and cells for each ascent.
      preprocess: maps images to the network's input. Pass the same function each time.
      on_step: called after each step with the step's number, through all cells, and minus the score.

    Returns:
      An `Atlas`.

    Raises:
      As `jaxconv.inspect.maximize`; ValueError where no cell has enough activations, or the layout does not return two
      numbers for each point.

    >>> net = jc.serial(conv=jc.Conv(4), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 16, 16, 3))
    >>> images = jax.random.uniform(jax.random.key(1), (40, 16, 16, 3))
    >>> atlas = activation_atlas(net, params, state, images, "relu", grid=2, size=16, steps=2)
    >>> atlas.picture().shape, int(atlas.counts.sum())
    ((32, 32, 3), 40)
    """
    check_outside("activation_atlas", params, state, images, inside="jaxconv.inspect.activations")
    check_hashable(net, preprocess=preprocess)
    check_unstacked(net, path)
    images, batch_size = check_data(images, batch_size)
    grid, least, steps = as_int(grid, "grid", least=1), as_int(least, "least", least=1), as_int(steps, "steps", least=1)
    strength = check_power(power)
    place_key, ascent_key = jax.random.split(random_key(key))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(place_key)).ravel())
    drawn = []
    with naming_preprocess(images, preprocess):
        for part in equal_batches(images, batch_size):
            found = np.asarray(layer_output(net, path, preprocess, params, state, part.items), np.float32)[part.skip :]
            flat = found.reshape(len(found), -1, found.shape[-1])
            at = rng.integers(0, flat.shape[1], (len(flat), as_int(positions, "positions", least=1)))
            drawn.append(np.take_along_axis(flat, at[..., None], axis=1).reshape(-1, flat.shape[-1]))
    points = np.concatenate(drawn)
    if not np.isfinite(points).all():
        raise FloatingPointError(f"path {path!r} must have finite activations, got inf or NaN")
    placed = np.asarray(pca(points, 2).points if layout is None else layout(points))
    if placed.shape != (len(points), 2):
        raise ShapeError(f"layout must return positions ({len(points)}, 2), got {placed.shape}")
    placed = _even(placed)
    column, row = (placed * grid).astype(int).T
    vectors, cells, counts = [], [], []
    for cell in np.ndindex(grid, grid):
        inside = (row == cell[0]) & (column == cell[1])
        if inside.sum() >= least:
            vectors.append(points[inside].mean(axis=0))
            cells.append(cell)
            counts.append(inside.sum())
    if not cells:
        raise ArgumentError(f"least must be at most the activations in some cell of {len(points)}, got {least}")
    wanted = np.stack(vectors)
    made = []
    for start in range(0, len(wanted), batch_size):
        # Batches have one size, for one compiled step.
        chunk = wanted[np.arange(start, start + batch_size) % len(wanted)]

        def count(step: int, loss: float, start: int = start) -> None:
            if on_step is not None:
                on_step(start // batch_size * steps + step, loss)

        ascended, _ = maximize(
            net,
            params,
            state,
            (len(chunk), size, size, images.shape[-1]),
            Objective(path, alignment, (chunk, strength)),
            key=ascent_key,
            steps=steps,
            rate=rate,
            preprocess=preprocess,
            parameterization=Parameterization(),
            view=View(jitter=max(1, size // 8), degrees=5, zoom=0.05),
            on_step=count if on_step is not None else None,
        )
        made.append(np.asarray(ascended))
    return Atlas(np.concatenate(made)[: len(wanted)], np.array(cells), np.array(counts), wanted, placed, grid)


__all__ = ["Atlas", "activation_atlas"]
