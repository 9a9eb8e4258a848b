"""Images that stay in their files: folders of classes, tables and tar shards, and what is refused."""

import io
import json
import tarfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from jaxconv.data import CenterCrop, DataError, image_folder, read_image, split
from jaxconv.errors import ShapeError
from tests.data.photos import class_folder, jpeg, photo


@pytest.fixture
def folder(tmp_path):
    return class_folder(tmp_path / "photos")


def table(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text)
    return path


def shard(path, examples):
    """Writes a tar with the files of each example: a dict of bytes by ending."""
    with tarfile.open(path, "w") as tar:
        for i, files in enumerate(examples):
            for kind, content in files.items():
                info = tarfile.TarInfo(f"{i:04}.{kind}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def test_a_folder_of_classes(folder):
    (folder / "cat" / "notes.txt").write_text("no image")
    source = image_folder(folder)
    assert (len(source), source.classes) == (7, ("cat", "dog"))
    assert_array_equal(source.targets, [0, 0, 0, 1, 1, 1, 1])
    assert source.targets.dtype == np.int32
    assert list(source.names) == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", *(f"dog/{i}.jpg" for i in range(4))]
    image, label = source[4]
    assert label == 1
    assert_array_equal(image, read_image(folder / "dog" / "1.jpg"))
    assert source.load(4, CenterCrop(16))[0].shape == (16, 16, 3)
    assert repr(source) == f"ImageFolder({str(folder)!r}: 7 images, 2 classes)"
    with pytest.raises(IndexError):
        source[7]


def test_classes_of_another_data_set(folder):
    source = image_folder(folder, classes=("bird", "cat", "dog"))
    assert_array_equal(source.targets, [1, 1, 1, 2, 2, 2, 2])
    with pytest.raises(DataError, match=r"subfolders named for the classes \('cat', 'horse'\), got dog"):
        image_folder(folder, classes=("cat", "horse"))
    with pytest.raises(DataError, match="classes must have no name twice"):
        image_folder(folder, classes=("cat", "cat", "dog"))


def test_a_part_of_a_data_set(folder):
    source = image_folder(folder)
    kept, held_out = split(source.targets, 0.3, seed=0)
    parts = source.take(kept), source.take(held_out)
    assert sorted(name for part in parts for name in part.names) == sorted(source.names)
    assert parts[1].names[0] == source.names[held_out[0]]
    assert_array_equal(parts[1].targets, source.targets[held_out])
    assert len({source.fingerprint(), *(part.fingerprint() for part in parts)}) == 3
    with pytest.raises(ShapeError, match=r"indices must be \(N,\) integers"):
        source.take([0.5])


def test_the_fingerprint_is_of_names_and_targets(folder):
    source = image_folder(folder)
    assert source.fingerprint() == image_folder(folder).fingerprint()
    (folder / "cat" / "0.jpg").rename(folder / "cat" / "9.jpg")
    assert source.fingerprint() != image_folder(folder).fingerprint()


def test_csv(folder):
    one = image_folder(table(folder, "path,label\ncat/0.jpg,3\ndog/1.jpg,4\n"))
    assert_array_equal(one.targets, np.array([3, 4], np.int32), strict=True)
    assert_array_equal(one[1][0], read_image(folder / "dog" / "1.jpg"))
    several = image_folder(table(folder, "age,path,label\n1.5,cat/0.jpg,3\n2,dog/1.jpg,4\n"))
    assert_array_equal(several.targets["age"], np.array([1.5, 2], np.float32), strict=True)
    assert several[1][1] == {"age": 2, "label": 4}
    named = image_folder(table(folder, "path,label\ncat/0.jpg,dog\ndog/1.jpg,cat\n"), classes=("cat", "dog"))
    assert_array_equal(named.targets, [1, 0])


def test_json_lines(folder):
    lines = [
        {"path": "cat/0.jpg", "boxes": [[0, 0, 5, 5.5]], "label": [1]},
        {"path": "dog/0.jpg", "boxes": [], "label": []},
    ]
    source = image_folder(table(folder, "\n".join(map(json.dumps, lines)), "table.jsonl"))
    assert [a.shape for a in source.targets["boxes"]] == [(1, 4), (0,)]
    assert [a.dtype for a in source.targets["boxes"]] == [np.float32, np.float32]
    assert [a.dtype for a in source.targets["label"]] == [np.int32, np.int32]
    assert source[0][1]["boxes"].tolist() == [[0, 0, 5, 5.5]]
    assert [len(a) for a in source.take([1]).targets["boxes"]] == [0]
    assert len(source.fingerprint()) == 16


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "", "header line with the column 'path', got ''"),
        ("t.csv", "file,label\ncat/0.jpg,1\n", "header line with the column 'path', got 'file, label'"),
        ("t.csv", "path,label\n", "a line for each image, got no line"),
        ("t.csv", "path\ncat/0.jpg\n", "at least one column of targets, got only 'path'"),
        ("t.csv", "path,label\ncat/0.jpg,1\ncat/7.jpg,1\n", r"line 3: the image .*7\.jpg does not exist"),
        ("t.csv", "path,label\ncat/0.jpg,1\ncat/1.jpg\n", "line 3: must have 2 columns"),
        ("t.csv", "path,label\ncat/0.jpg,1,2\n", "line 2: must have 2 columns"),
        ("t.csv", "path,label\ncat/0.jpg,cat\n", "line 2: label must be a number, or classes be given, got 'cat'"),
        ("t.csv", "path,label\ncat/0.jpg,\n", "line 2: label must be a number, or classes be given, got ''"),
        ("t.csv", "path,label\ncat/0.jpg,3000000000\n", "label must be integers that int32 can represent"),
        ("t.jsonl", "{", "line 1: must be a JSON object"),
        ("t.jsonl", "[1]", "line 1: must be a JSON object, got list"),
        ("t.jsonl", '{"label": 1}', "line 1: must have a column 'path'"),
        (
            "t.jsonl",
            '{"path": "cat/0.jpg", "a": 1}\n{"path": "cat/1.jpg", "b": 1}',
            "line 2: must have the columns path, a",
        ),
        ("t.jsonl", '{"path": "cat/0.jpg", "a": [[1], [1, 2]]}', "line 1: a must be numbers in lists of equal lengths"),
        (
            "t.jsonl",
            '{"path": "cat/0.jpg", "a": null}',
            "line 1: a must be numbers in lists of equal lengths, got None",
        ),
        ("t.txt", "cat/0.jpg 1", r"must be a folder, a table \(.csv, .jsonl, .ndjson\) or a .tar"),
    ],
)
def test_tables_that_are_refused(folder, name, text, message):
    with pytest.raises(DataError, match=message):
        image_folder(table(folder, text, name))


