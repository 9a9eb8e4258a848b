import contextlib
import dataclasses
import errno
import functools
import json
import os
import runpy
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.weights import WeightsError, load, read, save, write
from jaxconv.weights.safetensors import checksums, read_header
from jaxconv.weights.saved import describe
from tests.weights import torch_files as tf
from tests.weights.checks import contents

pytest.importorskip("safetensors")


def net(features=4, act=jax.nn.relu, eps=1e-5):
    return jc.serial(
        features=jc.serial(jc.Conv(features), jc.BatchNorm(eps=eps), act),
        block=jc.residual(jc.serial(conv1=jc.Conv(4, 1, bias=False)), jc.Conv(4, 1), name="downsample"),
        pool=jc.GlobalAvgPool(),
        fc=jc.Dense(3),
    )


def arrays(shapes):
    """Returns nested dicts of numbers. jax.tree.map would sort them."""
    if isinstance(shapes, dict):
        return {name: arrays(below) for name, below in shapes.items()}
    return jnp.asarray(np.random.default_rng(sum(shapes)).normal(size=shapes), jnp.float32)


PARAMS = arrays(
    {
        "features": {"0": {"kernel": (3, 3, 2, 4), "bias": (4,)}, "1": {"scale": (4,), "bias": (4,)}},
        "block": {"conv1": {"kernel": (1, 1, 4, 4)}, "downsample": {"kernel": (1, 1, 4, 4), "bias": (4,)}},
        "fc": {"kernel": (4, 3), "bias": (3,)},
    }
)
STATE = arrays({"features": {"1": {"mean": (4,), "var": (4,)}}})


def changed(tree, path, value):
    name, _, rest = path.partition("/")
    return tree | {name: changed(tree.get(name, {}), rest, value) if rest else value}


def without(tree, path):
    name, _, rest = path.partition("/")
    return tree | {name: without(tree[name], rest)} if rest else {n: v for n, v in tree.items() if n != name}


def assert_exact(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, jax.Array)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "a.safetensors", net(), PARAMS, STATE)
    return tmp_path / "a.safetensors"


def test_comes_back_exactly(path):
    found = load(str(path), net())
    assert_exact(found, (PARAMS, STATE))
    assert [list(tree) for tree in found] == [["features", "block", "fc"], ["features"]]
    assert os.listdir(path.parent) == ["a.safetensors"]


def test_the_file_says_what_it_is(path):
    about = read_header(path).metadata
    assert about["format"] == "jaxconv.weights"
    assert about["version"] == "1"
    assert about["jaxconv"] == jc.__version__
    assert about["net"] == repr(net())
    assert "params/block/downsample/kernel" in read(path)


def test_repeated_layers_and_wrappers(tmp_path):
    layer = jc.serial(jc.repeat(jc.Conv(2, 1), 3), jc.remat(jc.serial(jc.Dense(2))))
    params = arrays({"0": {"kernel": (3, 1, 1, 2, 2), "bias": (3, 2)}, "1": {"0": {"kernel": (2, 2), "bias": (2,)}}})
    save(tmp_path / "a.safetensors", layer, params, {})
    assert_exact(load(tmp_path / "a.safetensors", layer), (params, {}))
    wrong = changed(params, "0/kernel", params["0"]["kernel"][1:])
    with pytest.raises(WeightsError, match=r"0/kernel must have shape \(3, 1, 1, \?, 2\), got \(2, 1, 1, 2, 2\)"):
        save(tmp_path / "a.safetensors", layer, wrong, {})


@dataclasses.dataclass(frozen=True)
class Anything:
    """A layer that holds what it is given."""

    size: int = 3
    function: Any = jnp.tanh

    def init(self, key, x):
        return {}, {}

    def apply(self, params, state, x, *, train=False, key=None):
        return x, state


class Plain(Anything):
    """One that does not print itself."""

    __repr__ = object.__repr__


