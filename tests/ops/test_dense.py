"""The fully connected map."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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


@pytest.mark.parametrize("local", [False, True])
def test_a_gpu_gets_products_of_half_precision_alone(local):
    """With float32 sums JAX would take the gradients from float32 operands."""
    x, kernel, bias = (jnp.ones(shape, jnp.bfloat16) for shape in ((6, 1, 3), (6, 1, 1, 1, 3, 2), (2,)))

    def loss(x, kernel, bias):
        y = jc.conv_local(x, kernel, bias) if local else jc.dense(x, kernel[0, 0, 0, 0], bias)
        return y.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(x, kernel, bias)
    products = {
        platform: re.findall(r"dot_general.*: \((.*)\) -> (.*)", traced.lower(lowering_platforms=(platform,)).as_text())
        for platform in ("cuda", "cpu")
    }
    assert len(products["cuda"]) >= 2
    assert {"bf16" in operands and "f32" not in operands + result for operands, result in products["cuda"]} == {True}
    assert any("f32" in result for _, result in products["cpu"])


def test_dense_is_a_1x1_convolution():
    x, kernel = uniform(1, (2, 3, 3, 4)).astype(np.float32), uniform(2, (4, 5)).astype(np.float32)
    assert_close(jc.dense(x, kernel), jc.conv(x, kernel[None, None]))
