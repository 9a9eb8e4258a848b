"""The oracle is brute force in NumPy: every result that is legal for an image is written out, and looked up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxconv as jc
from jaxconv.data import (
    channel_statistics,
    color_jitter,
    cutmix,
    cutout,
    draw_affine,
    mixup,
    normalize,
    rand_augment,
    random_crop,
    random_flip,
    random_resized_crop,
    random_shift,
    warp,
)
from jaxconv.errors import ArgumentError, DTypeError, ShapeError

KEY = jax.random.key(0)
DTYPES = ["uint8", "int32", "bool", "float16", "bfloat16", "float32"]
NUMPY_MODES = {"zeros": "constant", "edge": "edge", "reflect": "reflect", "circular": "wrap"}


def draw_images(shape, dtype="uint8", seed=0):
    """Random images, no two windows equal; half precision represents the integers to 255 exactly."""
    return np.random.default_rng(seed).integers(0, 256, shape).astype(jnp.dtype(dtype))


def legal_windows(image, size, padding, pad_mode):
    """Every window of the padded image: {its bytes: its corner}."""
    padded = np.pad(image, ((padding[0],) * 2, (padding[1],) * 2, (0, 0)), NUMPY_MODES[pad_mode])
    rows, columns = padded.shape[0] - size[0] + 1, padded.shape[1] - size[1] + 1
    corners = [(i, j) for i in range(rows) for j in range(columns)]
    return {np.ascontiguousarray(padded[i : i + size[0], j : j + size[1]]).tobytes(): (i, j) for i, j in corners}


def corners_of(crops, images, size, padding, pad_mode="zeros"):
    """Where each crop was cut; KeyError if it is no legal window of its image."""
    legal = [legal_windows(image, size, padding, pad_mode) for image in images]
    return np.array([windows[np.asarray(crop).tobytes()] for crop, windows in zip(crops, legal, strict=True)])


def assert_even(counts, draws):
    """All outcomes come, each about as often: within 7 standard deviations, so it fails once in 10**11."""
    expected = draws / len(counts)
    assert abs(np.asarray(counts) - expected).max() < 7 * np.sqrt(expected)


@pytest.mark.parametrize("pad_mode", NUMPY_MODES)
@pytest.mark.parametrize(
    ("shape", "size", "padding"),
    [
        ((30, 6, 6, 1), (6, 6), (2, 2)),
        ((30, 7, 5, 3), (3, 4), (0, 0)),
        ((30, 4, 6, 2), (5, 2), (1, 0)),
        ((30, 5, 4, 1), (11, 10), (3, 3)),
    ],
)
def test_every_crop_is_a_window_of_its_image(shape, size, padding, pad_mode):
    images = draw_images(shape)
    crops = random_crop(KEY, images, size, padding=padding, pad_mode=pad_mode)
    assert crops.shape == (shape[0], *size, shape[3])
    corners = corners_of(crops, images, size, padding, pad_mode)
    # Each image has its own draw, where there is anything to draw.
    positions = np.prod([n + 2 * p - s + 1 for n, p, s in zip(shape[1:3], padding, size, strict=True)])
    assert (len(np.unique(corners, axis=0)) > 1) == (positions > 1)


def test_every_place_is_as_likely():
    images = np.broadcast_to(draw_images((1, 4, 5, 1)), (6000, 4, 5, 1))
    crops = np.asarray(random_crop(KEY, images, 4, padding=(1, 1)))
    windows = legal_windows(images[0], (4, 4), (1, 1), "zeros")
    assert len(windows) == 3 * 4
    corners = [windows[crop.tobytes()] for crop in crops]
    assert_even(np.unique(corners, axis=0, return_counts=True)[1], 6000)
    assert len(set(corners)) == 12


@pytest.mark.parametrize("pad_mode", NUMPY_MODES)
def test_a_shift_is_a_crop_to_the_same_size(pad_mode):
    images = draw_images((40, 5, 6, 2))
    shifted = random_shift(KEY, images, (2, 3), pad_mode=pad_mode)
    corners_of(shifted, images, (5, 6), (2, 3), pad_mode)
    crops = random_crop(KEY, images, (5, 6), padding=(2, 3), pad_mode=pad_mode)
    np.testing.assert_array_equal(shifted, crops)
    np.testing.assert_array_equal(random_shift(KEY, images, 0, pad_mode=pad_mode), images)


@pytest.mark.parametrize(("axis", "position"), [("horizontal", 2), ("vertical", 1)])
def test_half_of_the_images_are_mirrored(axis, position):
    images = draw_images((4000, 3, 4, 1))
    result = np.asarray(random_flip(KEY, images, axis=axis))
    mirrored = np.flip(images, position)
    is_mirrored = (result == mirrored).all((1, 2, 3))
    assert (is_mirrored | (result == images).all((1, 2, 3))).all()
    assert_even([is_mirrored.sum(), (~is_mirrored).sum()], 4000)


@pytest.mark.parametrize("size", [1, 3, (2, 4), (12, 1), 20])
def test_cutout_blanks_a_rectangle_about_a_pixel(size):
    # No image holds the value, so the hole is what is equal to it.
    images = draw_images((2000, 4, 5, 3)) % 200
    fill = np.array([201, 202, 203], np.uint8)
    result = np.asarray(cutout(KEY, images, size, value=fill))
    holes = (result == fill).all(-1)
    np.testing.assert_array_equal(result, np.where(holes[..., None], fill, images))
    height, width = np.broadcast_to(size, 2)
    legal = {}
    for center in np.ndindex(4, 5):
        hole = np.zeros((4, 5), bool)
        for i, j in np.ndindex(height, width):
            y, x = center[0] - height // 2 + i, center[1] - width // 2 + j
            if 0 <= y < 4 and 0 <= x < 5:
                hole[y, x] = True
        legal.setdefault(hole.tobytes(), []).append(center)
    found = [hole.tobytes() for hole in holes]
    # Every center is as likely; where several make the same hole, in proportion.
    for hole, centers in legal.items():
        expected = 2000 * len(centers) / 20
        assert abs(found.count(hole) - expected) < 7 * np.sqrt(expected) or len(legal) == 1
    assert set(found) == set(legal)


# A shift is a crop, as tested above.
MOVES = {
    "random_crop": lambda key, images: random_crop(key, images, 5, padding=2),
    "random_flip": random_flip,
    "cutout": lambda key, images: cutout(key, images, 3),
}
LINEAR = MOVES | {
    "random_resized_crop": lambda key, images: random_resized_crop(key, images, 4),
    "warp": lambda key, images: warp(
        images, draw_affine(key, images.shape, rotate=30, scale=0.2, shift=0.2, flip=True)
    ),
}
FUNCTIONS = LINEAR | {
    "color_jitter": lambda key, images: color_jitter(
        key, images, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1
    ),
    "rand_augment": lambda key, images: rand_augment(key, images, magnitude=15),
    "mixup": lambda key, images: mixup(key, images, (), alpha=1.0)[0],
    "cutmix": lambda key, images: cutmix(key, images, ())[0],
}
SHAPE = (8, 6, 7, 3)


def close(name):
    """The error of uint8 pixels that a compiler's order of operations may cause, by rounding."""
    return {"rtol": 0, "atol": 0 if name in MOVES else 1}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MOVES)
