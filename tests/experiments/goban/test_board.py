"""The rules: captures, ko, suicide, repetition, and Go in text."""

import pytest

from experiments.goban.board import (
    BLACK,
    PASS,
    WHITE,
    IllegalMove,
    array,
    chain,
    drawn,
    empty_board,
    from_text,
    is_legal,
    name_of,
    play,
    point,
    points,
)
from experiments.goban.game import new_game


def at(board, name):
    return next(p for p in points(board) if name_of(board, p) == name)


def after(text, color, name, **options):
    board = from_text(text)
    return play(board, color, at(board, name), **options)


def test_a_stone_without_liberties_is_captured_and_so_is_its_chain():
    assert drawn(after("X.. O.. ...", WHITE, "B3")) == ".O.\nO..\n..."
    assert drawn(after(".O. OX. .O.", WHITE, "C2")) == ".O.\nO.O\n.O."
    assert drawn(after("XX. OOX ...", WHITE, "C3")) == "..O\nOOX\n..."


def test_a_capture_comes_before_suicide():
    assert drawn(after(".XO XO. O..", WHITE, "A3")) == "O.O\n.O.\nO.."


def test_a_ko_cannot_be_recaptured_at_once_but_after_another_move():
    board = from_text(".XO. XO.O .XO. ....")
    captured = play(board, BLACK, at(board, "C3"))
    assert captured.ko == at(board, "B3")
    with pytest.raises(IllegalMove, match="the ko was captured in the move before"):
        play(captured, WHITE, captured.ko)
    elsewhere = play(play(captured, WHITE, at(board, "D1")), BLACK, at(board, "A1"))
    assert play(elsewhere, WHITE, at(board, "B3")).stones[at(board, "C3")] == 0
    assert play(captured, WHITE, PASS).ko == 0


def test_capturing_two_stones_is_no_ko():
    board = from_text(".XXO. XOO.O .XXO. ..... .....")
    assert play(board, BLACK, at(board, "D4")).ko == 0


def test_suicide_is_illegal_or_removes_the_stones_where_rules_allow_it():
    text = ".O... XO... OO... ..... ....."
    board = from_text(text)
    with pytest.raises(IllegalMove, match="the stone would have no liberty"):
        play(board, BLACK, at(board, "A5"))
    assert drawn(play(board, BLACK, at(board, "A5"), suicide=True)).splitlines()[:2] == [".O...", ".O..."]
    alone = from_text(".O. O.. ...")
    assert not is_legal(alone, BLACK, at(alone, "A3"), suicide=True)


def test_moves_beside_the_board_and_on_stones_are_illegal():
    board = from_text("X.. ... ...")
    with pytest.raises(IllegalMove, match="there is a black stone"):
        play(board, WHITE, at(board, "A3"))
    for beside in (1, 4, 24, 1000, -3):
        with pytest.raises(IllegalMove, match="not on the board"):
            play(board, WHITE, beside)


def test_superko_forbids_a_position_of_before():
    # Each side sends two and one back: three kos in a cycle are long, so a smaller board repeats by passes.
    board = from_text(".XO. XO.O .XO. ....")
    names = {"simple": "chinese", "positional": "pgx", "situational": "aga"}
    games = {ko: new_game(4, rules=rules, board=board).play(at(board, "C3")) for ko, rules in names.items()}
    for ko, game in games.items():
        passed = game.play(PASS).play(PASS)
        legal = at(board, "B3") in passed.legal()
        # White's recapture makes the position at the start, with the other player to move than at the start: black.
        assert legal is (ko == "simple"), ko
        with pytest.raises(IllegalMove, match="move 2, white at B3, must be legal, but the ko"):
            game.play(at(board, "B3"))
    with pytest.raises(IllegalMove, match="move 4, white at B3, must be legal, but it repeats"):
        games["positional"].play(PASS).play(PASS).play(at(board, "B3"))


def test_names_rows_and_text_agree():
    board = from_text("X.. ... ..O")
    assert name_of(board, point(board, 0, 0)) == "A3"
    assert array(board).tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 2]]
    assert chain(board, point(board, 0, 0))[1] == {at(board, "B3"), at(board, "A2")}
    for text in ("X.", "XY .. ", "XO OX"):
        with pytest.raises(ValueError, match=r"must be a square|must have a liberty"):
            from_text(text)
    with pytest.raises(ValueError, match="size must be between 2 and 19, got 20"):
        empty_board(20)