TYPES = "bool int8 uint8 int16 uint16 int32 uint32 float16 bfloat16 float32 complex64".split()


@pytest.mark.parametrize("layer", [Anything(), Plain(), jc.serial(own=Plain())])
def test_every_type_and_every_tree(tmp_path, layer):
    params = {dtype: jnp.arange(6).reshape(2, 3).astype(dtype) for dtype in TYPES}
    params |= {"a": {"b": {"c.d": jnp.float32(1), "0": np.arange(3, dtype=np.int32)}, "empty": {}}}
    params |= {"none": jnp.zeros((0, 2)), "jitted": jax.jit(lambda: jnp.arange(3.0))(), "ä ü": jnp.ones(1)}
    state = {"ema": {}}
    for tree in ((params, state), ({}, {}), ({}, {"count": jnp.int32(3)})):
        # A row has nothing of its own.
        tree = tuple({"own": part} if part and hasattr(layer, "children") else part for part in tree)
        save(tmp_path / "a.safetensors", layer, *tree)
        assert_exact(load(tmp_path / "a.safetensors", layer), tree)


def test_types_that_jax_does_not_hold_as_it_is(tmp_path):
    params = {"w": np.arange(3, dtype=np.float64)}
    save(tmp_path / "a.safetensors", Anything(), params, {})
    with pytest.raises(WeightsError, match=r"a\.safetensors: params/w has dtype float64, .* with jax_enable_x64"):
        load(tmp_path / "a.safetensors", Anything())
    with jax.enable_x64(True):
        assert_exact(load(tmp_path / "a.safetensors", Anything()), (params, {}))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": [jnp.ones(1)]}, "params/a must be an array or a dict of arrays, got list"),
        ({"a": {"b": 3.0}}, "params/a/b must be an array or a dict of arrays, got float"),
        ({"a": jax.random.key(0)}, "params/a must be an array of numbers, got one of key<fry>"),
        ({"a": {0: jnp.ones(1)}}, "params/a must have names that are strings, got 0"),
        ({"a": {"": jnp.ones(1)}}, "params/a must have names .* got ''"),
        ({"a": np.zeros(1, np.complex128)}, "'params/a' has dtype complex128, which safetensors does not support"),
    ],
)
def test_what_cannot_be_saved(path, params, message):
    before = contents(path.parent)
    with pytest.raises(WeightsError, match=message):
        save(path, Anything(), params, {})
    assert contents(path.parent) == before


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (without(PARAMS, "block/conv1"), "params/block/conv1/kernel must be an array of Conv, got none"),
        (
            changed(PARAMS, "fc/kernel", jnp.ones((4, 2))),
            r"params/fc/kernel must have shape \(\?, 3\), got \(4, 2\)",
        ),
    ],
)
def test_arrays_of_another_network_are_not_saved(tmp_path, params, message):
    with pytest.raises(WeightsError, match=message):
        save(tmp_path / "a.safetensors", net(), params, STATE)
    assert not os.listdir(tmp_path)


# --- Another network --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (net(features=8), r"features\.0: Conv\(features=4\), net has features\.0: Conv\(features=8\)"),
        (net(act=jax.nn.gelu), r"features\.2: Fn\(function=relu\), net has features\.2: Fn\(function=gelu\)"),
        (net(eps=1e-3), r"features\.1: BatchNorm\(\), net has features\.1: BatchNorm\(eps=0\.001\)"),
        (
            jc.serial(*(layer for _, layer in net().children[:1]), **dict(net().children[1:])),
            r"features: serial\(\), net has 0: serial\(\)",
        ),
        (jc.serial(**dict(net().children[:-1])), r"fc: Dense\(features=3\), net has none"),
        (jc.serial(**dict(net().children), more=jnp.tanh), r"is none, net has more: Fn\(function=tanh\)"),
        (jc.serial(jc.gate(net())), r"features: serial\(\), net has 0: gate\(\)"),
        (jc.Dense(3), r"serial\(\), net has Dense\(features=3\)"),
    ],
)
def test_another_network_is_refused_by_its_first_layer_that_differs(path, other, message):
    with pytest.raises(WeightsError, match=rf"first layer that differs is {message.removeprefix('is ')}$") as caught:
        load(path, other)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_leaves_the_function_as_it_is_may_differ(path):
    wrapped = (
        jc.remat(net()),
        jc.mixed_precision(net()),
        jc.frozen(net()),
        jc.frozen(net(), but=["fc"]),
        jc.inline(net()),
    )
    for other in (*wrapped, jc.mixed_precision(jc.frozen(net()))):
        assert_exact(load(path, other), (PARAMS, STATE))
        save(path.parent / "b.safetensors", other, PARAMS, STATE)
        assert_exact(load(path.parent / "b.safetensors", net()), (PARAMS, STATE))


