"""Safetensors files, right ones and bad ones."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.weights import WeightsError, read, write
from jaxconv.weights.arrays import to_numpy
from jaxconv.weights.safetensors import read_header
from tests.weights.checks import assert_same, assert_survives, contents

safetensors = pytest.importorskip("safetensors.numpy")
TYPES = "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 float16 bfloat16 float32 float64 complex64".split()
ARRAYS = {name: np.arange(6).reshape(2, 3).astype(jnp.dtype(name)) for name in TYPES}


def test_safetensors_come_back(tmp_path):
    arrays = ARRAYS | {"scalar": np.float32(2), "empty": np.zeros((0, 3), np.float16), "none": np.zeros((2, 0))}
    write(tmp_path / "a.safetensors", arrays, {"who": "me"})
    found = read(str(tmp_path / "a.safetensors"))
    assert_same(found, {name: np.asarray(array) for name, array in arrays.items()})
    assert read_header(tmp_path / "a.safetensors").metadata == {"who": "me"}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_other_readers_read_what_is_written_and_the_other_way_round(tmp_path):
    write(tmp_path / "a.safetensors", ARRAYS)
    assert_same(safetensors.load_file(tmp_path / "a.safetensors"), ARRAYS)
    safetensors.save_file(ARRAYS, tmp_path / "b.safetensors")
    assert_same(read(tmp_path / "b.safetensors"), ARRAYS)


@pytest.mark.torch
def test_torch_reads_what_is_written(tmp_path):
    pytest.importorskip("torch")
    from safetensors.torch import load_file

    write(tmp_path / "a.safetensors", ARRAYS)
    found = load_file(tmp_path / "a.safetensors")
    assert_same({name: to_numpy(tensor) for name, tensor in found.items()}, ARRAYS)


def test_order_in_memory_byte_order_and_kind_of_array_do_not_matter(tmp_path):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "turned": array.T,
        "every other": array[:, ::2, ::-1],
        "big": array.astype(">f4"),
        "jax": jnp.asarray(array, jnp.bfloat16),
        "jitted": jax.jit(lambda x: x + 1)(array),
        "list": [1.0, 2.0],
    }
    write(tmp_path / "a.safetensors", arrays)
    wanted = {name: np.asarray(value) for name, value in arrays.items()} | {"big": array}
    assert_same(read(tmp_path / "a.safetensors"), wanted)


@pytest.mark.parametrize("dtype", ["complex128", "float8_e4m3fn", "int4", "U3", "object"])
def test_types_that_safetensors_do_not_hold(tmp_path, dtype):
    write(tmp_path / "a.safetensors", ARRAYS)
    before = contents(tmp_path)
    with pytest.raises(WeightsError, match=r"a\.safetensors: 'w' has dtype \w+, which safetensors does not support"):
        write(tmp_path / "a.safetensors", {"w": np.zeros(2, jnp.dtype(dtype))})
    assert contents(tmp_path) == before


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    write(tmp_path / "a.safetensors", {"w": np.ones(3)})
    before = contents(tmp_path)

    def fails(file, arrays, metadata):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("jaxconv.weights.safetensors._write_safetensors", fails)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "a.safetensors", {"w": np.zeros(3)})
    assert contents(tmp_path) == before


def test_a_write_follows_a_link_and_replaces_what_is_there(tmp_path):
    write(tmp_path / "a.safetensors", {"w": np.ones(3)})
    (tmp_path / "link.safetensors").symlink_to("a.safetensors")
    write(tmp_path / "link.safetensors", {"w": np.zeros(3)})
    assert_same(read(tmp_path / "a.safetensors"), {"w": np.zeros(3)})
    assert sorted(os.listdir(tmp_path)) == ["a.safetensors", "link.safetensors"]


def test_what_was_read_does_not_change_with_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, {"w": np.ones(100, np.float32)})
    array = read(path)["w"]
    with path.open("rb+") as file:
        file.seek(-400, os.SEEK_END)
        file.write(bytes(400))
    np.testing.assert_array_equal(array, 1)


def raw(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin, end, shape=(2,), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end], **more}


DEEP = b'{"a":' + b"[" * 100_000
LIES = {
    "nothing": (b"", "not a complete safetensors file"),
    "a few bytes": (b"\x02\0\0\0", "not a complete safetensors file"),
    "a header longer than the file": (
        (1 << 40).to_bytes(8, "little") + b"{}",
        "header needs 1099511627776 bytes",
    ),
    "a header as long as can be": (b"\xff" * 8 + b"{}", "not a complete safetensors file"),
    "no JSON": (raw(b"{hello"), "header is not JSON"),
    "no UTF-8": (raw(b'{"\xff":1}'), "header is not JSON"),
    "deep JSON": (raw(DEEP), "header is not JSON"),
    "a list": (raw([]), "header must be a JSON object"),
    "metadata of numbers": (raw({"__metadata__": {"a": 1}}), "maps names to strings"),
    "no entry": (raw({"a": 3}), "must give 'a' a dtype"),
    "an entry too few": (raw({"a": {"dtype": "F32", "shape": [2]}}), "must give 'a' a dtype"),
    "an entry too many": (raw({"a": entry(0, 8, more=1)}, bytes(8)), "and nothing else"),
    "an unknown type": (raw({"a": entry(0, 8, dtype="F33")}, bytes(8)), "dtype 'F33', which is not one of BOOL, I8"),
    "a type that is no name": (raw({"a": entry(0, 8, dtype=["F32"])}, bytes(8)), "has dtype"),
    "a negative size": (raw({"a": entry(0, 8, (-2,))}, bytes(8)), "shape and two offsets"),
    "a shape of floats": (raw({"a": entry(0, 8, (2.0,))}, bytes(8)), "shape and two offsets"),
    "a shape of booleans": (raw({"a": entry(0, 4, (True,))}, bytes(4)), "shape and two offsets"),
    "three offsets": (raw({"a": entry(0, 8) | {"data_offsets": [0, 4, 8]}}, bytes(8)), "two offsets"),
    "negative offsets": (raw({"a": entry(-8, 0)}, bytes(8)), "two offsets"),
    "a shape beyond the bytes": (raw({"a": entry(0, 8, (3,))}, bytes(8)), "'a' has 12 bytes by dtype F32 and shape"),
    "a vast shape": (raw({"a": entry(0, 8, (2**40, 2**40))}, bytes(8)), "'a' has .* bytes by dtype"),
    "offsets the wrong way": (raw({"a": entry(8, 0)}, bytes(8)), "'a' has 8 bytes"),
    "offsets beyond the file": (raw({"a": entry(0, 8)}, bytes(4)), "take 8 bytes by its header, the file has 4"),
    "bytes that no tensor has": (raw({"a": entry(0, 8)}, bytes(12)), "take 8 bytes by its header, the file has 12"),
    "a hole": (raw({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)), "'b' begins at 12 where .* ends at 8"),
    "a hole at the start": (raw({"a": entry(4, 12)}, bytes(12)), "'a' begins at 4 where .* ends at 0"),
    "an overlap": (raw({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'b' begins at 4 where .* ends at 8"),
    "the same bytes twice": (raw({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)), "'b' begins at 0 where .* ends at 8"),
    "a name twice": (
        raw(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 8)).encode(),) * 2), bytes(8)),
        "names 'a' more than once",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(tmp_path, lie):
    content, message = LIES[lie]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {"a.safetensors": content}


WHOLE = safetensors.save({"w": np.arange(4, dtype=np.float32), "b": np.ones(3, np.int8)}, {"who": "me"})


def test_truncation_and_addition_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    for content in [*(WHOLE[:n] for n in range(0, len(WHOLE), 3)), WHOLE[:-1], WHOLE + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(WeightsError):
            read(path)


@settings(max_examples=200)
@given(data=st.data())
def test_one_byte_changed(tmp_path_factory, data):
    at, value = data.draw(st.integers(0, len(WHOLE) - 1)), data.draw(st.integers(0, 255))
    assert_survives(
        tmp_path_factory.mktemp("files") / "a.safetensors", WHOLE[:at] + bytes([value]) + WHOLE[at + 1 :], read
    )


@settings(max_examples=60)
@given(st.sampled_from([".safetensors", ".npz"]), st.binary(max_size=200))
def test_random_bytes(tmp_path_factory, suffix, content):
    assert_survives(tmp_path_factory.mktemp("files") / f"a{suffix}", content, read)


@pytest.mark.parametrize("name", ["__metadata__", 3])
def test_names_that_safetensors_do_not_hold(tmp_path, name):
    with pytest.raises(WeightsError, match=f"a name must be a string other than '__metadata__', got {name!r}"):
        write(tmp_path / "a.safetensors", {name: np.ones(1)})
    assert not os.listdir(tmp_path)
