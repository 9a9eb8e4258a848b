"""Galaxies that are simulated, objects of a photograph, and a whole run on a file like Galaxy10's."""

import importlib
import json

import numpy as np
import pytest

import jaxconv as jc
from experiments import galaxies, recognize, signs
from tests.data.test_galaxies import write

QUIET = ["--quiet", "--out"]


def need_galsim():
    pytest.importorskip("galsim", reason="the package galsim is not installed")


def test_simulated_galaxies_are_a_function_of_the_seed():
    need_galsim()
    images, labels = galaxies.galaxies(4, 0)
    again = galaxies.simulated("spiral", (0, 1))
    assert images.shape == (4, 64, 64, 3)
    assert labels.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(images[1], again)
    assert (galaxies.simulated("spiral", (1, 1)) != again).any()


def test_simulated_galaxies_are_bright_in_the_middle_and_of_their_shape():
    need_galsim()
    for kind in galaxies.SHAPES:
        images = np.stack([galaxies.simulated(kind, (7, i)) for i in range(4)]).mean(-1)
        assert images[:, 20:44, 20:44].mean() > 1.5 * images[:, [0, 1, -2, -1]].mean()
    # Light along one direction: the ratio of the second moments is that of an edge-on disk.
    y, x = np.mgrid[:64, :64]
    ratios = {}
    for kind in ("edge-on", "elliptical"):
        image = galaxies.simulated(kind, (7, 2)).mean(-1)
        light = np.where(image > 0.35 * image.max(), image, 0)
        points = np.stack([x, y]).reshape(2, -1)
        low, high = np.linalg.eigvalsh(np.cov(points, aweights=light.ravel()))
        ratios[kind] = high / low
    assert ratios["edge-on"] > 6 > ratios["elliptical"]


def test_the_largest_objects_are_cut_out():
    image = np.zeros((200, 300, 3), np.uint8)
    for top, left, side in ((60, 60, 40), (120, 200, 20), (100, 150, 4), (0, 0, 30)):
        image[top : top + side, left : left + side] = 255
    found = galaxies.largest(image)
    # That in the corner has no square around it, and one is too small.
    assert [piece.shape for piece in found] == [(68, 68, 3), (34, 34, 3)]
    assert found[0][14:54, 14:54].min() == 255
    assert found[0][:13].max() == 0
    assert galaxies.largest(np.zeros((50, 50, 3), np.uint8)) == []


@pytest.mark.slow
def test_a_run_on_galaxy10s_layout(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    small = jc.serial(maps=jc.serial(jc.Conv(4, 3, stride=4)), pool=jc.GlobalAvgPool(), scores=jc.Dense(10))
    monkeypatch.setattr(recognize, "network", lambda classes, **_: small)
    monkeypatch.setattr(galaxies, "SIZE", 16)
    path = write(tmp_path / "Galaxy10.h5", count=40)
    metrics = galaxies.main(["--galaxy10", str(path), "--epochs", "1", *QUIET, str(tmp_path / "out")])
    assert metrics["images"] == [36, 4]
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    names = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert names >= {"learning_curves", "confusion", "galaxies"}


def test_a_missing_package_and_file_are_one_sentence(tmp_path, monkeypatch):
    real = importlib.import_module

    def without(name, *arguments):
        if name == "galsim":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ModuleNotFoundError, match=r"galsim, which is not installed: pip install galsim$"):
        galaxies.main([*QUIET, str(tmp_path / "out")])
    with pytest.raises(jc.data.DataError, match="must be a file"):
        galaxies.main(["--galaxy10", str(tmp_path / "none.h5"), *QUIET, str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [galaxies, signs])
def test_weights_that_do_not_exist_are_refused_before_images_are_drawn(command, tmp_path, monkeypatch):
    monkeypatch.setattr(galaxies, "galsim", lambda: None)
    monkeypatch.setattr(galaxies, "galaxies", lambda *_, **__: pytest.fail("simulated"))
    monkeypatch.setattr(signs, "drawn", lambda *_: pytest.fail("drew signs"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        command.main(["--weights", str(tmp_path / "nowhere"), *QUIET, str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_nine_of_ten_simulated_galaxies_are_recognized(tmp_path):
    need_galsim()
    metrics = galaxies.main([*QUIET, str(tmp_path)])
    assert metrics["test_accuracy"] >= 0.9
    assert (tmp_path / "grad_cam.png").exists()
