"""Scenes for detection and segmentation: textured shapes on textures or photographs, simulated from a seed.

A scene has up to ``most`` shapes of five classes, rotated, of random sizes, colors and textures. The background is a
texture or a crop of a photograph. Shapes may cover a part of earlier ones; boxes and masks are those of the visible
pixels. Scene i of a seed is the same whatever the number of scenes.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.optional import Image, ImageDraw
from experiments.pictures import photograph
from jaxconv.errors import ArgumentError
from jaxconv.geometry import as_int

CLASSES = ("disc", "square", "triangle", "star", "ring")
# Photographs of scikit-image and scikit-learn: held-out scenes have backgrounds that training has not.
TRAINING = (
    "astronaut.png",
    "brick.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "flower.jpg",
    "grass.png",
    "hubble_deep_field.jpg",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
HELD_OUT = ("china.jpg", "gravel.png", "ihc.png", "motorcycle_left.png")
# Shapes are drawn larger, and averaged, so that their edges are smooth.
FINER = 4
LEAST_SIDE = 32


@dataclass(frozen=True, eq=False)
class Scenes:
    """Scenes and what is in them, padded to the same number of objects.

    Args:
      images: ``(n, size, size, 3)`` uint8.
      boxes: ``(n, most, 4)`` float32, the corners x1, y1, x2, y2 of the visible pixels; zeros where not valid.
      labels: ``(n, most)`` int32, indices into `CLASSES`; 0 where not valid.
      valid: ``(n, most)`` bool, which rows are objects.
      instances: ``(n, size, size)`` uint8: 0 for the background, i + 1 for the visible pixels of object i.
    """

    images: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    valid: np.ndarray
    instances: np.ndarray

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """The targets of a detector's loss: boxes, labels and valid."""
        return {"boxes": self.boxes, "labels": self.labels, "valid": self.valid}

    @property
    def masks(self) -> np.ndarray:
        """The visible pixels of each object, ``(n, most, size, size)`` bool."""
        numbers = np.arange(1, self.valid.shape[1] + 1)
        return self.instances[:, None] == numbers[:, None, None]

    @property
    def classes(self) -> np.ndarray:
        """The class of each pixel, ``(n, size, size)`` int32: 0 for the background, label + 1 for objects."""
        lookup = np.pad(np.where(self.valid, self.labels + 1, 0), ((0, 0), (1, 0)))
        flat = np.take_along_axis(lookup, self.instances.reshape(len(lookup), -1).astype(np.intp), 1)
        return flat.reshape(self.instances.shape).astype(np.int32)


def scenes(n: int, size: int = 96, *, seed: int = 0, most: int = 6, photographs: Sequence[np.ndarray] = ()) -> Scenes:
    """Returns n scenes.

    Args:
      n: the number of scenes.
      size: height and width, at least 32.
      seed: a non-negative integer.
      most: the largest number of objects; a scene has at least one.
      photographs: images ``(height, width, 3)`` uint8; two thirds of the backgrounds are crops of them.

    Raises:
      ArgumentError: a number is out of range, or a photograph is not uint8 RGB.

    >>> found = scenes(3, 64, seed=1, most=4)
    >>> found.images.shape, found.boxes.shape, found.masks.shape, found.classes.shape
    ((3, 64, 64, 3), (3, 4, 4), (3, 4, 64, 64), (3, 64, 64))
    """
    as_int(n, "n", least=0)
    as_int(size, "size", least=LEAST_SIDE)
    as_int(seed, "seed", least=0)
    if not 1 <= as_int(most, "most", least=1) <= 255:
        raise ArgumentError(f"most must be from 1 to 255, got {most}")
    for image in photographs:
        if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
            raise ArgumentError(f"photographs must be (height, width, 3) uint8, got {image.shape} {image.dtype}")
    images, instances = np.zeros((n, size, size, 3), np.uint8), np.zeros((n, size, size), np.uint8)
    boxes, labels = np.zeros((n, most, 4), np.float32), np.zeros((n, most), np.int32)
    valid = np.zeros((n, most), bool)
    for i in range(n):
        random = np.random.default_rng([seed, i])
        images[i], instances[i], kinds = _scene(random, size, most, photographs)
        for j, kind in enumerate(kinds):
            boxes[i, j], labels[i, j], valid[i, j] = _box(instances[i] == j + 1), kind, True
    return Scenes(images, boxes, labels, valid, instances)


def backgrounds(names: Sequence[str] = TRAINING) -> list[np.ndarray]:
    """Returns those of the photographs that are installed; without them, scenes have textures as backgrounds."""
    found = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            found.append(photograph(name))
    return found