def test_labels_of_a_table_are_in_the_range_of_the_classes(folder):
    with pytest.raises(DataError, match="line 2: label must be from 0 to 1, got 2"):
        image_folder(table(folder, "path,label\ncat/0.jpg,2\n"), classes=("cat", "dog"))


def test_names_of_classes_that_look_like_numbers(folder):
    text = "path,label\ncat/0.jpg,0\ncat/1.jpg,nan\n"
    assert image_folder(table(folder, text), classes=("0", "nan")).targets.tolist() == [0, 1]
    with pytest.raises(DataError, match="line 2: label must be the name or the index of a class, got 1, which names"):
        image_folder(table(folder, "path,label\ncat/0.jpg,1\n"), classes=("1", "2"))
    lines = '{"path": "cat/0.jpg", "label": "1"}\n{"path": "cat/1.jpg", "label": 1}\n'
    assert image_folder(table(folder, lines, "t.jsonl"), classes=("1", "2")).targets.tolist() == [0, 1]


def test_tar_shards(tmp_path):
    images = [photo(i) for i in range(5)]
    shards = tmp_path / "shards"
    shards.mkdir()
    shard(shards / "a.tar", [{"jpg": jpeg(images[i]), "cls": b"%d\n" % i} for i in range(3)])
    shard(shards / "b.tar", [{"cls": b"%d" % i, "jpg": jpeg(images[i])} for i in (3, 4)])
    source = image_folder(shards)
    assert_array_equal(source.targets, np.arange(5, dtype=np.int32), strict=True)
    assert source.names[3] == "b.tar/0000.jpg"
    for i in (4, 0, 3):
        assert np.abs(source[i][0].astype(int) - images[i]).max() < 12
    assert np.abs(source.take([4])[0][0].astype(int) - images[4]).max() < 12
    assert len(image_folder(shards / "b.tar")) == 2
    assert image_folder([shards / "b.tar", shards / "a.tar"]).targets.tolist() == [3, 4, 0, 1, 2]
    assert source.versions().shape == (5, 2)


