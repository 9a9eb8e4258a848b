"""Records of games in SGF: the main line of the first game in a file.

A file is text of nodes, ``;``, with properties such as ``B[pd]``: black plays in column p, row d from the top.
Variations are in parentheses; the first is the main line.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experiments.goban.board import (
    BLACK,
    PASS,
    SIZES,
    WHITE,
    Board,
    IllegalMove,
    chains,
    empty_board,
    name_of,
    point,
)
from experiments.goban.game import RULES, Game, new_game

LETTERS = "abcdefghijklmnopqrs"
COLORS = {"B": BLACK, "W": WHITE}
Node = dict[str, list[str]]


class SgfError(ValueError):
    """A text is not a record of a game of Go."""


class Record(NamedTuple):
    """A game, and what the file says about it, such as PB, the name of the player of black."""

    game: Game
    about: dict[str, str]


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Yields (type, value, position): "(", ")", ";", "name" or "value"."""
    at = 0
    while at < len(text):
        letter = text[at]
        if letter in "();":
            yield letter, letter, at
        elif letter == "[":
            start, value = at, []
            at += 1
            while at < len(text) and text[at] != "]":
                # A backslash keeps the next character as it is; before the end of a line it joins lines.
                if text[at] == "\\":
                    at += 1
                    value.append("" if text[at : at + 1] == "\n" else text[at : at + 1])
                else:
                    value.append(text[at])
                at += 1
            if at >= len(text):
                raise SgfError(f"character {start + 1}: a value must end with ], got the end of the text")
            yield "value", "".join(value), start
        elif letter.isalpha():
            start = at
            while at + 1 < len(text) and text[at + 1].isalpha():
                at += 1
            # Before FF[4] names may have lower case letters, which do not count.
            yield "name", "".join(c for c in text[start : at + 1] if c.isupper()), start
        elif not letter.isspace() and letter != "\ufeff":
            raise SgfError(f"character {at + 1}: a node or a property must follow, got {letter!r}")
        at += 1


def main_line(text: str) -> list[Node]:
    """Returns the nodes of the first game's main line.

    Raises:
      SgfError: the text is not SGF.

    >>> main_line("(;SZ[9];B[ee](;W[ce])(;W[gg]))")
    [{'SZ': ['9']}, {'B': ['ee']}, {'W': ['ce']}]
    """
    nodes: list[Node] = []
    depth, name, ended = 0, "", False
    for kind, value, at in _tokens(text):
        if kind == "(":
            depth += 1
        elif kind == ")":
            # The main line ends where the first parenthesis closes.
            depth, ended = depth - 1, True
            if depth < 0:
                raise SgfError(f"character {at + 1}: a parenthesis closes that was not opened")
            if not depth:
                break
        elif not depth:
            raise SgfError(f"character {at + 1}: a game must begin with (;, got {value[:20]!r}")
        elif ended:
            pass
        elif kind == ";":
            nodes.append({})
            name = ""
        elif not nodes:
            raise SgfError(f"character {at + 1}: a property must be in a node, got {value[:20]!r}")
        elif kind == "name":
            name = value
        elif not name:
            raise SgfError(f"character {at + 1}: a value must follow a property's name, got [{value[:20]}]")
        else:
            nodes[-1].setdefault(name, []).append(value)
    if depth or not nodes:
        raise SgfError("the text must be a complete game, (;...), got " + ("its end before )" if depth else "none"))
    return nodes


def _number(about: dict[str, str], name: str, default: float) -> float:
    try:
        return float(about.get(name, "").strip() or default)
    except ValueError:
        raise SgfError(f"{name} must be a number, got {about[name][:20]!r}") from None


def _point(board: Board, value: str, what: str) -> int:
    """Returns the point of a move; "" is a pass, and "tt" on boards up to 19 lines."""
    value = value.strip()
    if not value or (value == "tt" and board.size <= 19):
        return PASS
    lines = LETTERS[: board.size]
    if len(value) != 2 or not set(value) <= set(lines):
        raise SgfError(f"{what} must be two letters from a to {lines[-1]}, got {value[:20]!r}")
    return point(board, LETTERS.index(value[1]), LETTERS.index(value[0]))


