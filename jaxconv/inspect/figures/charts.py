"""Figures of numbers: curves, tables of counts, statistics by layer, points in two dimensions."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jaxconv.errors import ShapeError
from jaxconv.inspect.figures.canvas import new_figure

if TYPE_CHECKING:
    from jaxconv.inspect.statistics import LayerStatistics

_LOGARITHMIC = ("gradient_norm", "update_ratio")


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
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
    fig = new_figure(8, 3)
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


def confusion_matrix(counts: Any, classes: Sequence[str]) -> Figure:
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
    fig = new_figure(0.5 * n + 2, 0.5 * n + 1.5)
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


def layer_statistics(statistics: "LayerStatistics", steps: Sequence[int] | None = None) -> Figure:
    """Draws statistics by layer: bars for one step; for several, a row of colours for each layer along the steps.

    Norms of gradients and ratios of updates are on a logarithmic scale, of whole powers of ten. Numbers that are not
    finite are left out; a line under the axes says how many.

    Args:
      statistics: of `jaxconv.inspect.layer_statistics`, arrays ``(layers,)`` or ``(steps, layers)``, as
        `jaxconv.inspect.Recorder` has them.
      steps: the steps' numbers; None counts from 0.

    Raises:
      ShapeError: arrays of another rank, or another number of steps.

    >>> net = jc.serial(fc=jc.Dense(2), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 2))
    >>> found = jc.inspect.layer_statistics(net, params, state, jnp.ones((4, 2)))
    >>> [ax.get_title() for ax in layer_statistics(found).axes]
    ['mean', 'std', 'zeros', 'largest', 'weight norm']
    """
    arrays = {name: np.asarray(a, np.float64) for name, a in statistics.arrays().items()}
    shape = np.shape(statistics.mean)
    if len(shape) not in (1, 2):
        raise ShapeError(f"statistics must have arrays (layers,) or (steps, layers), got {shape}")
    steps = range(shape[0] if len(shape) == 2 else 1) if steps is None else steps
    if len(steps) != (shape[0] if len(shape) == 2 else 1):
        raise ShapeError(f"steps must be one for each of the statistics' steps, {shape[:-1]}, got {len(steps)}")
    layers = len(statistics.paths)
    fig = new_figure(2.0 * len(arrays) + 1.0, 0.22 * layers + 1.2)
    axes = fig.subplots(1, len(arrays), sharey=True, squeeze=False)[0]
    for ax, (name, numbers) in zip(axes, arrays.items(), strict=True):
        a = np.where(np.isfinite(numbers), numbers, np.nan)
        out = np.isnan(a[..., [name in names for names in statistics.measured]]).sum()
        under = [f"{out} not finite"] if out else []
        norm: Any = None
        if name in _LOGARITHMIC and (a > 0).any():
            low, high = np.log10(a[a > 0].min()), np.log10(a[a > 0].max())
            norm = LogNorm(10.0 ** np.floor(low), 10.0 ** max(np.ceil(high), np.floor(low) + 1))
        if a.ndim == 1:
            ax.barh(range(layers), a, log=norm is not None)
            ax.set_xlim(*((norm.vmin, norm.vmax) if norm else (None, None)))
            ax.grid(axis="x", alpha=0.3)
        else:
            edges = (*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
            drawn = ax.pcolormesh(edges, np.arange(layers + 1) - 0.5, np.ma.masked_invalid(a.T), norm=norm)
            fig.colorbar(drawn, ax=ax, orientation="horizontal").ax.tick_params(labelsize=6)
            under = ["step", *under]
        ax.set_xlabel(", ".join(under), fontsize=8)
        ax.set_title(name.replace("_", " "), fontsize=8)
        ax.tick_params(labelsize=7)
    axes[0].set_yticks(range(layers), statistics.paths)
    axes[0].set_ylim(layers - 0.5, -0.5)
    return fig


def scatter(points: Any, labels: Any = None, classes: Sequence[str] | None = None) -> Figure:
    """Draws points in two dimensions, coloured by label.

    Args:
      points: array of shape ``(count, 2)``, the points of `jaxconv.inspect.pca` say.
      labels: integers ``(count,)``.
      classes: their names; without them the legend has the numbers.

    Raises:
      ShapeError: the shapes do not fit, or a label has no name.

    >>> len(scatter(jnp.zeros((4, 2)), [0, 0, 1, 2], ["cat", "dog", "owl"]).axes[0].collections)
    3
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError(f"points must have shape (count, 2), got {points.shape}")
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    if labels.shape != points.shape[:1]:
        raise ShapeError(f"labels must have shape ({len(points)},), one for each point, got {labels.shape}")
    kinds = np.unique(labels)
    if classes is not None and len(kinds) and not 0 <= kinds[0] <= kinds[-1] < len(classes):
        raise ShapeError(f"labels must lie in 0 to {len(classes) - 1}, a name for each, got {kinds[0]} to {kinds[-1]}")
    fig = new_figure(6.5, 5)
    ax = fig.subplots()
    ax.set(xticks=[], yticks=[], aspect="equal")
    for i, kind in enumerate(kinds):
        ax.scatter(
            points[labels == kind, 0],
            points[labels == kind, 1],
            s=5,
            alpha=0.6,
            linewidths=0,
            color=f"C{i}" if len(kinds) <= 10 else matplotlib.colormaps["hsv"](i / len(kinds)),
            label=classes[kind] if classes else str(kind),
        )
    if len(kinds) > 1:
        ax.legend(fontsize=7, markerscale=3, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return fig


__all__ = ["confusion_matrix", "layer_statistics", "learning_curves", "scatter"]
