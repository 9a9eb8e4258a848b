"""Figures. The only part of jaxconv that draws; each function returns a matplotlib Figure, made without pyplot."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxconv.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

try:
    from matplotlib import figure as _figure
except ImportError as error:
    raise ImportError("jaxconv.inspect.figures needs matplotlib: pip install 'jaxconv[viz]'") from error


def _new(width: float, height: float) -> "Figure":
    return _figure.Figure(figsize=(width, height), layout="constrained")


def _grid(count: int, columns: int, cell: float, extra: float = 0.0) -> tuple["Figure", list[Any]]:
    """Returns a figure with ``count`` axes without ticks, in rows of ``columns``."""
    columns = min(columns, count)
    rows = -(-count // columns)
    fig = _new(max(cell * columns, 3.0), (cell + extra) * rows + 0.3)
    axes = np.asarray(fig.subplots(rows, columns, squeeze=False)).ravel()
    for ax in axes:
        ax.set_axis_off()
    return fig, list(axes[:count])


def _picture(image: np.ndarray) -> np.ndarray:
    """Returns what imshow takes: grey for one channel, colour for three."""
    return image[..., 0] if image.shape[-1] == 1 else image


def images(images: Any, titles: Sequence[str] | None = None, *, columns: int = 8) -> "Figure":
    """Draws images in rows.

    Args:
      images: array of shape ``(count, height, width, channels)`` with 1 or 3 channels: uint8, or floats in [0, 1].
      titles: a line above each.
      columns: images in a row.

    Raises:
      ShapeError: another shape.

    >>> len(images(jnp.zeros((3, 8, 8, 1))).axes)
    3
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ShapeError(f"images must have shape (count, height, width, 1 or 3), got {images.shape}")
    fig, axes = _grid(len(images), columns, 1.2, 0.35 if titles else 0.0)
    for ax, image, title in zip(axes, images, titles or [""] * len(images), strict=True):
        ax.imshow(_picture(image), cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1)
        ax.set_title(title, fontsize=7)
    return fig


def filters(kernel: Any, *, columns: int = 8) -> "Figure":
    """Draws the filters of a convolution: in colour where they take three channels, else a row for each input channel.

    Grey is zero; all filters share one scale.

    Args:
      kernel: array of shape ``(height, width, in, out)``.
      columns: filters in a row, where each is one picture.

    Raises:
      ShapeError: another rank.

    >>> len(filters(jnp.ones((3, 3, 1, 6))).axes)
    6
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4:
        raise ShapeError(f"kernel must have shape (height, width, in, out), got {kernel.shape}")
    inputs, outputs = kernel.shape[2:]
    scaled = kernel / (np.abs(kernel).max() or 1) / 2 + 0.5
    if inputs in (1, 3):
        tiles = [scaled[..., o] for o in range(outputs)]
    else:
        tiles = [scaled[..., i : i + 1, o] for i in range(inputs) for o in range(outputs)]
        columns = outputs
    fig, axes = _grid(len(tiles), columns, 0.8 if inputs in (1, 3) else 0.4)
    for ax, tile in zip(axes, tiles, strict=True):
        ax.imshow(_picture(tile), cmap="gray", vmin=0, vmax=1)
    return fig


def activation_maps(maps: Mapping[str, Any], *, most: int = 12) -> "Figure":
    """Draws activation maps of one image, a row for each layer, each map on its own scale.

    Args:
      maps: by the layer's path, arrays of shape ``(height, width, channels)``; others are left out.
      most: maps of a layer that are drawn.

    Raises:
      ShapeError: no array has that shape.

    >>> len(activation_maps({"conv1": jnp.ones((8, 8, 4)), "scores": jnp.ones(10)}).axes)
    4
    """
    rows = {path: np.asarray(a, np.float32) for path, a in maps.items() if np.ndim(a) == 3}
    if not rows:
        raise ShapeError(
            f"maps must have an array of shape (height, width, channels), got {[*map(np.shape, maps.values())]}"
        )
    columns = min(most, max(a.shape[-1] for a in rows.values()))
    fig = _new(0.85 * columns + 1.2, 0.95 * len(rows))
    grid = np.asarray(fig.subplots(len(rows), columns, squeeze=False))
    for line, (path, a) in zip(grid, rows.items(), strict=True):
        for c, ax in enumerate(line):
            ax.set_xticks([])
            ax.set_yticks([])
            if c < a.shape[-1]:
                ax.imshow(a[..., c], cmap="viridis")
            else:
                ax.remove()
        line[0].set_ylabel(
            f"{path}\n{a.shape[0]}x{a.shape[1]}x{a.shape[2]}", rotation=0, ha="right", va="center", fontsize=8
        )
    return fig


def learning_curves(history: Sequence[Mapping[str, float]]) -> "Figure":
    """Draws loss and accuracy of training and validation by epoch.

    Args:
      history: the ``history`` of `jaxconv.train.fit`.

    Raises:
      ShapeError: it is empty.

    >>> len(learning_curves([{"epoch": 1, "loss": 2.0, "accuracy": 0.3}]).axes)
    2
    """
    if not history:
        raise ShapeError("history must have at least one epoch, got none")
    fig = _new(8, 3)
    for ax, name in zip(fig.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, label in ((name, "training"), (f"validation_{name}", "validation")):
            points = [(row.get("epoch", i), row[key]) for i, row in enumerate(history, 1) if key in row]
            if points:
                ax.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        ax.set_xlabel("epoch")
        ax.set_ylabel(name)
        ax.grid(alpha=0.3)
        if ax.lines:
            ax.legend()
    return fig


def confusion_matrix(counts: Any, classes: Sequence[str]) -> "Figure":
    """Draws how often each class was taken for each other.

    Args:
      counts: integers of shape ``(classes, classes)``: row the label, column the prediction.
      classes: their names.

    Raises:
      ShapeError: another shape.

    >>> confusion_matrix([[5, 1], [0, 6]], ["cat", "dog"]).axes[0].get_xlabel()
    'prediction'
    """
    counts = np.asarray(counts)
    n = len(classes)
    if counts.shape != (n, n):
        raise ShapeError(f"counts must have shape ({n}, {n}), one row and column for each class, got {counts.shape}")
    fig = _new(0.5 * n + 2, 0.5 * n + 1.5)
    ax = fig.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.ndindex(n, n):
        if counts[i, j]:
            ax.text(
                j,
                i,
                str(counts[i, j]),
                ha="center",
                va="center",
                fontsize=7,
                color="white" if share[i, j] > 0.5 else "black",
            )
    ax.set_xticks(range(n), classes, rotation=45, ha="right")
    ax.set_yticks(range(n), classes)
    ax.set_xlabel("prediction")
    ax.set_ylabel("label")
    return fig


__all__ = ["activation_maps", "confusion_matrix", "filters", "images", "learning_curves"]
