import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxconv.train import TrainState
from jaxconv.train.leaves import at, check_same, checksums, flatten, key_kinds, nest, specs
from tests.train.toys import Linear


def test_paths_are_readable():
    train_state = TrainState.create(Linear(), optax.adam(1e-3), 0, jnp.zeros((1, 8)))
    flat = flatten(train_state)
    assert list(flat)[:2] == ["params/dense/bias", "params/dense/kernel"]
    assert "opt_state/0/mu/dense/kernel" in flat
    assert specs(flat)["key"] == ["uint32", [2]]
    assert key_kinds(train_state) == {"key": "threefry2x32"}
    assert list(specs(flatten(jax.eval_shape(lambda tree: tree, train_state))).items()) == list(specs(flat).items())


def test_nest_and_at():
    flat = {"a/b": 1, "a/c/d": 2, "e": 3}
    assert nest(flat) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert [at(nest(flat), name) for name in flat] == [1, 2, 3]


DTYPES = [np.float32, ml_dtypes.bfloat16, np.bool_, np.int32, ml_dtypes.float8_e4m3fn, np.float64, np.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
def test_checksum_sees_every_bit_and_position(dtype):
    x = np.zeros((3, 2), dtype)
    seen = [checksums({"x": x})["x"]]
    for position in np.ndindex(x.shape):
        for byte in range(x.dtype.itemsize):
            other = x.copy()
            other.view(np.uint8).reshape(*x.shape, -1)[(*position, byte)] ^= 1
            seen.append(checksums({"x": other})["x"])
    assert len(set(seen)) == 1 + 6 * x.dtype.itemsize
    assert checksums({"x": np.arange(6).astype(dtype)}) != checksums({"x": np.arange(6)[::-1].astype(dtype)})


@pytest.mark.parametrize("spec", [(), ("a",), (None, "b"), ("b", "a"), (("a", "b"),), (None, None, "b")], ids=str)
def test_checksum_does_not_depend_on_the_devices(spec):
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    x = np.random.default_rng(0).normal(size=(4, 8, 6)).astype(np.float32)
    divided = jax.device_put(x, jax.NamedSharding(mesh, jax.P(*spec)))
    naive = sum((2 * i + 1) * int(bits) for i, bits in enumerate(x.view(np.uint32).ravel())) % 2**64
    assert checksums({"x": divided, "y": x, "z": jnp.float32(0)}) == {"x": naive, "y": naive, "z": 0}


@pytest.mark.parametrize(
    ("saved", "wanted", "message"),
    [
        ({"a": ["float32", [3]]}, {"a": ["float32", [4]]}, r"a: expected float32 \(4,\), .* got float32 \(3,\)"),
        ({"a": ["float32", []]}, {"a": ["bfloat16", []]}, r"a: expected bfloat16 \(\), .* got float32 \(\)"),
        ({"a": ["int32", []]}, {"b": ["int32", []]}, r"b: expected int32 \(\), .* got nothing"),
        ({"b": ["int32", []], "a": ["int32", []]}, {"b": ["int32", []]}, r"a: expected nothing, .* got int32 \(\)"),
    ],
)
def test_the_first_difference_is_named(saved, wanted, message):
    with pytest.raises(ValueError, match=message):
        check_same(saved, wanted, place="here")
