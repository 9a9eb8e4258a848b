"""A detector trained on scenes, from the command line to the report; boxes of users that are read or refused."""

import json
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jaxconv as jc
from experiments import detect_scenes
from jaxconv.errors import ArgumentError

SMALL = "--scenes 16 --test-scenes 8 --size 32 --width 16 --epochs 1 --batch 8 --quiet".split()


@pytest.fixture
def table(tmp_path):
    """A table of four images of 40x80 pixels, with one box in each but the last."""
    rows = []
    for i in range(4):
        Image.fromarray(np.full((40, 80, 3), 60 * i, np.uint8)).save(tmp_path / f"{i}.png")
        objects = {"boxes": [[8, 10, 24 + i, 30]], "labels": [i % 2]} if i < 3 else {"boxes": [], "labels": []}
        rows.append({"path": f"{i}.png", **objects})
    return write(tmp_path / "boxes.jsonl", rows)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def changed(table, **entries):
    """Changes the second line of a table."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    rows[1] |= entries
    return write(table, [{k: v for k, v in row.items() if v is not None} for row in rows])


@pytest.mark.slow
def test_a_run_finds_measures_and_draws(tmp_path):
    pytest.importorskip("pycocotools")
    picture = tmp_path / "plain.png"
    Image.fromarray(np.full((50, 40, 3), 128, np.uint8)).save(picture)
    out = tmp_path / "out"
    metrics = detect_scenes.main([*SMALL, "--image", str(picture), "--out", str(out)])
    assert json.loads((out / "metrics.json").read_text()) == metrics
    assert metrics["images"] == [16, 8]
    assert 0 <= metrics["AP50"] <= 1
    # After two steps nothing is found; that is an empty result.
    assert metrics["pictures"][str(picture)]["boxes"] == []
    assert {path.name for path in out.glob("*.png")} == {"learning_curves.png", "held_out.png", "pictures.png"}
    again = detect_scenes.main(
        [*SMALL, "--weights", str(out / "weights.safetensors"), "--out", str(tmp_path / "again")]
    )
    assert again["AP"] == metrics["AP"]


@pytest.mark.slow
def test_a_run_on_a_table(table, tmp_path):
    pytest.importorskip("pycocotools")
    metrics = detect_scenes.main([*SMALL, "--table", str(table), "--out", str(tmp_path / "out")])
    assert metrics["images"] == [3, 1]


@pytest.mark.slow
def test_held_out_scenes_have_an_ap50_of_nine_tenths(tmp_path):
    pytest.importorskip("pycocotools")
    pytest.importorskip("skimage")
    metrics = detect_scenes.main(["--quiet", "--out", str(tmp_path)])
    assert metrics["AP50"] >= 0.9


def test_boxes_are_moved_with_their_images(monkeypatch):
    monkeypatch.setattr(jc.data, "color_jitter", lambda key, images, **_: images)
    images = np.zeros((32, 64, 64, 3), np.float32)
    images[:, 20:40, 16:44] = 1
    targets = {
        "boxes": np.tile(np.float32([[16, 20, 44, 40], [0, 0, 0, 0]]), (32, 1, 1)),
        "labels": np.zeros((32, 2), np.int32),
        "valid": np.tile([True, False], (32, 1)),
    }
    moved, found = detect_scenes.augment(jax.random.key(0), images, targets)
    for image, box in zip(np.asarray(moved), np.asarray(found["boxes"])[:, 0], strict=True):
        rows, columns = np.nonzero(image[..., 0] > 0.75)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(seen - box).max() <= 1
    assert np.asarray(found["valid"]).tolist() == [[True, False]] * 32
    assert np.ptp(found["boxes"][:, 0, 0]) > 5


def test_an_object_that_has_left_the_image_does_not_count():
    images = np.zeros((32, 64, 64, 3), np.float32)
    targets = {
        "boxes": np.tile(np.float32([[0, 20, 6, 40], [0, 0, 0, 0]]), (32, 1, 1)),
        "labels": np.zeros((32, 2), np.int32),
        "valid": np.tile([True, False], (32, 1)),
    }
    _, found = detect_scenes.augment(jax.random.key(0), images, targets)
    area, valid = np.asarray(jc.box_area(found["boxes"]))[:, 0], np.asarray(found["valid"])[:, 0]
    assert 0 < valid.sum() < 32
    assert area[~valid].max() < 0.4 * 1.2**2 * 120
    assert area[valid].min() > 0.4 * 0.8**2 * 120


def test_a_table_is_resized_with_its_boxes(table):
    data = detect_scenes.own(table, 32, seed=0)
    assert data.images.shape == (3, 32, 32, 3)
    assert data.test_images.shape == (1, 32, 32, 3)
    assert data.classes == ("class 0", "class 1")
    boxes = np.concatenate([data.targets["boxes"], data.test_targets["boxes"]])[:, 0]
    gray = np.concatenate([data.images, data.test_images])[:, 0, 0, 0]
    for value, box in zip(gray, boxes, strict=True):
        i = value // 60
        wanted = [8 * 0.4, 10 * 0.8, (24 + i) * 0.4, 30 * 0.8] if i < 3 else [0] * 4
        np.testing.assert_allclose(box, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"boxes": [[24, 10, 8, 30]]}, r"1\.png: boxes must have x1 <= x2"),
        ({"boxes": [[8, 10, 24, 41]]}, r"1\.png: boxes must"),
        ({"boxes": [[8, 10, 24]]}, r"1\.png: boxes must have shape \(\.\.\., 4\)"),
        ({"boxes": [[8, 10, 8, 30]]}, "boxes must have x1 < x2"),
        ({"labels": [0, 1]}, "labels must have one entry for each box"),
        ({"labels": [-1]}, "labels must not be negative, got -1"),
        ({"labels": ["cat"]}, "labels must be numbers"),
        ({"labels": None}, "must have the columns"),
        ({"path": "nowhere.png"}, r"nowhere\.png does not exist"),
    ],
)
def test_wrong_tables_are_one_clear_error(table, entries, message):
    with pytest.raises(ValueError, match=message):
        detect_scenes.own(changed(table, **entries), 32, seed=0)


def test_a_table_must_have_two_images(table):
    write(table, [json.loads(table.read_text().splitlines()[0])])
    with pytest.raises(ValueError, match="at least two images"):
        detect_scenes.own(table, 32, seed=0)


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path):
    out = ["--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="--size must be a multiple of 16, got 100"):
        detect_scenes.main(["--size", "100", *out])
    with pytest.raises(ArgumentError, match="size must be at least 32, got 16"):
        detect_scenes.main(["--size", "16", *out])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        detect_scenes.main(["--image", "nowhere.png", *out])
    with pytest.raises(ValueError, match="--folder must have at least one image"):
        detect_scenes.main(["--folder", str(tmp_path), *out])
    with pytest.raises(FileNotFoundError, match="--folder must be a folder"):
        detect_scenes.main(["--folder", str(tmp_path / "none"), *out])
    assert not (tmp_path / "out").exists()


def test_pycocotools_is_asked_for_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r"needs the package pycocotools: pip install '\.\[detection\]'"):
        detect_scenes.main(["--out", str(tmp_path / "out")])
