"""Ladders: which chains with one or two liberties cannot escape from a sequence of ataris.

The search is that of KataGo's input features. The attacker puts the chain into atari with every move. The defender
extends, or captures stones beside the chain. A ko that the attacker leaves counts as an escape.
"""

from experiments.goban.board import (
    EMPTY,
    WALL,
    Board,
    after,
    chain,
    chains,
    is_legal,
    neighbors,
    other,
)


def laddered(board: Board) -> tuple[set[int], dict[int, list[int]]]:
    """Returns the stones that a ladder captures, and for each chain with two liberties the first moves that work.

    The keys of the moves are a stone of the chain.
    """
    stones: set[int] = set()
    moves: dict[int, list[int]] = {}
    limit = board.size**2 * 3 // 2
    for color, members, liberties in chains(board):
        at = members[0]
        if len(liberties) == 1 and _defend(board._replace(ko=0), at, limit):
            stones.update(members)
        elif len(liberties) == 2:
            # KataGo names the working moves once a chain, at its first stone.
            works = [
                move
                for move in sorted(liberties)
                if is_legal(board, other(color), move)
                and _defend(after(board, other(color), move)[0]._replace(ko=0), at, limit)
            ]
            if works:
                stones.update(members)
                moves[at] = works
    return stones, moves


def _defend(board: Board, at: int, limit: int) -> bool:
    """Returns whether the chain at a point is captured if its owner moves first."""
    members, liberties = chain(board, at)
    if len(liberties) >= 2 or board.ko:
        return False
    if limit <= 0:
        return True
    color = board.stones[at]
    for move in _captures(board, members) | liberties:
        if is_legal(board, color, move) and not _attack(after(board, color, move)[0], at, limit - 1):
            return False
    return True


def _captures(board: Board, members: list[int]) -> set[int]:
    """Returns the points where a capture of a chain beside the stones gives them liberties."""
    enemy, moves = other(board.stones[members[0]]), set[int]()
    for near in {near for member in members for near in neighbors(board, member) if board.stones[near] == enemy}:
        liberties = chain(board, near)[1]
        if len(liberties) == 1:
            moves |= liberties
    return moves


def _attack(board: Board, at: int, limit: int) -> bool:
    """Returns whether the chain at a point is captured if its opponent moves first."""
    members, liberties = chain(board, at)
    if len(liberties) != 2:
        return len(liberties) < 2
    if limit <= 0:
        return True
    moves = sorted(liberties)
    free = [sum(board.stones[near] == EMPTY for near in neighbors(board, move)) for move in moves]
    enemy = other(board.stones[at])
    if free == [0, 0] and _double_ko(board, members, moves):
        return True
    if moves[1] not in neighbors(board, moves[0]):
        # After a move elsewhere, the defender gets three liberties at a point with three free neighbors.
        moves = [move for move, elsewhere in zip(moves, reversed(free), strict=True) if elsewhere < 3]
    return any(is_legal(board, enemy, move) and _defend(after(board, enemy, move)[0], at, limit - 1) for move in moves)


def _double_ko(board: Board, members: list[int], moves: list[int]) -> bool:
    """Returns whether both liberties are mouths of kos and connecting either of them gains no liberties."""
    color = board.stones[members[0]]
    return (
        all(_is_ko_capture(board, other(color), move) for move in moves)
        and all(after(board, color, move)[1] <= 2 for move in moves)
        and not _captures(board, members)
    )


def _is_ko_capture(board: Board, color: int, at: int) -> bool:
    """Returns whether a stone at a point captures exactly one stone and is surrounded by the opponent's stones."""
    around = [near for near in neighbors(board, at) if board.stones[near] != WALL]
    if any(board.stones[near] != other(color) for near in around):
        return False
    capturable = [near for near in around if len(chain(board, near)[1]) == 1]
    return len(capturable) == 1 and len(chain(board, capturable[0])[0]) == 1