def test_the_element_type_is_kept_and_no_value_changes(name, dtype):
    images = draw_images(SHAPE, dtype)
    result = FUNCTIONS[name](KEY, images)
    assert result.dtype == images.dtype
    # The same draw on other types: the elements are moved, not computed.
    reference = FUNCTIONS[name](KEY, images.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(result, np.float32), reference)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_key_decides_and_transformations_agree(name):
    function, images = FUNCTIONS[name], draw_images((3, *SHAPE))
    keys = jax.random.split(KEY, 3)
    jitted = jax.jit(function)
    one_by_one = [np.asarray(jitted(k, x)) for k, x in zip(keys, images, strict=True)]
    equal = functools.partial(np.testing.assert_allclose, **close(name))
    np.testing.assert_array_equal(jitted(keys[0], images[0]), one_by_one[0])
    assert (np.asarray(jitted(keys[1], images[0])) != one_by_one[0]).any()
    equal(function(keys[0], images[0]), one_by_one[0])
    equal(jax.jit(jax.vmap(function))(keys, images), one_by_one)
    _, scanned = jax.lax.scan(lambda carry, kx: (carry, function(*kx)), 0, (keys, jnp.asarray(images)))
    equal(scanned, one_by_one)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_all_frames_of_a_clip_have_the_same_draw(name):
    function, clips = FUNCTIONS[name], draw_images((4, 3, *SHAPE[1:]))
    result = np.asarray(jax.jit(function)(KEY, clips))
    for frame in range(3):
        np.testing.assert_allclose(result[:, frame], jax.jit(function)(KEY, clips[:, frame]), **close(name))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in MOVES])
def test_computed_pixels_are_computed_in_float32(name, dtype):
    # From 0 to 1, by steps that half precision represents.
    images = (draw_images(SHAPE) / 256).astype(jnp.dtype(dtype))
    function = jax.jit(FUNCTIONS[name])
    result = function(KEY, images)
    assert result.dtype == images.dtype
    expected = np.asarray(function(KEY, images.astype(np.float32)))
    np.testing.assert_array_equal(np.asarray(result), expected.astype(jnp.dtype(dtype)))


