"""Scenes of one or two objects with a sentence of a small grammar: "a red circle left of a blue square".

There are ten colors, four shapes and four relations. A scene of two objects is described from its larger object. Some
combinations are never in a training scene; `sentences` says which.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.optional import Image, ImageDraw, tqdm

COLORS = {
    "red": (215, 45, 45),
    "green": (45, 165, 70),
    "blue": (55, 85, 220),
    "yellow": (235, 205, 50),
    "purple": (150, 50, 190),
    "orange": (240, 130, 30),
    "pink": (245, 150, 190),
    "cyan": (60, 205, 215),
    "white": (240, 240, 240),
    "black": (12, 12, 12),
}
SHAPES = ("circle", "square", "triangle", "cross")
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
# Pairs that no training scene has: each shape and four of the colors are in one of them.
HELD_OUT = (("red", "triangle"), ("green", "circle"), ("blue", "cross"), ("yellow", "square"))
# The fraction of the sentences about two objects of other pairs that no training scene has either.
HELD_OUT_SENTENCES = 0.2
SIZE = 48

Thing = tuple[str, str]


@dataclass(frozen=True)
class Scene:
    """What is in a scene: the larger object, and maybe its relation to a smaller one.

    >>> str(Scene(("red", "circle"), "left of", ("blue", "square")))
    'a red circle left of a blue square'
    """

    first: Thing
    relation: str = ""
    second: Thing | None = None

    def __str__(self) -> str:
        things = [" ".join(("a", *thing)) for thing in (self.first, self.second) if thing]
        return f" {self.relation} ".join(things)


def sentences() -> dict[str, list[Scene]]:
    """Returns all sentences of the grammar in three parts without common elements.

    "training": no held-out pair; "sentences": two objects of pairs that training has, in a sentence that training has
    not; "pairs": at least one object of a held-out pair.
    """
    pairs = [(color, shape) for color in COLORS for shape in SHAPES]
    known = [pair for pair in pairs if pair not in HELD_OUT]
    both = [Scene(a, relation, b) for a in known for relation in RELATIONS for b in known if a != b]
    order = np.random.default_rng(0).permutation(len(both))
    held = {int(i) for i in order[: round(HELD_OUT_SENTENCES * len(both))]}
    every = [Scene(a, relation, b) for a in pairs for relation in RELATIONS for b in pairs if a != b]
    return {
        "training": [*map(Scene, known), *(scene for i, scene in enumerate(both) if i not in held)],
        "sentences": [both[i] for i in sorted(held)],
        "pairs": [*map(Scene, HELD_OUT), *(s for s in every if s.first in HELD_OUT or s.second in HELD_OUT)],
    }


def draw(scene: Scene, seed: Sequence[int]) -> np.ndarray:
    """Returns a picture of a scene, ``(SIZE, SIZE, 3)`` uint8, with sizes, positions, angles and colors by ``seed``."""
    random = np.random.default_rng(seed)
    things = [thing for thing in (scene.first, scene.second) if thing]
    radii = [random.uniform(*limits) * SIZE for limits in ((0.16, 0.19), (0.1, 0.125))][: len(things)]
    while True:
        centers = [random.uniform(r, SIZE - r, 2) for r in radii]
        if len(centers) == 1:
            break
        offset = centers[0] - centers[1]
        axis = np.array(RELATIONS[scene.relation])
        along, across = offset @ axis, abs(offset @ axis[::-1])
        if along > 1.4 * across and along > 1.15 * sum(radii):
            break
    scale = 4
    image = Image.new("RGB", (SIZE * scale, SIZE * scale), tuple(random.integers(40, 120, 3).tolist()))
    canvas = ImageDraw.Draw(image)
    for (color, shape), center, radius in zip(things, centers, radii, strict=True):
        paint = np.clip(np.array(COLORS[color]) + random.integers(-15, 16, 3), 0, 255)
        corners = center + radius * outline(shape, random.uniform(-0.25, 0.25))
        canvas.polygon([tuple(point) for point in corners * scale], fill=tuple(paint.tolist()))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    light = 1 + random.uniform(-0.15, 0.15) * np.linspace(-1, 1, SIZE)[:, None, None]
    return np.clip(pixels * light + random.normal(0, 6, pixels.shape), 0, 255).astype(np.uint8)


def outline(shape: str, angle: float) -> np.ndarray:
    """Returns the corners of a shape of radius about 1, ``(n, 2)``, rotated by an angle in radians."""
    count, radii, phase = {
        "circle": (40, (1.0,), 0.0),
        "square": (4, (1.2,), 0.125),
        "triangle": (3, (1.25,), -0.25),
        "cross": (12, (1.1, 1.1, 0.5), 0.0),
    }[shape]
    turns = 2 * np.pi * (np.arange(count) / count + phase) + angle
    if shape == "cross":
        # The three corners of each quarter: two ends of arms, and the inner corner.
        turns = np.pi / 2 * np.repeat(np.arange(4), 3) + np.tile([-0.33, 0.33, np.pi / 4], 4) + angle
    return np.resize(radii, count)[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)


def scenes(part: Sequence[Scene], count: int, seed: int, *, quiet: bool = True) -> tuple[np.ndarray, list[str]]:
    """Returns pictures of random scenes of a part of `sentences`, and their captions; a quarter has one object."""
    random = np.random.default_rng(seed)
    alone, both = [s for s in part if not s.relation], [s for s in part if s.relation]
    images, captions = np.zeros((count, SIZE, SIZE, 3), np.uint8), []
    for i in tqdm(range(count), "drawing", disable=quiet):
        some = alone if alone and random.random() < 0.25 else both
        scene = some[random.integers(len(some))]
        images[i] = draw(scene, [seed, i])
        captions.append(str(scene))
    return images, captions
