"""Files of all formats: damaged, too large, of other types, or without their package."""

import importlib
import zipfile

import jax
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, read, write
from tests.weights import torch_files as tf
from tests.weights.checks import assert_same

h5py = pytest.importorskip("h5py")
safetensors = pytest.importorskip("safetensors.numpy")


def test_npz(tmp_path):
    arrays = {"a.weight": np.ones((2, 3), np.float16), "b": np.arange(3, dtype=">i8")}
    np.savez(tmp_path / "a.npz", **arrays)
    assert_same(read(tmp_path / "a.npz"), arrays | {"b": np.arange(3)})


class Wants:
    def __reduce__(self):
        return RAN.append, (1,)


RAN = []


def test_npz_never_unpickles(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([Wants()], dtype=object))
    with pytest.raises(WeightsError, match=r"a\.npz: .*Object arrays cannot be loaded"):
        read(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.ones(3))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(WeightsError, match=r"it is a \.npy file"):
        read(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", w=np.array(["text"]))
    with pytest.raises(WeightsError, match="'w' has the type <U4, which is not"):
        read(tmp_path / "c.npz")
    assert not RAN


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["w"] = np.ones(100)
    else:
        np.savez(path, w=np.ones(100))
    whole = path.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=f"a{suffix}: .*(damaged|truncated|not a complete)"):
            read(path)
        assert path.read_bytes() == whole[:length]


def test_an_npz_that_lies_about_a_shape(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(4))
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        content = file.read("w.npy").replace(b"(4,)", b"(9,)")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("w.npy", content)
    with pytest.raises(WeightsError, match="damaged, truncated"):
        read(tmp_path / "a.npz")


def test_files_that_are_far_smaller_than_their_arrays(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("w", (2**20,), "f4", chunks=(2**10,))
    np.savez_compressed(tmp_path / "a.npz", w=np.zeros(2**20, np.float32))
    thin = tf.Tensor(tf.Storage(np.ones(4)), 0, (2**40,), (0,))
    (tmp_path / "a.pth").write_bytes(tf.zipped({"w": thin}))
    for name in ("a.h5", "a.npz", "a.pth"):
        with pytest.raises(WeightsError, match=rf"{name}: its arrays take \d+ bytes, .* too many to be weights"):
            read(tmp_path / name)
    np.savez_compressed(tmp_path / "b.npz", w=np.zeros(2**18, np.float32), u=np.ones(3))
    assert read(tmp_path / "b.npz")["w"].shape == (2**18,)


def test_what_cannot_be_opened_and_names_that_say_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        read(tmp_path / "none.pth")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.h5"):
        read(tmp_path / "folder.h5")
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.onnx: its format is not safetensors, torch\.save's, HDF5"):
        read(tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        write(tmp_path / "a.npz", {})
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    with pytest.raises(WeightsError, match="key is for checkpoints of torch, got 'model'"):
        read(tmp_path / "a.npz", key="model")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import_module = importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] in ("h5py", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return import_module(name, *rest)

    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "a.safetensors").write_bytes(safetensors.save({"w": np.ones(3)}))
    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=r"needs the package h5py: pip install '\.\[weights\]'"):
        read(tmp_path / "a.h5")
    np.testing.assert_array_equal(read(tmp_path / "a.safetensors")["w"], np.ones(3))


def test_a_checkpoint_of_torch_goes_into_a_network(tmp_path):
    net = jc.serial(conv=jc.Conv(4, 3, bias=False), norm=jc.BatchNorm())
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {"conv.weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1).repeat(4, 0).repeat(3, 3)}
    tensors |= {f"norm.{name}": np.arange(4, dtype=np.float32) + i for i, name in enumerate(names)}
    saved = {"state_dict": {name: tf.tensor(array) for name, array in tensors.items()}, "epoch": 1}
    (tmp_path / "a.pth").write_bytes(tf.zipped(saved))
    found, wanted = jc.weights.from_torch(net, tmp_path / "a.pth"), jc.weights.from_torch(net, tensors)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert found[0]["conv"]["kernel"].shape == (3, 3, 2, 4)
