"""Figures over an image: what units see of it, and what a score depends on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxconv.errors import ShapeError
from jaxconv.inspect.figures.canvas import bare, check_pictures, draw, grid, new_figure


def fields(image: Any, boxes: Any, labels: Sequence[str] | None = None) -> Figure:
    """Draws receptive fields over an image.

    Args:
      image: array of shape ``(height, width, 1 or 3)``: uint8, or floats in [0, 1].
      boxes: integers ``(count, 2, 2)``: for each field the (low, high) of the rows and of the columns, as
        `jaxconv.inspect.unit_field` gives them. Those that reach into the padding are drawn so.
      labels: a name for each.

    Raises:
      ShapeError: the shapes do not fit.

    >>> net = jc.serial(jc.Conv(8), jc.MaxPool(2), jc.Conv(8))
    >>> boxes = [jc.inspect.unit_field(net, (1, 32, 32, 3), path, (0, 5)) for path in ("0", "2")]
    >>> len(fields(jnp.zeros((32, 32, 3)), boxes, ["0", "2"]).axes[0].patches)
    2
    """
    (picture,) = check_pictures([image], "image")
    boxes = np.asarray(boxes)
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


def heat_maps(
    images: Any, maps: Any, titles: Sequence[str] | None = None, *, columns: int = 4, opacity: float = 0.7
) -> Figure:
    """Draws maps over images: from 0 on in one colour scale, or, where any is negative, in red and blue around 0.

    Each map has its own scale, up to the size that one place in a hundred exceeds.

    Args:
      images: array of shape ``(count, height, width, 1 or 3)``: uint8, or floats in [0, 1].
      maps: array of shape ``(count, h, w)`` of any size, as `jaxconv.inspect.grad_cam` and `jaxconv.inspect.occlusion`
        give them; it is stretched over the image.
      titles: a line above each.
      columns: images in a row.
      opacity: of the map where it is strongest; where it is 0 the image shows.

    Raises:
      ShapeError: the shapes do not fit, or a map is not finite.

    >>> len(heat_maps(jnp.zeros((3, 8, 8, 1)), jnp.ones((3, 4, 4))).axes)
    3
    """
    pictures = check_pictures(images)
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3 or len(maps) != len(pictures):
        raise ShapeError(f"maps must have shape ({len(pictures)}, h, w), one for each image, got {maps.shape}")
    if not np.isfinite(maps).all():
        raise ShapeError(f"maps must be finite, got {int((~np.isfinite(maps)).sum())} numbers that are not")
    if titles is not None and len(titles) != len(pictures):
        raise ShapeError(f"titles must be one for each of the {len(pictures)} images, got {len(titles)}")
    colours, least = ("RdBu_r", -1) if (maps < 0).any() else ("inferno", 0)
    fig, axes = grid(len(pictures), columns, 2.0, 0.3 if titles is not None else 0.0)
    for ax, picture, heat, title in zip(
        axes, pictures, maps, [""] * len(pictures) if titles is None else map(str, titles), strict=True
    ):
        draw(ax, picture)
        height, width = picture.shape[:2]
        size = np.abs(heat)
        strength = np.minimum(size / (np.percentile(size, 99) or size.max() or 1), 1)
        ax.imshow(
            np.sign(heat) * (np.sqrt(strength) if least else strength),
            cmap=colours,
            vmin=least,
            vmax=1,
            alpha=opacity * np.sqrt(strength),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear",
        )
        ax.set_title(title, fontsize=8)
    return fig


__all__ = ["fields", "heat_maps"]
