"""What every docstring example may use without importing it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, jc=jc)


# Where it matters what the compiler makes of an op, where much is computed, or two programs are compared closely.
TESTS = Path(__file__).parent / "tests"
OPTIMIZED = tuple(TESTS / name for name in ("ops", "experiments", "data", "inspect/test_units.py", "test_compiler.py"))
# Of the functions, those whose tests compare values, and whose algorithms the other tests compile with all of them.
QUICK = tuple(
    TESTS / "ops" / f"test_{name}.py"
    for name in """anchors box_transforms boxes export heatmaps nms norm onnx pad polygons regions resize
        torch_records""".split()
)


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation(request):
    """Compiles without most optimizations: compiling is what tests of networks do most."""
    optimized = request.path not in QUICK and any(request.path.is_relative_to(folder) for folder in OPTIMIZED)
    jax.config.update("jax_disable_most_optimizations", not optimized)
