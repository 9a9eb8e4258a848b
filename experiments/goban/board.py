"""A position of Go: its stones, captures and the simple ko.

Points are indices into `Board.stones`, a square with a border of `WALL`, so that all four neighbors of a point exist.
Boards do not change: `play` returns a new one. Names of points are "D4", with columns from the left without I and rows
from the bottom; arrays have row 0 at the top.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

EMPTY, BLACK, WHITE, WALL = range(4)
PASS = 0
SIZES = range(2, 20)
COLUMNS = "ABCDEFGHJKLMNOPQRST"
NAMES = {BLACK: "black", WHITE: "white"}


class IllegalMove(ValueError):
    """The rules do not allow a move."""


class Board(NamedTuple):
    """Stones, and the point that simple ko forbids to the player to move; 0 if there is none."""

    size: int
    stones: bytes
    ko: int = 0


def empty_board(size: int) -> Board:
    """Returns a board without stones.

    Raises:
      ValueError: size is not between 2 and 19.

    >>> len(list(points(empty_board(9))))
    81
    """
    if size not in SIZES:
        raise ValueError(f"size must be between {SIZES[0]} and {SIZES[-1]}, got {size}")
    square = np.full((size + 2, size + 2), WALL, np.uint8)
    square[1:-1, 1:-1] = EMPTY
    return Board(size, square.tobytes())


def other(color: int) -> int:
    """Returns the opponent's color."""
    return BLACK + WHITE - color


def point(board: Board, row: int, column: int) -> int:
    """Returns the index of a point; row 0 is at the top."""
    return (row + 1) * (board.size + 2) + column + 1


def place(board: Board, at: int) -> tuple[int, int]:
    """Returns the row and the column of a point."""
    row, column = divmod(at, board.size + 2)
    return row - 1, column - 1


def points(board: Board) -> Iterator[int]:
    """Yields all points, row by row from the top."""
    return (point(board, row, column) for row in range(board.size) for column in range(board.size))


def name_of(board: Board, at: int) -> str:
    """Returns the name of a point, or "pass".

    >>> board = empty_board(19)
    >>> name_of(board, point(board, 0, 0)), name_of(board, point(board, 18, 8)), name_of(board, PASS)
    ('A19', 'J1', 'pass')
    """
    if at == PASS:
        return "pass"
    row, column = place(board, at)
    return f"{COLUMNS[column]}{board.size - row}"


def neighbors(board: Board, at: int) -> tuple[int, int, int, int]:
    """Returns the four indices around a point, walls included."""
    step = board.size + 2
    return at - step, at - 1, at + 1, at + step


def array(board: Board) -> np.ndarray:
    """Returns the colors as uint8 of shape ``(size, size)``."""
    square = np.frombuffer(board.stones, np.uint8)
    return square.reshape(board.size + 2, board.size + 2)[1:-1, 1:-1]


def flood(stones: bytes | bytearray, at: int, step: int, colors: Collection[int]) -> tuple[list[int], set[int]]:
    """Returns the connected points of some colors that include a point, and the other points beside them.

    Args:
      stones: the colors of all points, as in `Board`.
      at: the point.
      step: the difference between the indices of a point and the one below.
      colors: the colors.
    """
    members, seen, around = [at], {at}, set()
    for member in members:  # grows while it is read
        for near in (member - step, member - 1, member + 1, member + step):
            if stones[near] not in colors:
                around.add(near)
            elif near not in seen:
                seen.add(near)
                members.append(near)
    return members, around


def _chain(stones: bytes | bytearray, at: int, step: int) -> tuple[list[int], set[int]]:
    members, around = flood(stones, at, step, (stones[at],))
    return members, {near for near in around if stones[near] == EMPTY}


def chain(board: Board, at: int) -> tuple[list[int], set[int]]:
    """Returns the connected stones that include the stone at a point, and their liberties."""
    return _chain(board.stones, at, board.size + 2)


def chains(board: Board) -> list[tuple[int, list[int], set[int]]]:
    """Returns the color, the stones and the liberties of each chain."""
    found, seen = [], set[int]()
    for at in points(board):
        if board.stones[at] in (BLACK, WHITE) and at not in seen:
            members, liberties = chain(board, at)
            seen.update(members)
            found.append((board.stones[at], members, liberties))
    return found


def after(board: Board, color: int, at: int) -> tuple[Board, int]:
    """Returns the board after a stone on an empty point, and the liberties of its chain: 0 for suicide.

    The rules of ko and suicide are not checked. The stones of a suicide are removed.
    """
    stones, step = bytearray(board.stones), board.size + 2
    stones[at] = color
    captured: list[int] = []
    for near in neighbors(board, at):
        if stones[near] == other(color):
            members, liberties = _chain(stones, near, step)
            if not liberties:
                captured += members
                for member in members:
                    stones[member] = EMPTY
    members, liberties = _chain(stones, at, step)
    if not liberties:
        for member in members:
            stones[member] = EMPTY
    ko = captured[0] if len(captured) == len(members) == len(liberties) == 1 else 0
    return Board(board.size, bytes(stones), ko), len(liberties)


def play(board: Board, color: int, at: int, *, suicide: bool = False) -> Board:
    """Returns the board after a move.

    Args:
      board: the position.
      color: `BLACK` or `WHITE`.
      at: a point, or `PASS`.
      suicide: whether a player may remove several of the player's own stones. A single stone never may.

    Raises:
      IllegalMove: the point is occupied or beside the board, or the move is a ko recapture or a suicide.

    >>> print(drawn(play(from_text("X. .."), WHITE, point(empty_board(2), 1, 0))))
    X.
    O.
    """
    if at == PASS:
        return board._replace(ko=0)
    if not 0 < at < len(board.stones) or board.stones[at] == WALL:
        raise IllegalMove("the point is not on the board")
    if board.stones[at] != EMPTY:
        raise IllegalMove(f"there is a {NAMES[board.stones[at]]} stone")
    if at == board.ko:
        raise IllegalMove("the ko was captured in the move before")
    new, liberties = after(board, color, at)
    if not liberties and not (suicide and any(board.stones[near] == color for near in neighbors(board, at))):
        raise IllegalMove("the stone would have no liberty")
    return new


def is_legal(board: Board, color: int, at: int, *, suicide: bool = False) -> bool:
    """Returns whether `play` allows a move."""
    try:
        play(board, color, at, suicide=suicide)
    except IllegalMove:
        return False
    return True


def drawn(board: Board) -> str:
    """Returns the board as text: X for black, O for white.

    >>> print(drawn(from_text("X. .O")))
    X.
    .O
    """
    return "\n".join("".join(".XO"[stone] for stone in row) for row in array(board))


def from_text(text: str) -> Board:
    """Returns the board of a text with a word for each row: X for black, O for white, "." for an empty point.

    Raises:
      ValueError: the text is not a square of these characters, or a chain has no liberty.
    """
    rows = text.split()
    if set("".join(rows)) - set(".XO") or {len(row) for row in rows} != {len(rows)}:
        raise ValueError(f"text must be a square of '.', 'X' and 'O', got {text!r}")
    board = empty_board(len(rows))
    stones = bytearray(board.stones)
    for row, line in enumerate(rows):
        for column, letter in enumerate(line):
            stones[point(board, row, column)] = ".XO".index(letter)
    board = board._replace(stones=bytes(stones))
    for _, members, liberties in chains(board):
        if not liberties:
            raise ValueError(f"each chain must have a liberty, got none for {name_of(board, members[0])}")
    return board
