"""Faces by MTCNN: what facenet-pytorch finds, its resampling, tiles, and bad arguments."""

import json

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxconv as jc
from experiments import pretrained
from jaxconv.detect import cascade
from jaxconv.detect.cascade import TILE, Faces, find_faces
from tests.experiments.photographs import photograph
from tests.record_faces import RECORD, pictures, reference


@pytest.fixture(scope="module")
def networks():
    try:
        return pretrained.mtcnn()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def random_networks():
    sides = {jc.models.pnet(): 12, jc.models.rnet(): 24, jc.models.onet(): 48}
    return [(net, *net.init(jax.random.key(0), (1, side, side, 3))) for net, side in sides.items()]


def assert_same_faces(found, wanted):
    assert found.boxes.shape == wanted.boxes.shape
    assert_allclose(found.scores, wanted.scores, atol=2e-5)
    assert_allclose(found.boxes, wanted.boxes, atol=2e-3)
    assert_allclose(found.points, wanted.points, atol=2e-3)


def test_faces_are_the_packages_and_each_network_is_compiled_once(networks):
    photograph("astronaut.png")
    before = cascade._outputs._cache_size()
    recorded = json.loads(RECORD.read_text())
    counts = {}
    for name, image in pictures().items():
        wanted = {key: np.array(rows, np.float32) for key, rows in recorded[name].items()}
        found = find_faces(networks, image)
        counts[name] = len(found.boxes)
        shapes = Faces(wanted["boxes"].reshape(-1, 4), wanted["scores"], wanted["points"].reshape(-1, 5, 2))
        assert_same_faces(found, shapes)
    assert counts["astronaut"] == 1
    assert counts["group"] >= 6
    assert counts["coffee"] == 0
    assert cascade._outputs._cache_size() - before == 3


@pytest.mark.torch
@pytest.mark.parametrize("name", ["astronaut", "group", "mirrored", "coffee"])
def test_faces_are_those_of_live_facenet_pytorch(networks, name):
    pytest.importorskip("torchvision")
    photograph("astronaut.png")
    image = pictures()[name]
    assert_same_faces(find_faces(networks, image), reference(image))


def test_resized_rectangles_are_adaptive_average_pools():
    image = np.random.default_rng(0).integers(0, 256, (41, 57, 3), np.uint8)
    corners = np.array([[0, 0, 57, 41], [3, 5, 20, 9], [40, 0, 57, 41]])
    found = cascade._Area(image).resized(corners, (24, 24))
    for each, (left, top, right, bottom) in zip(found, corners, strict=True):
        wanted = jc.adaptive_avg_pool(image[top:bottom, left:right].astype(np.float32), 24)
        assert_allclose(each, wanted, rtol=3e-7)


@pytest.mark.parametrize("size", [(12, 13), (77, 139), (140, 141)])
def test_tiles_give_the_output_of_the_whole_image(random_networks, size):
    net, params, state = random_networks[0]
    image = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(np.float32)
    tiles = cascade._tiles(image)
    assert tiles.shape[2:] == (TILE, TILE, 3)
    parts = cascade._in_batches(random_networks[0], tiles.reshape(-1, TILE, TILE, 3), cascade.BATCHES[0])
    whole = net.apply(params, state, (image[None] - 127.5) / 128)[0]
    for part, wanted in zip(parts, whole.values(), strict=True):
        joined = cascade._joined(part.reshape(*tiles.shape[:2], *part.shape[1:]), size)
        assert joined.shape == wanted.shape[1:]
        assert_allclose(joined, wanted[0], atol=1e-5)


def test_an_image_without_faces_or_smaller_than_a_face_gives_empty_arrays(random_networks):
    image = np.zeros((60, 19, 3), np.uint8)
    for options in ({}, {"min_size": 12, "thresholds": (1.0, 1.0, 1.0)}):
        found = find_faces(random_networks, image, **options)
        assert [part.shape for part in found] == [(0, 4), (0,), (0, 5, 2)]
        assert {part.dtype for part in found} == {np.dtype(np.float32)}


def test_boxes_partly_and_wholly_outside_of_the_image(random_networks):
    image = np.full((40, 50, 3), 7, np.uint8)
    boxes = np.array([[-9.5, -3, 20, 30], [45, 35, 70, 60], [60, 10, 80, 30], [10, -30, 30, -10]], np.float32)
    kept, scores, moves, points = cascade._rated(random_networks[2], cascade._Area(image), boxes, 48, 16, 0.0)
    assert_array_equal(kept, boxes[:2])
    assert (scores.shape, moves.shape, points.shape) == ((2,), (2, 4), (2, 10))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((40, 40, 3))}, r"image must be uint8 \(height, width, 3\), got float64 \(40, 40, 3\)"),
        ({"image": np.zeros((40, 40), np.uint8)}, r"image must be uint8 .* got uint8 \(40, 40\)"),
        ({"networks": []}, "networks and thresholds must be three, got 0 and 3"),
        ({"thresholds": (0.5, 0.5)}, "networks and thresholds must be three, got 3 and 2"),
        ({"thresholds": (0.5, 0.5, 2)}, "thresholds must be a number from 0 to 1, got 2"),
        ({"factor": 1.0}, "factor must be between 0 and 1, got 1.0"),
        ({"min_size": 0}, "min_size must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(random_networks, change, message):
    arguments = {"networks": random_networks, "image": np.zeros((40, 40, 3), np.uint8)} | change
    with pytest.raises(jc.ArgumentError, match=message):
        find_faces(arguments.pop("networks"), arguments.pop("image"), **arguments)
