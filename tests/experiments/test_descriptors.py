"""Descriptors: views, the nearest view, pooled layers, whitening; and altered copies by the real weights."""

import jax
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import descriptors, duplicates, pretrained, retrieve
from tests.experiments.photographs import need_lite0, photograph

RNG = np.random.default_rng(0)


def test_the_first_view_is_the_image_and_the_others_are_not():
    image = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    found = descriptors.views(image)
    assert (found.shape, found.dtype) == ((len(descriptors.VIEWS), 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(found[0], image)
    assert len({view.tobytes() for view in found}) == len(found)
    # The middle of an image that is constant there stays.
    flat = np.zeros((64, 64, 3), np.uint8)
    flat[16:48, 16:48] = 200
    assert (descriptors.views(flat)[:, 30:34, 30:34] == 200).all()


def test_the_distance_to_a_query_is_that_of_its_nearest_view():
    queries, rows = RNG.normal(size=(3, 4, 6)), RNG.normal(size=(20, 6))
    rows[7] = 2 * queries[1, 2]
    unit = [a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (queries, rows)]
    distances = 1 - np.einsum("qvf,rf->qvr", *unit).max(1)
    found = descriptors.nearest_views(queries.astype(np.float32), rows.astype(np.float32), 5)
    np.testing.assert_array_equal(found.indices, np.argsort(distances, 1)[:, :5])
    np.testing.assert_allclose(found.distances, np.sort(distances, 1)[:, :5], atol=1e-5)
    assert found.indices[1, 0] == 7
    everything = descriptors.nearest_views(queries.astype(np.float32), rows.astype(np.float32), 20)
    np.testing.assert_array_equal(np.sort(everything.indices, 1), np.tile(np.arange(20), (3, 1)))


def test_layers_are_pooled_by_the_generalized_mean_and_divided_by_the_norm():
    net = jc.serial(a=jc.Fn(jax.nn.relu), b=jc.MaxPool(2))
    network = pretrained.Pretrained(net, *net.init(0, (1, 4, 4, 3)), pretrained.scaled_around_127)
    images = RNG.integers(0, 256, (3, 4, 4, 3), np.uint8)
    found = descriptors.pooled(network, images, ("a", "b"), batch=2)
    x = np.maximum((images - 127.0) / 128, 0)
    for path, values in (("a", x), ("b", x.reshape(3, 2, 2, 2, 2, 3).max((2, 4)))):
        mean = (np.maximum(values, 1e-6) ** 3).mean((1, 2)) ** (1 / 3)
        np.testing.assert_allclose(found[path], mean / np.linalg.norm(mean, axis=1, keepdims=True), rtol=1e-4)


def test_whitening_of_a_folder():
    few = RNG.normal(size=(descriptors.LEAST - 1, 6))
    np.testing.assert_array_equal(descriptors.learn_whitening(few).matrix, np.eye(6))
    rows = RNG.normal(size=(400, 5)) * [1, 2, 3, 4, 5] + 7
    found = descriptors.learn_whitening(rows)
    white = (rows - found.mean) @ found.matrix
    np.testing.assert_allclose(np.cov(white.T), np.eye(5), atol=1e-2)
    # Copies of one image and of three.
    for count in (1, 3):
        copies = np.repeat(RNG.normal(size=(count, 6)), 90 // count, 0)
        found = descriptors.learn_whitening(copies)
        assert np.isfinite(found.matrix).all()
        assert np.abs(found.matrix).max() < 1e3


@pytest.mark.slow
def test_altered_copies_are_found_by_the_real_weights(tmp_path):
    need_lite0()
    pieces = np.asarray(Image.open(photograph("coffee.png")).convert("RGB"))[:384, :576]
    pieces = pieces.reshape(4, 96, 6, 96, 3).swapaxes(1, 2).reshape(24, 96, 96, 3)
    for i, piece in enumerate(pieces):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(piece).save(tmp_path / "photos" / f"{i:02d}.png")
    queries, random = [tmp_path / f"copy{i:02d}.png" for i in range(24)], np.random.default_rng(0)
    for piece, path in zip(pieces, queries, strict=True):
        small = np.asarray(Image.fromarray(piece).resize((duplicates.SIDE,) * 2))
        Image.fromarray(duplicates.altered(small, random)).save(path)
    arguments = ["--folder", str(tmp_path / "photos"), "--batch", "8", "--out", str(tmp_path / "out"), "--quiet"]
    metrics = retrieve.main([*arguments, "--query", *map(str, queries)])
    # Pieces of a saucer look alike: half of the copies are found first. By chance it would be one in 24.
    first = [near[0] == f"{i:02d}.png" for i, near in enumerate(metrics["nearest"])]
    assert np.mean(first) >= 0.4
