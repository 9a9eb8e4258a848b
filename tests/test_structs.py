"""Shapes in place of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv.structs import as_struct, broadcasts

KEY = jax.random.key(0)


def test_a_struct_of_anything_with_a_shape():
    want = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    for x in (jnp.zeros((2, 3)), np.zeros((2, 3), np.float32), want, (2, 3), (np.int64(2), 3)):
        assert as_struct(x) == want
    assert as_struct(np.zeros((2, 3), np.uint8)).dtype == np.uint8
    tree = {"image": (2, 8, 8, 3), "both": [(2, 3), jnp.zeros(4)]}
    assert jax.tree.map(lambda s: s.shape, as_struct(tree)) == {"image": (2, 8, 8, 3), "both": [(2, 3), (4,)]}


@pytest.mark.parametrize("wrong", [8, "8", [1, 8, 8, 3], 8.0])
def test_what_has_no_shape_is_refused(wrong):
    with pytest.raises(jc.ArgumentError, match="x must be an array, a ShapeDtypeStruct or a shape tuple, batch axis"):
        jc.serial(jc.Conv(8)).init(KEY, wrong)


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        *((shape, (2, 3)) for shape in ((), (3,), (1, 3), (2, 1), (2, 3), (2,), (1, 2, 3), (3, 2))),
        *(((2, 3), (2, 1)), ((0,), (3,)), ((1,), (0,))),
    ],
)
def test_broadcasts_as_numpy(shape, to):
    try:
        want = np.broadcast_shapes(shape, to) == to
    except ValueError:
        want = False
    assert broadcasts(shape, to) == want
