"""The fully connected map."""

import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_array_equal

import jaxconv as jc
from tests.ops.compare import assert_close
from tests.ops.draws import uniform


def test_dense_is_a_matrix_product():
    x, kernel, bias = (uniform(i, shape) for i, shape in enumerate([(2, 3, 5), (5, 4), (4,)]))
    singles = [a.astype(np.float32) for a in (x, kernel, bias)]
    assert_close(jc.dense(*singles), x @ kernel + bias)
    assert_close(jc.dense(*singles[:2]), x @ kernel)
    assert_close(jc.dense(singles[0][0, 0], *singles[1:]), x[0, 0] @ kernel + bias)


def test_half_sums_are_taken_in_float32():
    for dtype in (jnp.bfloat16, jnp.float16):
        y = jc.dense(jnp.ones(2048, dtype), jnp.ones((2048, 1), dtype))
        assert y.dtype == dtype
        assert_array_equal(y.astype(jnp.float32), [2048])


def test_dense_is_a_1x1_convolution():
    x, kernel = uniform(1, (2, 3, 3, 4)).astype(np.float32), uniform(2, (4, 5)).astype(np.float32)
    assert_close(jc.dense(x, kernel), jc.conv(x, kernel[None, None]))
