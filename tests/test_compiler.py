"""`jaxconv.jit` is `jax.jit` everywhere, and carries options at top level only."""

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from jaxconv import compiler


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
    monkeypatch.setattr(compiler, "OPTIONS", {jax.default_backend(): {"xla_no_such_option": True}})
    assert compiler.helpful_options() == {}
    assert jc.jit(plus)(1) == 2


def test_an_option_of_the_callers_own_is_used_and_its_error_is_shown():
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        jc.jit(plus, compiler_options={"xla_no_such_option": True})(1)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the option is XLA:CPU's")
def test_the_cpu_option_takes_the_convolution_out_of_the_fusion():
    def f(x, k):
        return jc.conv(x, k)

    x, k = jnp.ones((8, 28, 28, 32)), jnp.ones((3, 3, 32, 32))
    if "ynn_fusion" not in jax.jit(f).lower(x, k).compile().as_text():
        pytest.skip("this jaxlib does not fuse it in the first place")
    assert "ynn_fusion" not in jax.jit(f, compiler_options=compiler.helpful_options()).lower(x, k).compile().as_text()
