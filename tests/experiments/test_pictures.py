"""Photographs by name or file, sizes, and PNGs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from experiments.pictures import photograph, progress, sized, write_png
from tests.experiments.photographs import photograph as packaged


def test_a_photograph_is_a_file_or_a_name(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((4, 6, 3), 9, np.uint8)).save(path)
    assert_array_equal(photograph(str(path)), np.full((4, 6, 3), 9))
    assert_array_equal(photograph("chelsea.png"), np.asarray(Image.open(packaged("chelsea.png"))))
    with pytest.raises(FileNotFoundError, match="is no file, and neither scikit-image nor"):
        photograph("nothing.png")


def test_sizes_keep_the_ratio_and_the_range():
    image = np.random.default_rng(0).integers(0, 2, (40, 61, 3), np.uint8) * 255
    x = sized(image, 20)
    assert x.shape == (1, 20, 30, 3)
    assert 0 <= x.min() < x.max() <= 1
    assert_allclose(sized(image, 40)[0], image / 255, atol=1e-6)


def test_pngs_are_written_whole(tmp_path):
    write_png(tmp_path / "x.png", np.full((3, 5, 3), 0.2))
    assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), np.full((3, 5, 3), 51))
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_a_bar_shows_the_steps(capsys):
    with progress("work", 4, False, lambda step, loss: f"part {step // 2}, score {-loss}") as on_step:
        on_step(1, -2.0)
        on_step(4, -3.5)
    shown = capsys.readouterr().err
    assert "work: 100%" in shown
    assert "4/4" in shown
    assert "part 2, score 3.5" in shown
    with progress("work", 4, quiet=False) as on_step:
        on_step(4, 3.5)
    assert "loss 3.5" in capsys.readouterr().err
    with progress("work", 4, quiet=True) as on_step:
        on_step(4, 1.0)
    assert capsys.readouterr().err == ""
