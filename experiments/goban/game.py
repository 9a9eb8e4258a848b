"""A game of Go: moves, rules, komi, and what repetition forbids."""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

from experiments.goban.board import (
    BLACK,
    NAMES,
    PASS,
    Board,
    IllegalMove,
    chain,
    empty_board,
    is_legal,
    name_of,
    neighbors,
    other,
    play,
    points,
)


class Rules(NamedTuple):
    """What rules differ in.

    Attributes:
      ko: "simple", or "positional" or "situational" superko.
      suicide: whether several stones may be given up in one move.
      territory: whether territory is counted, not area.
      tax: whether points in seki do not count.
    """

    ko: str
    suicide: bool
    territory: bool = False
    tax: bool = False


RULES = {
    "aga": Rules("situational", False),
    "chinese": Rules("simple", False),
    "japanese": Rules("simple", False, territory=True, tax=True),
    "korean": Rules("simple", False, territory=True, tax=True),
    "new zealand": Rules("situational", True),
    "pgx": Rules("positional", False),
    "tromp-taylor": Rules("positional", True),
}


@dataclass(frozen=True)
class Game:
    """A game up to now.

    Attributes:
      boards: the positions from the start to now.
      moves: the color and the point of each move; one fewer than the boards.
      turn: the color of the player to move.
      komi: points for white.
      rules: the rules.
    """

    boards: tuple[Board, ...]
    moves: tuple[tuple[int, int], ...] = ()
    turn: int = BLACK
    komi: float = 7.5
    rules: Rules = RULES["chinese"]

    @property
    def board(self) -> Board:
        """The position now."""
        return self.boards[-1]

    @property
    def is_over(self) -> bool:
        """Whether the last two moves are passes."""
        return len(self.moves) >= 2 and all(at == PASS for _, at in self.moves[-2:])

    def play(self, at: int, color: int | None = None) -> "Game":
        """Returns the game after a move of the player to move, or of ``color``.

        Raises:
          IllegalMove: the rules do not allow the move; the message has its number.
        """
        color = self.turn if color is None else color
        number = len(self.moves) + 1
        try:
            board = play(self.board, color, at, suicide=self.rules.suicide)
            if at != PASS and at in self.repetitions(color):
                raise IllegalMove("it repeats an earlier position")
        except IllegalMove as error:
            name = name_of(self.board, at) if 0 <= at < len(self.board.stones) else "a point"
            raise IllegalMove(f"move {number}, {NAMES[color]} at {name}, must be legal, but {error}") from None
        return replace(self, boards=(*self.boards, board), moves=(*self.moves, (color, at)), turn=other(color))

    @functools.cached_property
    def _earlier(self) -> set[tuple[bytes, int]]:
        turns = [color for color, _ in self.moves] + [self.turn]
        return {
            (board.stones, turn if self.rules.ko == "situational" else 0)
            for board, turn in zip(self.boards, turns, strict=True)
        }

    def repetitions(self, color: int) -> set[int]:
        """Returns the points where superko forbids a move of ``color``; none with simple ko."""
        if self.rules.ko == "simple":
            return set()
        found = set()
        for at in points(self.board):
            # Without a capture or a suicide, a stone makes a position with more stones than all before.
            around = [near for near in neighbors(self.board, at) if self.board.stones[near] in NAMES]
            if self.board.stones[at] == 0 and any(len(chain(self.board, near)[1]) == 1 for near in around):
                if not is_legal(self.board, color, at, suicide=self.rules.suicide):
                    continue
                new = play(self.board, color, at, suicide=self.rules.suicide)
                if (new.stones, other(color) if self.rules.ko == "situational" else 0) in self._earlier:
                    found.add(at)
        return found

    def legal(self) -> list[int]:
        """Returns the legal moves of the player to move, the pass last."""
        banned = self.repetitions(self.turn)
        found = [
            at
            for at in points(self.board)
            if at not in banned and is_legal(self.board, self.turn, at, suicide=self.rules.suicide)
        ]
        return [*found, PASS]


def new_game(size: int = 19, *, komi: float = 7.5, rules: str = "chinese", board: Board | None = None) -> Game:
    """Returns a game without moves.

    Args:
      size: the number of lines.
      komi: points for white.
      rules: a name in `RULES`.
      board: the position at the start; None for no stones.

    Raises:
      ValueError: the rules are unknown, or size or komi are out of range.

    >>> game = new_game(9).play(12)
    >>> len(game.moves), game.turn
    (1, 2)
    """
    if rules not in RULES:
        raise ValueError(f"rules must be one of {', '.join(RULES)}, got {rules!r}")
    if not abs(komi) <= 150 or komi * 2 != int(komi * 2):
        raise ValueError(f"komi must be a multiple of 0.5 between -150 and 150, got {komi}")
    return Game((empty_board(size) if board is None else board,), komi=komi, rules=RULES[rules])