@pytest.mark.parametrize("name", LINEAR)
def test_the_gradient_moves_with_the_pixels(name):
    images = draw_images(SHAPE, "float32") + 1
    # Linear in the images, so x . grad(sum of squares) / 2 is the sum of squares.
    value, gradient = jax.value_and_grad(lambda x: (FUNCTIONS[name](KEY, x) ** 2).sum())(images)
    np.testing.assert_allclose((gradient * images).sum() / 2, value, rtol=1e-5)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_empty_batch_stays_empty(name):
    assert FUNCTIONS[name](KEY, np.zeros((0, 6, 7, 3), np.uint8)).shape[0] == 0


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_sharded_batch_stays_sharded(name, kind):
    images = draw_images(SHAPE)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        result = jax.jit(FUNCTIONS[name])(KEY, jax.device_put(images, NamedSharding(mesh, PartitionSpec("data"))))
        assert result.sharding.spec[0] == "data"
    np.testing.assert_allclose(result, jax.jit(FUNCTIONS[name])(KEY, images), **close(name))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_shards_draw_by_the_key_they_are_given(name):
    images = draw_images(SHAPE)
    by_shard = jax.shard_map(
        lambda keys, x: FUNCTIONS[name](keys[0], x),
        mesh=jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,)),
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    keys = jax.random.split(KEY, 4)
    result = np.asarray(jax.jit(by_shard)(keys, images))
    for i, shard in enumerate(np.split(result, 4)):
        expected = jax.jit(FUNCTIONS[name])(keys[i], images[2 * i : 2 * i + 2])
        np.testing.assert_allclose(shard, expected, **close(name))


IMAGES = np.zeros((2, 6, 7, 3), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: random_crop(KEY, IMAGES[0], 3),
            ShapeError,
            r"images must be \(N, H, W, C\), or \(N, T, H, W, C\) for video, got shape \(6, 7, 3\)",
        ),
        (lambda: random_flip(IMAGES, KEY), ShapeError, r"images must be \(N, H, W, C\), .* got shape \(\)"),
        (
            lambda: random_crop(KEY, IMAGES, 7),
            ShapeError,
            r"size must be at most the images' \(6, 7\) with",
        ),
        (lambda: random_crop(KEY, IMAGES, 0), ArgumentError, "size must be at least 1, got 0"),
        (
            lambda: random_crop(KEY, IMAGES, (2, 2, 2)),
            ArgumentError,
            "size must be an int or one int for each of the 2",
        ),
        (lambda: random_crop(KEY, IMAGES, 3, padding=-1), ArgumentError, "padding must be at least 0, got -1"),
        (
            lambda: random_crop(KEY, IMAGES, 3, pad_mode="mirror"),
            ArgumentError,
            "edge, reflect, circular, got 'mirror'",
        ),
        (lambda: random_shift(KEY, IMAGES, 1.5), ArgumentError, "pixels must be an integer, got 1.5"),
        (
            lambda: random_shift(KEY, IMAGES, 6, pad_mode="reflect"),
            ShapeError,
            r"pixels must be at most \(5, 6\) for pad_mode .* got \(6, 6\)",
        ),
        (
            lambda: random_shift(KEY, IMAGES, 7, pad_mode="circular"),
            ShapeError,
            r"pixels must be at most \(6, 7\) for pad_mode 'circular'",
        ),
        (
            lambda: random_shift(KEY, IMAGES[:, :0], 1, pad_mode="edge"),
            ShapeError,
            r"images must have .* got \(0, 7\)",
        ),
        (lambda: random_flip(KEY, IMAGES, axis="both"), ArgumentError, "axis must be .*, got 'both'"),
        (lambda: cutout(KEY, IMAGES, 0), ArgumentError, "size must be at least 1, got 0"),
        (lambda: cutout(KEY, IMAGES, 2, value=[1, 2]), ShapeError, r"value must be a number or \(3,\), .* \(2,\)"),
        (lambda: cutout(KEY, IMAGES, 2, value=0.5), DTypeError, "value must be .* type uint8, got 0.5"),
        (lambda: cutout(KEY, IMAGES, 2, value=[0, 256, 0]), DTypeError, r"value must be .*, got \[0, 256, 0\]"),
        (lambda: cutout(KEY, IMAGES, 2, value=-1), DTypeError, "value must be .* type uint8, got -1"),
        (lambda: normalize(IMAGES.astype(np.int32), 0, 1), DTypeError, "images must be uint8 or floating, got int32"),
        (lambda: normalize(IMAGES, [0, 0], 1), ShapeError, r"mean must be a number or \(3,\), .* got shape \(2,\)"),
        (lambda: normalize(IMAGES, 0, [[1, 1, 1]]), ShapeError, r"std must be a number or \(3,\), .* \(1, 3\)"),
        (lambda: normalize(IMAGES, 0, [1, 0, 1]), ArgumentError, r"std must be positive, got \[1, 0, 1\]"),
        (lambda: normalize(np.uint8(3), 0, 1), ShapeError, r"images must be \(..., C\), got shape \(\)"),
        (lambda: channel_statistics(IMAGES.astype(bool)), DTypeError, "images must be uint8 or floating, got bool"),
        (lambda: channel_statistics(IMAGES[:0]), ShapeError, r"with at least one pixel, got shape \(0, 6, 7, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused_at_the_door(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("statistics", [(0.25, 0.5), ([0.1, 0.2, 0.3], [0.5, 1.0, 2.0])])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
def test_normalize_equals_the_formula(dtype, statistics):
    images = draw_images((3, 5, 4, 3), dtype)
    mean, std = (np.asarray(s, np.float64) for s in statistics)
    scale = 255 if dtype == "uint8" else 1
    expected = (images.astype(np.float64) / scale - mean) / std
    for function in (normalize, jax.jit(normalize)):
        result = function(images, *map(np.asarray, statistics))
        assert result.dtype == ("float32" if dtype == "uint8" else dtype)
        # Half an element of rounding at the end, for what is computed in float32.
        tolerance = float(jnp.finfo(result.dtype).eps) * (4 if result.dtype == np.float32 else 0.51)
        np.testing.assert_allclose(np.asarray(result, np.float64), expected, rtol=tolerance, atol=1e-6)


def test_normalize_keeps_float64():
    with jax.enable_x64(True):
        result = normalize(np.full((1, 2), 0.1, np.float64), 0.3, 0.7)
        assert result.dtype == np.float64
        np.testing.assert_allclose(result, (0.1 - 0.3) / 0.7, rtol=1e-15)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32"])
def test_channel_statistics_equal_numpy(dtype):
    # More pixels than one slice, and an offset that a one-pass float32 variance would drown in.
    images = draw_images((11, 320, 320, 3), dtype) // (1 if dtype == "uint8" else 8)
    images = images if dtype in ("uint8", "bfloat16") else images + np.asarray(1000, images.dtype)
    mean, std = channel_statistics(images)
    values = images.astype(np.float64) / (255 if dtype == "uint8" else 1)
    assert mean.dtype == std.dtype == np.float32
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-6)


