"""What every docstring example may use without importing it."""

import contextlib
import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from tests.quick import quick_compilation


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, jc=jc)


def pytest_collection_finish():
    """Excludes the objects that imports created from garbage collection: they are never freed."""
    gc.freeze()


# Tests that depend on what the compiler makes of an op, or compare two programs closely.
TESTS = Path(__file__).parent / "tests"
OPTIMIZED = tuple(TESTS / name for name in ("ops", "inspect/test_units.py", "test_compiler.py"))
# Tests of which only the slow ones compute much.
LONG = tuple(TESTS / name for name in ("experiments", "data"))
# Of the functions, those whose tests compare values, and whose algorithms the other tests compile with all of them.
QUICK = tuple(
    TESTS / "ops" / f"{name}.py"
    for name in """lowering/test_forms lowering/test_maxima lowering/test_nonfinite lowering/test_resample
    lowering/test_taylor test_anchors test_box_transforms test_boxes test_export test_heatmaps test_nms test_norm
    test_onnx test_pad test_peers test_polygons test_regions test_resize test_torch_records test_transforms""".split()
)


@pytest.fixture(autouse=True, scope="module")
def _quick_compilation(request):
    """Compiles without most optimizations: compiling is what tests of networks do most."""
    folders = OPTIMIZED if "not slow" in request.config.option.markexpr else OPTIMIZED + LONG
    optimized = request.path not in QUICK and any(request.path.is_relative_to(folder) for folder in folders)
    with contextlib.nullcontext() if optimized else quick_compilation():
        yield