def test_what_only_training_knows_may_differ(tmp_path):
    def noisy(rate, momentum, **names):
        return jc.serial(jc.Dropout(rate), jc.DropPath(rate), jc.BatchNorm(momentum, **names))

    trees = {"2": {"scale": jnp.ones(2), "bias": jnp.ones(2)}}, {"2": {"mean": jnp.ones(2), "var": jnp.ones(2)}}
    save(tmp_path / "a.safetensors", noisy(0.1, 0.1), *trees)
    assert_exact(load(tmp_path / "a.safetensors", noisy(0.2, 0.3, axis_name="i")), trees)
    with pytest.raises(WeightsError, match=r"net has 2: BatchNorm\(eps=0.1\)"):
        load(tmp_path / "a.safetensors", noisy(0.1, 0.1, eps=0.1))


def test_names_of_arrays_may_have_any_characters(tmp_path):
    params = {"Dense_0/kernel/u": jnp.ones(1), "a%2Fb": jnp.zeros(1), "50%": {"%25/": {}}}
    save(tmp_path / "a.safetensors", Anything(), params, {})
    assert_exact(load(tmp_path / "a.safetensors", Anything()), (params, {}))
    assert "params/Dense_0%2Fkernel%2Fu" in read(tmp_path / "a.safetensors")


def test_what_is_no_part_of_a_network_may_differ(path):
    def zeros(key, shape, dtype):
        return jnp.zeros(shape, dtype)

    def other(layer):
        return dataclasses.replace(layer, kernel_init=zeros) if isinstance(layer, jc.Conv) else layer

    load(path, jc.map_layers(net(), other))


def test_descriptions_hold_no_addresses_and_no_modules():
    layer = jc.serial(
        jc.Fn(functools.partial(jax.nn.leaky_relu, negative_slope=0.1)),
        Anything(function=lambda x: x),
        Plain(),
        jc.gate(jc.serial(jc.Conv(2, (3, 1)), jax.nn.sigmoid)),
        jc.mixed_precision(jc.Dense(2)),
    )
    assert describe(layer).splitlines() == [
        "serial()",
        "  0: Fn(function=partial(leaky_relu, negative_slope=0.1))",
        "  1: Anything(function=test_descriptions_hold_no_addresses_and_no_modules.<locals>.<lambda>)",
        "  2: Plain()",
        "  3: gate()",
        "    3: serial()",
        "      3.0: Conv(features=2, window=(3, 1))",
        "      3.1: Fn(function=sigmoid)",
        "  4: Dense(features=2)",
    ]


def test_the_module_of_a_layer_does_not_matter(tmp_path):
    module = tmp_path / "mine.py"
    module.write_text(
        textwrap.dedent("""
        import jaxconv as jc
        class Own:
            def init(self, key, x): return {}, {}
            def apply(self, params, state, x, *, train=False, key=None): return x, state
        net = jc.serial(jc.Fn(lambda x: x), own=Own())
        """)
    )
    params = {"own": {"w": jnp.arange(3.0)}}
    save(tmp_path / "a.safetensors", runpy.run_path(str(module), run_name="__main__")["net"], params, {})
    imported = runpy.run_path(str(module), run_name="mine")["net"]
    assert_exact(load(tmp_path / "a.safetensors", imported), (params, {}))


