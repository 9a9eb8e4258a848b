"""The small pictures of the documentation, with values that the ops compute.

Run ``python -m experiments.docs.pictures`` to write docs/pictures/.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import jaxconv as jc
from experiments.docs import DOCS

FOLDER = DOCS / "pictures"
COLORS = ("#cfe3f7", "#f9d9b0", "#d4ecc9", "#e6d2ee", "#f7c9c9", "#fbf0b2", "#cdeeea", "#e0e0e0", "#7fb2e5", "#e8a04a",
           "#8fc97a", "#b18cc9")  # fmt: skip
BLUE, ORANGE, GREEN, WHITE = COLORS[0], COLORS[1], COLORS[2], "#ffffff"


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    fig = Figure(figsize=(width, height), layout="constrained")
    axes = list(np.atleast_1d(fig.subplots(1, columns)))
    for ax in axes:
        ax.set_axis_off()
        ax.set_aspect("equal")
    return fig, axes


def _cell(ax: Any, x: float, y: float, text: Any = "", color: str = WHITE, **options: Any) -> None:
    ax.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor="#555555", linewidth=0.8, **options))
    ax.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=9)


def _row(ax: Any, x: float, y: float, values: Sequence[Any], color: str = WHITE) -> None:
    for i, value in enumerate(values):
        _cell(ax, x + i, y, value, color)


def _grid(ax: Any, values: np.ndarray, colors: np.ndarray) -> None:
    height, width = values.shape
    for i in range(height):
        for j in range(width):
            _cell(ax, j, height - 1 - i, f"{values[i, j]:g}", colors[i, j])
    _frame(ax, width, height)


def _frame(ax: Any, width: float, height: float, left: float = 0, bottom: float = 0) -> None:
    ax.set_xlim(left - 0.1, width + 0.1)
    ax.set_ylim(bottom - 0.1, height + 0.1)


def padding() -> Figure:
    """Draws 1 2 3 4 padded by two in each mode."""
    fig, (ax,) = _figure(4.2, 2.4)
    line = jnp.arange(1, 5)[:, None]
    for i, mode in enumerate(("zeros", "reflect", "edge", "circular")):
        y = 1.4 * (3 - i)
        for j, value in enumerate(np.asarray(jc.pad(line, 2, mode=mode, rank=1))[:, 0]):
            _cell(ax, j, y, value, BLUE if 2 <= j < 6 else ORANGE)
        ax.text(-0.3, y + 0.5, mode, ha="right", va="center", fontsize=9)
    _frame(ax, 8, 5.3, left=-2.2)
    return fig


def stride() -> Figure:
    """Draws the positions of a window of three over seven elements."""
    fig, axes = _figure(7.0, 2.6, 2)
    for ax, step in zip(axes, (1, 2), strict=True):
        count = jc.conv_output_size(7, 3, stride=step)
        _row(ax, 0, 5, [""] * 7, BLUE)
        for i in range(count):
            left, y = i * step, 4.4 - 0.55 * i
            ax.plot([left + 0.1, left + 2.9], [y, y], color="#c0561a", linewidth=4, solid_capstyle="butt")
        _row(ax, (7 - count) / 2, 0.4, [""] * count, GREEN)
        ax.set_title(f"stride {step}: {count} outputs", fontsize=9)
        _frame(ax, 7, 6)
    return fig


def dilation() -> Figure:
    """Draws which elements a 3x3 window takes at three dilations."""
    fig, axes = _figure(6.6, 2.5, 3)
    for ax, apart in zip(axes, (1, 2, 3), strict=True):
        extent = 2 * apart + 1
        for i in range(7):
            for j in range(7):
                taken = all(n < extent and n % apart == 0 for n in (i, j))
                _cell(ax, j, 6 - i, "", ORANGE if taken else BLUE)
        ax.set_title(f"dilation {apart}: extent {extent}", fontsize=9)
        _frame(ax, 7, 7)
    return fig


def transposed() -> Figure:
    """Draws three elements that lay down a filter of three, two apart."""
    fig, (ax,) = _figure(4.6, 3.4)
    y, kernel = np.array([1.0, 3.0, 2.0]), np.array([1.0, 2.0, 1.0])
    whole = np.asarray(jc.conv_transpose(y[:, None], kernel[:, None, None], stride=2, padding=0))[:, 0]
    for i, value in enumerate(y):
        _cell(ax, 2 * i + 1, 6.2, f"{value:g}", COLORS[i])
        _row(ax, 2 * i, 4.8 - 1.1 * i, [f"{n:g}" for n in value * kernel], COLORS[i])
    _row(ax, 0, 0.8, [f"{n:g}" for n in whole], WHITE)
    for height, text in ((6.7, "y"), (4.2, "y · (1 2 1)"), (1.3, "sum")):
        ax.text(-0.3, height, text, ha="right", va="center", fontsize=9)
    _frame(ax, 7, 7.3, left=-2.4, bottom=0.7)
    return fig


def pooling() -> Figure:
    """Draws a map, its maxima and its means."""
    fig, axes = _figure(6.4, 2.6, 3)
    values = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], np.float32)
    blocks = np.array([[COLORS[0], COLORS[1]], [COLORS[2], COLORS[3]]])
    maps = [values, *(np.asarray(pool(values[..., None], 2))[..., 0] for pool in (jc.max_pool, jc.avg_pool))]
    for ax, pooled, name in zip(axes, maps, ("x", "max_pool(x, 2)", "avg_pool(x, 2)"), strict=True):
        _grid(ax, pooled, np.kron(blocks, np.ones((2, 2), int).astype(object)) if pooled is values else blocks)
        ax.set_title(name, fontsize=9)
    return fig


def norms() -> Figure:
    """Draws which elements share a mean: three examples of four channels on two by two positions."""
    fig, axes = _figure(8.6, 2.5, 4)
    groups: dict[str, Callable[[int, int, int], int]] = {
        "batch_norm": lambda example, channel, position: channel,
        "layer_norm": lambda example, channel, position: 4 * example + position,
        "group_norm": lambda example, channel, position: 2 * example + channel // 2,
        "instance_norm": lambda example, channel, position: 4 * example + channel,
    }
    for ax, (name, group) in zip(axes, groups.items(), strict=True):
        for example in range(3):
            for channel in range(4):
                for position in range(4):
                    x, y = 2.4 * channel + position % 2, 2.4 * (2 - example) + 1 - position // 2
                    _cell(ax, x, y, "", COLORS[group(example, channel, position)])
        ax.set_title(name, fontsize=9)
        ax.text(4.6, -0.9, "channels", ha="center", fontsize=8)
        ax.text(-0.9, 3.4, "examples", va="center", rotation=90, fontsize=8)
        _frame(ax, 9.2, 6.8, left=-1.0, bottom=-1.0)
    return fig


def resizing() -> Figure:
    """Draws a map of four by four at sixteen by sixteen, by each method."""
    fig, axes = _figure(7.6, 2.1, 4)
    values = np.random.default_rng(3).uniform(size=(4, 4, 1)).astype(np.float32)
    maps = {"x": values} | {m: jc.resize(values, 16, method=m) for m in ("nearest", "bilinear", "bicubic")}
    for ax, (name, pixels) in zip(axes, maps.items(), strict=True):
        ax.imshow(np.asarray(pixels)[..., 0], cmap="Blues", vmin=-0.1, vmax=1.1)
        ax.set_title(name, fontsize=9)
    return fig


def unpool() -> Figure:
    """Draws a map, its maxima and these where they stood."""
    fig, axes = _figure(6.4, 2.6, 3)
    values = np.array([[1, 1, 2, 4], [5, 6, 7, 8], [3, 2, 1, 0], [1, 2, 3, 4]], np.float32)
    y, indices = jc.max_pool_with_indices(values[..., None], 2)
    back = np.asarray(jc.max_unpool(y, indices, 4))[..., 0]
    colors = np.where(back > 0, np.kron(np.array([[BLUE, ORANGE], [GREEN, COLORS[3]]], object), np.ones((2, 2), int)),
                       WHITE)  # fmt: skip
    blocks = np.array([[BLUE, ORANGE], [GREEN, COLORS[3]]])
    names = ("x", "max_pool_with_indices", "max_unpool")
    maps = ((values, colors), (np.asarray(y)[..., 0], blocks), (back, colors))
    for ax, name, (shown, cells) in zip(axes, names, maps, strict=True):
        _grid(ax, shown, cells)
        ax.set_title(name, fontsize=8)
    return fig


def shuffle() -> Figure:
    """Draws four channels of two by two positions, and the one that they become."""
    fig, axes = _figure(7.2, 2.0, 5)
    x = np.arange(1, 17, dtype=np.float32).reshape(4, 2, 2).transpose(1, 2, 0)
    for c in range(4):
        _grid(axes[c], x[..., c], np.full((2, 2), COLORS[c]))
        axes[c].set_title(f"channel {c}", fontsize=8)
    y = np.asarray(jc.pixel_shuffle(x, 2))[..., 0]
    _grid(axes[4], y, np.vectorize(lambda value: COLORS[int(value - 1) // 4])(y))
    axes[4].set_title("pixel_shuffle(x, 2)", fontsize=8)
    return fig


def field() -> Figure:
    """Draws what one unit sees through a window of three, a pool of two and a window of three."""
    fig, (ax,) = _figure(5.6, 3.0)
    net = jc.serial(conv1=jc.Conv(1, 3), pool=jc.MaxPool(2), conv2=jc.Conv(1, 3))
    levels = [("x", 12, 1, 0), ("conv1", 12, 1, 0), ("pool", 6, 2, 0.5), ("conv2", 6, 2, 0.5)]
    (low, high), _ = jc.inspect.unit_field(net, (1, 12, 12, 1), "conv2", (3, 3))
    # What each level has of the field: the unit, its window, the windows of that, ...
    seen = {"conv2": range(3, 4), "pool": range(2, 5), "conv1": range(4, 10), "x": range(low, high)}
    for level, (name, count, step, shift) in enumerate(levels):
        for i in range(count):
            _cell(ax, i * step + shift, 1.7 * level, "", ORANGE if i in seen[name] else BLUE)
        ax.text(-0.4, 1.7 * level + 0.5, name, ha="right", va="center", fontsize=9)
    _frame(ax, 12, 6.1, left=-2.2)
    return fig


def composition() -> Figure:
    """Draws how layers are joined."""
    fig, axes = _figure(8.6, 2.4, 4)

    def box(ax: Any, x: float, y: float, text: str, color: str = BLUE) -> None:
        ax.add_patch(Rectangle((x - 0.8, y - 0.4), 1.6, 0.8, facecolor=color, edgecolor="#555555", linewidth=0.8))
        ax.text(x, y, text, ha="center", va="center", fontsize=8)

    def arrow(ax: Any, *points: tuple[float, float]) -> None:
        *before, start, end = points
        ax.plot(*zip(*before, start, strict=True), color="#555555", linewidth=0.9)
        ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "#555555", "linewidth": 0.9,
                                                "shrinkA": 0, "shrinkB": 0})  # fmt: skip

    serial, parallel, residual, gate = axes
    for y, name in ((3.6, "f1"), (2.0, "f2")):
        box(serial, 2, y, name)
    for start, end in ((5, 4), (3.2, 2.4), (1.6, 0.6)):
        arrow(serial, (2, start), (2, end))
    for x, name in ((1, "f1"), (3, "f2")):
        arrow(parallel, (2, 5), (2, 4.3), (x, 4.3), (x, 3.2))
        box(parallel, x, 2.8, name)
        arrow(parallel, (x, 2.4), (x, 0.6))
    for ax, sign in ((residual, "+"), (gate, "\N{MULTIPLICATION SIGN}")):
        box(ax, 1.2, 3.2, "body")
        arrow(ax, (2, 5), (2, 4.4), (1.2, 4.4), (1.2, 3.6))
        arrow(ax, (1.2, 2.8), (1.2, 1.8), (1.75, 1.8))
        if ax is residual:
            box(ax, 3.1, 3.2, "shortcut")
            arrow(ax, (2, 4.4), (3.1, 4.4), (3.1, 3.6))
            arrow(ax, (3.1, 2.8), (3.1, 1.8), (2.25, 1.8))
        else:
            arrow(ax, (2, 4.4), (3.1, 4.4), (3.1, 1.8), (2.25, 1.8))
        ax.text(2, 1.8, sign, ha="center", va="center", fontsize=12)
        arrow(ax, (2, 1.5), (2, 0.6))
    for ax, name in zip(axes, ("serial", "parallel", "residual", "gate"), strict=True):
        ax.text(2, 5.15, "x", ha="center", fontsize=8)
        ax.text(2, 0.2, "(y1, y2)" if ax is parallel else "y", ha="center", fontsize=8)
        ax.set_title(name, fontsize=9)
        _frame(ax, 4.1, 5.5, left=-0.1)
    return fig


def attribution() -> Figure:
    """Draws a cross and a ring, and which pixels matter to a network that counts crosses."""
    fig, axes = _figure(8.6, 2.1, 5)
    cross = np.zeros((5, 5), np.float32)
    cross[2], cross[:, 2] = 1, 1
    ring = np.ones((5, 5), np.float32)
    ring[1:4, 1:4] = 0
    image = np.zeros((16, 16), np.float32)
    image[2:7, 2:7], image[9:14, 9:14] = cross, ring
    net = jc.serial(conv=jc.Conv(1, 5), relu=jax.nn.relu, mean=jc.GlobalAvgPool())
    kernel = cross - cross.mean()
    params, x = {"conv": {"kernel": kernel[..., None, None], "bias": np.full(1, -5.0)}}, image[None, ..., None]
    given: tuple[Any, ...] = (net, params, {}, x, 0)
    maps = {
        "x": image,
        "saliency": jc.inspect.saliency(*given),
        "integrated_gradients": jc.inspect.integrated_gradients(*given),
        "occlusion": jc.inspect.occlusion(*given, window=3),
        "grad_cam": jc.inspect.grad_cam(*given, path="relu", resize=True),
    }
    for ax, (name, values) in zip(axes, maps.items(), strict=True):
        shown = np.asarray(values).reshape(16, 16)
        most = float(np.abs(shown).max())
        ax.imshow(shown, cmap="gray" if name == "x" else "RdBu_r", vmin=0 if name == "x" else -most, vmax=most)
        ax.set_title(name, fontsize=9)
    return fig


PICTURES = {
    "padding": padding,
    "stride": stride,
    "dilation": dilation,
    "transposed": transposed,
    "pooling": pooling,
    "norms": norms,
    "resize": resizing,
    "unpool": unpool,
    "shuffle": shuffle,
    "composition": composition,
    "field": field,
    "attribution": attribution,
}


def main() -> None:
    """Writes all pictures; the same bytes each time."""
    FOLDER.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "jaxconv", "font.family": "sans-serif"}):
        for name, draw in PICTURES.items():
            draw().savefig(FOLDER / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
