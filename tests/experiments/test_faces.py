"""The command about faces: its files, what is refused, its crops; on the real weights, what it claims."""

import importlib.util
import json

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from experiments import faces, pretrained
from jaxconv.detect import Faces
from tests.experiments.photographs import photograph

NONE = Faces(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))
ONE = Faces(
    np.array([[4, 5, 24, 29]], np.float32),
    np.array([0.875], np.float32),
    np.array([[[9, 12], [19, 12], [14, 17], [10, 22], [18, 22]]], np.float32),
)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder of two small images, one of them with a face by a detector that is told so."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name, shade in (("a.png", 40), ("b.png", 200)):
        Image.fromarray(np.full((30, 40, 3), shade, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    monkeypatch.setattr(pretrained, "mtcnn", lambda folder: [])
    monkeypatch.setattr(faces, "find_faces", lambda networks, image, min_size: ONE if image.max() == 40 else NONE)
    real, references = importlib.util.find_spec, ("torch", "torchvision", "facenet_pytorch")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in references else real(name, *rest)
    )
    return folder


def test_a_folder_gives_a_report_also_of_images_without_faces(photographs, tmp_path, capsys):
    out = tmp_path / "out"
    metrics = faces.main(["--folder", str(photographs), "--out", str(out), "--quiet"])
    assert metrics["faces"] == {"a": 1, "b": 0}
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert {path.name for path in out.iterdir()} == {"metrics.json", "faces.png", "report.html"}
    shown = capsys.readouterr().out
    assert "0.875  4.0 5.0 24.0 29.0" in shown
    assert "a: 1 face in" in shown
    assert "b: 0 faces in" in shown
    page = (out / "report.html").read_text()
    assert "<td>a 1, b 0</td>" in page
    assert "{&#x27;" not in page
    assert "not compared" in page


def test_bad_images_are_refused_before_anything_is_written(photographs, tmp_path):
    out = tmp_path / "out"
    twice = str(photographs / "a.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="files of different names, got a, a"):
        faces.main(["--image", twice, twice, "--out", str(out)])
    with pytest.raises(ValueError, match="--folder must have at least one image"):
        faces.main(["--folder", str(tmp_path / "empty"), "--out", str(out)])
    with pytest.raises(ValueError, match="is not an image"):
        faces.main(["--image", str(photographs / "notes.txt"), "--out", str(out)])
    assert not out.exists()


def test_missing_weights_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"npm install @vladmandic/face-api, or pass the folder"):
        pretrained.face_descriptor()
    path = tmp_path / "node_modules" / "name" / "model" / "x.json"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    found = [pretrained.npm_file("name", "model/x.json", folder) for folder in (None, path.parents[1], path.parent)]
    assert {file.resolve() for file in found} == {path}


def test_crops_are_about_the_face():
    image = np.zeros((40, 40, 3), np.uint8)
    image[5:29, 4:24] = 255
    assert_array_equal(faces.cut(image, np.array([4, 5]), 20, 10), np.full((10, 10, 3), 255))
    assert faces.cut(image, np.array([-20, 5]), 20, 10).max() == 0
    # Eyes and mouth of the points are 10 wide and 10 apart, so the square has a side of floor(sqrt(125) / 0.45) = 24.
    assert faces.aligned(image, ONE.points[0], 24).shape == (24, 24, 3)
    assert_array_equal(faces.aligned(image, ONE.points[0], 24)[:, :22].max((1, 2)) > 0, [True] * 24)


def test_faces_that_differ_in_number_are_infinitely_different():
    assert faces.difference(ONE, NONE) == np.inf
    assert faces.difference(NONE, NONE) == 0
    assert faces.difference(ONE, ONE._replace(points=ONE.points + 0.5)) == 0.5


@pytest.mark.slow
def test_the_command_on_its_own_pictures(tmp_path):
    photograph("astronaut.png")
    try:
        pretrained.mtcnn()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    metrics = faces.main(["--out", str(tmp_path), "--quiet"])
    assert metrics["faces"]["astronaut"] == 1
    assert metrics["faces"]["group"] >= 6
    assert min(metrics["face_or_not"].values()) >= 0.9
    assert metrics["difference_to_facenet_pytorch"] in (None, pytest.approx(0, abs=2e-3))
    assert (tmp_path / "face_or_not.png").exists()
