"""Signs that are drawn, and a whole run on files in GTSRB's layout."""

import importlib.util
import json

import numpy as np
import pytest

import jaxconv as jc
from experiments import recognize, signs
from tests.data.test_signs import photograph, write


def need_icons():
    if not importlib.util.find_spec("qtawesome"):
        pytest.skip("the package qtawesome is not installed")


def test_boards_differ_and_are_transparent_around():
    need_icons()
    boards = [np.asarray(signs.board(sign)) for sign in signs.SIGNS.values()]
    assert {board.shape for board in boards} == {(signs.CANVAS, signs.CANVAS, 4)}
    assert all(board[0, 0, 3] == 0 and board[..., 3].max() == 255 for board in boards)
    # Each pair differs in a hundredth of the pixels at least.
    colors = np.stack([board[..., :3] for board in boards]).astype(int)
    for i, one in enumerate(colors):
        different = (np.abs(colors[i + 1 :] - one).max(-1) > 64).mean((1, 2))
        assert (different > 0.01).all()


def test_drawn_signs_are_a_function_of_seed_and_index():
    need_icons()
    few, labels = signs.drawn(3, 0)
    more, _ = signs.drawn(4, 0)
    other, _ = signs.drawn(3, 1)
    assert few.shape == (3, 32, 32, 3)
    assert labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(few, more[:3])
    assert (few != other).any((1, 2, 3)).all()


def test_a_sign_is_where_it_was_put():
    # A red square board on a green background, without turning far: the middle is redder, the corners greener.
    board = signs.Image.new("RGBA", (signs.CANVAS,) * 2)
    signs.ImageDraw.Draw(board).rectangle((40, 40, 120, 120), fill=(255, 0, 0, 255))
    background = np.zeros((64, 64, 3), np.float32) + np.float32([0, 200, 0])
    seen = np.stack([signs.distorted(np.random.default_rng(i), board, background) for i in range(8)]).astype(int)
    assert (seen[:, 14:18, 14:18, 0] > seen[:, 14:18, 14:18, 1]).all()
    assert (seen[:, :2, :2, 1] > seen[:, :2, :2, 0]).all()


def test_a_perspective_maps_corners_to_corners():
    target, source = np.array([[0, 0], [8, 0], [8, 8], [0, 8]]), np.array([[1, 2], [9, 3], [7, 9], [0, 6]])
    a, b, c, d, e, f, g, h = signs._perspective(target, source)
    for (x, y), wanted in zip(target, source, strict=True):
        scale = g * x + h * y + 1
        np.testing.assert_allclose([(a * x + b * y + c) / scale, (d * x + e * y + f) / scale], wanted, atol=1e-9)


def test_a_run_on_gtsrbs_layout(tmp_path, monkeypatch):
    write(tmp_path / "GTSRB")
    photograph(tmp_path / "mine" / "sign.png", (0, 200, 0))
    monkeypatch.setattr(recognize, "network", lambda classes: jc.serial(jc.GlobalAvgPool(), jc.Dense(classes)))
    arguments = f"--gtsrb {tmp_path / 'GTSRB'} --folder {tmp_path / 'mine'} --epochs 30 --lr 0.3 --quiet"
    metrics = signs.main([*arguments.split(), "--out", str(tmp_path / "out")])
    assert metrics["test_accuracy"] == 1
    assert metrics["images"] == [4, 1]
    (guess,) = metrics["pictures"].values()
    assert next(iter(guess)) == "stop"
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    names = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert names == {"learning_curves", "confusion", "signs", "pictures"}


def test_missing_icons_and_files_are_one_sentence(tmp_path, monkeypatch):
    signs.icons.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(FileNotFoundError, match=r"is not installed: pip install --no-deps qtawesome==1\.4\.2$"):
        signs.main(["--out", str(tmp_path / "out")])
    with pytest.raises(jc.data.DataError, match="Final_Training/Images"):
        signs.main(["--gtsrb", str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_nineteen_of_twenty_drawn_signs_are_recognized(tmp_path):
    need_icons()
    pytest.importorskip("skimage")
    assert signs.main(["--quiet", "--out", str(tmp_path)])["test_accuracy"] >= 0.95
