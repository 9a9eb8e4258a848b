"""`jaxconv.jit` is `jax.jit` everywhere, and carries options at top level only."""

import inspect
import os

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jaxconv as jc
from jaxconv import compiler
from jaxconv.ops.lowering.cpu import BLOCKS
from jaxconv.ops.lowering.target import Platform


def plus(x, y=1):
    return x + y


def test_results_and_arguments_are_those_of_jax_jit():
    f = jc.jit(plus, static_argnames="y")
    assert f(jnp.ones(3), y=2).tolist() == [3.0] * 3
    assert f.__name__ == "plus"
    assert "add" in f.lower(jnp.ones(3)).as_text()


def test_it_decorates_with_and_without_arguments():
    @jc.jit(donate_argnums=0)
    def double(x):
        return 2 * x

    x = jnp.ones(3)
    assert double(x).tolist() == [2.0] * 3
    assert x.is_deleted()


def test_it_looks_like_the_function_and_says_what_it_is():
    def scaled(x, *, by=2.0):
        """Returns x times by."""
        return x * by

    f = jc.jit(scaled)
    assert repr(f) == f"<jaxconv.jit of {scaled!r}>"
    assert (f.__name__, f.__doc__, f.__module__) == ("scaled", "Returns x times by.", __name__)
    assert inspect.signature(f) == inspect.signature(scaled)
    assert f.__wrapped__ is scaled
    assert isinstance(f, jax.stages.Wrapped)


def test_arguments_may_have_any_name():
    assert jc.jit(lambda *, handed, function: handed + function)(handed=1, function=2) == 3


def test_methods_are_bound():
    class Scaled:
        @jc.jit
        def times(self, x):
            return 3 * x

        __hash__ = object.__hash__

    jax.tree_util.register_static(Scaled)
    assert Scaled().times(jnp.ones(())) == 3


@pytest.mark.parametrize(
    "use",
    [
        lambda f, x: jax.jit(f)(x),
        lambda f, x: jax.grad(f)(x),
        lambda f, x: jax.vmap(f)(x[None])[0],
        lambda f, x: jax.lax.scan(lambda c, _: (f(c), None), x, length=2)[0],
        lambda f, x: jc.jit(f)(x),
        lambda f, x: jax.eval_shape(f, x),
    ],
)
def test_it_works_inside_any_trace(use):
    use(jc.jit(jnp.sin), jnp.ones(()))


def test_an_option_that_jaxlib_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(compiler, "_platform", lambda: Platform("test", options={"xla_no_such_option": True}))
    assert compiler.helpful_options() == {}
    assert jc.jit(plus)(1) == 2


def test_an_option_of_the_callers_own_is_used_and_its_error_is_shown():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        jc.jit(plus, compiler_options={"xla_no_such_option": True})(1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is XLA:CPU's")
def test_the_cpu_option_takes_the_convolution_out_of_the_fusion():
    def f(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, k = jnp.ones((8, 28, 28, 32)), jnp.ones((3, 3, 32, 32))
    if "ynn_fusion" not in jax.jit(f).lower(x, k).compile().as_text():
        pytest.skip("this jaxlib does not fuse it in the first place")
    assert "ynn_fusion" not in jax.jit(f, compiler_options=compiler.helpful_options()).lower(x, k).compile().as_text()


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is XLA:CPU's")
def test_matrix_products_and_reductions_are_compiled_as_under_jax_jit():
    """A dense layer on few examples is most of the work of many loops: there YNNPACK is faster than XLA."""

    def f(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=3)[0].sum(0)

    x, w = jnp.ones((32, 512)), jnp.ones((512, 512))
    plain, ours = (jit(f).lower(x, w).compile().as_text() for jit in (jax.jit, jc.jit))
    if "ynn_fusion" not in plain:
        pytest.skip("this jaxlib passes none to YNNPACK in the first place")
    assert ours.count("ynn_fusion") == plain.count("ynn_fusion")


def test_a_function_is_traced_once():
    seen = []

    @jc.jit
    def f(x, *, more):
        seen.append(x.shape)
        return x + more["y"]

    for x in (np.ones(3, np.float32), np.ones(3, np.float32), np.ones((2, 3), np.float32)):
        f(x, more={"y": 1.0})
    assert seen == [(3,), (2, 3)]


def test_a_program_is_compiled_once():
    f = jc.jit(lambda x: x + 1)
    for size in (3, 4, 3):
        f(jnp.ones(size))
    assert f._cache_size() == 2
    f.clear_cache()
    assert f._cache_size() == 0


def test_without_jit_it_is_the_function():
    seen = []
    with jax.disable_jit():
        jc.jit(seen.append)(jnp.ones(2))
    assert not isinstance(seen[0], jax.core.Tracer)


def test_what_it_compiled_is_forgotten():
    seen = []
    f = jc.jit(lambda x: seen.append(x) or x + 1)
    f(1)
    f.clear_cache()
    f(1)
    assert len(seen) == 2


def test_it_is_a_jitted_function_to_jax():
    f = jc.jit(plus)
    assert isinstance(f, jax.stages.Wrapped)
    assert f.eval_shape(jnp.ones(3)).shape == f.trace(jnp.ones(3)).out_info.shape == (3,)
    exported = jax.export.export(f)(jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 3"), jnp.float32))
    assert exported.call(jnp.ones((2, 3))).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize("size", [2**20, 2**23])
def test_a_block_holds_the_largest_array_and_half_of_it(size):
    def f(x):
        return jax.lax.scan(lambda c, _: (jnp.sum(jnp.ones((2, size)) * c), None), x, length=2)[0]

    assert compiler._block_limit(BLOCKS, jax.make_jaxpr(f)(jnp.ones(()))) == {BLOCKS.option: max(2**24, 3 * size * 4)}


@pytest.mark.parametrize(("sizes", "block"), [("32768, 32768", {}), ("b, 3", {BLOCKS.option: 2**24})])
def test_an_array_too_large_for_a_block_sets_none_and_one_of_unknown_size_does_not_count(sizes, block):
    x = jax.ShapeDtypeStruct(jax.export.symbolic_shape(sizes), jnp.float32)
    assert compiler._block_limit(BLOCKS, jax.jit(lambda x: x + 1).trace(x).jaxpr) == block


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is XLA:CPU's")
def test_arguments_of_another_type_have_their_own_blocks(monkeypatch):
    asked = []
    monkeypatch.setattr(compiler, "_block_limit", lambda blocks, jaxpr: asked.append(jaxpr.in_avals) or {})
    f = jc.jit(lambda x, more: x + more["y"])
    for dtype, name in ((jnp.float16, "y"), (jnp.float32, "y"), (jnp.float32, "y")):
        f(jnp.ones(3, dtype), {name: 1})
    assert [str(avals[0].dtype) for avals in asked] == ["float16", "float32"]


# The compiler warns of each array that is larger than a block.
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is XLA:CPU's")
@pytest.mark.skipif(os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") > "1", reason="warnings are hidden")
@pytest.mark.parametrize(("options", "warns"), [({}, False), ({BLOCKS.option: 2**20}, True)])
def test_no_array_is_larger_than_a_block_unless_the_caller_says_so(options, warns, capfd):
    def f(x):
        once = jnp.sort(x, axis=0)
        return jnp.sort(once[::-1] + 1, axis=0) - once

    jc.jit(f, compiler_options=options)(jnp.ones((5, 2**20)))
    assert ("larger than the per-heap size limit" in capfd.readouterr().err) == warns
