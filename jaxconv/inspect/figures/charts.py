"""Charts: learning curves, confusion matrices, layer statistics, scatter plots."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jaxconv.errors import ArgumentError, ShapeError
from jaxconv.inspect.figures.canvas import new_figure
from jaxconv.inspect.retrieval import Pca
from jaxconv.inspect.statistics import LayerStatistics, Recorder


def learning_curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """Draws loss and accuracy of training and validation by epoch; the loss alone if the history has no accuracy.

    Args:
      history: the ``history`` of `jaxconv.train.fit`.

    Raises:
      ArgumentError: the history is empty.

    >>> len(learning_curves([{"epoch": 1, "loss": 2.0, "accuracy": 0.3}]).axes)
    2
    """
    if not history:
        raise ArgumentError("history must have at least one epoch, got none")
    has_accuracy = any(key.endswith("accuracy") for row in history for key in row)
    names = ("loss", "accuracy") if has_accuracy else ("loss",)
    fig = new_figure(4 * len(names), 3)
    for ax, name in zip(fig.subplots(1, len(names), squeeze=False)[0], names, strict=True):
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
    """Draws a confusion matrix.

    Args:
      counts: integers of shape ``(classes, classes)``: a row for each label, a column for each prediction.
      classes: the names of the classes.

    Raises:
      ShapeError: counts have another shape.

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


# The style of a value that is not on the scale.
_MARKS: dict[str, dict[str, Any]] = {
    "zero": {"facecolor": "white", "edgecolor": "0.6", "linewidth": 0.5},
    "not finite": {"facecolor": "black", "edgecolor": "black", "linewidth": 0},
    "not measured": {"facecolor": "0.93", "edgecolor": "0.75", "linewidth": 0, "hatch": "////"},
}
_DECADES = 8


def _norm(name: str, finite: np.ndarray) -> Normalize:
    """Returns the color scale of the statistic ``name``, which covers all its values."""
    size = np.abs(finite[finite != 0])
    if name == "zeros" or not size.size:
        return Normalize(0, 1)
    high = np.ceil(np.log10(size.max()))
    low = np.clip(np.floor(np.log10(size.min())), high - _DECADES, high - 1)
    if name == "mean":
        return SymLogNorm(10.0**low, vmin=-(10.0**high), vmax=10.0**high)
    return LogNorm(10.0**low, 10.0**high)


