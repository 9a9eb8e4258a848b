"""What the figures share: a figure, a grid of axes without ticks, and images as they are drawn."""

import io
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxconv.errors import ShapeError


class _Figure(Figure):
    """A figure that a notebook shows also before pyplot has set up its backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Returns a figure of that size in inches."""
    return _Figure(figsize=(width, height), layout="constrained")


def bare(ax: Axes) -> Axes:
    """Takes ticks and frame away, but not the label."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    return ax


def grid(count: int, columns: int, cell: float, extra: float = 0.0) -> tuple[Figure, list[Axes]]:
    """Returns a figure with ``count`` bare axes, in rows of ``columns``."""
    columns = min(columns, count)
    rows = -(-count // columns)
    fig = new_figure(max(cell * columns, 3.0), (cell + extra) * rows + 0.3)
    axes = np.asarray(fig.subplots(rows, columns, squeeze=False)).ravel()
    for ax in axes:
        ax.set_axis_off()
    return fig, list(axes[:count])


def check_pictures(images: Any, name: str = "images") -> list[np.ndarray]:
    """Returns images that can be drawn, or raises ShapeError: uint8, or floats in [0, 1], of 1 or 3 channels."""
    pictures = [np.asarray(image) for image in images]
    shapes = [image.shape for image in pictures]
    if not shapes or any(len(s) != 3 or s[-1] not in (1, 3) or 0 in s for s in shapes):
        got = np.shape(images) if len(set(shapes)) < 2 else " ".join(map(str, shapes))
        raise ShapeError(f"{name} must have shape (count, height, width, 1 or 3), got {got}")
    for image in pictures:
        low, high = image.min(), image.max()
        # A resize or a normalisation undone may leave the range by rounding.
        if image.dtype != np.uint8 and not -1e-3 <= low <= high <= 1 + 1e-3:
            raise ShapeError(f"{name} must be uint8 or floats in [0, 1], got {image.dtype} from {low} to {high}")
    return [image if image.dtype == np.uint8 else np.clip(image.astype(np.float32), 0, 1) for image in pictures]


def draw(ax: Axes, image: np.ndarray) -> None:
    """Draws an image that `check_pictures` has seen, grey for one channel."""
    picture = image[..., 0] if image.shape[-1] == 1 else image
    ax.imshow(picture, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
