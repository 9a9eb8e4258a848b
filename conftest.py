"""What every docstring example may use without importing it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax._src import compiler

import jaxconv as jc
from tests.quick import quick_options


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, jc=jc)


# Where it matters what the compiler makes of an op, or two programs are compared closely.
TESTS = Path(__file__).parent / "tests"
OPTIMIZED = tuple(TESTS / name for name in ("ops", "inspect/test_units.py", "test_compiler.py"))
# Much is computed in their slow tests alone.
LONG = tuple(TESTS / name for name in ("experiments", "data"))
# Of the functions, those whose tests compare values, and whose algorithms the other tests compile with all of them.
QUICK = tuple(
    TESTS / "ops" / f"{name}.py"
    for name in """lowering/test_forms lowering/test_maxima lowering/test_nonfinite lowering/test_resample
    lowering/test_taylor test_export test_norm test_onnx test_pad test_resize test_torch_records""".split()
)


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation(request):
    """Compiles without most optimizations: compiling is what tests of networks do most."""
    folders = OPTIMIZED if "not slow" in request.config.option.markexpr else OPTIMIZED + LONG
    optimized = request.path not in QUICK and any(request.path.is_relative_to(folder) for folder in folders)
    jax.config.update("jax_disable_most_optimizations", not optimized)
    options = {} if optimized else quick_options()
    usual = compiler.get_compile_options

    def get_compile_options(*args, env_options_overrides=None, **kwargs):
        return usual(*args, env_options_overrides=options | (env_options_overrides or {}), **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", get_compile_options)
        yield
