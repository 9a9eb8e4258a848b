"""HDF5 files, right ones and bad ones."""

import functools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.weights import WeightsError, read
from tests.weights.checks import assert_same, assert_survives

h5py = pytest.importorskip("h5py")


def test_hdf5_groups_are_parts_of_names(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["block1/conv1/kernel"] = np.ones((3, 3, 1, 2), np.float32)
        file["block1/conv1/bias:0"] = np.arange(2, dtype=">i4")
        file["scale"] = np.float16(3)
        file.create_dataset("packed", data=np.zeros((8, 8)), compression="gzip")
        file["again"] = file["scale"]
        file.create_group("nothing")
    wanted = {
        "again": np.float16(3),
        "block1/conv1/bias:0": np.arange(2, dtype=np.int32),
        "block1/conv1/kernel": np.ones((3, 3, 1, 2), np.float32),
        "packed": np.zeros((8, 8)),
        "scale": np.float16(3),
    }
    assert_same(read(tmp_path / "a.h5"), wanted)


def test_hdf5_links_text_and_numbers_elsewhere_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))

    def soft(file):
        file["w"] = h5py.SoftLink("/x")

    def outer(file):
        file["w"] = h5py.ExternalLink("other.h5", "/x")

    def elsewhere(file):
        file.create_dataset("w", (8,), "u1", external=[(str(tmp_path / "secret"), 0, 8)])

    def virtual(file):
        layout = h5py.VirtualLayout((8,), "u1")
        layout[:] = h5py.VirtualSource("other.h5", "x", (8,))
        file.create_virtual_dataset("w", layout)

    def nothing(file):
        file["w"] = h5py.Empty("f4")

    def text(file):
        file["w"] = "hello"

    for make, message in (
        (soft, "'w' is a link"),
        (outer, "'w' is a link"),
        (elsewhere, "'w' has no data in this file"),
        (virtual, "'w' has no data in this file"),
        (nothing, "'w' has no data in this file"),
        (text, "'w' has the type .S5, which is not"),
    ):
        path = tmp_path / f"{make.__name__}.h5"
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(WeightsError, match=message):
            read(path)


def test_hdf5_groups_are_entered_once_and_not_too_deep(tmp_path):
    def deep(file, depth):
        group = file
        for _ in range(depth):
            group = group.create_group("a")
        group["w"] = np.ones(3)

    def cycle(file):
        file.create_group("a")["b"] = file["/"]

    def twice(file):
        file.create_group("a")["w"] = np.ones(3)
        file["b"] = file["a"]

    with h5py.File(tmp_path / "a.h5", "w") as file:
        deep(file, 64)
    assert list(read(tmp_path / "a.h5")) == [f"{'a/' * 64}w"]
    for make, message in (
        (functools.partial(deep, depth=2000), "its groups are more than 64 deep: a/a/a"),
        (cycle, "'a/b' links to a group that another name has too"),
        (twice, "links to a group that another name has too"),
    ):
        with h5py.File(tmp_path / "b.h5", "w") as file:
            make(file)
        began = time.monotonic()
        with pytest.raises(WeightsError, match=message) as caught:
            read(tmp_path / "b.h5")
        assert time.monotonic() - began < 1
        assert len(str(caught.value)) < 300


@settings(max_examples=100)
@given(data=st.data())
def test_one_byte_of_an_hdf5_file_changed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("files") / "a.h5"
    with h5py.File(path, "w") as file:
        file["group/w"] = np.ones(3)
        file["group/inner/b"] = np.arange(2)
    whole = path.read_bytes()
    at, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    assert_survives(path, whole[:at] + bytes([value]) + whole[at + 1 :], read)
