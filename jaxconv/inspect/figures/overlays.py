"""Overlays on images: receptive fields and attribution maps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.inspect.figures.canvas import bare, check_pictures, draw, grid, new_figure


def fields(image: Any, boxes: Any, labels: Sequence[str] | None = None) -> Figure:
    """Draws receptive fields over an image.

    Args:
      image: array of shape ``(height, width, 1 or 3)``: uint8, or floats in [0, 1].
      boxes: integers ``(count, 2, 2)``: for each field the (low, high) of the rows and of the columns, as
        `jaxconv.inspect.unit_field` returns them; or one such field. A field may extend into the padding.
      labels: a name for each field.

    Raises:
      ShapeError: the shapes do not fit.

    >>> net = jc.serial(jc.Conv(8), jc.MaxPool(2), jc.Conv(8))
    >>> boxes = [jc.inspect.unit_field(net, (1, 32, 32, 3), path, (0, 5)) for path in ("0", "2")]
    >>> len(fields(jnp.zeros((32, 32, 3)), boxes, ["0", "2"]).axes[0].patches)
    2
    """
    (picture,) = check_pictures([image], "image")
    boxes = np.asarray(boxes)
    boxes = boxes[None] if boxes.shape == (2, 2) else boxes
    if boxes.ndim != 3 or boxes.shape[1:] != (2, 2):
        raise ShapeError(f"boxes must have shape (count, 2, 2), (low, high) of rows and of columns, got {boxes.shape}")
    if labels is not None and len(labels) != len(boxes):
        raise ShapeError(f"labels must be one for each of the {len(boxes)} boxes, got {len(labels)}")
    height, width = picture.shape[:2]
    fig = new_figure(4.5, 4.5 * min(height / width, 2) + 0.3)
    ax = bare(fig.subplots())
    draw(ax, picture)
    for i, ((top, bottom), (left, right)) in enumerate(boxes):
        ax.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                right - left,
                bottom - top,
                fill=False,
                linewidth=1.8,
                edgecolor=f"C{i % 10}",
                label=labels[i] if labels else None,
            )
        )
    low, high = boxes[..., 0].min(axis=0, initial=0), boxes[..., 1].max(axis=0, initial=0)
    margin = 0.01 * max(height, width)
    ax.set_xlim(low[1] - 0.5 - margin, max(high[1], width) - 0.5 + margin)
    ax.set_ylim(max(high[0], height) - 0.5 + margin, low[0] - 0.5 - margin)
    if labels:
        ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return fig


# The colors of the strongest values of either sign. Weak values let the image through; a color map that passes through
# white would be invisible on white images.
_BLUE, _RED = (0.1, 0.45, 1.0), (1.0, 0.2, 0.1)
_SIGNED = ListedColormap([_BLUE, _RED], "blue and red")
_DIMMED = 0.35


def heat_maps(
    images: Any,
    maps: Any,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 4,
    opacity: float = 0.7,
    shared: bool = False,
) -> Figure:
    """Draws maps over images, such as attributions: red and blue where any value is negative, else one color scale.

    A color scale ends at the 99th percentile of the magnitudes. Under red and blue the image is drawn in gray at a
    third of its brightness, so that the colors are visible.

    Args:
      images: array of shape ``(count, height, width, 1 or 3)``: uint8, or floats in [0, 1].
      maps: array of shape ``(count, h, w)`` or ``(count, h, w, 1)`` of any size, as `jaxconv.inspect.grad_cam` and
        `jaxconv.inspect.occlusion` return them; a map is stretched over its image.
      titles: a title for each image.
      columns: images in a row.
      opacity: the opacity of the strongest value; where the map is 0 only the image is visible.
      shared: whether all maps share one color scale, with a color bar; otherwise each map has a separate scale.

    Raises:
      ValueError: the shapes do not fit, or a map is not finite.

    >>> len(heat_maps(jnp.zeros((3, 8, 8, 1)), jnp.ones((3, 4, 4))).axes)
    3
    """
    pictures = check_pictures(images)
    maps = np.asarray(maps, np.float32)
    maps = maps[..., 0] if maps.ndim == 4 and maps.shape[-1] == 1 else maps
    if maps.ndim != 3 or len(maps) != len(pictures):
        hint = ": reduce each pixel's channels to one value, such as abs(maps).max(-1)" if maps.ndim == 4 else ""
        raise ShapeError(f"maps must have shape ({len(pictures)}, h, w), one for each image, got {maps.shape}{hint}")
    if not np.isfinite(maps).all():
        raise ArgumentError(f"maps must be finite, got {int((~np.isfinite(maps)).sum())} values that are not")
    if titles is not None and len(titles) != len(pictures):
        raise ShapeError(f"titles must be one for each of the {len(pictures)} images, got {len(titles)}")
    signed = bool((maps < 0).any())
    tops = [_top(maps)] * len(maps) if shared else [_top(heat) for heat in maps]
    fig, axes = grid(len(pictures), columns, 2.0, 0.3 if titles is not None else 0.0)
    for ax, picture, heat, top, title in zip(
        axes, pictures, maps, tops, [""] * len(pictures) if titles is None else map(str, titles), strict=True
    ):
        draw(ax, _dimmed(picture) if signed else picture)
        height, width = picture.shape[:2]
        share = np.clip(heat / top, -1, 1)
        ax.imshow(
            share,
            cmap=_SIGNED if signed else "inferno",
            vmin=-1 if signed else 0,
            vmax=1,
            alpha=opacity * np.sqrt(np.abs(share)),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear",
        )
        ax.set_title(title, fontsize=8)
    if shared:
        fig.set_figwidth(fig.get_figwidth() + 0.7)
        scale = ScalarMappable(
            Normalize(-tops[0] if signed else 0, tops[0]), _blended(opacity) if signed else "inferno"
        )
        fig.colorbar(scale, ax=axes, extend="both" if signed else "max", shrink=0.9).ax.tick_params(labelsize=7)
    return fig


def _top(maps: np.ndarray) -> float:
    """Returns the magnitude at which the color scale ends."""
    size = np.abs(maps)
    return float(np.percentile(size, 99) or size.max(initial=0) or 1)


def _dimmed(picture: np.ndarray) -> np.ndarray:
    """Returns an image in gray, at a third of its brightness."""
    weights = np.ones(1) if picture.shape[-1] == 1 else np.array([0.299, 0.587, 0.114])
    gray = (picture @ weights)[..., None] * _DIMMED
    return (gray / 255 if picture.dtype == np.uint8 else gray).astype(np.float32)


def _blended(opacity: float) -> ListedColormap:
    """Returns the colors of the color bar: red and blue blended over a medium gray of the dimmed image."""
    share = np.linspace(-1, 1, 255)[:, None]
    alpha = opacity * np.sqrt(np.abs(share))
    return ListedColormap(alpha * np.where(share < 0, _BLUE, _RED) + (1 - alpha) * _DIMMED / 2)


__all__ = ["fields", "heat_maps"]
