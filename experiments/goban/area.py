"""The area of both players at a position, with pass-alive chains by Benson's algorithm.

Benson, "Life in the game of Go", 1976. A chain is pass-alive if it cannot be captured even if its owner always passes.
"""

from typing import NamedTuple

import numpy as np

from experiments.goban.board import BLACK, EMPTY, WHITE, Board, chains, flood, neighbors, other, points


class _Region(NamedTuple):
    """A maximal connected set of points without stones of one color; chains are numbers."""

    points: list[int]
    vital: set[int]
    borders: set[int]
    inside: int
    enemy: bool


def _regions(board: Board, color: int, owner: dict[int, int], suicide: bool) -> list[_Region]:
    found, seen = [], set[int]()
    for start in points(board):
        if board.stones[start] != EMPTY or start in seen:
            continue
        members, _ = flood(board.stones, start, board.size + 2, (EMPTY, other(color)))
        seen.update(members)
        vital, borders, inside, enemy = None, set[int](), 0, False
        for at in members:
            around = {owner[near] for near in neighbors(board, at) if near in owner}
            borders |= around
            inside += not around
            if board.stones[at] == EMPTY or suicide:
                vital = around if vital is None else vital & around
            enemy |= board.stones[at] != EMPTY
        found.append(_Region(members, vital or set(), borders, inside, enemy))
    return found


def _alive(regions: list[_Region], count: int) -> set[int]:
    """Returns the numbers of the pass-alive chains: each has two vital regions bordered by pass-alive chains only."""
    alive = set(range(count))
    while True:
        vital = [region.vital for region in regions if region.borders <= alive]
        left = {number for number in alive if sum(number in region for region in vital) >= 2}
        if left == alive:
            return alive
        alive = left


def area(board: Board, *, suicide: bool = False) -> np.ndarray:
    """Returns the color that owns each point, as uint8 of shape ``(size, size)``: stones, and what they surround.

    An empty region belongs to a color if only this color borders it. Stones of the opponent inside a pass-alive region
    with at most one point that touches no stone of its owner are dead.

    Args:
      board: the position.
      suicide: whether the rules allow suicide of several stones.
    """
    owned = bytearray(len(board.stones))
    everything = chains(board)
    for color in (BLACK, WHITE):
        own = [members for chain_color, members, _ in everything if chain_color == color]
        owner = {at: number for number, members in enumerate(own) for at in members}
        regions = _regions(board, color, owner, suicide)
        alive = _alive(regions, len(own))
        for number in alive:
            for at in own[number]:
                owned[at] = color
        for region in regions:
            safe = region.inside <= 1 and region.borders <= alive
            if own and (safe or not region.enemy):
                for at in region.points:
                    owned[at] = color
    for at in points(board):
        owned[at] = owned[at] or board.stones[at]
    square = np.frombuffer(bytes(owned), np.uint8)
    return square.reshape(board.size + 2, board.size + 2)[1:-1, 1:-1]
