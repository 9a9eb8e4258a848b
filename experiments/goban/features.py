"""The inputs of KataGo's networks, version 7, for a position: 22 planes and 19 global features.

They are those of the player to move. The planes, of which 0 marks the points of the board:

- 1, 2: own stones, the opponent's stones; 3, 4, 5: stones of chains with 1, 2 or 3 liberties
- 6: points that ko or superko forbids; 7, 8: kos in the second phase of Japanese rules, here always 0
- 9 to 13: the last five moves
- 14: stones that a ladder captures; 15, 16: the same one and two moves before; 17: moves that work in a ladder against
  the opponent
- 18, 19: own area, the opponent's area, with area rules; 20, 21: for the second phase of Japanese rules, here always 0

The global features, which are 0 where nothing is said:

- 0 to 4: whether the last five moves are passes; 5: komi for the player to move, divided by 20
- 6, 7: the ko rule; 8: suicide; 9: territory; 10, 11: no points in seki
- 14: whether a pass ends the game; 15, 16: a handicap in playing strength, here always 0; 17: the button, always 0
- 18: a triangular wave of the komi, which shows what the smallest change of komi is worth on this board

After two passes the game is over, and the moves and the ladders before are left out, as in KataGo.
"""

import math
from collections.abc import Iterable

import numpy as np

from experiments.goban.area import area
from experiments.goban.board import BLACK, PASS, WHITE, Board, array, chains, other, place
from experiments.goban.game import Game
from experiments.goban.ladders import laddered

PLANES, GLOBALS = 22, 19
MOVES = 5
KO = {"simple": (0.0, 0.0), "positional": (1.0, 0.5), "situational": (1.0, -0.5)}


def _mark(plane: np.ndarray, board: Board, points: Iterable[int]) -> None:
    for at in points:
        plane[place(board, at)] = 1


def features(game: Game, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Returns the planes, float32 ``(size, size, 22)``, and the global features, float32 ``(19,)``.

    Args:
      game: the game up to the position.
      size: the side of the planes, at least the board's: a smaller board is in the upper left corner. None for the
        board's.

    Raises:
      ValueError: size is smaller than the board.

    >>> from experiments.goban.game import new_game
    >>> planes, others = features(new_game(9, komi=7.5))
    >>> planes.shape, planes.sum(), float(others[5])
    ((9, 9, 22), np.float32(81.0), -0.375)
    """
    board, own = game.board, game.turn
    side = board.size if size is None else size
    if side < board.size:
        raise ValueError(f"size must be at least the board's {board.size}, got {side}")
    planes = np.zeros((board.size, board.size, PLANES), np.float32)
    others = np.zeros(GLOBALS, np.float32)
    planes[..., 0] = 1
    colors = array(board)
    planes[..., 1], planes[..., 2] = colors == own, colors == other(own)
    for _, members, liberties in chains(board):
        if len(liberties) <= 3:
            _mark(planes[..., 2 + len(liberties)], board, members)
    _mark(planes[..., 6], board, game.repetitions(own) | ({board.ko} - {0}))
    past = _history(game, planes, others)
    _ladders(game, past, planes)
    if not game.rules.territory:
        owned = area(board, suicide=game.rules.suicide)
        planes[..., 18], planes[..., 19] = owned == own, owned == other(own)
    others[5:] = _rule_features(game)
    padding = (0, side - board.size)
    return np.pad(planes, (padding, padding, (0, 0))), others


def _history(game: Game, planes: np.ndarray, others: np.ndarray) -> int:
    """Marks the last moves as long as colors alternate; returns how many there are."""
    color, past = other(game.turn), 0
    if game.is_over:
        return 0
    for (mover, at), i in zip(reversed(game.moves), range(MOVES), strict=False):
        if mover != color:
            break
        if at == PASS:
            others[i] = 1
        else:
            planes[(*place(game.board, at), 9 + i)] = 1
        color, past = other(color), past + 1
    return past


def _ladders(game: Game, past: int, planes: np.ndarray) -> None:
    board = game.board
    stones, moves = laddered(board)
    _mark(planes[..., 14], board, stones)
    for at, works in moves.items():
        if board.stones[at] == other(game.turn):
            _mark(planes[..., 17], board, works)
    for i in (1, 2):
        if past >= i:
            stones, _ = laddered(game.boards[-1 - i])
        _mark(planes[..., 14 + i], board, stones)


def _rule_features(game: Game) -> list[float]:
    """Returns the global features from number 5 on."""
    board, rules = game.board, game.rules
    komi = game.komi
    if rules.territory:
        # A stone costs its player a point, so that filling territory is as in area rules.
        komi += sum(1 if color == BLACK else -1 for color, at in game.moves if at != PASS)
    own = komi if game.turn == WHITE else -komi
    most = board.size**2 + 20
    own = min(max(own, -most), most)
    ends = bool(game.moves) and game.moves[-1][1] == PASS and not game.is_over
    tax = float(rules.tax)
    values = [own / 20, *KO[rules.ko], float(rules.suicide), float(rules.territory), tax, 0, 0, 0, float(ends)]
    return [*values, 0, 0, 0, 0 if rules.territory else _wave(own, board.size)]


def _wave(komi: float, size: int) -> float:
    """Returns a triangular wave with period 2: 0 where a draw is possible, 0.5 half a point above, -0.5 below."""
    even = size % 2 == 0
    delta = komi - (math.floor(komi / 2) * 2 if even else math.floor((komi - 1) / 2) * 2 + 1)
    if delta < 0.5:
        return delta
    return 1 - delta if delta < 1.5 else delta - 2


def legal_mask(game: Game, size: int | None = None) -> np.ndarray:
    """Returns whether each move is legal, bool ``(size * size + 1,)``, row by row, the pass last."""
    side = game.board.size if size is None else size
    mask = np.zeros(side * side + 1, bool)
    for at in game.legal():
        row, column = place(game.board, at)
        mask[-1 if at == PASS else row * side + column] = True
    return mask


__all__ = ["GLOBALS", "PLANES", "features", "legal_mask"]