def _setup(board: Board, node: Node) -> Board:
    """Returns the board with a node's stones, AB and AW, and without those of AE."""
    stones = bytearray(board.stones)
    for name, color in (("AB", BLACK), ("AW", WHITE), ("AE", 0)):
        for value in node.get(name, ()):
            first, _, last = value.partition(":")
            corners = [_point(board, corner, name) for corner in (first, last or first)]
            if PASS in corners:
                raise SgfError(f"{name} must name points, got {value[:20]!r}")
            (top, left), (bottom, right) = (divmod(at, board.size + 2) for at in corners)
            for row in range(min(top, bottom), max(top, bottom) + 1):
                for column in range(min(left, right), max(left, right) + 1):
                    stones[row * (board.size + 2) + column] = color
    board = Board(board.size, bytes(stones))
    for _, members, liberties in chains(board):
        if not liberties:
            raise SgfError(f"stones at the start must have a liberty, got none at {name_of(board, members[0])}")
    return board


def rules_of(text: str) -> str:
    """Returns the name in `RULES` of the rules that a record names; Chinese rules where it names none or others.

    >>> rules_of("Japanese"), rules_of("AGA"), rules_of("")
    ('japanese', 'aga', 'chinese')
    """
    text = text.strip().lower()
    names = {"nz": "new zealand", "jp": "japanese", "cn": "chinese", "tt": "tromp-taylor"}
    name = names.get(text, text)
    return name if name in RULES else next((known for known in RULES if name.startswith(known)), "chinese")


def read_sgf(text: str, *, moves: int | None = None) -> Record:
    """Returns the game of a text in SGF: its main line, played by the rules.

    Without KM the komi is 7.5 for area rules and 6.5 for territory rules.

    Args:
      text: the contents of a file.
      moves: the number of moves to play; None for all.

    Raises:
      SgfError: the text is not SGF, or not of a game of Go on a square board from 2 to 19 lines; a move is illegal: the
        message has the number of the move and the reason.

    >>> record = read_sgf("(;SZ[9]KM[7]RU[Japanese]PB[A];B[ee];W[ce])")
    >>> len(record.game.moves), record.game.komi, record.about["PB"]
    (2, 7.0, 'A')
    """
    first, *rest = main_line(text)
    about = {name: values[0] for name, values in first.items()}
    if about.get("GM", "1").strip() != "1":
        raise SgfError(f"GM must be 1, which is Go, got {about['GM'][:20]!r}")
    size = _number(about, "SZ", 19) if ":" not in about.get("SZ", "") else 0
    if size not in SIZES:
        raise SgfError(f"SZ must be a number of lines between {SIZES[0]} and {SIZES[-1]}, got {about['SZ'][:20]!r}")
    rules = rules_of(about.get("RU", ""))
    komi = _number(about, "KM", 6.5 if RULES[rules].territory else 7.5)
    try:
        game = new_game(int(size), komi=komi, rules=rules, board=_setup(empty_board(int(size)), first))
    except SgfError:
        raise
    except ValueError as error:
        raise SgfError(f"KM: {error}") from None
    if "AB" in first and "AW" not in first:  # a handicap
        game = Game(game.boards, turn=WHITE, komi=game.komi, rules=game.rules)
    game = _turn(game, first)
    for node in [{name: v for name, v in first.items() if name in COLORS}, *rest]:
        if {"AB", "AW", "AE"} & node.keys():
            if game.moves:
                raise SgfError(f"stones must be set before the first move, got a setup after move {len(game.moves)}")
            game = Game((_setup(game.board, node),), turn=game.turn, komi=game.komi, rules=game.rules)
        game = _turn(game, node)
        for name, color in COLORS.items():
            for value in node.get(name, ()):
                if moves is not None and len(game.moves) >= moves:
                    break
                try:
                    game = game.play(_point(game.board, value, f"move {len(game.moves) + 1}"), color)
                except IllegalMove as error:
                    raise SgfError(str(error)) from None
    if moves is not None and len(game.moves) < moves:
        raise SgfError(f"moves must be at most {len(game.moves)}, the length of the game, got {moves}")
    return Record(game, about)


def _turn(game: Game, node: Node) -> Game:
    """Returns the game with the turn of a node's PL."""
    for value in node.get("PL", ()):
        color = COLORS.get(value.strip()[:1].upper())
        if color is None:
            raise SgfError(f"PL must be B or W, got {value[:20]!r}")
        game = Game(game.boards, game.moves, color, game.komi, game.rules)
    return game


def read_sgf_file(path: str | Path, *, moves: int | None = None) -> Record:
    """Returns the game of a file, as `read_sgf` does; the message of an error begins with the path.

    Raises:
      OSError: the file cannot be read.
      SgfError: as in `read_sgf`.
    """
    content = Path(path).read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    try:
        return read_sgf(text, moves=moves)
    except SgfError as error:
        raise SgfError(f"{path}: {error}") from None
