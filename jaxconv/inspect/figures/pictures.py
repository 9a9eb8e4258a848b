"""Figures of images: rows of images, filters, feature maps, top patches, nearest neighbors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.inspect.figures.canvas import bare, check_pictures, draw, grid, new_figure
from jaxconv.inspect.retrieval import Neighbors

if TYPE_CHECKING:
    from jaxconv.inspect.units import TopPatches


def images(images: Any, titles: Sequence[str] | None = None, *, columns: int = 8) -> Figure:
    """Draws images in rows.

    Args:
      images: array of shape ``(count, height, width, channels)`` with 1 or 3 channels: uint8, or floats in [0, 1]; or a
        sequence of such images of any sizes.
      titles: a title for each image.
      columns: images in a row.

    Raises:
      ValueError: images have another shape or range.

    >>> len(images(jnp.zeros((3, 8, 8, 1))).axes)
    3
    """
    pictures = check_pictures(images)
    if titles is not None and len(titles) != len(pictures):
        raise ShapeError(f"titles must be one for each of the {len(pictures)} images, got {len(titles)}")
    fig, axes = grid(len(pictures), columns, 1.2, 0.35 if titles is not None else 0.0)
    for ax, image, title in zip(
        axes, pictures, [""] * len(pictures) if titles is None else map(str, titles), strict=True
    ):
        draw(ax, image)
        ax.set_title(title, fontsize=7)
    return fig


def filters(kernel: Any, *, columns: int = 8, most: int = 96) -> Figure:
    """Draws the filters of a convolution: in color for three input channels, else a row for each input channel.

    Gray is zero; all filters share one scale. A 1-D filter is one gray picture with a line for each input channel; the
    slices of a 3-D filter along its first axis are drawn next to each other.

    Args:
      kernel: array of shape ``(*window, in, out)``, of one to three spatial axes.
      columns: filters in a row, where a filter is one picture.
      most: the largest number of pictures. Where a filter is a column of pictures, at most 12 filters are drawn.

    Raises:
      ShapeError: the kernel has another rank.

    >>> len(filters(jnp.ones((3, 3, 1, 6))).axes)
    6
    """
    kernel = np.asarray(kernel)
    if kernel.ndim not in (3, 4, 5) or 0 in kernel.shape:
        raise ShapeError(f"kernel must have shape (*window, in, out) of one to three dimensions, got {kernel.shape}")
    scaled = kernel / (np.abs(kernel).max() or 1) / 2 + 0.5
    if kernel.ndim == 3:
        scaled = scaled.swapaxes(0, 1)[:, :, None]
    if kernel.ndim == 5:
        white = np.ones_like(scaled[0, :, :1])
        scaled = np.concatenate([part for slice_ in scaled for part in (slice_, white)][:-1], axis=1)
    inputs, outputs = scaled.shape[2:]
    if inputs in (1, 3):
        tiles = [scaled[..., o] for o in range(min(outputs, most))]
    else:
        columns = min(outputs, most, 12)
        tiles = [scaled[..., i : i + 1, o] for i in range(min(inputs, most // columns)) for o in range(columns)]
    fig, axes = grid(len(tiles), columns, 0.8 if inputs in (1, 3) else 0.4)
    for ax, tile in zip(axes, tiles, strict=True):
        draw(ax, tile)
    return fig


def mosaic(rows: Sequence[Sequence[Any]], labels: Sequence[str], *, cell: int = 64) -> Figure:
    """Draws rows of images of any sizes as one picture, with a label before each row.

    Args:
      rows: rows of images ``(height, width, 1 or 3)``: uint8, or floats in [0, 1].
      labels: one for each row.
      cell: the side in pixels of an image's square cell; an image is scaled to fit, without interpolation.

    Raises:
      ValueError: a row is empty, an image has another shape or range, or the number of labels differs.

    >>> len(mosaic([[jnp.zeros((8, 8, 3)), jnp.ones((2, 4, 1))], [jnp.ones((3, 3, 3))]], ["a", "b"]).axes)
    1
    """
    if not rows or len(labels) != len(rows):
        raise ShapeError(f"labels must be one for each row, of at least one row, got {len(labels)} for {len(rows)}")
    step = cell + cell // 16
    sheet = np.ones((step * len(rows), step * max(map(len, rows)), 3), np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(check_pictures(row, "rows")):
            scale = cell / max(image.shape[:2])
            height, width = (max(1, round(n * scale)) for n in image.shape[:2])
            y, x = (np.arange(m) * n // m for m, n in zip((height, width), image.shape[:2], strict=True))
            top, left = i * step + (cell - height) // 2, j * step + (cell - width) // 2
            sheet[top : top + height, left : left + width] = image[y][:, x] / (255 if image.dtype == np.uint8 else 1)
    inches = 0.011
    fig = new_figure(sheet.shape[1] * inches + 1.6, sheet.shape[0] * inches + 0.2)
    ax = bare(fig.subplots())
    ax.imshow(sheet)
    ax.set_yticks([i * step + cell / 2 for i in range(len(rows))], labels)
    ax.tick_params(length=0)
    return fig


def activation_maps(maps: Mapping[str, Any], *, most: int = 12) -> Figure:
    """Draws the feature maps of one image, a row for each layer, with a separate scale for each feature map.

    Args:
      maps: by the layer's path, arrays of shape ``(height, width, channels)``, or of a batch of one image; arrays of
        other ranks are left out.
      most: the largest number of feature maps for each layer.

    Raises:
      ShapeError: no array has that shape, or the arrays belong to several images.

    >>> len(activation_maps({"conv1": jnp.ones((8, 8, 4)), "scores": jnp.ones(10)}).axes)
    4
    """
    if not isinstance(maps, Mapping):
        raise TypeError(
            "maps must be a dict of arrays by path, the second value that jaxconv.inspect.activations returns, got "
            f"{type(maps).__name__}"
        )
    shapes = {path: getattr(a, "shape", ()) for path, a in maps.items()}
    single = {path: a[0] if len(shapes[path]) == 4 and len(a) == 1 else a for path, a in maps.items()}
    rows = {path: np.asarray(a, np.float32) for path, a in single.items() if getattr(a, "ndim", 0) == 3}
    if not rows:
        several = any(len(shape) == 4 for shape in shapes.values())
        hint = ": pass the maps of one image, {path: a[0] for path, a in maps.items()}" if several else ""
        raise ShapeError(f"maps must have an array of shape (height, width, channels), got {[*shapes.values()]}{hint}")
    columns = min(most, max(a.shape[-1] for a in rows.values()))
    fig = new_figure(0.85 * columns + 1.2, 0.95 * len(rows))
    grid = np.asarray(fig.subplots(len(rows), columns, squeeze=False))
    for line, (path, a) in zip(grid, rows.items(), strict=True):
        for c, ax in enumerate(line):
            ax.set(xticks=[], yticks=[])
            if c < a.shape[-1]:
                ax.imshow(a[..., c], cmap="viridis")
            else:
                ax.remove()
        line[0].set_ylabel(
            f"{path}\n{a.shape[0]}x{a.shape[1]}x{a.shape[2]}", rotation=0, ha="right", va="center", fontsize=8
        )
    return fig


def patches(top: "TopPatches") -> Figure:
    """Draws the patches with the highest activations, a row for each channel, with the activations as titles.

    Args:
      top: the result of `jaxconv.inspect.top_patches`, from images that are uint8 or floats in [0, 1], of 1 or 3
        channels.

    Raises:
      ShapeError: the patches are not such images.

    >>> net = jc.serial(jc.Conv(2))
    >>> params, state = net.init(jax.random.key(0), (1, 8, 8, 1))
    >>> top = jc.inspect.top_patches(net, params, state, jnp.ones((5, 8, 8, 1)), "0", k=3)
    >>> len(patches(top).axes)
    6
    """
    rows, k = top.scores.shape
    fig = new_figure(0.9 * k + 1.0, 1.05 * rows + 0.2)
    lines = np.asarray(fig.subplots(rows, k, squeeze=False))
    for line, channel, images, values in zip(lines, top.channels, top.patches, top.scores, strict=True):
        for ax, picture, value in zip(line, check_pictures(images, "patches"), values, strict=True):
            draw(bare(ax), picture)
            ax.set_title(f"{value:.3g}", fontsize=7)
        line[0].set_ylabel(f"channel {channel}", rotation=0, ha="right", va="center", fontsize=8)
    return fig


def neighbors(
    queries: Any,
    database: Any,
    indices: Any,
    *,
    query_labels: Any = None,
    labels: Any = None,
    classes: Sequence[str] | None = None,
) -> Figure:
    """Draws a row for each query: the query, then its neighbors, framed green for the query's label and red otherwise.

    Args:
      queries: images ``(queries, height, width, 1 or 3)``: uint8, or floats in [0, 1].
      database: images ``(rows, height, width, 1 or 3)``; only the images in ``indices`` are read.
      indices: integers ``(queries, k)``; or the ``Neighbors`` that `jaxconv.inspect.nearest` returns.
      query_labels, labels: integers, of the queries and of the database; given together or not at all.
      classes: the names of the labels, drawn as titles.

    Raises:
      ValueError: the shapes do not fit each other, an index is out of range, or only one of query_labels and labels is
        given.

    >>> len(neighbors(jnp.zeros((2, 8, 8, 1)), jnp.zeros((5, 8, 8, 1)), [[0, 1, 2], [3, 4, 0]]).axes)
    8
    """
    indices = np.asarray(indices.indices if isinstance(indices, Neighbors) else indices)
    if indices.ndim != 2 or len(indices) != len(queries) or not indices.size:
        raise ShapeError(f"indices must have shape ({len(queries)}, k), a row for each query, got {indices.shape}")
    if not 0 <= indices.min() <= indices.max() < len(database):
        raise ArgumentError(f"indices must be from 0 to {len(database) - 1}, got {indices.min()} to {indices.max()}")
    if (query_labels is None) != (labels is None) or (classes is not None and labels is None):
        raise ArgumentError(
            "query_labels and labels must both be given, classes only with both, got one without the other"
        )
    k = indices.shape[1]
    fig = new_figure(0.9 * (k + 1), (1.1 if labels is not None else 0.95) * len(indices) + 0.2)
    lines = np.asarray(fig.subplots(len(indices), k + 1, squeeze=False))
    asked = check_pictures(queries, "queries")
    for q, line in enumerate(lines):
        shown = [asked[q], *check_pictures([database[int(i)] for i in indices[q]], "database")]
        own = None if labels is None else [query_labels[q], *(labels[i] for i in indices[q])]
        for c, (ax, picture) in enumerate(zip(line, shown, strict=True)):
            draw(bare(ax), picture)
            if own is not None:
                ax.set_title(classes[int(own[c])] if classes else str(own[c]), fontsize=7)
            if c:
                ax.spines[:].set(
                    visible=own is not None, linewidth=2, color="tab:green" if own and own[c] == own[0] else "tab:red"
                )
    lines[0, 0].set_ylabel("query", fontsize=8)
    return fig


__all__ = ["activation_maps", "filters", "images", "mosaic", "neighbors", "patches"]
