"""Objects on images: boxes with names, keypoints with the lines between them."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jaxconv.errors import ShapeError
from jaxconv.inspect.figures.canvas import check_pictures, draw, grid


def boxes(
    images: Any,
    boxes: Sequence[Any],
    labels: Sequence[Sequence[str]] | None = None,
    titles: Sequence[str] | None = None,
    *,
    columns: int = 4,
) -> Figure:
    """Draws boxes over images. Boxes whose labels are the same up to a number at the end have the same color.

    Args:
      images: array of shape ``(count, height, width, 1 or 3)``: uint8, or floats in [0, 1]; or a sequence of such
        images of any sizes.
      boxes: for each image an array ``(n, 4)``: left, top, right and bottom in pixels, where the first pixel is from 0
        to 1; n may be 0.
      labels: for each image a text for each of its boxes, such as "dog 0.87".
      titles: a title for each image.
      columns: images in a row.

    Raises:
      ValueError: the shapes do not fit.

    >>> fig = boxes(jnp.zeros((2, 8, 8, 3)), [[[1, 1, 5, 6]], jnp.zeros((0, 4))], [["dog 0.9"], []])
    >>> [len(ax.patches) for ax in fig.axes]
    [1, 0]
    """
    pictures = check_pictures(images)
    _check_count("boxes", boxes, pictures)
    rows = [np.asarray(each, np.float32) for each in boxes]
    for i, each in enumerate(rows):
        if each.ndim != 2 or each.shape[1] != 4:
            raise ShapeError(f"boxes[{i}] must have shape (n, 4), left, top, right and bottom, got {each.shape}")
    texts = [[""] * len(each) for each in rows] if labels is None else [list(map(str, each)) for each in labels]
    _check_count("labels", texts, pictures)
    for i, (each, own) in enumerate(zip(rows, texts, strict=True)):
        if len(each) != len(own):
            raise ShapeError(f"labels[{i}] must be one for each of the {len(each)} boxes, got {len(own)}")
    kinds = list(dict.fromkeys(_kind(text) for own in texts for text in own))
    fig, axes = _pictures(pictures, titles, columns)
    for ax, picture, each, own in zip(axes, pictures, rows, texts, strict=True):
        for (left, top, right, bottom), text in zip(each, own, strict=True):
            color = f"C{kinds.index(_kind(text)) % 10}"
            # Pixel i is drawn from i - 0.5 to i + 0.5.
            at = (left - 0.5, top - 0.5)
            ax.add_patch(Rectangle(at, right - left, bottom - top, fill=False, linewidth=1.6, edgecolor=color))
            if text:
                # Above the box where there is room, so that a small box stays visible.
                above = at[1] > 0.06 * len(picture)
                behind = {"facecolor": color, "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
                corner = max(at[0], -0.5), max(at[1], -0.5)
                ax.text(*corner, text, color="white", fontsize=6, va="bottom" if above else "top", bbox=behind)
    return fig


def poses(
    images: Any,
    points: Sequence[Any],
    links: Sequence[tuple[int, int]] = (),
    titles: Sequence[str] | None = None,
    *,
    columns: int = 4,
) -> Figure:
    """Draws keypoints over images, and the lines between them.

    Args:
      images: as in `boxes`.
      points: for each image an array ``(n, K, 2)`` of the keypoints of n objects: x and y in pixels, where the center
        of the first pixel is (0, 0). A keypoint with NaN is not drawn, nor are its lines.
      links: pairs of keypoints that are joined by a line.
      titles: a title for each image.
      columns: images in a row.

    Raises:
      ValueError: the shapes do not fit.

    >>> fig = poses(jnp.zeros((1, 8, 8, 3)), [[[[1, 1], [5, 6], [jnp.nan, 0]]]], [(0, 1), (1, 2)])
    >>> len(fig.axes[0].lines)
    2
    """
    pictures = check_pictures(images)
    _check_count("points", points, pictures)
    fig, axes = _pictures(pictures, titles, columns)
    for i, (ax, each) in enumerate(zip(axes, points, strict=True)):
        objects = np.asarray(each, np.float32)
        if objects.ndim != 3 or objects.shape[2] != 2:
            raise ShapeError(f"points[{i}] must have shape (n, K, 2), got {objects.shape}")
        if wrong := [link for link in links if not all(0 <= k < objects.shape[1] for k in link)]:
            raise ShapeError(f"links must be pairs of numbers from 0 to {objects.shape[1] - 1}, got {wrong[0]}")
        limits = ax.axis()
        for one in objects:
            for j, link in enumerate(links):
                x, y = one[list(link)].T
                if not np.isnan([x, y]).any():
                    ax.plot(x, y, color=f"C{j % 10}", linewidth=1.8)
            seen = one[~np.isnan(one).any(-1)]
            ax.plot(*seen.T, "o", color="white", markeredgecolor="black", markersize=3.2, markeredgewidth=0.6)
        ax.axis(limits)
    return fig


def _kind(text: str) -> str:
    return re.sub(r"[\s\d.%]+$", "", text)


def _check_count(name: str, given: Sequence[Any], pictures: Sequence[Any]) -> None:
    if len(given) != len(pictures):
        raise ShapeError(f"{name} must be one for each of the {len(pictures)} images, got {len(given)}")


def _pictures(pictures: list[np.ndarray], titles: Sequence[str] | None, columns: int) -> tuple[Figure, list[Axes]]:
    """Returns a figure with the images, and the axes of each."""
    if titles is not None:
        _check_count("titles", titles, pictures)
    fig, axes = grid(len(pictures), columns, 2.4, 0.3 if titles is not None else 0.0)
    for i, (ax, picture) in enumerate(zip(axes, pictures, strict=True)):
        draw(ax, picture)
        ax.set_title("" if titles is None else str(titles[i]), fontsize=8)
    return fig, axes


__all__ = ["boxes", "poses"]