# --- Bad files --------------------------------------------------------------------------------------------------------


def rewrite(path, arrays=(), about=(), drop=()):
    """Writes the file again with some of it replaced."""
    kept = {name: array for name, array in (read(path) | dict(arrays)).items() if name not in drop}
    metadata = read_header(path).metadata | {"crc32": json.dumps(checksums(kept))} | dict(about)
    write(path, kept, {name: value for name, value in metadata.items() if value is not None})


KERNEL = "params/features/0/kernel"
NAN = np.asarray(PARAMS["features"]["0"]["kernel"]).copy()
NAN[0, 1, 0, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": [KERNEL]}, f"{KERNEL} is missing, which was saved"),
        ({"drop": [KERNEL], "arrays": {"params/features/0/kern": NAN}}, f"{KERNEL} is missing, which was saved"),
        ({"arrays": {"params/extra": NAN}}, "params/extra is unexpected: it was not saved"),
        ({"arrays": {KERNEL: NAN[:, :, :, 1:]}}, rf"{KERNEL} must have shape \(3, 3, \?, 4\), got \(3, 3, 2, 3\)"),
        ({"arrays": {KERNEL: NAN}}, f"{KERNEL} has a value that is not finite"),
        (
            {"arrays": {"state/features/1/var": np.full(4, np.inf, np.float32)}},
            "features/1/var has a value that",
        ),
        (
            {"about": {"version": "2"}},
            r"it must be of version 1 of jaxconv\.weights, got '2'$",
        ),
        ({"about": {"format": None}}, r"save did not write it: use jaxconv\.weights\.from_torch for torch's tensors$"),
        ({"about": {"format": "pt"}}, r"save did not write it: use jaxconv\.weights\.from_torch for torch's tensors$"),
        (
            {"about": {"layers": "Old()", "jaxconv": "0.0.1"}},
            r"for another net, or by jaxconv 0\.0\.1, which describes it otherwise: its first layer",
        ),
        ({"about": {"layers": "Old()", "jaxconv": None}}, "for another net: its first layer that differs is Old"),
        ({"about": {"layers": None}}, r"first layer that differs is none, net has serial\(\)"),
        ({"about": {"paths": "[3]"}}, "damaged, truncated or of another type"),
        ({"about": {"paths": None}}, "is unexpected"),
    ],
)
def test_bad_files(path, change, message):
    rewrite(path, **change)
    before = contents(path.parent)
    with pytest.raises(WeightsError, match=message) as caught:
        load(path, net())
    assert str(caught.value).startswith(f"{path}: ")
    assert contents(path.parent) == before


def test_numbers_that_are_not_finite_on_request(path):
    rewrite(path, {KERNEL: NAN})
    params, _ = load(path, net(), allow_nonfinite=True)
    np.testing.assert_array_equal(params["features"]["0"]["kernel"], NAN)


def test_bfloat16_that_is_not_finite(tmp_path):
    path, params = tmp_path / "a.safetensors", {"w": jnp.asarray([1, jnp.inf], jnp.bfloat16)}
    with pytest.raises(WeightsError, match="params/w has a value that is not finite"):
        save(path, Anything(), params, {})
    assert not path.exists()
    save(path, Anything(), params, {}, allow_nonfinite=True)
    with pytest.raises(WeightsError, match="params/w has a value that is not finite"):
        load(path, Anything())
    assert_exact(load(path, Anything(), allow_nonfinite=True), (params, {}))


