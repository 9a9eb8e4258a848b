"""Galaxy10 from small files of both versions, and files that are refused."""

import numpy as np
import pytest

from jaxconv.data import DataError, galaxy10

h5py = pytest.importorskip("h5py")


def write(path, count=20, side=69, **changed):
    """Writes a file whose image i is of the gray i; the labels take turns. Arrays that are None are left out."""
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, side, side, 3))
    arrays = {"images": images, "ans": np.arange(count, dtype=np.uint8) % 10} | changed
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
    return path


@pytest.mark.parametrize(
    ("side", "name", "first"), [(69, "galaxy10_sdss", "disk, face"), (256, "galaxy10_decals", "dis")]
)
def test_images_keep_their_labels(tmp_path, side, name, first):
    data = galaxy10(write(tmp_path / "Galaxy10.h5", side=side), size=8, fraction=0.5)
    assert data.name == name
    assert data.classes[0].startswith(first)
    assert data.train_images.shape == data.test_images.shape == (10, 8, 8, 3)
    images = np.concatenate([data.train_images, data.test_images])
    labels = np.concatenate([data.train_labels, data.test_labels])
    gray = images[:, 0, 0, 0]
    assert sorted(gray) == list(range(20))
    assert (images == gray[:, None, None, None]).all()
    assert (labels == gray % 10).all()
    # One of each class is in each part.
    assert sorted(data.test_labels) == list(range(10))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ans": None}, "must have the datasets images and ans, got images"),
        (
            {"images": np.zeros((20, 32, 32, 3), np.uint8)},
            r"\(N, 256, 256, 3\) or \(N, 69, 69, 3\) uint8, got \(20, 32",
        ),
        ({"images": np.zeros((20, 69, 69, 3), np.float32)}, "got .* float32"),
        ({"ans": np.zeros(19, np.uint8)}, r"ans must be \(20,\) integers"),
        ({"ans": np.zeros(20)}, "got .* float64"),
        ({"ans": np.arange(20)}, "ans: label 10 is 10, expected 0 to 9"),
        ({"ans": h5py.ExternalLink("other.h5", "ans")}, "must have the datasets"),
        ({"ans": h5py.SoftLink("/images")}, "must have the datasets"),
    ],
)
def test_other_files_are_refused(tmp_path, changed, message):
    path = write(tmp_path / "Galaxy10.h5", **changed)
    with pytest.raises(DataError, match=message):
        galaxy10(path)


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = write(tmp_path / "Galaxy10.h5")
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="is not a readable HDF5 file"):
        galaxy10(path)
    path.write_text("text")
    with pytest.raises(DataError, match="is not a readable HDF5 file"):
        galaxy10(path)
    with pytest.raises(DataError, match=r"must be a file, Galaxy10_DECals\.h5"):
        galaxy10(tmp_path / "nowhere.h5")