def test_statistics_and_normalize_fit_together():
    images = draw_images((50, 8, 8, 3)) // np.array([1, 2, 4], np.uint8)
    result = np.asarray(normalize(images, *channel_statistics(images)), np.float64)
    np.testing.assert_allclose(result.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(result.std((0, 1, 2)), 1, atol=1e-5)


def test_an_int_is_a_seed():
    images = jax.random.normal(KEY, (4, 6, 6, 1))
    for change in (
        random_flip,
        lambda key, x: random_crop(key, x, 3),
        lambda key, x: random_shift(key, x, 2),
        lambda key, x: cutout(key, x, 2),
    ):
        assert (change(5, images) == change(jax.random.key(5), images)).all()


@pytest.mark.parametrize(("shape", "ratio"), [((4, 1, 8, 1), (0.1, 0.3)), ((4, 8, 1, 1), (4, 9))])
def test_the_largest_window_of_a_narrow_image_has_a_pixel(shape, ratio):
    images = random_resized_crop(0, jnp.full(shape, 0.5), 4, ratio=ratio)
    np.testing.assert_allclose(images, 0.5)


COLORS = {
    "color_jitter": lambda key, x: jc.data.color_jitter(key, x, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1),
    "rand_augment": jc.data.rand_augment,
}
JITTED = {name: jax.jit(function) for name, function in COLORS.items()}


@pytest.mark.parametrize("name", COLORS)
@pytest.mark.parametrize("change", [lambda x: (x - 0.45) / 0.225, lambda x: 255 * x], ids=["normalized", "bytes"])
def test_colors_of_images_that_are_not_from_0_to_1_are_refused(name, change):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(0, 1, (3, 4, 4, 3)), jnp.float32)
    wrong = images.at[1].set(change(images[1]))
    with pytest.raises(jc.ArgumentError, match=rf"images must be from 0 to 1, got .*: call normalize after {name}"):
        COLORS[name](jax.random.key(0), wrong)
    # Traced values are unknown: the image is NaN, and the others are as without it.
    found, expected = (np.asarray(JITTED[name](jax.random.key(0), x)) for x in (wrong, images))
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
    assert np.isfinite(expected).all()


def test_colors_of_resized_images_may_exceed_the_range_a_little():
    images = jnp.asarray(np.random.default_rng(0).uniform(-0.2, 1.2, (3, 4, 4, 3)), jnp.float32)
    assert jnp.isfinite(JITTED["color_jitter"](jax.random.key(0), images)).all()
    assert jax.eval_shape(COLORS["color_jitter"], jax.random.key(0), jnp.zeros((0, 4, 4, 3))).shape == (0, 4, 4, 3)
