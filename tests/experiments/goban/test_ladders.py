"""Ladders: the textbook's, and random positions against a search without shortcuts."""

import numpy as np
import pytest

from experiments.goban.board import after, chain, chains, from_text, is_legal, name_of, other
from experiments.goban.game import new_game
from experiments.goban.ladders import laddered

LADDER = ["....... ", "..XX...", ".XO....", ".......", ".......", ".......", "......."]


def names(board, found):
    return sorted(name_of(board, p) for p in found)


def test_a_ladder_runs_to_the_edge():
    board = from_text(" ".join(LADDER))
    stones, moves = laddered(board)
    assert names(board, stones) == ["C5"]
    assert [names(board, works) for works in moves.values()] == [["C4"]]


def test_a_ladder_breaker_saves_the_stone_and_its_removal_does_not():
    rows = list(LADDER)
    rows[4] = "....O.."
    assert laddered(from_text(" ".join(rows)))[0] == set()
    rows[4] = "O......"
    assert laddered(from_text(" ".join(rows)))[0]


def test_a_stone_in_atari_that_can_only_run_into_a_ladder_is_captured():
    rows = list(LADDER)
    rows[3] = "..X...."
    board = from_text(" ".join(rows))
    assert names(board, laddered(board)[0]) == ["C5"]
    assert laddered(board)[1] == {}


def test_the_defender_may_capture_a_stone_of_the_net():
    rows = list(LADDER)
    # The black stone below it, which gives atari, is in atari itself.
    rows[3], rows[4] = ".OX....", "..O...."
    assert laddered(from_text(" ".join(rows)))[0] == set()


def exhaustive(board, p, defender):
    """What `laddered` computes, without its shortcuts."""
    members, liberties = chain(board, p)
    color = board.stones[p]
    if defender:
        if len(liberties) > 1 or board.ko:
            return False
        step = board.size + 2
        moves = set(liberties)
        for m in members:
            for near in (m - 1, m + 1, m - step, m + step):
                if board.stones[near] == other(color) and len(chain(board, near)[1]) == 1:
                    moves |= chain(board, near)[1]
        tried = [after(board, color, m)[0] for m in moves if is_legal(board, color, m)]
        return all(exhaustive(b, p, False) for b in tried)
    if len(liberties) != 2:
        return len(liberties) < 2
    enemy = other(color)
    return any(exhaustive(after(board, enemy, m)[0], p, True) for m in liberties if is_legal(board, enemy, m))


@pytest.mark.parametrize("seed", range(6))
def test_shortcuts_change_no_result(seed):
    random, found = np.random.default_rng(seed), 0
    game = new_game(7, rules="chinese")
    for _ in range(45):
        moves = game.legal()[:-1]
        if not moves:
            break
        game = game.play(int(random.choice(moves)))
        board = game.board
        stones, works = laddered(board)
        for color, members, liberties in chains(board):
            if len(liberties) > 2:
                wanted = False
            elif len(liberties) == 1:
                wanted = exhaustive(board._replace(ko=0), members[0], True)
            else:
                enemy = other(color)
                tried = [m for m in sorted(liberties) if is_legal(board, enemy, m)]
                good = [m for m in tried if exhaustive(after(board, enemy, m)[0]._replace(ko=0), members[0], True)]
                wanted = bool(good)
                assert works.get(members[0], []) == good
            assert (members[0] in stones) == wanted
            assert wanted == stones.issuperset(members)
            found += wanted
    assert found > 3
