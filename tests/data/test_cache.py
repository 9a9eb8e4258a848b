"""The file of decoded images: its pixels, what is refused, and that an interrupted write leaves nothing."""

import os

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from jaxconv.data import CenterCrop, DataError, RandomResizedCrop, batches, image_cache, image_folder
from jaxconv.errors import ArgumentError
from tests.data.photos import class_folder


@pytest.fixture
def folder(tmp_path):
    return class_folder(tmp_path / "photos")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "pixels"


def test_images_are_those_of_the_folder_made_smaller(folder, path):
    source = image_folder(folder)
    whole = image_cache(source, path, size=100)
    assert len(whole) == 7
    assert whole.classes == ("cat", "dog")
    for i in range(7):
        assert_array_equal(whole[i][0], source[i][0])
        assert whole[i][1] == source[i][1]
    smaller = image_cache(source, path.with_name("smaller"), size=45)
    image = np.asarray(Image.fromarray(source[3][0]).resize((60, 45), Image.Resampling.BILINEAR))
    assert_allclose(smaller[3][0].astype(int), image, atol=1)


def test_windows_are_those_of_the_images(folder, path):
    source = image_folder(folder)
    cache = image_cache(source, path)
    crop = RandomResizedCrop(40)
    ours, theirs = (list(batches(data, 3, key=1, crop=crop)) for data in (cache, source))
    for (images, labels), (expected, expected_labels) in zip(ours, theirs, strict=True):
        assert_array_equal(labels, expected_labels)
        assert_array_equal(images, expected)


def test_a_smaller_image_gives_windows_close_to_those_of_the_whole(folder, path):
    cache = image_cache(image_folder(folder), path, size=30)
    got, expected = (data.load(2, CenterCrop(20))[0] for data in (cache, image_folder(folder)))
    assert_allclose(got.astype(int), expected.astype(int), atol=25)


def test_the_file_is_written_once(folder, path):
    source = image_folder(folder)
    image_cache(source, path)
    written = path.stat()
    again = image_cache(source, path, workers=1)
    assert path.stat().st_mtime_ns == written.st_mtime_ns
    assert again.fingerprint() == image_cache(source, path).fingerprint() != source.fingerprint()
    assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []


def test_a_stale_file_is_refused(folder, path):
    image_cache(image_folder(folder), path)
    with pytest.raises(DataError, match=r"pixels is stale: its size is 256 instead of 128; delete it, or give another"):
        image_cache(image_folder(folder), path, size=128)
    with pytest.raises(DataError, match="pixels is stale: its images is 7 instead of 2"):
        image_cache(image_folder(folder).take([0, 1]), path)
    with pytest.raises(DataError, match="pixels is stale: it is of images of other names or targets"):
        image_cache(image_folder(folder).take([1, 0, 2, 3, 4, 5, 6]), path)
    os.utime(folder / "cat" / "1.jpg", ns=(1, 1))
    with pytest.raises(DataError, match="pixels is stale: the images' files have changed since it was written"):
        image_cache(image_folder(folder), path)


def test_a_damaged_file_is_refused(folder, path):
    source = image_folder(folder)
    image_cache(source, path)
    content = path.read_bytes()
    for size in (0, 10, 16, 30, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"pixels (is damaged or truncated|must be a cache of images)"):
            image_cache(source, path)
    path.write_bytes(content[:-200] + b"?" + content[-199:])
    with pytest.raises(DataError, match="pixels is damaged: the checksum of its index is wrong"):
        image_cache(source, path)
    # A pixel of the second image.
    at = 16 + 60 * 80 * 3 + 100
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    cache = image_cache(source, path)
    cache.load(0, CenterCrop(8))
    with pytest.raises(DataError, match=r"pixels is damaged: the pixels of .*cat/1\.jpg are altered"):
        cache.load(1, CenterCrop(8))


def test_broken_images_are_left_out_and_counted(folder, path):
    (folder / "dog" / "0.jpg").write_bytes(b"\xff\xd8")
    source = image_folder(folder)
    with pytest.raises(DataError, match=r"dog/0\.jpg"):
        image_cache(source, path)
    assert list(path.parent.iterdir()) == [folder]
    for _ in range(2):
        cache = image_cache(source, path, broken="skip")
        assert len(cache) == 6
        assert [os.path.relpath(name, folder) for name in cache.skipped] == ["dog/0.jpg"]
        assert_array_equal(cache.targets, [0, 0, 0, 1, 1, 1])
        assert_array_equal(cache[3][0], source[4][0])
    for path_ in folder.rglob("*.jpg"):
        path_.write_bytes(b"")
    with pytest.raises(DataError, match="at least one readable image, got 7 that are broken"):
        image_cache(image_folder(folder), path.with_name("other"), broken="skip")


def test_an_interrupted_write_leaves_nothing(folder, path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        image_cache(image_folder(folder), path)
    assert list(path.parent.iterdir()) == [folder]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_the_file_has_the_permissions_of_any_new_one(folder, path):
    image_cache(image_folder(folder), path)
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_arguments_out_of_range(folder, path):
    with pytest.raises(ArgumentError, match="size must be at least 1, got 0"):
        image_cache(image_folder(folder), path, size=0)
    with pytest.raises(ArgumentError, match="broken must be one of raise, skip, got 'ignore'"):
        image_cache(image_folder(folder), path, broken="ignore")