def _ticks(norm: SymLogNorm) -> list[float]:
    """Returns five ticks: the ends, zero, and one between zero and each end. More labels would overlap."""
    end = float(norm.vmax or 1)
    between = float(10.0 ** ((np.log10(norm.linthresh) + np.log10(end)) // 2))
    return [-end, -between, 0.0, between, end]


def _bars(ax: Axes, a: np.ndarray, norm: Normalize, marks: Mapping[str, np.ndarray]) -> None:
    """Draws one step: a bar for each layer, and a text where the value is zero or not finite."""
    if isinstance(norm, SymLogNorm):
        ax.set_xscale("symlog", linthresh=norm.linthresh)
        ax.set_xticks(_ticks(norm))
        ax.axvline(0, color="0.4", linewidth=0.6)
    elif isinstance(norm, LogNorm):
        ax.set_xscale("log")
    ax.set_xlim(norm.vmin, norm.vmax)
    ax.tick_params(which="minor", labelbottom=False)
    ax.barh(range(len(a)), np.where(np.isfinite(a), a, np.nan))
    ax.grid(axis="x", alpha=0.3)
    for mark, text in (("zero", "0"), ("not finite", "not finite")):
        for layer in np.flatnonzero(marks[mark]):
            ax.text(0.02, int(layer), text, transform=ax.get_yaxis_transform(), va="center", fontsize=7)


def _rows(ax: Axes, a: np.ndarray, norm: Normalize, marks: Mapping[str, np.ndarray], edges: Sequence[int]) -> None:
    """Draws several steps: a row of colors for each layer, and another color for values that are not on the scale."""
    rows = np.arange(a.shape[1] + 1) - 0.5
    shown = np.isfinite(a) & (a != 0)
    # The middle of coolwarm is gray, so that a small value differs from an exact zero, which is white.
    colors, ticks = ("coolwarm", _ticks(norm)) if isinstance(norm, SymLogNorm) else ("viridis", None)
    drawn = ax.pcolormesh(edges, rows, np.ma.masked_where(~shown, a).T, norm=norm, cmap=colors)
    for mark in ("zero", "not finite"):
        flat = ListedColormap([_MARKS[mark]["facecolor"]])
        ax.pcolormesh(edges, rows, np.ma.masked_where(~marks[mark], marks[mark]).T, cmap=flat)
    below = isinstance(norm, LogNorm) and (a[shown] < norm.vmin).any()
    extend = "min" if below else "neither"
    bar = ax.figure.colorbar(drawn, ax=ax, orientation="horizontal", extend=extend, ticks=ticks)
    bar.ax.tick_params(labelsize=6)
    bar.ax.tick_params(which="minor", labelbottom=False)


def layer_statistics(statistics: LayerStatistics | Recorder, steps: Sequence[int] | None = None) -> Figure:
    """Draws statistics by layer: bars for one step; for several, a row of colors for each layer along the steps.

    Scales are logarithmic and cover at most eight powers of ten. The scale of the mean is symmetric around 0, and the
    fraction of zeros has a linear scale. Separate styles mark exact zeros, values that are not finite, and statistics
    that a layer does not have; a line under the axes counts the values that are not finite.

    Args:
      statistics: the result of `jaxconv.inspect.layer_statistics`, arrays ``(layers,)`` or ``(steps, layers)``; or a
        `jaxconv.inspect.Recorder`, with its steps.
      steps: the numbers of the steps; None counts from 0.

    Raises:
      ShapeError: the arrays have another rank, or another number of steps.

    >>> net = jc.serial(fc=jc.Dense(2), relu=jax.nn.relu)
    >>> params, state = net.init(jax.random.key(0), (1, 2))
    >>> found = jc.inspect.layer_statistics(net, params, state, jnp.ones((4, 2)))
    >>> [ax.get_title() for ax in layer_statistics(found).axes]
    ['mean', 'std', 'zeros', 'largest', 'weight norm']
    """
    if isinstance(statistics, Recorder):
        steps = statistics.steps if steps is None else steps
        statistics = statistics.statistics
    arrays = {name: np.asarray(a, np.float64) for name, a in statistics.arrays().items()}
    shape = np.shape(statistics.mean)
    if len(shape) not in (1, 2):
        raise ShapeError(f"statistics must have arrays of shape (layers,) or (steps, layers), got {shape}")
    steps = range(shape[0] if len(shape) == 2 else 1) if steps is None else steps
    if len(steps) != (shape[0] if len(shape) == 2 else 1):
        raise ShapeError(f"steps must be one for each of the statistics' steps, {shape[:-1]}, got {len(steps)}")
    layers = len(statistics.paths)
    fig = new_figure(2.0 * len(arrays) + 1.0, 0.22 * layers + 1.6)
    axes = fig.subplots(1, len(arrays), sharey=True, squeeze=False)[0]
    seen = set()
    for ax, (name, a) in zip(axes, arrays.items(), strict=True):
        measured = np.broadcast_to([name in names for names in statistics.measured], a.shape)
        marks = {"zero": measured & (a == 0), "not finite": measured & ~np.isfinite(a), "not measured": ~measured}
        seen |= {mark for mark, where in marks.items() if where.any() and (a.ndim == 2 or mark == "not measured")}
        norm = _norm(name, a[np.isfinite(a)])
        under = [f"{marks['not finite'].sum()} not finite"] if marks["not finite"].any() else []
        if a.ndim == 1:
            _bars(ax, a, norm, marks)
        else:
            edges = (*steps, 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1)
            _rows(ax, a, norm, marks, edges)
            under = ["step", *under]
        for layer in np.flatnonzero(~measured.reshape(-1, layers)[0]):
            ax.axhspan(layer - 0.5, layer + 0.5, **_MARKS["not measured"])
        ax.set_xlabel(", ".join(under), fontsize=8)
        ax.set_title(name.replace("_", " "), fontsize=8)
        ax.tick_params(labelsize=7)
    axes[0].set_yticks(range(layers), statistics.paths)
    axes[0].set_ylim(layers - 0.5, -0.5)
    if seen:
        handles = [Patch(label=mark, **style) for mark, style in _MARKS.items() if mark in seen]
        fig.legend(handles=handles, loc="outside lower right", ncols=len(handles), fontsize=7, frameon=False)
    return fig


def scatter(points: Any, labels: Any = None, classes: Sequence[str] | None = None) -> Figure:
    """Draws points in two dimensions, colored by label.

    Args:
      points: array of shape ``(count, 2)``; or the ``Pca`` that `jaxconv.inspect.pca` returns.
      labels: integers ``(count,)``.
      classes: the names of the labels; without them the legend shows integers.

    Raises:
      ValueError: the shapes do not fit, or a label has no name.

    >>> len(scatter(jnp.zeros((4, 2)), [0, 0, 1, 2], ["cat", "dog", "owl"]).axes[0].collections)
    3
    """
    points = np.asarray(points.points if isinstance(points, Pca) else points)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ShapeError(f"points must have shape (count, 2), got {points.shape}")
    labels = np.zeros(len(points), int) if labels is None else np.asarray(labels)
    if labels.shape != points.shape[:1]:
        raise ShapeError(f"labels must have shape ({len(points)},), one for each point, got {labels.shape}")
    found = np.unique(labels)
    if classes is not None and len(found) and not 0 <= found[0] <= found[-1] < len(classes):
        raise ArgumentError(
            f"labels must be from 0 to {len(classes) - 1}, indices of classes, got {found[0]} to {found[-1]}"
        )
    fig = new_figure(6.5, 5)
    ax = fig.subplots()
    ax.set(xticks=[], yticks=[], aspect="equal")
    for i, label in enumerate(found):
        ax.scatter(
            points[labels == label, 0],
            points[labels == label, 1],
            s=5,
            alpha=0.6,
            linewidths=0,
            color=f"C{i}" if len(found) <= 10 else matplotlib.colormaps["hsv"](i / len(found)),
            label=classes[label] if classes else str(label),
        )
    if len(found) > 1:
        ax.legend(fontsize=7, markerscale=3, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    return fig


__all__ = ["confusion_matrix", "layer_statistics", "learning_curves", "scatter"]
