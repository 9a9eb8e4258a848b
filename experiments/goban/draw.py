"""Pictures of a position with the moves that a network would play, and with the points that it gives to each player."""

from typing import Any

import numpy as np

from experiments.goban.board import BLACK, COLUMNS, PASS, WHITE, array, place
from experiments.goban.game import Game

WOOD = "#e3b566"
STONES = {BLACK: "#111111", WHITE: "#fafafa"}


def _grid(axes: Any, size: int) -> None:
    axes.set_facecolor(WOOD)
    axes.set_aspect("equal")
    for i in range(size):
        axes.plot([0, size - 1], [i, i], color="#5a4520", lw=0.7, zorder=1)
        axes.plot([i, i], [0, size - 1], color="#5a4520", lw=0.7, zorder=1)
    edge = 3 if size >= 13 else 2
    lines = sorted({edge, size // 2, size - 1 - edge} if size % 2 else {edge, size - 1 - edge})
    if size >= 9:
        stars = [(x, y) for x in lines for y in lines]
        axes.scatter(*zip(*stars, strict=True), s=10, color="#5a4520", zorder=1)
    axes.set_xlim(-0.7, size - 0.3)
    axes.set_ylim(size - 0.3, -0.7)
    axes.set_xticks(range(size), COLUMNS[:size], fontsize=7)
    axes.set_yticks(range(size), [str(size - i) for i in range(size)], fontsize=7)
    axes.tick_params(length=0)


def _circles(axes: Any, at: Any, radius: float, **options: Any) -> None:
    from matplotlib.patches import Circle

    for row, column in at:
        axes.add_patch(Circle((column, row), radius, **options))


def _stones(axes: Any, game: Game) -> None:
    colors = array(game.board)
    for color, shade in STONES.items():
        _circles(axes, np.argwhere(colors == color), 0.46, facecolor=shade, edgecolor="#333333", lw=0.5, zorder=3)
    if game.moves and game.moves[-1][1] != PASS:
        mover, at = game.moves[-1]
        _circles(axes, [place(game.board, at)], 0.2, facecolor="none", edgecolor=STONES[3 - mover], lw=1.4, zorder=4)


def board_figure(game: Game, policy: np.ndarray, ownership: np.ndarray, title: str = "") -> Any:
    """Returns a matplotlib figure of two boards: the policy, and the ownership.

    Args:
      game: the game up to the position.
      policy: probabilities of the moves, ``(size**2 + 1,)``; moves of at least 0.5% are shown.
      ownership: ``(size, size)``, from -1 to 1 for the player to move.
      title: a line above.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    size = game.board.size
    figure = Figure(figsize=(11, 5.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes in (left, right):
        _grid(axes, size)
    _stones(left, game)
    grid = policy[:-1].reshape(size, size)
    largest = max(grid.max(), 1e-9)
    for row, column in np.argwhere(grid >= 0.005):
        share = grid[row, column]
        strength = 0.15 + 0.85 * (share / largest) ** 0.5
        _circles(left, [(row, column)], 0.44, facecolor="#1c6dd0", alpha=strength, lw=0, zorder=2)
        text = f"{share:.0%}" if share >= 0.01 else "<1%"
        left.text(column, row, text, ha="center", va="center", fontsize=5.5, color="white", zorder=5)
    pass_share = f", pass {policy[-1]:.1%}" if policy[-1] >= 0.005 else ""
    left.set_title(f"policy of {'black' if game.turn == BLACK else 'white'}{pass_share}", fontsize=10)
    black = ownership if game.turn == BLACK else -ownership
    for row, column in np.ndindex(size, size):
        value = float(black[row, column])
        side = 0.9 * abs(value) ** 0.5
        corner = (column - side / 2, row - side / 2)
        shade = STONES[BLACK if value > 0 else WHITE]
        right.add_patch(Rectangle(corner, side, side, facecolor=shade, alpha=0.75, lw=0, zorder=2))
    colors = array(game.board)
    for color, shade in STONES.items():
        _circles(right, np.argwhere(colors == color), 0.22, facecolor=shade, edgecolor="#888888", lw=0.6, zorder=3)
    right.set_title("ownership: the larger a square, the more certain", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure
