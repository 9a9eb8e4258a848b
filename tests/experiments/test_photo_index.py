"""The index of a folder: what is read again, what cannot be read, what is kept on disk; and the command."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from experiments import descriptors, photo_index, retrieve

RNG = np.random.default_rng(0)
# The views of a query are described twice: first to compile.
QUERY = 2 * len(descriptors.VIEWS)


def describe(images):
    """The mean colors of quarters, which tell the test's images apart."""
    n, side = images.shape[:2]
    cut = images.reshape(n, 2, side // 2, 2, side // 2, 3).astype(np.float32)
    return cut.mean((2, 4)).reshape(n, -1) / 255


class Described:
    """Counts the images that are described."""

    def __init__(self):
        self.count = 0

    def __call__(self, images):
        self.count += len(images)
        return describe(images)


@pytest.fixture
def described(monkeypatch):
    counter = Described()
    monkeypatch.setattr(descriptors, "describer", lambda weights, batch: (counter, "means"))
    return counter


def write(path, color=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, (2, 2, 3), np.uint8) if color is None else np.full((2, 2, 3), color, np.uint8)
    Image.fromarray(image).resize((48, 32), Image.Resampling.NEAREST).save(path)


@pytest.fixture
def folder(tmp_path):
    for i in range(5):
        write(tmp_path / "photos" / f"sub{i % 2}" / f"{i}.png")
    write(tmp_path / "photos" / ".trash" / "thrown.png")
    return tmp_path / "photos"


def run(folder, out, *more):
    query = str(folder / "sub0/0.png")
    return retrieve.main(["--folder", str(folder), "--query", query, "--quiet", "--out", str(out), *more])


def test_only_new_and_changed_files_are_read_again(folder, tmp_path, described, capsys):
    out = tmp_path / "out"
    metrics = run(folder, out, "--batch", "2")
    assert (metrics["images"], metrics["read"], described.count) == (5, 5, 5 + QUERY)
    assert "  0.000  sub0/0.png" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"index.npz", "metrics.json", "neighbors.png", "report.html"}
    check_rows(photo_index.load(out / "index.npz"), folder)

    described.count = 0
    assert run(folder, out)["read"] == 0
    assert described.count == QUERY

    write(folder / "new.png")
    write(folder / "sub0/2.png")
    os.utime(folder / "sub0/2.png", ns=(1, 1))
    (folder / "sub1/1.png").unlink()
    described.count = 0
    metrics = run(folder, out)
    assert (metrics["images"], metrics["read"], metrics["gone"], described.count) == (5, 2, 1, 2 + QUERY)
    index = photo_index.load(out / "index.npz")
    assert set(index.marks) == {"new.png", "sub0/0.png", "sub0/2.png", "sub0/4.png", "sub1/3.png"}
    check_rows(index, folder)


def check_rows(index, folder):
    for name, row in zip(index.marks, index.rows, strict=True):
        image = np.asarray(Image.open(folder / name).convert("RGB"))
        np.testing.assert_allclose(row, describe(photo_index.square(image)[None])[0], atol=1e-3)


def test_files_that_cannot_be_read_are_named_and_read_once_they_can(folder, tmp_path, described, capsys):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "empty.png").touch()
    (folder / "nowhere.png").symlink_to("missing.png")
    (folder / "notes.txt").write_text("no image")
    metrics = run(folder, tmp_path / "out")
    printed = capsys.readouterr().out
    assert (metrics["images"], metrics["failed"]) == (5, 3)
    for name in ("broken.jpg", "empty.png", "nowhere.png"):
        assert f"cannot read {name}: " in printed
    assert "notes.txt" not in printed
    write(folder / "empty.png")
    metrics = run(folder, tmp_path / "out")
    assert (metrics["images"], metrics["read"], metrics["failed"]) == (6, 1, 2)


def test_names_that_are_no_text_are_printed(folder, tmp_path, described, capsys):
    name = os.fsdecode(b"caf\xe9 $x_1$.png")
    write(folder / name)
    assert run(folder, tmp_path / "out")["images"] == 6
    assert run(folder, tmp_path / "out")["read"] == 0
    assert "caf\ufffd $x_1$.png" in capsys.readouterr().out


def test_a_run_that_was_stopped_goes_on_where_it_was(folder, tmp_path, described, monkeypatch):
    monkeypatch.setattr(photo_index, "EVERY", 0.0)

    def stopped(images):
        if described.count == 4:
            raise KeyboardInterrupt
        return described(images)

    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "describer", lambda weights, batch: (stopped, "means"))
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "out", "--batch", "2")
    described.count = 0
    metrics = run(folder, tmp_path / "out", "--batch", "2")
    assert (metrics["images"], metrics["read"], described.count) == (5, 1, 1 + QUERY)


def test_an_index_that_does_not_fit_is_refused_or_made_again(folder, tmp_path, described, monkeypatch, capsys):
    out = tmp_path / "out"
    run(folder, out)
    whole = (out / "index.npz").read_bytes()
    (out / "index.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="must be an index of images, delete it if it is damaged"):
        run(folder, out)
    (out / "index.npz").write_bytes(whole)
    write(tmp_path / "others/1.png")
    with pytest.raises(ValueError, match=r"new or have the index of .*others, got .*with that of .*photos"):
        retrieve.main(["--folder", str(tmp_path / "others"), "--query", "coffee.png", "--out", str(out)])
    assert (out / "index.npz").read_bytes() == whole
    monkeypatch.setattr(descriptors, "describer", lambda weights, batch: (described, "others"))
    assert run(folder, out)["read"] == 5
    assert "descriptors of another type" in capsys.readouterr().out


def test_a_disk_that_is_full_leaves_the_old_index(folder, tmp_path, described, monkeypatch):
    run(folder, tmp_path / "out")
    before = (tmp_path / "out/index.npz").read_bytes()
    write(folder / "new.png")

    def full(file, **arrays):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        run(folder, tmp_path / "out")
    assert (tmp_path / "out/index.npz").read_bytes() == before


def test_the_output_in_the_folder_is_not_searched(folder, described):
    assert run(folder, folder / "out")["images"] == 5
    assert run(folder, folder / "out")["images"] == 5


def test_a_folder_without_an_image_is_refused(tmp_path, described):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="at least one image that can be read"):
        retrieve.main(["--folder", str(tmp_path / "photos"), "--query", "coffee.png", "--out", str(tmp_path / "out")])


def test_queries_are_read_first(folder, tmp_path, described):
    (tmp_path / "bad.png").write_bytes(b"no")
    for query, error in (("bad.png", ValueError), ("nowhere.png", FileNotFoundError)):
        arguments = ["--folder", str(folder), "--query", str(tmp_path / query), "--out", str(tmp_path / "out")]
        with pytest.raises(error, match=query):
            retrieve.main(arguments)
    assert described.count == 0
    assert not (tmp_path / "out").exists()


def test_the_metrics_are_those_of_the_file(folder, tmp_path, described):
    metrics = run(folder, tmp_path / "out")
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    assert metrics["seconds_per_query"].keys() == {"describe", "search"}
