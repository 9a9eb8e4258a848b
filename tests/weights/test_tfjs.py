"""Files of TensorFlow.js: both forms, the types of arrays, shards, and files that are not as they should be."""

import json

import numpy as np
import pytest

from jaxconv.weights import WeightsError, read
from tests.weights.checks import assert_same

HALVES = np.array([[1.5, -2.0], [0.25, 65504.0]], np.float16)
STEPS = np.array([0, 128, 255], np.uint8)
WIDE = np.array([1, 65535], np.uint16)
WORDS = np.array([7, -3], np.int32)
FLOATS = np.array([3.25], np.float32)
LIST = [
    {"name": "a/kernel", "shape": [2, 2], "dtype": "float32", "quantization": {"dtype": "float16"}},
    {"name": "b", "shape": [3], "dtype": "float32", "quantization": {"dtype": "uint8", "scale": 0.1, "min": -1.0}},
    {"name": "c", "shape": [2], "dtype": "int32", "quantization": {"dtype": "uint16", "scale": 1.0, "min": -4.4}},
    {"name": "d", "shape": [2], "dtype": "int32"},
    {"name": "e", "shape": [], "dtype": "float32"},
    {"name": "f", "shape": [2], "dtype": "bool"},
]
DATA = b"".join(a.tobytes() for a in (HALVES, STEPS, WIDE, WORDS, FLOATS, np.array([True, False])))
EXPECTED = {
    "a/kernel": HALVES.astype(np.float32),
    "b": np.array([-1.0, 11.8, 24.5], np.float32),
    "c": np.array([-3, 65531], np.int32),
    "d": WORDS,
    "e": FLOATS.reshape(()),
    "f": np.array([True, False]),
}


def written(folder, entries=LIST, data=DATA, *, shards=("w.bin",), name="model.json", alone=False):
    """Writes the two forms, with the bytes divided over shards, and returns the path of the JSON file."""
    ends = np.linspace(0, len(data), len(shards) + 1).astype(int)
    for i, shard in enumerate(shards):
        (folder / shard).write_bytes(data[ends[i] : ends[i + 1]])
    groups = [{"paths": list(shards), "weights": entries}]
    document = groups if alone else {"format": "graph-model", "weightsManifest": groups}
    (folder / name).write_text(json.dumps(document))
    return folder / name


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("shards", [("w.bin",), ("w-shard1", "w-shard2", "w-shard3")])
def test_both_forms_and_shards(tmp_path, alone, shards):
    path = written(tmp_path, shards=shards, alone=alone, name="net-weights_manifest.json")
    assert_same(read(path), EXPECTED)


def test_any_name_and_several_groups(tmp_path):
    path = written(tmp_path, LIST[:1], HALVES.tobytes())
    document = json.loads(path.read_text())
    document["weightsManifest"].append({"paths": ["v.bin"], "weights": LIST[4:5]})
    (tmp_path / "v.bin").write_bytes(FLOATS.tobytes())
    (tmp_path / "weights").write_text("\n " + json.dumps(document, indent=1))
    assert_same(read(tmp_path / "weights"), {name: EXPECTED[name] for name in ("a/kernel", "e")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "string"}, "'b' has dtype 'string', which is not one of float32, int32, bool, complex64"),
        ({"dtype": ["float32"]}, r"'b' has dtype \['float32'\]"),
        ({"shape": [-3]}, r"'b' must have a shape of integers from 0 up, got \[-3\]"),
        ({"shape": [2]}, r"its arrays take 28 bytes by the list, w\.bin have 29"),
        ({"name": "d"}, "its list names 'd' more than once"),
        ({"name": 3}, "its list must give each array a name"),
        ({"quantization": {"dtype": "int4"}}, "'b', float32, has quantization .*int4.*: known are float16, uint8"),
        ({"quantization": {"dtype": "uint8", "scale": 1.0}}, "'b' must have a quantization with a scale and a min"),
        ({"quantization": {"dtype": "uint8", "scale": 1.0, "min": float("nan")}}, "'b' must have a quantization with"),
    ],
)
def test_entries_that_are_wrong(tmp_path, change, message):
    entries = [entry | change if entry["name"] == "b" else entry for entry in LIST]
    path = written(tmp_path, entries)
    with pytest.raises(WeightsError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("length", [0, 5, len(DATA) - 1, len(DATA) + 1])
def test_bytes_that_are_too_few_or_too_many(tmp_path, length):
    path = written(tmp_path)
    (tmp_path / "w.bin").write_bytes((DATA + b"\0")[:length])
    with pytest.raises(WeightsError, match=f"its arrays take {len(DATA)} bytes by the list, w.bin have {length}"):
        read(path)


def test_a_list_that_is_cut_short(tmp_path):
    path = written(tmp_path)
    text = path.read_text()
    for length in (1, len(text) // 2, len(text) - 1):
        path.write_text(text[:length])
        with pytest.raises(WeightsError, match="it is not complete JSON"):
            read(path)
    for other in ("{}", "[]", '{"weightsManifest": {}}', '[{"paths": "w.bin"}]', "[3]"):
        path.write_text(other)
        with pytest.raises(WeightsError, match=r"it is JSON, but has no weightsManifest|its list must be of groups"):
            read(path)


def test_binary_files_that_are_elsewhere(tmp_path):
    (tmp_path / "other").mkdir()
    path = written(tmp_path / "other")
    (tmp_path / "w.bin").write_bytes(DATA)
    for name, message in (
        ("../w.bin", "must be inside its folder"),
        ("v.bin", "stored in 'v.bin', which is not a file beside it"),
        (3, "names of files"),
    ):
        path.write_text(json.dumps([{"paths": [name], "weights": LIST}]))
        with pytest.raises(WeightsError, match=message):
            read(path)
