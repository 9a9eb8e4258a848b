"""Shared parts of the figures: a figure, a grid of axes without ticks, and checked images."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxconv.errors import ArgumentError, ShapeError


class _Figure(Figure):
    """A figure without a white border. A notebook displays it even before pyplot has set up a backend."""

    def savefig(self, fname: Any, **options: Any) -> None:
        tight: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.05}
        super().savefig(fname, **tight | options)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


class _Rows(_Figure):
    """Rows of pictures, each as high as its highest picture at the width of a column."""

    def __init__(self, rows: int, columns: int, cell: float, extra: float) -> None:
        super().__init__(figsize=(cell * columns, (cell + extra) * rows), layout="constrained")
        self.cell, self.extra, self.aspects = cell, extra, [0.0] * rows

    def fit(self, ax: Axes, aspect: float) -> None:
        """Adjusts the row's height for a picture with the aspect ratio ``aspect`` (height / width)."""
        spec = ax.get_subplotspec()
        assert spec is not None
        row = spec.rowspan.start
        self.aspects[row] = max(self.aspects[row], min(aspect, 4.0))
        drawn = [aspect or 1.0 for aspect in self.aspects]
        spec.get_gridspec().set_height_ratios(drawn)
        self.set_figheight(sum(self.cell * aspect + self.extra for aspect in drawn))


def new_figure(width: float, height: float) -> Figure:
    """Returns a figure of the given size in inches."""
    return _Figure(figsize=(width, height), layout="constrained")


def bare(ax: Axes) -> Axes:
    """Removes ticks and frame, and keeps the label."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def grid(count: int, columns: int, cell: float, extra: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Returns a figure with ``count`` bare axes in rows of ``columns``, for `draw`.

    A column is ``cell`` inches wide, or wider if there are few; a row is ``extra`` inches higher than its pictures.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    fig = _Rows(rows, columns, min(max(cell, 6.0 / columns), 2 * cell), extra)
    axes = np.asarray(fig.subplots(rows, columns, squeeze=False)).ravel()
    for ax in axes:
        ax.set_axis_off()
    return fig, list(axes[:count])


def check_pictures(images: Any, name: str = "images") -> list[np.ndarray]:
    """Returns images that can be drawn, or raises ValueError: uint8, or floats in [0, 1], of 1 or 3 channels."""
    pictures = [np.asarray(image) for image in images]
    shapes = [image.shape for image in pictures]
    if not shapes or any(len(s) != 3 or s[-1] not in (1, 3) or 0 in s for s in shapes):
        got = np.shape(images) if len(set(shapes)) < 2 else " ".join(map(str, shapes))
        raise ShapeError(f"{name} must have shape (count, height, width, 1 or 3), got {got}")
    for image in pictures:
        low, high = image.min(), image.max()
        # Rounding in a resize or an inverse normalization may leave the range.
        if image.dtype != np.uint8 and not -1e-3 <= low <= high <= 1 + 1e-3:
            raise ArgumentError(f"{name} must be uint8 or floats in [0, 1], got {image.dtype} from {low} to {high}")
    return [image if image.dtype == np.uint8 else np.clip(image.astype(np.float32), 0, 1) for image in pictures]


def draw(ax: Axes, image: np.ndarray) -> None:
    """Draws an image that `check_pictures` returned, in gray for one channel, and fits the row of `grid` to it."""
    picture = image[..., 0] if image.shape[-1] == 1 else image
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
    if isinstance(ax.figure, _Rows):
        ax.figure.fit(ax, image.shape[0] / image.shape[1])
