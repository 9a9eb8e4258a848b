"""The experiment from the command line to its PNGs, on a small network."""

import jax
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import dream, pretrained


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)).save(path)
    return str(path)


@pytest.fixture
def small(monkeypatch):
    net = jc.serial(one=jc.serial(jc.Conv(4), jax.nn.relu), two=jc.Conv(4))
    model = pretrained.Pretrained(net, *net.init(jax.random.key(0), (1, 16, 20, 3)), pretrained.scaled_around_127)
    monkeypatch.setattr(pretrained, "efficientnet_lite0", lambda path=None: model)


def test_every_layer_has_its_dream(small, photograph, tmp_path, capsys):
    arguments = ["--image", photograph, "--layers", "one", "two", "--side", "16", "--octaves", "2", "--steps", "2"]
    found = dream.main([*arguments, "--out", str(tmp_path / "out")])
    assert list(found) == ["one", "two"]
    assert np.any(found["one"] != found["two"])
    for path, image in found.items():
        assert image.shape == (16, 20, 3)
        with Image.open(tmp_path / "out" / f"noise_{path}.png") as written:
            assert np.abs(np.asarray(written) / 255 - image).max() < 0.5 / 255 + 1e-6
    shown = capsys.readouterr()
    assert "layer two: 100%" in shown.err
    assert "octave 2 of 2, mean square" in shown.err
    assert str(tmp_path / "out" / "noise_two.png") in shown.out


def test_wrong_arguments_are_named(small, photograph, tmp_path, capsys):
    with pytest.raises(SystemExit):
        dream.main(["--steps", "0"])
    assert "--steps" in capsys.readouterr().err
    with pytest.raises(jc.PathError, match="path must name a layer of net, got 'tow': nearest are 'two'"):
        dream.main(["--image", photograph, "--layers", "one", "tow", "--quiet", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="is no file"):
        dream.main(["--image", "no.png", "--out", str(tmp_path / "never")])
    assert not (tmp_path / "never").exists()
