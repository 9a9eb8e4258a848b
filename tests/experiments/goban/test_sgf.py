"""SGF: what is read, and one sentence with the number of the move for what cannot be."""

import numpy as np
import pytest

from experiments import go
from experiments.goban.board import BLACK, PASS, WHITE, array, name_of
from experiments.goban.sgf import SgfError, main_line, read_sgf, read_sgf_file


def test_the_main_line_is_played():
    record = read_sgf("(;GM[1]SZ[9]KM[6.5]RU[AGA]PB[A \\] B];B[ee]C[(;not a node)];W[ec](;B[])(;B[aa]);W[aa])")
    game = record.game
    assert [(color, name_of(game.board, at)) for color, at in game.moves] == [
        (BLACK, "E5"),
        (WHITE, "E7"),
        (BLACK, "pass"),
    ]
    assert game.komi == 6.5
    assert game.rules.ko == "situational"
    assert record.about["PB"] == "A ] B"


def test_handicap_setup_and_turn():
    game = read_sgf("(;SZ[9]HA[2]AB[cc][gg];W[ee])").game
    assert array(game.boards[0]).sum() == 2
    assert game.moves[0][0] == WHITE
    assert read_sgf("(;SZ[9]AB[aa:ca]AW[ee]PL[W])").game.turn == WHITE
    assert array(read_sgf("(;SZ[9]AB[aa:ca])").game.board)[0, :4].tolist() == [1, 1, 1, 0]
    assert read_sgf("(;SZ[9];B[tt])").game.moves == ((BLACK, PASS),)


def test_defaults():
    assert read_sgf("(;B[pd])").game.board.size == 19
    assert read_sgf("(;B[pd])").game.komi == 7.5
    assert read_sgf("(;RU[Japanese];B[pd])").game.komi == 6.5
    assert read_sgf("(;B[pd];W[dd];B[pp])", moves=2).game.turn == BLACK


def test_the_famous_game():
    game = read_sgf(go.FAMOUS).game
    assert len(game.moves) == 78
    assert name_of(game.board, game.moves[-1][1]) == "L11"
    # White has captured nothing yet, black one stone... as the board says.
    assert int((array(game.board) > 0).sum()) == 78 - (78 - np.count_nonzero(array(game.board)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(;SZ[9];B[ee];W[ee])", "move 2, white at E5, must be legal, but there is a black stone"),
        ("(;SZ[9];B[ba];W[ii];B[ab];W[aa])", "move 4, white at A9, must be legal, but the stone would have no liberty"),
        ("(;SZ[9];B[jj])", "move 1 must be two letters from a to i, got 'jj'"),
        ("(;SZ[9];B[e])", "move 1 must be two letters"),
        ("(;SZ[25];B[aa])", "SZ must be a number of lines between 2 and 19, got '25'"),
        ("(;SZ[9:13];B[aa])", "SZ must be a number of lines"),
        ("(;GM[2])", "GM must be 1, which is Go, got '2'"),
        ("(;KM[much])", "KM must be a number, got 'much'"),
        ("(;KM[1e9])", "KM: komi must be a multiple of 0.5 between -150 and 150"),
        ("(;SZ[9];B[ee]", "must be a complete game"),
        ("(;SZ[9", r"character 5: a value must end with \]"),
        ("", "must be a complete game"),
        ("hello", r"character 1: a game must begin with \(;"),
        ("(SZ[9])", "character 2: a property must be in a node"),
        ("(;[9])", "character 3: a value must follow a property's name"),
        ("(;SZ[9]+)", r"character 8: a node or a property must follow, got '\+'"),
        (")", "a parenthesis closes that was not opened"),
        ("(;SZ[9]AB[aa]AW[ba][ab])", "stones at the start must have a liberty, got none at A9"),
        ("(;SZ[9];B[aa];AW[bb])", "stones must be set before the first move, got a setup after move 1"),
        ("(;SZ[9]PL[Q];B[aa])", "PL must be B or W"),
    ],
)
def test_what_cannot_be_read_is_one_error(text, message):
    with pytest.raises(SgfError, match=message) as caught:
        read_sgf(text)
    assert "\n" not in str(caught.value)


def test_files(tmp_path):
    path = tmp_path / "game.sgf"
    path.write_bytes("(;SZ[9]PB[\xe9];B[aa])".encode("latin-1"))
    assert read_sgf_file(path).about["PB"] == "\xe9"
    path.write_text("(;SZ[9];B[aa];W[aa])")
    with pytest.raises(SgfError, match=r"game\.sgf: move 2, white at A9, must be legal"):
        read_sgf_file(path)
    with pytest.raises(SgfError, match="moves must be at most 1, the length of the game, got 5"):
        read_sgf("(;SZ[9];B[aa])", moves=5)


def test_nodes():
    assert main_line("(;A[1][2]B[3];C[4]\n)(;D[5])") == [{"A": ["1", "2"], "B": ["3"]}, {"C": ["4"]}]