@pytest.mark.parametrize(
    ("collection", "name", "path"),
    [
        ("params", "0/extra", "params/0/extra"),
        ("params", "lost/w", "params/lost/w"),
        ("state", "0/mean", "state/0/mean"),
    ],
)
def test_an_array_that_no_layer_wants(tmp_path, collection, name, path):
    layer = jc.serial(jc.Conv(2, 1, bias=False), jax.nn.relu)
    trees = {"params": {"0": {"kernel": jnp.ones((1, 1, 3, 2))}}, "state": {}}
    first, second = name.split("/")
    trees[collection] = {**trees[collection], first: {**trees[collection].get(first, {}), second: jnp.ones(2)}}
    with pytest.raises(
        WeightsError, match=f"{collection} must have only arrays that layers of net store, got {path} too"
    ):
        save(tmp_path / "a.safetensors", layer, *trees.values())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors: there is no folder .*nowhere"):
        save(tmp_path / "nowhere" / "a.safetensors", Anything(), {}, {})


def test_what_is_no_layer():
    with pytest.raises(WeightsError, match="net must be a layer, with init and apply, got the function resnet18"):
        save("a.safetensors", jc.models.resnet18, {}, {})


def test_no_numbers_yet(tmp_path):
    with pytest.raises(WeightsError, match="params/w must be an array, got one that is being traced"):
        jax.jit(lambda w: save(tmp_path / "a.safetensors", Anything(), {"w": w}, {}))(jnp.ones(2))


def test_a_truncated_file(path):
    whole = path.read_bytes()
    for length in (0, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"not a complete safetensors file|by its header, the file has"):
            load(path, net())


def test_any_name_of_a_saved_file(path):
    other = path.rename(path.parent / "net.ckpt")
    assert_exact(load(other, net()), (PARAMS, STATE))


def test_a_file_without_checksums_is_loaded(path):
    rewrite(path, about={"crc32": None})
    assert "crc32" not in read_header(path).metadata
    assert_exact(load(path, net()), (PARAMS, STATE))


def test_every_bit_of_an_array_is_looked_at(path):
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in range(start, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(WeightsError, match=r"(params|state)/.* does not have its checksum: the file changed"):
            load(path, net())


def test_a_changed_header_gives_the_same_arrays_or_none(path):
    whole = path.read_bytes()
    for at in range(0, 8 + int.from_bytes(whole[:8], "little"), 11):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with contextlib.suppress(WeightsError):
            assert_exact(load(path, net()), (PARAMS, STATE))


@pytest.mark.parametrize("sums", ["3", "[]", "{", '{"a": 1}'])
def test_checksums_that_are_none(path, sums):
    rewrite(path, about={"crc32": sums})
    with pytest.raises(WeightsError, match=r"does not have its checksum|damaged, truncated or of another type"):
        load(path, net())


def test_a_full_disk_is_an_os_error_and_leaves_what_was_there(path, monkeypatch):
    before = contents(path.parent)

    def full(file, *rest):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("jaxconv.weights.safetensors._write_safetensors", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        save(path, net(), PARAMS, STATE)
    assert not isinstance(caught.value, WeightsError)
    assert contents(path.parent) == before


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.safetensors", net())
    saved = tf.zipped({"w": tf.tensor(np.ones(3))})
    for name, content, reader in (
        ("a.pth", saved, "from_torch"),
        ("a.bin", tf.legacy({"w": tf.tensor(np.ones(3))}), "from_torch"),
        ("a.safetensors", saved, "from_torch"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "from_keras"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}: .*save did not write it: use jaxconv\.weights\.{reader}$"):
            load(tmp_path / name, net())
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    with pytest.raises(WeightsError, match=r"save did not write it: use jaxconv\.weights\.read$"):
        load(tmp_path / "a.npz", net())
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        save(tmp_path / "b.npz", net(), PARAMS, STATE)


def test_paths_are_in_the_order_of_the_trees(path):
    paths = json.loads(read_header(path).metadata["paths"])
    assert paths[0] == KERNEL
    assert paths[-1] == "state/features/1/var"
