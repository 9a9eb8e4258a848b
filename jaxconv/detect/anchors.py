"""Anchors: the boxes at each position of each feature map that a detector moves and resizes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxconv import ops
from jaxconv.described import Described
from jaxconv.errors import ArgumentError
from jaxconv.layer import Array

Size = tuple[int, int]


@dataclass(frozen=True, repr=False)
class AnchorGrid(Described):
    """Anchors of given sizes and ratios, centered at multiples of each level's stride (Ren et al., 2015).

    A level's stride is the size of the image divided by that of the feature map, rounded down, as in torchvision's
    ``AnchorGenerator``; corners are rounded to whole pixels at the origin.

    Args:
      sizes: for each level, the square roots of the areas.
      ratios: heights divided by widths, the same for each level.
      stride: the size of the image divided by that of the finest level, for images whose size is not given.

    >>> grid = AnchorGrid(((32,), (64,)), (0.5, 1.0, 2.0))
    >>> [boxes.shape for boxes in grid.boxes([(8, 8), (4, 4)], (64, 64))]
    [(192, 4), (48, 4)]
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    stride: int = 8

    def check(self) -> None:
        if len({len(row) for row in self.sizes}) != 1:
            raise ArgumentError(f"sizes must have as many entries for each level, at least one, got {self.sizes}")

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of anchors at a position of each level."""
        return tuple(len(row) * len(self.ratios) for row in self.sizes)

    def image_size(self, grids: Sequence[Size]) -> Size:
        """Returns the size of the image that has feature maps of these sizes."""
        return grids[0][0] * self.stride, grids[0][1] * self.stride

    def boxes(self, grids: Sequence[Size], image_size: Size) -> list[Array]:
        """Returns the anchors of each level, ``(height * width * count, 4)``, position by position."""
        check_levels(grids, self.sizes)
        return [
            ops.anchor_grid(
                grid,
                tuple(n // m for n, m in zip(image_size, grid, strict=True)),
                sizes=sizes,
                aspect_ratios=self.ratios,
            )
            for grid, sizes in zip(grids, self.sizes, strict=True)
        ]


@dataclass(frozen=True, repr=False)
class DefaultBoxes(Described):
    """The default boxes of SSD: sizes relative to the image, centered in the cells of each feature map.

    Equals torchvision's ``DefaultBoxGenerator``. Each position of a level has a square of the level's scale, a square
    between it and the next, and two boxes for each ratio.

    Args:
      ratios: for each level, widths divided by heights other than 1; the inverse ratios are added.
      scales: for each level and one more, the square root of the area, relative to the image.
      size: height and width of the image.
      steps: for each level the size of a cell in pixels; by default the cells divide the image.

    >>> boxes = DefaultBoxes(((2,), (2, 3)), (0.2, 0.5, 1.0), (32, 32))
    >>> boxes.counts, [level.shape for level in boxes.boxes([(4, 4), (2, 2)], (32, 32))]
    ((4, 6), [(64, 4), (24, 4)])
    """

    ratios: tuple[tuple[float, ...], ...]
    scales: tuple[float, ...]
    size: Size
    steps: tuple[int, ...] | None = None

    def check(self) -> None:
        if len(self.scales) != len(self.ratios) + 1:
            raise ArgumentError(
                f"scales must have one entry more than ratios, got {len(self.scales)} for {len(self.ratios)} levels"
            )

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of boxes at a position of each level."""
        return tuple(2 + 2 * len(row) for row in self.ratios)

    def image_size(self, grids: Sequence[Size]) -> Size:
        """Returns the size of the image."""
        return self.size

    def boxes(self, grids: Sequence[Size], image_size: Size) -> list[Array]:
        """Returns the boxes of each level, ``(height * width * count, 4)``, position by position."""
        check_levels(grids, self.ratios)
        boxes = ops.default_boxes(grids, image_size, self.ratios, scales=self.scales, steps=self.steps)
        ends = np.cumsum([h * w * n for (h, w), n in zip(grids, self.counts, strict=True)])
        return [boxes[end - size : end] for end, size in zip(ends, np.diff(ends, prepend=0), strict=True)]


def check_levels(grids: Sequence[Size], levels: Sequence[object]) -> None:
    """Raises ArgumentError unless there is a feature map for each level of anchors."""
    if len(grids) != len(levels):
        raise ArgumentError(f"anchors must be given for each of {len(grids)} feature maps, got {len(levels)} levels")


Anchors = AnchorGrid | DefaultBoxes

__all__ = ["AnchorGrid", "DefaultBoxes"]
