"""Pictures of games: boards in color, what the network looks at, animations, learning curves."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxconv as jc
from experiments.atari.learning import as_floats
from experiments.optional import Image

# The colors of the channels of a MinAtar board, in this order: later ones are drawn over earlier ones.
COLORS = np.array(
    [
        (240, 240, 240), (255, 200, 40), (150, 110, 40), (70, 130, 220), (220, 80, 70), (110, 190, 110),
        (180, 120, 210), (90, 200, 200), (240, 140, 180), (160, 160, 160),
    ],
    np.uint8,
)  # fmt: skip


def board(observation: np.ndarray, cell: int = 1) -> np.ndarray:
    """Returns a MinAtar board as RGB, uint8, each of its positions a square of ``cell`` pixels.

    >>> board(np.array([[[False, True], [True, True]]])).tolist()
    [[[255, 200, 40], [240, 240, 240]]]
    """
    observation = np.asarray(observation)
    picture = np.zeros((*observation.shape[:2], 3), np.uint8)
    for channel in reversed(range(observation.shape[-1])):
        picture[observation[..., channel] > 0] = COLORS[channel % len(COLORS)]
    return picture.repeat(cell, 0).repeat(cell, 1)


def looked_at(net: jc.Layer, params: Any, observations: Any) -> np.ndarray:
    """Returns the saliency of the best action's value at each position, ``(count, height, width)``, at most 1.

    It is the gradient of the value (Simonyan et al., 2014), the largest magnitude over the channels.
    """

    def one(x: jax.Array) -> jax.Array:
        return jnp.abs(jc.inspect.saliency(net, params, {}, as_floats(x)[None])[0]).max(-1)

    maps = np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(observations)))
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def with_saliency(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns an RGB picture, dimmed, with red where the map, at most 1 and of any smaller size, is high.

    The map has six levels: an animation of many colors is a large file.
    """
    height, width = picture.shape[:2]
    rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), heat.shape, strict=True))
    heat = np.rint(heat[rows][:, columns][..., None] * 5) / 5
    return (picture * 0.5 * (1 - heat) + heat * np.array([255, 60, 30])).astype(np.uint8)


def animation(frames: Sequence[np.ndarray], *, milliseconds: int = 80) -> bytes:
    """Returns RGB pictures of one size as an animated GIF."""
    pictures = [Image.fromarray(frame) for frame in frames]
    # One palette for all frames, so that only what moves is stored.
    sheet = Image.fromarray(np.concatenate(list(frames[:: max(1, len(frames) // 16)]), axis=1))
    palette = sheet.quantize(64, dither=Image.Dither.NONE)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, optimize=False
    )
    return buffer.getvalue()


def beside(*pictures: np.ndarray, gap: int = 4) -> np.ndarray:
    """Returns images of the same height, side by side."""
    between = np.zeros((pictures[0].shape[0], gap, 3), np.uint8)
    parts = [part for picture in pictures for part in (picture, between)]
    return np.concatenate(parts[:-1], axis=1)


def learning_curves(
    curves: Mapping[str, tuple[Any, Any]], *, levels: Mapping[str, float] | None = None, axes: Any = None
) -> Any:
    """Draws returns by frames: the mean over seeds as a line, and a band from the lowest to the highest seed.

    Args:
      curves: by label, (frames, returns) of shapes ``(points,)`` and ``(seeds, points)``; NaN where no episode ended.
      levels: by label, published returns, drawn as dashed lines.
      axes: what to draw on; by default a new figure.

    Returns:
      The figure.
    """
    from jaxconv.inspect.figures.canvas import new_figure

    axes = new_figure(6.5, 3.6).subplots() if axes is None else axes
    for i, (label, (frames, returns)) in enumerate(curves.items()):
        returns = np.atleast_2d(np.asarray(returns, float))
        known = ~np.isnan(returns).any(axis=0)
        frames, returns = np.asarray(frames)[known], returns[:, known]
        axes.fill_between(frames, returns.min(axis=0), returns.max(axis=0), color=f"C{i}", alpha=0.2, linewidth=0)
        axes.plot(frames, returns.mean(axis=0), color=f"C{i}", label=label)
    for i, (label, level) in enumerate((levels or {}).items()):
        axes.axhline(level, color="gray", linestyle=(0, (4, 2 + 2 * i)), linewidth=1, label=label)
    axes.set(xlabel="frames", ylabel="mean return of the episodes that ended")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return axes.figure
