"""What the functions that look in return is what the figures take."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.inspect import figures, nearest, pca


def pictures(figure):
    return [np.asarray(ax.images[0].get_array()) for ax in figure.axes if ax.images]


def test_neighbors_take_what_nearest_gives():
    rows = np.random.default_rng(0).normal(size=(5, 3))
    images = np.random.default_rng(1).uniform(size=(5, 4, 4, 1))
    found = nearest(rows[:2], rows, 3)
    for whole, part in zip(
        pictures(figures.neighbors(images[:2], images, found)),
        pictures(figures.neighbors(images[:2], images, found.indices)),
        strict=True,
    ):
        np.testing.assert_array_equal(whole, part)


def test_scatter_takes_what_pca_gives():
    found = pca(np.random.default_rng(0).normal(size=(6, 4)))
    offsets = figures.scatter(found).axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(offsets, found.points, rtol=1e-6)
    with pytest.raises(jc.ShapeError, match=r"points must have shape \(count, 2\), got \(6, 3\)"):
        figures.scatter(pca(np.random.default_rng(0).normal(size=(6, 4)), 3))


def test_activation_maps_are_of_one_image():
    maps = jnp.arange(32.0).reshape(1, 4, 4, 2)
    (first, second) = pictures(
        figures.activation_maps({"conv": maps, "pair": (maps, maps), "scores": jnp.ones((1, 3))})
    )
    np.testing.assert_array_equal(np.stack([first, second], -1), maps[0])
    with pytest.raises(
        jc.ShapeError, match=r"got \[\(2, 4, 4, 2\)\]: pass the maps of one image, \{path: a\[0\] for path"
    ):
        figures.activation_maps({"conv": jnp.ones((2, 4, 4, 2))})
    with pytest.raises(TypeError, match=r"maps must be a dict of arrays by path, the second value .* got tuple"):
        figures.activation_maps((jnp.ones(3), {"conv": maps}))
