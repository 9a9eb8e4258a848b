"""Formats are known by content, whatever the name."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from jaxconv.weights import WeightsError, read
from jaxconv.weights.formats import format_of
from tests.weights import torch_files as tf
from tests.weights.checks import assert_same

safetensors = pytest.importorskip("safetensors.numpy")
h5py = pytest.importorskip("h5py")

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
TENSORS = {name: tf.tensor(array) for name, array in ARRAYS.items()}
NAMES = [
    "a.pth",
    "a.pth.tar",
    "last.ckpt",
    "net.th",
    "pytorch_model.bin",
    "x3d.pyth",
    "checkpoint",
    "A.PTH",
    "a.npz",
    "a.h5",
]


def hdf5(userblock=0):
    file = io.BytesIO()
    with h5py.File(file, "w", userblock_size=userblock) as h5:
        h5["w"] = ARRAYS["w"]
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, **ARRAYS)
    return file.getvalue()


CONTENTS = {
    "torch": tf.zipped({"epoch": 3, "state_dict": TENSORS, "lr_schedulers": []}),
    "torch, old": tf.legacy(TENSORS),
    "safetensors": safetensors.save(ARRAYS),
    "hdf5": hdf5(),
    "hdf5, behind a block": hdf5(1024),
    "npz": npz(),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", NAMES)
def test_any_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(CONTENTS[content])
    assert format_of(tmp_path / name) == content.split(",")[0]
    assert_same(read(tmp_path / name), ARRAYS)


def test_the_key_of_a_checkpoint_of_any_name(tmp_path):
    content = tf.zipped({"model": TENSORS, "ema": {"w": tf.tensor(np.zeros(2))}})
    (tmp_path / "best.ckpt").write_bytes(content)
    assert_same(read(tmp_path / "best.ckpt", key="model"), ARRAYS)


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(CONTENTS["torch"]), "it is compressed by gzip: unpack it first"),
        (tar(), "it is a tar archive: unpack it first"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>", "a page of HTML or XML"),
        (b"\x80\x04}.", "a pickle, but no file that torch.save writes"),
        (b"", "its format is not safetensors, torch.save's, HDF5"),
        (b"hello", "its format is not safetensors, torch.save's, HDF5"),
        (CONTENTS["torch"][:-30], "zip archive is damaged or truncated"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, message):
    path = tmp_path / "model_best.pth.tar"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
