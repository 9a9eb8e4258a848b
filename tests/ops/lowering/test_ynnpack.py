"""What the table knows of XLA:CPU's library YNNPACK is what the compiler does with it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxlib
import pytest

import jaxconv as jc
from jaxconv.ops.lowering.problem import Geometry, Problem, others
from jaxconv.ops.lowering.xla import by_ynnpack
from tests.ops.lowering.targets import ON_CPU, solved

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the library is XLA:CPU's")


def compiled(p: Problem, mode) -> str:
    """The program as XLA has optimized it; its choices need its usual passes."""
    arrays = (jax.ShapeDtypeStruct(p.shape(name), p.dtype) for name in others(p.role))
    options = {"xla_backend_optimization_level": 3}
    return jax.jit(solved(mode, p), compiler_options=options).lower(*arrays).compile().as_text()


def problem(role, size=(12, 12), window=(3, 3), padding=((1, 1), (1, 1)), batch=2, channels=4, features=17):
    rank = len(size)
    geometry = Geometry(size, window, (1,) * rank, padding[:rank], (1,) * rank)
    return Problem(role, geometry, batch, channels, features, jnp.dtype(jnp.float32))


@pytest.mark.parametrize("role", ["output", "kernel"])
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"features": 16},
        {"features": 16, "channels": 17},
        {"features": 16, "batch": 17},
        {"padding": ((1, 2), (1, 1))},
        {"padding": ((2, 2), (0, 0))},
        {"padding": ((1, 1), (0, 0))},
        {"size": (40,), "window": (3,)},
        {"size": (6, 6, 6), "window": (3, 3, 3), "padding": ((1, 1),) * 3},
    ],
    ids=str,
)
def test_the_compiler_hands_over_what_the_table_says(role, facts):
    if not jaxlib.__version__.startswith("0.10."):
        pytest.skip("read of the compiler in jaxlib 0.10")
    p = problem(role, **facts)
    mode = "xla" if role == "output" else ("xla_prelayout",)
    assert by_ynnpack(p, ON_CPU) == ("ynn_fusion" in compiled(p, mode))
    assert not by_ynnpack(p, replace(ON_CPU, ynnpack=False))


def gradient(x, k):
    """Of forms that YNNPACK makes a difference for; oneDNN's is called with it and without."""
    with jc.lowering("portable"):
        return jax.grad(lambda k: jnp.sum(jc.conv(x, k, padding=1)))(k)


def test_a_compiler_that_is_told_not_to_use_it_gets_programs_of_its_own():
    x, k = jnp.ones((8, 32, 32, 16)), jnp.ones((3, 3, 16, 32))
    form = {row.op: row.form for row in jc.explain(gradient, x, k, platform="cpu")}
    assert form["conv: gradient of the kernel"] == "split_im2col > xla"
    assert "while" in jax.jit(gradient).lower(x, k).as_text()
    assert "while" not in jc.jit(gradient).lower(x, k).as_text()
    jc.jit(gradient)(x, k)
    # Nothing of it stays behind, and in another function's trace it is that function's options that hold.
    assert "while" in jax.jit(gradient).lower(x, k).as_text()
    assert "while" in jax.jit(jc.jit(gradient)).lower(x, k).as_text()
    assert "while" not in jc.jit(jax.jit(gradient)).lower(x, k).as_text()


def test_options_of_the_callers_own_say_whether_it_is_used():
    x, k = jnp.ones((8, 32, 32, 16)), jnp.ones((3, 3, 16, 32))
    option = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"}
    assert "while" in jc.jit(gradient, compiler_options=option).lower(x, k).as_text()
