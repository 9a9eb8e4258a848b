"""Activation atlases and caricatures, on layers whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxconv as jc
from jaxconv.inspect import PIXELS, activation_atlas, caricature
from jaxconv.inspect.caricatures import alignment
from tests.nets import normal, ready

COLORS = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1]], np.float32)


def centered(images):
    return images - 0.5


def identity():
    return jc.serial(layer=jc.Conv(3, 1, bias=False)), {"layer": {"kernel": jnp.eye(3)[None, None]}}


def test_a_cell_has_an_image_of_its_color():
    net, params = identity()
    images = np.repeat(COLORS, 10, axis=0)[:, None, None] * np.ones((1, 8, 8, 1), np.float32)
    atlas = activation_atlas(
        net, params, {}, images, "layer", grid=2, size=8, steps=40, rate=0.2, preprocess=centered, batch_size=3
    )
    assert atlas.counts.sum() == 40
    assert len(atlas.images) == len(atlas.cells) == len(atlas.vectors)
    colors = centered(atlas.images.mean((1, 2)))
    colors, wanted = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (colors, atlas.vectors))
    assert np.diag(colors @ wanted.T).min() > 0.5
    assert (colors @ wanted.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
    whole = atlas.picture()
    assert whole.shape == (16, 16, 3)
    row, column = atlas.cells[0]
    np.testing.assert_array_equal(whole[8 * row : 8 * row + 8, 8 * column : 8 * column + 8], atlas.images[0])


def test_a_layout_may_be_given_and_empty_cells_stay_empty():
    net, params = identity()
    images = np.linspace(0, 1, 12, dtype=np.float32)[:, None, None, None] * np.ones((1, 4, 4, 3), np.float32)
    line = lambda points: np.stack([points[:, 0], points[:, 0]], 1)  # noqa: E731
    seen = []
    atlas = activation_atlas(
        net,
        params,
        {},
        images,
        "layer",
        grid=3,
        least=1,
        size=8,
        steps=1,
        layout=line,
        on_step=lambda s, _: seen.append(s),
    )
    assert atlas.cells.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert (atlas.picture(background=0.25)[:8, 8:] == 0.25).all()
    assert seen == [1]
    with pytest.raises(jc.ShapeError, match=r"layout must return positions \(12, 2\), got \(12, 3\)"):
        activation_atlas(net, params, {}, images, "layer", layout=lambda points: points)
    with pytest.raises(jc.ArgumentError, match="least must be at most the activations in some cell of 12, got 100"):
        activation_atlas(net, params, {}, images, "layer", least=100)
    with pytest.raises(jc.PathError, match="path must name a layer of net"):
        activation_atlas(net, params, {}, images, "leyer")


def test_alignment_by_hand():
    a, b = normal((2, 3, 3, 4), 1), normal((2, 3, 3, 4), 2) + 1
    flat = [(x.ravel().astype(np.float64), y.ravel().astype(np.float64)) for x, y in zip(a, b, strict=True)]
    dots = [x @ y / np.linalg.norm(y) for x, y in flat]
    cosines = [d / np.linalg.norm(x) for d, (x, _) in zip(dots, flat, strict=True)]
    want = [d * max(c, 0.1) ** 2 for d, c in zip(dots, cosines, strict=True)]
    assert_allclose(alignment(jnp.asarray(a), (jnp.asarray(b), jnp.array(2.0))), want, rtol=1e-4)
    channels = alignment(jnp.asarray(a), (jnp.asarray(b[:, 0, 0]), jnp.array(0.0)))
    unit = b[:, 0, 0] / np.linalg.norm(b[:, 0, 0], axis=-1, keepdims=True)
    assert_allclose(channels, (a * unit[:, None, None]).sum(-1).mean((1, 2)), rtol=1e-4)


def test_a_caricature_has_the_activations_of_its_image():
    net = jc.serial(conv=jc.Conv(8), relu=jax.nn.relu)
    params, state, _ = ready(net, (1, 12, 12, 3))
    images = np.random.default_rng(0).uniform(size=(2, 12, 12, 3)).astype(np.float32)
    options = {"steps": 60, "rate": 0.05, "preprocess": centered, "view": None, "parameterization": PIXELS}
    made, scores = caricature(net, params, state, images, "relu", **options)
    assert made.shape == images.shape
    assert scores[-1] > scores[0]

    def features(x):
        return np.asarray(net.apply(params, state, centered(jnp.asarray(x)))[0]).reshape(2, -1)

    wanted, found = features(images), features(made)
    cosines = (wanted @ found.T) / np.outer(np.linalg.norm(wanted, axis=1), np.linalg.norm(found, axis=1))
    assert cosines.argmax(axis=0).tolist() == [0, 1]
    assert np.diag(cosines).min() > 0.8
    # Exaggerated: without a bound the activations become larger than those of the image.
    assert np.linalg.norm(found) > np.linalg.norm(wanted)


@pytest.mark.parametrize(
    ("path", "options", "error", "message"),
    [
        ("rely", {}, jc.PathError, "path must name a layer of net, got 'rely'"),
        ("relu", {"power": -1}, jc.ArgumentError, "power must be at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(path, options, error, message):
    net = jc.serial(conv=jc.Conv(2), relu=jax.nn.relu)
    params, state, x = ready(net, (1, 8, 8, 3))
    with pytest.raises(error, match=message):
        caricature(net, params, state, jnp.clip(x, 0, 1), path, **options)
