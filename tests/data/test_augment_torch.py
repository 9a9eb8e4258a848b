"""The maps and colors against torchvision's functions, image by image, by the values that were drawn."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.data import draw_affine, draw_flip, draw_resized_crop, warp, warp_boxes, warp_masks, warp_points
from jaxconv.data.color import ADJUSTMENTS
from jaxconv.data.rand_augment import OPERATIONS, apply_operation
from tests.record_torchvision import torchvision

pytestmark = pytest.mark.torch
KEY = jax.random.key(4)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.uniform(0, 1, (6, 24, 36, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def functional():
    if not importlib.util.find_spec("torchvision"):
        pytest.skip("torchvision is not installed")
    torchvision()
    return importlib.import_module("torchvision.transforms.v2.functional")


def torch_image(image):
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, -1, 0)))


def of_torch(image):
    return np.moveaxis(image.numpy(), 0, -1)


def drawn(draws, index):
    """Angle, shift and scale, as torchvision has them, of a draw without a flip."""
    (a, b, tx), (c, d, ty) = np.asarray(draws.matrix[index], np.float64)
    height, width = draws.source
    shift = [tx + a * width / 2 + b * height / 2 - width / 2, ty + c * width / 2 + d * height / 2 - height / 2]
    return {
        "angle": float(np.degrees(np.arctan2(c, a))),
        "translate": shift,
        "scale": float(np.hypot(a, c)),
        "shear": [0.0, 0.0],
    }


def test_affine_maps(functional):
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.tv_tensors import BoundingBoxes, KeyPoints

    draws = draw_affine(KEY, IMAGES.shape, rotate=90, scale=(0.7, 1.4), shift=0.2)
    boxes = np.array([[[3, 4, 9, 20], [0, 0, 36, 24]]] * 6, np.float32)
    masks = GENERATOR.integers(0, 9, (6, 24, 36)).astype(np.uint8)
    result, moved, nearest = warp(IMAGES, draws), warp_boxes(boxes, draws), warp_masks(masks, draws)
    points = warp_points(boxes[..., :2] - 0.5, draws)
    for i in range(6):
        values = drawn(draws, i)
        expected = functional.affine(torch_image(IMAGES[i]), **values, interpolation=InterpolationMode.BILINEAR)
        np.testing.assert_allclose(result[i], of_torch(expected), atol=1e-3)
        box = BoundingBoxes(torch.from_numpy(boxes[i]), format="XYXY", canvas_size=(24, 36))
        box = functional.clamp_bounding_boxes(functional.affine(box, **values))
        np.testing.assert_allclose(moved[i], box.numpy(), atol=1e-3)
        point = KeyPoints(torch.from_numpy(boxes[i, :, :2]), canvas_size=(24, 36))
        point = functional.affine_keypoints(point, canvas_size=(24, 36), **values, center=None)
        np.testing.assert_allclose(
            points[i] + 0.5, np.asarray(point[0] if isinstance(point, tuple) else point), atol=1e-3
        )
        mask = functional.affine(torch.from_numpy(masks[i][None]), **values, interpolation=InterpolationMode.NEAREST)
        # Halfway between two pixels, rounding decides.
        assert (nearest[i] == mask[0].numpy()).mean() > 0.995


def test_resized_crops(functional):
    from torchvision.transforms import InterpolationMode

    draws = draw_resized_crop(KEY, IMAGES.shape, (14, 18), scale=(0.1, 1))
    masks = GENERATOR.integers(0, 9, (6, 24, 36)).astype(np.uint8)
    result, nearest = np.asarray(warp(IMAGES, draws)), warp_masks(masks, draws)
    pixels = warp(np.round(IMAGES * 255).astype(np.uint8), draws)
    for i, ((x, _, tx), (_, y, ty)) in enumerate(np.asarray(draws.matrix, np.float64)):
        window = [round(float(v)) for v in (-ty / y, -tx / x, 14 / y, 18 / x)]
        expected = functional.resized_crop(torch_image(IMAGES[i]), *window, [14, 18])
        np.testing.assert_allclose(result[i], of_torch(expected), atol=1e-4)
        image = torch_image(np.round(IMAGES[i] * 255).astype(np.uint8))
        expected = of_torch(functional.resized_crop(image, *window, [14, 18]))
        np.testing.assert_allclose(np.asarray(pixels[i], int), expected.astype(int), atol=1)
        mask = functional.resized_crop(
            torch_image(masks[i][..., None]), *window, [14, 18], InterpolationMode.NEAREST_EXACT
        )
        # Halfway between two pixels, rounding decides.
        at = [(np.arange(m) + 0.5) * n / m for n, m in zip(window[2:], (14, 18), strict=True)]
        rows, columns = (abs((p + 0.5) % 1 - 0.5) > 1e-3 for p in at)
        clear = np.ix_(rows, columns)
        assert rows.sum() > 6
        np.testing.assert_array_equal(np.asarray(nearest[i])[clear], mask[0].numpy()[clear])


def test_flips_of_points_and_boxes(functional):
    import torch

    draws = draw_flip(KEY, IMAGES.shape, probability=1.0)
    boxes = np.array([[[3, 4, 9, 20]]] * 6, np.float32)
    expected = functional.horizontal_flip_keypoints(torch.from_numpy(boxes[0, :, :2]), canvas_size=(24, 36))
    np.testing.assert_array_equal(warp_points(boxes[..., :2], draws)[0], expected.numpy())
    from torchvision.tv_tensors import BoundingBoxes

    box = functional.horizontal_flip(BoundingBoxes(torch.from_numpy(boxes[0]), format="XYXY", canvas_size=(24, 36)))
    np.testing.assert_array_equal(warp_boxes(boxes, draws)[0], box.numpy())


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_changes_of_colors(functional, name):
    for factor in (0.3, -0.4) if name == "hue" else (0.3, 1.7):
        result = ADJUSTMENTS[name](jnp.asarray(IMAGES), jnp.asarray(factor))
        for i in range(6):
            expected = getattr(functional, f"adjust_{name}")(torch_image(IMAGES[i]), factor)
            np.testing.assert_allclose(result[i], of_torch(expected), atol=1e-5)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_of_rand_augment(functional, name):
    from torchvision.transforms import InterpolationMode, v2

    magnitude, pixels = 9, np.round(IMAGES * 255).astype(np.uint8)
    kind = "".join(part.title() for part in name.split("_")).replace("Autocontrast", "AutoContrast")
    values, signed = v2.RandAugment._AUGMENTATION_SPACE[kind]
    values = values(31, 24, 36)
    transform = v2.RandAugment(interpolation=InterpolationMode.BILINEAR)
    for sign in (1, -1) if signed else (1,):
        choice = np.full(6, OPERATIONS.index(name))
        # torchvision's rotation is counterclockwise, and its shears likewise.
        direction = np.full(6, -sign if name in ("rotate", "shear_x", "shear_y") else sign, np.float32)
        result = apply_operation(jnp.asarray(pixels, jnp.float32), choice, direction, magnitude / 30)
        amount = 0.0 if values is None else sign * float(values[magnitude])
        for i in range(6):
            expected = transform._apply_image_or_video_transform(
                torch_image(pixels[i]),
                kind,
                amount,
                interpolation=InterpolationMode.BILINEAR,
                fill={type(torch_image(pixels[i])): None},
            )
            error = abs(np.asarray(result[i]) - of_torch(expected))
            # torchvision truncates to whole numbers, also the mean of the contrast.
            assert error.max() < 1.6, (name, sign, error.max())
