"""Mixup, cutmix, color jitter and RandAugment against NumPy and Python's colorsys."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.data import color_jitter, cutmix, mixup, rand_augment
from jaxconv.data.color import adjust_hue
from jaxconv.data.rand_augment import OPERATIONS, apply_operation
from jaxconv.errors import ArgumentError, DTypeError, ShapeError

KEY = jax.random.key(1)
GENERATOR = np.random.default_rng(2)
LUMA = np.array([0.2989, 0.587, 0.114])


def test_mixup_mixes_images_and_targets_by_the_same_weight():
    images = GENERATOR.uniform(0, 1, (500, 4, 5, 3)).astype(np.float32)
    numbers = np.eye(500, dtype=np.float32)
    result, targets = mixup(KEY, images, {"a": numbers, "b": [images[:, 0]]}, alpha=0.4)
    weight = np.diag(targets["a"])
    expected = weight[:, None] * numbers + (1 - weight)[:, None] * numbers[::-1]
    np.testing.assert_allclose(targets["a"], expected, atol=1e-6)
    weight = weight[:, None, None, None]
    np.testing.assert_allclose(result, weight * images + (1 - weight) * images[::-1], atol=1e-6)
    np.testing.assert_allclose(targets["b"][0], result[:, 0], atol=1e-6)
    # Beta(a, a) has mean 1/2 and variance 1 / (4 (2 a + 1)).
    assert abs(weight.mean() - 0.5) < 0.06
    assert abs(weight.var() - 1 / (4 * 1.8)) < 0.02


def test_cutmix_replaces_a_rectangle_and_counts_its_area():
    images = np.stack([np.full((20, 30, 1), i, np.uint8) for i in range(200)])
    masks = np.stack([np.full((2, 20, 30), i) for i in range(200)])
    result, targets, pasted = cutmix(KEY, images, np.eye(200, dtype=np.float32), masks={"m": masks})
    result, pasted = np.asarray(result)[..., 0], np.asarray(pasted["m"])
    areas = []
    for i in range(200):
        other = result[i] == 199 - i
        np.testing.assert_array_equal(result[i], np.where(other, 199 - i, i))
        np.testing.assert_array_equal(pasted[i], [result[i]] * 2)
        rows, columns = other.any(1), other.any(0)
        np.testing.assert_array_equal(other, rows[:, None] & columns)
        # One stretch each.
        assert (np.diff(rows.astype(int)) == 1).sum() <= 1
        assert (np.diff(columns.astype(int)) == 1).sum() <= 1
        expected = np.zeros(200)
        expected[i] += 1 - other.mean()
        expected[199 - i] += other.mean()
        np.testing.assert_allclose(targets[i], expected, atol=1e-6)
        areas.append(other.mean())
    # A uniform area, cut where the rectangle is outside.
    assert min(areas) < 0.02
    assert max(areas) > 0.8
    assert 0.25 < np.mean(areas) < 0.45


def adjusted(name, x, factor):
    """The definitions, for one image in float64."""
    gray = x @ LUMA if x.shape[-1] == 3 else x[..., 0]
    other = {"brightness": 0, "contrast": gray.mean(), "saturation": gray[..., None]}
    if name in other:
        return (factor * x + (1 - factor) * other[name]).clip(0, 1)
    result = np.empty_like(x)
    for at in np.ndindex(x.shape[:-1]):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[at])
        result[at] = colorsys.hsv_to_rgb((hue + factor) % 1, saturation, value)
    return result


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.6, -0.2])
def test_one_change_of_colors_equals_its_definition(name, factor):
    if (factor < 0 or factor > 0.5) if name == "hue" else factor < 0:
        factor = 0.5
    images = GENERATOR.uniform(0, 1, (2, 5, 6, 3))
    images[0, 0, :3] = [[0.5] * 3, [0.2, 0.7, 0.7], [0.9, 0.9, 0.1]]
    result = color_jitter(KEY, images.astype(np.float32), **{name: (factor, factor)})
    for image, expected in zip(result, images, strict=True):
        np.testing.assert_allclose(image, adjusted(name, expected, factor), atol=1e-5)


def test_a_hue_turns_both_ways():
    images = GENERATOR.uniform(0, 1, (1, 5, 6, 3))
    result = adjust_hue(jnp.asarray(images, jnp.float32), jnp.asarray(-0.4))
    np.testing.assert_allclose(result[0], adjusted("hue", images[0], -0.4), atol=1e-5)


def test_changes_of_colors_come_in_all_orders():
    image = GENERATOR.uniform(0.3, 0.7, (1, 4, 4, 3))
    factors = {"brightness": 1.3, "contrast": 1.9, "saturation": 1.9, "hue": 0.25}
    legal = []
    for order in itertools.permutations(factors):
        x = image[0]
        for name in order:
            x = adjusted(name, x, factors[name])
        legal.append(x)
    jitter = jax.jit(lambda key: color_jitter(key, image.astype(np.float32), **{k: (v, v) for k, v in factors.items()}))
    found = set()
    for seed in range(60):
        errors = [abs(np.asarray(jitter(jax.random.key(seed)))[0] - x).max() for x in legal]
        assert min(errors) < 1e-5
        found.add(int(np.argmin(errors)))
    assert len(found) > 12


def test_amounts_differ_between_images_and_fill_their_range():
    images = np.full((2000, 1, 1, 1), 0.25, np.float32)
    result = np.asarray(color_jitter(KEY, images, brightness=0.4, saturation=0.5, hue=0.5)).ravel() / 0.25
    np.testing.assert_allclose([result.min(), result.mean(), result.max()], [0.6, 1, 1.4], atol=0.02)
    np.testing.assert_array_equal(color_jitter(KEY, images), images)
    assert np.asarray(color_jitter(KEY, images, brightness=3.0)).min() >= 0


def test_bytes_are_rounded_once():
    images = GENERATOR.integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    amounts = {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2}
    exact = color_jitter(KEY, (images / 255).astype(np.float32), **amounts)
    result = color_jitter(KEY, images, **amounts)
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, np.asarray(exact) * 255, atol=0.501)


def augmented(name, x, sign, strength):
    """The operations that move no pixels, for one image from 0 to 255 in float64."""
    factor = 1 + sign * 0.9 * strength
    if name in ("brightness", "contrast", "color"):
        return adjusted({"color": "saturation"}.get(name, name), x / 255, factor) * 255
    if name == "sharpness":
        smooth = x.copy()
        for i, j in np.ndindex(x.shape[0] - 2, x.shape[1] - 2):
            smooth[i + 1, j + 1] = (x[i : i + 3, j : j + 3].sum((0, 1)) + 4 * x[i + 1, j + 1]) / 13
        return (factor * x + (1 - factor) * smooth).clip(0, 255)
    if name == "posterize":
        return (x.astype(np.uint8) & (0xFF << round(4 * strength) & 0xFF)).astype(float)
    if name == "solarize":
        return np.where(x >= 255 * (1 - strength), 255 - x, x)
    if name == "autocontrast":
        low, high = x.min((0, 1)), x.max((0, 1))
        return np.where(high > low, (x - low) * 255 / np.where(high > low, high - low, 1), x)
    assert name == "identity"
    return x


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n[:5] not in ("shear", "trans", "rotat")])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_operations_on_colors_equal_their_definition(name, sign):
    image = GENERATOR.integers(20, 200, (6, 7, 3)).astype(np.float64)
    image[..., 2] = 90
    choice = np.full(1, OPERATIONS.index(name))
    result = jax.jit(apply_operation, static_argnums=3)(
        jnp.asarray(image[None], jnp.float32), choice, np.array([sign]), 0.3
    )
    np.testing.assert_allclose(result[0], augmented(name, image, sign, 0.3), atol=2e-3)


def test_operations_that_move_pixels_equal_their_definition():
    image = GENERATOR.uniform(0, 255, (9, 11, 1)).astype(np.float32)
    run = jax.jit(apply_operation, static_argnums=3)
    apply = lambda name, sign: run(image[None], np.full(1, OPERATIONS.index(name)), np.array([sign]), 0.4)[0]  # noqa: E731
    # 150 / 331 * 0.4 of 11 columns and of 9 rows: 1.99 and 1.63, of which the whole pixels count.
    np.testing.assert_allclose(apply("translate_x", 1.0)[:, 1:], image[:, :-1], atol=1e-3)
    np.testing.assert_allclose(apply("translate_y", -1.0)[:-1], image[1:], atol=1e-3)
    # A shear leaves the corner; the centers of the pixels of row y move by 0.12 (y + 0.5).
    sheared = np.asarray(apply("shear_x", 1.0))[..., 0]
    for y in range(9):
        at = np.arange(11) - 0.12 * (y + 0.5)
        row = np.concatenate([[0], image[y, :, 0], [0]])
        np.testing.assert_allclose(sheared[y], np.interp(at, np.arange(-1, 12), row), atol=1e-2)
    turned = apply("rotate", 1.0)
    assert abs(turned[4, 5] - image[4, 5]) < 1e-3
    assert abs(turned - image).max() > 10


def test_rand_augment_draws_operations_for_each_image():
    images = np.broadcast_to(GENERATOR.integers(0, 256, (1, 16, 16, 3)).astype(np.uint8), (400, 16, 16, 3))
    result = np.asarray(rand_augment(KEY, images, operations=1, magnitude=9))
    kinds = np.unique(result.reshape(400, -1), axis=0)
    # Of 13 operations nine have two directions.
    assert len(kinds) == 4 + 2 * 9
    unchanged = (result == images).all((1, 2, 3)).mean()
    assert 0.04 < unchanged < 0.2
    np.testing.assert_array_equal(rand_augment(KEY, images[:20], operations=2, magnitude=0).shape, images[:20].shape)


PIXELS = np.zeros((2, 4, 4, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mixup(KEY, PIXELS, np.array([0, 1])), DTypeError, r"targets must be floating .*one_hot.* got int"),
        (lambda: mixup(KEY, PIXELS, np.zeros((3, 2))), ShapeError, r"targets must be one for each of 2 .* \(3, 2\)"),
        (lambda: mixup(KEY, PIXELS.astype(int), ()), DTypeError, "images must be uint8 or floating"),
        (lambda: cutmix(KEY, PIXELS, np.array([0, 1])), DTypeError, "targets must be floating"),
        (lambda: cutmix(KEY, PIXELS, (), masks=PIXELS), ShapeError, r"masks must be \(N, ..., H, W\) for images"),
        (lambda: color_jitter(KEY, PIXELS[..., :2]), ShapeError, "images must have 1 or 3 channels"),
        (lambda: color_jitter(KEY, PIXELS, brightness=-1), ArgumentError, "brightness must be a number of at least 0"),
        (lambda: color_jitter(KEY, PIXELS, contrast=(-1, 1)), ArgumentError, "contrast must be .* low at least 0"),
        (lambda: color_jitter(KEY, PIXELS, hue=0.6), ArgumentError, "hue must be from -0.5 to 0.5, got 0.6"),
        (lambda: rand_augment(KEY, PIXELS, magnitude=31), ArgumentError, "magnitude must be from 0 to 30, got 31"),
        (lambda: rand_augment(KEY, PIXELS, operations=0), ArgumentError, "operations must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
