import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from jaxconv.train import TrainState
from jaxconv.train.leaves import at, check_same, checksum, flatten, key_kinds, nest, specs
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


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.bool_, np.int32, ml_dtypes.float8_e4m3fn])
def test_checksum_sees_every_element(dtype):
    x = np.zeros((3, 2), dtype)
    other = x.copy()
    other[2, 1] = 1
    assert checksum(jnp.asarray(x)) == checksum(x) != checksum(other)


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