def background(random: np.random.Generator, size: int, photographs: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Returns a crop of a photograph or, without photographs and for one in three, a texture.

    Args:
      random: draws the background.
      size: the side of the result, ``(size, size, 3)`` float32 from 0 to 255.
      photographs: images ``(height, width, 3)`` uint8.
    """
    if len(photographs) and random.random() < 2 / 3:
        return _crop(random, photographs[int(random.integers(len(photographs)))], size)
    return _texture(random, size, *_colors(random))


def _scene(
    random: np.random.Generator, size: int, most: int, photographs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Returns an image, its instances, and the class of each instance."""
    image = background(random, size, photographs)
    instances, kinds = np.zeros((size, size), np.uint8), list[int]()
    wanted = int(random.integers(1, most + 1))
    # A position that hides too much of another object is drawn again.
    for _ in range(8 * wanted):
        if len(kinds) == wanted:
            break
        kind = int(random.integers(len(CLASSES)))
        alpha = _shape(random, CLASSES[kind], size)
        inside = alpha > 0.5
        covered = instances[inside]
        areas = np.bincount(instances.ravel(), minlength=len(kinds) + 1)[1:]
        hidden = np.bincount(covered, minlength=len(kinds) + 1)[1:]
        if (covered > 0).mean() > 0.3 or np.any(hidden > 0.25 * areas):
            continue
        paint = _texture(random, size, *_colors(random, image[inside].mean(0)))
        image = image + alpha[..., None] * (paint - image)
        kinds.append(kind)
        instances[inside] = len(kinds)
    # The brightness of the whole scene, and the noise of a sensor.
    image = image * random.uniform(0.8, 1.1) + random.normal(0, random.uniform(0, 6), image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), instances, kinds


def _shape(random: np.random.Generator, kind: str, size: int) -> np.ndarray:
    """Returns the share of each pixel that a shape at a random position covers, ``(size, size)``."""
    radius = size * random.uniform(0.09, 0.21)
    center = random.uniform(0.8 * radius, size - 0.8 * radius, 2)
    angle = random.uniform(0, 2 * math.pi)
    canvas = Image.new("L", (size * FINER, size * FINER))
    draw = ImageDraw.Draw(canvas)

    def polygon(radii: Sequence[float], fill: int = 255) -> None:
        angles = angle + 2 * math.pi * np.arange(len(radii)) / len(radii)
        points = center + radius * np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        draw.polygon([tuple(point) for point in points * FINER], fill=fill)

    match kind:
        case "disc":
            polygon([1] * 64)
        case "square":
            polygon([1.1] * 4)
        case "triangle":
            polygon([1.2] * 3)
        case "star":
            polygon([1.25, 0.5] * 5)
        case "ring":
            polygon([1] * 64)
            polygon([random.uniform(0.45, 0.65)] * 64, fill=0)
    cells = np.asarray(canvas, np.float32).reshape(size, FINER, size, FINER)
    return cells.mean((1, 3)) / 255


def _colors(random: np.random.Generator, against: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns two similar colors, which differ from the color ``against``."""
    while True:
        one = random.uniform(0, 255, 3)
        if against is None or np.abs(one - against).max() > 80:
            return one, np.clip(one + random.uniform(-70, 70, 3), 0, 255)


def _texture(random: np.random.Generator, size: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns a plain color, a gradient, stripes, checks or clouds of two colors, ``(size, size, 3)`` float32."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, period = random.uniform(0, 2 * math.pi), random.uniform(5, 16)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    match random.integers(5):
        case 0:
            share = np.zeros_like(x)
        case 1:
            share = (along - along.min()) / np.ptp(along)
        case 2:
            share = 0.5 + 0.5 * np.sin(2 * math.pi * along / period)
        case 3:
            share = 0.5 + 0.5 * np.sign(np.sin(math.pi * along / period) * np.sin(math.pi * across / period))
        case _:
            coarse = random.uniform(0, 255, (int(random.integers(3, 12)),) * 2).astype(np.uint8)
            share = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255
    return (one + share[..., None] * (other - one)).astype(np.float32)


def _crop(random: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    """Returns a random square of a photograph, maybe mirrored, resized to ``size``."""
    shorter = min(image.shape[:2])
    side = int(random.integers(min(size, shorter), shorter + 1))
    top, left = (int(random.integers(0, length - side + 1)) for length in image.shape[:2])
    piece = image[top : top + side, left : left + side]
    piece = piece[:, ::-1] if random.random() < 0.5 else piece
    resized = Image.fromarray(np.ascontiguousarray(piece)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the edges of the smallest box around a mask."""
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    return left, top, right + 1, bottom + 1
