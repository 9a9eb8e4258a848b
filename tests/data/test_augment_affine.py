"""Affine draws against SciPy's interpolation, Pillow's resizing and NumPy's algebra, in float64 where they have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from jaxconv.data import (
    Affine,
    draw_affine,
    draw_crop,
    draw_flip,
    draw_rand_augment,
    draw_resized_crop,
    draw_shift,
    rand_augment,
    random_crop,
    random_flip,
    random_resized_crop,
    random_shift,
    warp,
    warp_boxes,
    warp_masks,
    warp_points,
)
from jaxconv.errors import ArgumentError, DTypeError, ShapeError

KEY = jax.random.key(3)
SHAPE = (12, 9, 13, 3)
GENERATOR = np.random.default_rng(5)
IMAGES = GENERATOR.uniform(0, 255, SHAPE).astype(np.float32)
DRAWS = draw_affine(KEY, SHAPE, rotate=180, scale=(0.5, 2), shift=0.3, flip=True)


def sources(draws, index):
    """Where the pixels of one result come from: (rows, columns), the center of the first pixel is 0, in float64."""
    matrix = np.vstack([np.asarray(draws.matrix[index], np.float64), [0, 0, 1]])
    y, x = np.mgrid[: draws.size[0], : draws.size[1]] + 0.5
    x, y, _ = np.einsum("ij,jhw->ihw", np.linalg.inv(matrix), np.stack([x, y, np.ones_like(x)]))
    return y - 0.5, x - 0.5


def test_warp_equals_scipy():
    result = warp(IMAGES, DRAWS)
    for i, image in enumerate(IMAGES):
        planes = [map_coordinates(image[..., c], sources(DRAWS, i), order=1, mode="grid-constant") for c in range(3)]
        np.testing.assert_allclose(result[i], np.stack(planes, -1), atol=0.01)
    pixels = np.round(IMAGES).astype(np.uint8)
    exact = np.asarray(warp(pixels.astype(np.float32), DRAWS))
    np.testing.assert_allclose(warp(pixels, DRAWS), np.round(exact), atol=1)
    assert warp(pixels, DRAWS).dtype == np.uint8


def test_the_value_fills_what_is_outside():
    value = np.array([10, 20, 30], np.float32)
    result = warp(IMAGES, DRAWS, value=value)
    for i, image in enumerate(IMAGES):
        for c in range(3):
            expected = map_coordinates(image[..., c], sources(DRAWS, i), order=1, mode="grid-constant", cval=value[c])
            np.testing.assert_allclose(result[i, ..., c], expected, atol=0.01)


def test_masks_are_the_nearest_elements():
    masks = GENERATOR.integers(1, 100, (12, 2, 9, 13))
    result = np.asarray(warp_masks(masks, DRAWS, value=-1))
    assert result.dtype == jnp.asarray(masks).dtype
    assert (result == -1).any()
    for i in range(12):
        at = np.stack(sources(DRAWS, i))
        # Halfway between two pixels, either is the nearest.
        clear = (abs(at % 1 - 0.5) > 1e-3).all(0)
        row, column = np.round(at).astype(int)
        inside = (row >= 0) & (row < 9) & (column >= 0) & (column < 13)
        expected = np.where(inside, masks[i][:, row.clip(0, 8), column.clip(0, 12)], -1)
        np.testing.assert_array_equal(result[i][:, clear], expected[:, clear])


def test_draws_are_uniform_in_their_ranges():
    draws = draw_affine(KEY, (4000, 20, 40, 1), rotate=30, scale=(0.5, 1.5), shift=(-0.1, 0.2), flip=True)
    (a, b, _), (c, d, _) = np.moveaxis(np.asarray(draws.matrix), 0, -1)
    determinant = a * d - b * c
    mirrored = determinant < 0
    scale, angle = np.sqrt(abs(determinant)), np.degrees(np.arctan2(-b, d))
    center = np.asarray(draws.matrix) @ np.array([20, 10, 1]) - np.array([20, 10])
    for values, low, high in [
        (angle, -30, 30),
        (scale, 0.5, 1.5),
        (center[:, 0], -4, 8),
        (center[:, 1], -2, 4),
        (mirrored, 0, 1),
    ]:
        width = high - low
        np.testing.assert_allclose([values.min(), values.max()], [low, high], atol=0.01 * width)
        np.testing.assert_allclose(values.mean(), (low + high) / 2, atol=0.03 * width)
    np.testing.assert_allclose(np.histogram(angle, 6)[0], 4000 / 6, rtol=0.15)
    # Without a flip, nothing is mirrored.
    assert (np.linalg.det(draw_affine(KEY, SHAPE, rotate=180).matrix[..., :2]) > 0).all()


def test_a_rotation_is_clockwise():
    quarter = draw_affine(KEY, (1, 5, 5, 1), rotate=(90, 90))
    image = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    np.testing.assert_allclose(warp(image, quarter), np.rot90(image, -1, (1, 2)), atol=1e-4)


def test_points_follow_the_pixels():
    # The mean position of a smooth spot in the warped image is the warped point.
    y, x = np.mgrid[:60, :80]
    at = np.array([(40, 30), (35, 25), (48, 33), (30, 36)])
    spots = np.stack([np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8) for u, v in at])[..., None].astype(np.float32)
    draws = draw_affine(KEY, spots.shape, rotate=40, scale=0.2, shift=0.1, flip=True)
    moved = np.asarray(warp(spots, draws))[..., 0]
    total = moved.sum((1, 2))
    found = np.stack([(moved * x).sum((1, 2)) / total, (moved * y).sum((1, 2)) / total], -1)
    np.testing.assert_allclose(warp_points(at[:, None], draws)[:, 0], found, atol=0.02)


def test_left_and_right_points_change_names_only_in_a_mirror():
    points = np.array([[[1, 2, 0], [6, 2, 1], [4, 7, 2]]] * 8, np.float32)
    draws = draw_flip(KEY, (8, 9, 10, 3))
    mirrored = np.asarray(draws.matrix)[:, 0, 0] < 0
    assert 0 < mirrored.sum() < 8
    result = np.asarray(warp_points(points, draws, pairs=[(0, 1)]))
    np.testing.assert_array_equal(result[~mirrored], points[~mirrored])
    np.testing.assert_array_equal(result[mirrored], [[[3, 2, 1], [8, 2, 0], [5, 7, 2]]] * mirrored.sum())
    # Half a turn is two flips, and no mirror.
    turned = warp_points(points[:1], draw_affine(KEY, (1, 9, 10, 3), rotate=(180, 180)), pairs=[(0, 1)])
    np.testing.assert_allclose(turned[0], [[8, 6, 0], [3, 6, 1], [5, 1, 2]], atol=1e-4)


def test_boxes_contain_their_corners():
    boxes = np.sort(GENERATOR.uniform(0, [13, 9], (12, 4, 2, 2)), axis=2).reshape(12, 4, 4)
    result = np.asarray(warp_boxes(boxes.astype(np.float32), DRAWS))
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    corners = np.stack([np.stack([x, y, np.ones_like(x)], -1) for x in (x1, x2) for y in (y1, y2)], 2)
    moved = np.einsum("nij,nkpj->nkpi", np.asarray(DRAWS.matrix, np.float64), corners)
    expected = np.concatenate([moved.min(2), moved.max(2)], -1).clip(0, [13, 9, 13, 9])
    np.testing.assert_allclose(result, expected, atol=1e-3)
    assert (result[..., :2] <= result[..., 2:]).all()


def test_maps_one_after_the_other_are_one():
    first = draw_resized_crop(KEY, SHAPE, (16, 12))
    second = draw_affine(KEY, (12, 16, 12, 3), rotate=30, scale=0.2)
    points = GENERATOR.uniform(0, 9, (12, 5, 2)).astype(np.float32)
    both = first.then(second)
    assert (both.source, both.size, both.window) == ((9, 13), (16, 12), False)
    np.testing.assert_allclose(warp_points(points, both), warp_points(warp_points(points, first), second), atol=1e-3)
    flip = draw_flip(KEY, (12, 16, 12, 3))
    np.testing.assert_allclose(warp(IMAGES, first.then(flip)), random_flip(KEY, warp(IMAGES, first)), atol=1e-2)


@pytest.mark.parametrize(
    ("function", "draw"),
    [
        (random_flip, draw_flip),
        (lambda k, x: random_flip(k, x, axis="vertical"), lambda k, s: draw_flip(k, s, axis="vertical")),
        (
            lambda k, x: random_crop(k, x, (5, 20), padding=(0, 4)),
            lambda k, s: draw_crop(k, s, (5, 20), padding=(0, 4)),
        ),
        (lambda k, x: random_shift(k, x, (2, 3)), lambda k, s: draw_shift(k, s, (2, 3))),
        (lambda k, x: random_resized_crop(k, x, (6, 17)), lambda k, s: draw_resized_crop(k, s, (6, 17))),
    ],
    ids=["flip", "vertical", "crop", "shift", "resized_crop"],
)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_the_draws_of_a_function_are_what_it_does(function, draw, dtype):
    images = np.round(IMAGES).astype(dtype)
    draws = draw(KEY, SHAPE)
    expected = np.asarray(function(KEY, images))
    np.testing.assert_allclose(warp(images, draws), expected, atol=1e-3)
    if dtype == "uint8" and draws.size != (6, 17):
        np.testing.assert_array_equal(warp_masks(images[..., 0], draws), expected[..., 0])


def test_a_resized_crop_equals_pillow():
    # Pillow resizes the cropped window; its filter is the antialiased bilinear one.
    images = GENERATOR.uniform(0, 1, (24, 40, 30, 1)).astype(np.float32)
    draws = draw_resized_crop(KEY, images.shape, (12, 20), scale=(0.05, 1), ratio=(0.3, 3))
    result = np.asarray(warp(images, draws))
    matrix = np.asarray(draws.matrix, np.float64)
    shrunk = 0
    for i, image in enumerate(images):
        width, height = 20 / matrix[i, 0, 0], 12 / matrix[i, 1, 1]
        left, top = -matrix[i, 0, 2] / matrix[i, 0, 0], -matrix[i, 1, 2] / matrix[i, 1, 1]
        box = np.array([left, top, left + width, top + height])
        whole = np.round(box).astype(int)
        np.testing.assert_allclose(box, whole, atol=1e-3)
        assert whole[0] >= 0
        assert whole[1] >= 0
        assert whole[2] <= 30
        assert whole[3] <= 40
        window = Image.fromarray(image[whole[1] : whole[3], whole[0] : whole[2], 0])
        expected = np.asarray(window.resize((20, 12), Image.Resampling.BILINEAR))
        np.testing.assert_allclose(result[i, ..., 0], expected, atol=1e-4)
        shrunk += height > 12
    assert 0 < shrunk < 24


def test_windows_have_the_areas_and_shapes_that_are_asked_for():
    draws = draw_resized_crop(KEY, (3000, 200, 300, 3), 10, scale=(0.1, 0.5), ratio=(0.5, 2))
    matrix = np.asarray(draws.matrix, np.float64)
    width, height = 10 / matrix[:, 0, 0], 10 / matrix[:, 1, 1]
    area, shape = width * height / 60000, np.log2(width / height)
    for values, low, high in [(area, 0.1, 0.5), (shape, -1, 1)]:
        np.testing.assert_allclose([values.min(), values.max()], [low, high], atol=0.02)
    # Wide windows of a large area do not fit into the height, so few are left of them; narrow ones likewise.
    np.testing.assert_allclose(np.corrcoef(area, abs(shape))[0, 1], 0, atol=0.25)
    assert abs(area.mean() - 0.3) < 0.02
    # All corners that fit: from the first to the last.
    left = -matrix[:, 0, 2] / matrix[:, 0, 0] / (300 - width)
    np.testing.assert_allclose([left.min(), left.mean(), left.max()], [0, 0.5, 1], atol=0.02)


@pytest.mark.parametrize(
    ("sizes", "ratio", "window"), [((10, 40), (3 / 4, 4 / 3), (10, 13)), ((40, 10), (3 / 4, 4 / 3), (13, 10))]
)
def test_where_no_window_fits_it_is_the_largest_in_the_middle(sizes, ratio, window):
    draws = draw_resized_crop(KEY, (5, *sizes, 3), 1, scale=(1, 1), ratio=ratio)
    matrix = np.asarray(draws.matrix)
    np.testing.assert_allclose(1 / matrix[:, 1, 1], window[0], rtol=1e-5)
    np.testing.assert_allclose(1 / matrix[:, 0, 0], window[1], rtol=1e-5)
    middle = [(n - m) // 2 for n, m in zip(sizes, window, strict=True)]
    np.testing.assert_allclose(-matrix[:, 1, 2] / matrix[:, 1, 1], middle[0], atol=1e-3)
    np.testing.assert_allclose(-matrix[:, 0, 2] / matrix[:, 0, 0], middle[1], atol=1e-3)


def test_targets_follow_rand_augment():
    # Values of one half in a frame of zeros: only what moves them changes where they are.
    images = np.zeros((64, 32, 32, 3), np.float32)
    images[:, 8:20, 10:22] = 0.5
    result = np.asarray(rand_augment(KEY, images, operations=3, magnitude=6))[..., 0]
    mask = warp_masks(
        (images[..., 0] > 0).astype(np.uint8), draw_rand_augment(KEY, images.shape, operations=3, magnitude=6)
    )
    solid = result.std((1, 2)) > 0.05
    agreement = [
        np.corrcoef(r.ravel(), m.ravel())[0, 1] for r, m, s in zip(result, np.asarray(mask), solid, strict=True) if s
    ]
    assert len(agreement) > 40
    assert min(abs(a) for a in agreement if a == a) > 0.8


def test_draws_are_a_pytree():
    sizes = jax.jit(lambda draws: jax.tree.map(lambda a: a + 0, draws))(DRAWS)
    assert (sizes.source, sizes.size, sizes.window) == ((9, 13), (9, 13), False)
    shapes = jax.eval_shape(lambda key: draw_affine(key, SHAPE), KEY)
    assert shapes.matrix.shape == (12, 2, 3)
    assert isinstance(shapes, Affine)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: draw_affine(KEY, 8), ShapeError, r"shape must be the images' \(N, H, W, C\).* got 8"),
        (lambda: draw_affine(KEY, (9, 13, 3)), ShapeError, r"shape must be .*got \(9, 13, 3\)"),
        (lambda: draw_affine(KEY, SHAPE, rotate=(3, 1)), ArgumentError, r"rotate must be a number .* got \(3, 1\)"),
        (lambda: draw_affine(KEY, SHAPE, scale=1), ArgumentError, "scale must be positive, got 1"),
        (lambda: draw_affine(KEY, SHAPE, scale=-0.5), ArgumentError, "scale must be a number of at least 0"),
        (lambda: draw_affine(KEY, SHAPE, shift=(1, 2, 3)), ArgumentError, "shift must be a number"),
        (lambda: draw_flip(KEY, SHAPE, axis="both"), ArgumentError, "axis must be"),
        (lambda: draw_crop(KEY, SHAPE, 10), ShapeError, r"size must be at most the images' \(9, 13\)"),
        (lambda: draw_resized_crop(KEY, SHAPE, 0), ArgumentError, "size must be at least 1"),
        (lambda: draw_resized_crop(KEY, SHAPE, 4, scale=(0, 1)), ArgumentError, "scale and ratio must be positive"),
        (lambda: draw_resized_crop(KEY, SHAPE, 4, ratio=(2, 1)), ArgumentError, "ratio must be a number"),
        (lambda: warp(IMAGES[:3], DRAWS), ShapeError, r"images must be those of the draws, 12 images of 9x13, got"),
        (lambda: warp(IMAGES[:, :8], DRAWS), ShapeError, "images must be those of the draws"),
        (lambda: warp(IMAGES.astype(int), DRAWS), DTypeError, "images must be uint8 or floating, got int"),
        (lambda: warp(IMAGES.astype(np.uint8), DRAWS, value=0.5), DTypeError, "value must be representable"),
        (lambda: warp_masks(IMAGES[..., 0].swapaxes(1, 2), DRAWS), ShapeError, "masks must be those of the draws"),
        (lambda: warp_masks(IMAGES[0, ..., 0], DRAWS), ShapeError, r"masks must be \(N, H, W\)"),
        (lambda: warp_points(np.zeros((12, 2)), DRAWS), ShapeError, r"points must be \(N, P, 2\)"),
        (lambda: warp_points(np.zeros((3, 5, 2)), DRAWS), ShapeError, "points must be those of the draws, 12 images"),
        (lambda: warp_points(np.zeros((12, 2, 2)), DRAWS, pairs=[(0, 2)]), ShapeError, "pairs must be .* 0 to 1"),
        (lambda: warp_points(np.zeros((12, 2, 2)), DRAWS, pairs=[(0, 0)]), ShapeError, "pairs must be pairs of diff"),
        (lambda: warp_boxes(np.zeros((12, 5)), DRAWS), ShapeError, r"boxes must be \(N, ..., 4\), x1, y1, x2, y2"),
        (
            lambda: DRAWS.then(draw_flip(KEY, (12, 9, 9, 3))),
            ShapeError,
            r"other must be drawn for 12 images of \(9, 13",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "draw",
    [
        lambda shape: draw_affine(KEY, shape, rotate=30, scale=0.2, shift=0.2, flip=True),
        lambda shape: draw_crop(KEY, shape, 4, padding=1),
        lambda shape: draw_flip(KEY, shape),
        lambda shape: draw_rand_augment(KEY, shape, magnitude=15),
        lambda shape: draw_resized_crop(KEY, shape, 4),
        lambda shape: draw_shift(KEY, shape, 2),
    ],
)
def test_all_frames_of_a_clip_and_their_masks_share_a_draw(draw):
    draws = draw((4, 3, 6, 7, 3))
    np.testing.assert_array_equal(draws.matrix, draw((4, 6, 7, 3)).matrix)
    masks = np.repeat(GENERATOR.integers(1, 100, (4, 1, 6, 7)), 3, axis=1)
    moved = np.asarray(warp_masks(masks, draws))
    assert (moved == moved[:, :1]).all()
    # Each clip has its own.
    assert len(np.unique(draws.matrix, axis=0)) > 1
