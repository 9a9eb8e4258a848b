"""Text in pictures: lines from maps, characters from probabilities, and PP-OCR against onnxruntime."""

import importlib.util

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from experiments import reading

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def model():
    if not importlib.util.find_spec("rapidocr_onnxruntime"):
        pytest.skip("the package rapidocr-onnxruntime is not installed")
    return reading.reader()


def written(text, size=(64, 320)):
    picture = Image.new("RGB", size[::-1], (235, 235, 225))
    ImageDraw.Draw(picture).text((16, 14), text, fill=(20, 20, 60), font=ImageFont.load_default(32))
    return np.asarray(picture)


def test_lines_are_rectangles_that_grow_from_top_to_bottom():
    probability = np.zeros((64, 128))
    probability[40:46, 10:50] = 0.9
    probability[8:14, 70:110] = 0.8
    probability[9:15, 10:50] = 0.9
    probability[30:36, 10:50] = 0.35
    probability[60, 60] = 1.0
    found = reading.corners_of(probability, (128, 256))
    growth = 6 * 40 * 1.6 / 92
    assert found.shape == (3, 4, 2)
    for quad, (x, y) in zip(found / 2, ((10, 9), (70, 8), (10, 40)), strict=True):
        left, top, right, bottom = x - growth, y - growth, x + 40 + growth, y + 6 + growth
        np.testing.assert_allclose(quad, [[left, top], [right, top], [right, bottom], [left, bottom]])
    assert reading.corners_of(np.zeros((32, 32)), (40, 40)).shape == (0, 4, 2)


def test_a_sloping_line_becomes_horizontal():
    y, x = np.mgrid[:100, :200] + 0.5
    along, across = (x - 100) * np.cos(0.2) + (y - 50) * np.sin(0.2), (y - 50) * np.cos(0.2) - (x - 100) * np.sin(0.2)
    inside = (abs(along) < 70) & (abs(across) < 8)
    (quad,) = reading.corners_of(inside.astype(float), (100, 200))
    slope = np.arctan2(*(quad[1] - quad[0])[::-1])
    assert slope == pytest.approx(0.2, abs=0.02)
    growth = 140 * 16 * 1.6 / 312
    assert np.linalg.norm(quad[1] - quad[0]) == pytest.approx(140 + 2 * growth, abs=3)
    assert np.linalg.norm(quad[3] - quad[0]) == pytest.approx(16 + 2 * growth, abs=3)
    # The line's left half is dark and its right half is light.
    image = np.repeat(np.uint8(255 * (along > 0))[..., None], 3, -1)
    piece = reading.line_input(image, quad)
    width = int(48 * (140 + 2 * growth) / (16 + 2 * growth))
    assert piece[:, : width // 2 - 8].max() < -0.9
    assert piece[:, width // 2 + 8 : width - 8].min() > 0.9


def test_repetitions_and_blanks_are_dropped():
    steps = np.full((6, 4), 0.1)
    steps[np.arange(6), [0, 1, 1, 0, 1, 3]] = 0.7
    assert reading.decoded(steps, ("", "a", "b", " ")) == ("aa ", pytest.approx(0.7))
    assert reading.decoded(np.eye(4)[[0, 0]], ("", "a", "b", " ")) == ("", 0.0)


def test_a_line_is_scaled_and_padded():
    image = np.full((30, 200, 3), 255, np.uint8)
    image[..., 2] = 0
    x = reading.line_input(image, np.array([[0, 5], [180, 5], [180, 29], [0, 29]]))
    assert x.shape == (48, 640, 3)
    np.testing.assert_allclose(x[:, :360], np.broadcast_to([-1, 1, 1], (48, 360, 3)))
    assert not x[:, 360:].any()


@pytest.mark.slow
def test_drawn_text_is_read_and_the_outputs_are_onnxruntimes(model):
    assert len(model.characters) == 6625
    lines, inputs = reading.read(model, written("Stop 425"), shorter=64)
    assert [line.text for line in lines] == ["Stop 425"]
    assert lines[0].probability > 0.9
    pytest.importorskip("onnxruntime")
    for part, x in ((model.finds, inputs["finds"]), (model.reads, inputs["reads"])):
        wanted = part.by_onnxruntime(x)
        found = part(x)
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_a_page_is_read(model, tmp_path):
    pytest.importorskip("skimage")
    texts = reading.main(["--out", str(tmp_path)])
    assert len(texts["page"]) > 3
    assert (tmp_path / "page_text.png").exists()
    assert (tmp_path / "page.txt").read_text().splitlines() == texts["page"]
    plain = tmp_path / "plain.png"
    Image.new("RGB", (64, 64), (90, 90, 90)).save(plain)
    assert reading.main(["--image", str(plain), "--out", str(tmp_path)]) == {"plain": []}


def test_missing_files_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"must have a file \*det\*\.onnx"):
        reading.reader(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        reading.main(["--image", "nowhere.png", "--out", str(tmp_path / "out")])
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if "rapid" in name else real(name))
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps rapidocr-onnxruntime==1\.4\.4$"):
        reading.reader()
