"""KataGo's inputs on positions that were worked out by hand, and those in JAX against those in NumPy."""

import numpy as np
import pytest

from experiments.goban.board import PASS, WHITE, array, from_text, point
from experiments.goban.features import features, legal_mask
from experiments.goban.game import new_game
from tests.experiments.goban.test_board import at

# The planes that `observe` computes as `features` does.
EXACT = (0, 1, 2, 3, 4, 5, *range(9, 14))


def rows(plane):
    return ["".join(".#"[int(v)] for v in row) for row in plane]


def played(size, *moves, **options):
    game = new_game(size, **options)
    for name in moves:
        game = game.play(PASS if name == "pass" else at(game.board, name))
    return game


def test_stones_and_liberties():
    game = new_game(4, board=from_text("X.OO .XO. ...X ...."), rules="chinese")
    planes, _ = features(game)
    assert rows(planes[..., 1]) == ["#...", ".#..", "...#", "...."]
    assert rows(planes[..., 2]) == ["..##", "..#.", "....", "...."]
    assert rows(planes[..., 3]) == ["....", "....", "....", "...."]
    assert rows(planes[..., 4]) == ["#...", "....", "....", "...."]
    assert rows(planes[..., 5]) == ["..##", ".##.", "...#", "...."]
    assert planes[..., 0].all()


def test_history_and_passes():
    game = played(5, "C3", "pass", "B2", "D4", "A1", "E5")
    planes, others = features(game)
    assert others[:5].tolist() == [0, 0, 0, 0, 1]
    marked = [np.argwhere(planes[..., i]).tolist() for i in range(9, 14)]
    assert marked == [[[0, 4]], [[4, 0]], [[1, 3]], [[3, 1]], []]
    twice = new_game(5).play(at(game.board, "C3"), 1).play(at(game.board, "A1"), 1)
    assert features(twice)[0][..., 10].sum() == 0
    assert features(twice)[0][..., 9].sum() == 1
    over = played(5, "C3", "pass", "pass")
    planes, others = features(over)
    assert others[:5].sum() == 0
    assert planes[..., 9:14].sum() == 0
    assert features(played(5, "C3", "pass"))[1][14] == 1
    assert others[14] == 0


def test_the_ko_is_marked():
    game = new_game(4, board=from_text(".XO. XO.O .XO. ...."), rules="chinese").play(14 + 6 * 0 + 1)
    assert rows(features(game)[0][..., 6]) == ["....", ".#..", "....", "...."]


def test_ladders_of_now_and_of_before():
    board = from_text("....... ..XX... .XO.... ....... ....... ....... .......")
    game = new_game(7, board=board)
    planes, _ = features(game)
    spot = np.argwhere(planes[..., 14]).tolist()
    assert spot == [[2, 2]]
    # Black moves, and white's stone is black's to catch.
    assert np.argwhere(planes[..., 17]).tolist() == [[3, 2]]
    # Without moves the boards before are the board now.
    assert [np.argwhere(planes[..., i]).tolist() for i in (15, 16)] == [spot, spot]
    saved = game.play(PASS).play(at(board, "E3"))  # white's stone breaks the ladder
    planes, _ = features(saved)
    assert [planes[..., i].sum() for i in (14, 15, 16, 17)] == [0, 1, 1, 0]


def test_area_is_left_out_with_territory_rules():
    text = "..X.. ..X.. ..X.. ..XOO ..XO."
    area = features(new_game(5, board=from_text(text), rules="chinese"))[0]
    assert area[..., 18].sum() == 15
    assert area[..., 19].sum() == 4
    territory = features(new_game(5, board=from_text(text), rules="japanese"))[0]
    assert territory[..., 18:].sum() == 0


@pytest.mark.parametrize(
    ("rules", "wanted"),
    [
        ("chinese", [0, 0, 0, 0, 0, 0]),
        ("tromp-taylor", [1, 0.5, 1, 0, 0, 0]),
        ("aga", [1, -0.5, 0, 0, 0, 0]),
        ("japanese", [0, 0, 0, 1, 1, 0]),
    ],
)
def test_rules(rules, wanted):
    assert features(new_game(9, rules=rules))[1][6:12].tolist() == wanted


def test_komi_is_that_of_the_player_to_move():
    game = new_game(9, komi=7.5)
    assert features(game)[1][5] == np.float32(-7.5 / 20)
    assert features(game.play(PASS))[1][5] == np.float32(7.5 / 20)
    # A black stone costs black a point with territory rules.
    japanese = new_game(9, komi=6.5, rules="japanese").play(at(game.board, "E5"))
    assert features(japanese)[1][5] == np.float32(7.5 / 20)
    assert features(new_game(2, komi=150))[1][5] == np.float32(-24 / 20)


@pytest.mark.parametrize(
    ("komi", "size", "wave"),
    [(7, 9, 0), (7.5, 9, 0.5), (8, 9, 0), (6.5, 9, -0.5), (6, 8, 0), (6.5, 8, 0.5), (7, 8, 0), (5.5, 8, -0.5)],
)
def test_the_wave_of_the_komi(komi, size, wave):
    # For white; a draw is possible with an odd komi on an odd number of points.
    assert features(new_game(size, komi=komi).play(PASS))[1][18] == pytest.approx(wave)


def test_a_small_board_in_large_planes():
    game = played(5, "C3", "B2")
    small, large = features(game)[0], features(game, 9)[0]
    np.testing.assert_array_equal(large[:5, :5], small)
    assert not large[5:].any()
    assert not large[:, 5:].any()
    mask = legal_mask(game, 9)
    assert mask.sum() == 24
    assert mask[-1]
    assert not mask[2 * 9 + 2]
    with pytest.raises(ValueError, match="size must be at least the board's 5, got 4"):
        features(game, 4)


def test_random_games_have_the_rules_of_pgx_and_the_inputs_in_jax_those_in_numpy():
    pytest.importorskip("pgx")
    import jax
    from pgx.go import Go

    from experiments.goban.states import observe

    env = Go(size=7, komi=7.5)
    step, start, see = jax.jit(env.step), jax.jit(env.init), jax.jit(observe)
    random = np.random.default_rng(3)
    areas, positions, kos = 0, 0, 0
    for seed in range(2):
        state, game = start(jax.random.key(seed)), new_game(7, rules="pgx")
        for _ in range(70):
            forbidden = game.repetitions(game.turn)  # pgx lets a player repeat a position, and lose
            stones = array(game.board).ravel().astype(int)
            np.testing.assert_array_equal(np.where(stones == WHITE, -1, stones), np.sign(state._x.board))
            assert np.sum(legal_mask(game) != np.asarray(state.legal_action_mask)) == len(forbidden)
            wanted, others = features(game)
            planes, globals_ = see(state._x)
            for i in (*EXACT, 7, 8, 20, 21):
                np.testing.assert_array_equal(planes[..., i], wanted[..., i], err_msg=str(i))
            np.testing.assert_allclose(globals_, others, atol=1e-6)
            # pgx's ko is the simple one.
            assert np.asarray(planes[..., 6]).sum() == (game.board.ko > 0)
            areas += np.array_equal(planes[..., 18:20], wanted[..., 18:20])
            positions += 1
            kos += game.board.ko > 0
            legal = np.flatnonzero(legal_mask(game)[:-1])
            action = int(random.choice(legal)) if len(legal) and random.random() > 0.05 else 49
            state = step(state, action)
            if state.terminated:
                break
            game = game.play(PASS if action == 49 else point(game.board, *divmod(action, 7)))
    assert positions > 60
    assert areas > 0.9 * positions
    assert kos