def test_tar_shards_with_json_and_names(tmp_path):
    files = [{"jpg": jpeg(photo(i)), "json": json.dumps({"label": i, "box": [0, i]}).encode()} for i in range(2)]
    source = image_folder(shard(tmp_path / "a.tar", files))
    assert_array_equal(source.targets["box"], [[0, 0], [0, 1]])
    named = shard(tmp_path / "b.tar", [{"jpg": jpeg(photo(0)), "cls": b"dog"}])
    assert image_folder(named, classes=("cat", "dog")).targets.tolist() == [1]
    with pytest.raises(DataError, match="the target must be a number, or classes be given, got 'dog'"):
        image_folder(named)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "must have images, got none"),
        ([{"jpg": b"x"}], r"example 0000: must have one image and a \.cls or \.json file, got jpg"),
        ([{"cls": b"1"}], r"example 0000: must have one image and a \.cls or \.json file, got cls"),
        ([{"jpg": b"x", "json": b"{"}], r"0000\.json: must be JSON, got b'{'"),
        ([{"jpg": b"x", "cls": b"1"}, {"jpg": b"x", "json": b'{"a": 1}'}], "must have the fields of the first one"),
    ],
)
def test_tars_that_are_refused(tmp_path, files, message):
    path = shard(tmp_path / "a.tar", files)
    with pytest.raises(DataError, match=message):
        image_folder(path)


def test_a_tar_cut_short_is_refused(tmp_path):
    path = shard(tmp_path / "a.tar", [{"jpg": jpeg(photo(i)), "cls": b"1"} for i in range(3)])
    content = path.read_bytes()
    for size in (0, 100, 512, 700, len(content) // 2, 10 * 512):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"a\.tar"):
            image_folder(path)
    # Also exactly behind an example.
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        behind = tar.getmembers()[2].offset
    path.write_bytes(content[:behind])
    with pytest.raises(DataError, match="truncated or damaged: its end mark is missing"):
        image_folder(path)


def test_a_compressed_tar_is_refused(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(DataError, match="must be an uncompressed tar"):
        image_folder(path)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="a subfolder of images for each class, got no images"):
        image_folder(tmp_path)
    (tmp_path / "1.jpg").write_bytes(jpeg(photo(0)))
    with pytest.raises(DataError, match="got images that are in no subfolder"):
        image_folder(tmp_path)
    class_folder(tmp_path, [("cat", 1)])
    with pytest.raises(DataError, match=r"at least two classes, got only 'cat'; .* pass classes=\('cat',\)"):
        image_folder(tmp_path)
    assert image_folder(tmp_path, classes=("cat",)).targets.tolist() == [0]
    with pytest.raises(FileNotFoundError):
        image_folder(tmp_path / "nowhere")


def test_the_parts_of_a_data_set_are_no_classes(tmp_path):
    class_folder(tmp_path, [("train", 1), ("val", 1)])
    with pytest.raises(DataError, match="got train, val, which are parts of a data set: give one of them, such as"):
        image_folder(tmp_path)


def test_an_image_that_disappears_is_named(folder):
    source = image_folder(folder)
    (folder / "cat" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"cat/1\.jpg cannot be read: No such file"):
        source[1]


def test_a_tar_that_disappears_is_named(tmp_path):
    source = image_folder(shard(tmp_path / "a.tar", [{"jpg": jpeg(photo(0)), "cls": b"0"}]))
    (tmp_path / "a.tar").unlink()
    with pytest.raises(DataError, match=r"a\.tar/0000\.jpg cannot be read: No such file"):
        source[0]
