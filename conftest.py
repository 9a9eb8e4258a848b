"""What every docstring example may use without importing it."""

import contextlib
import gc
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxconv as jc
from tests.quick import quick_compilation, shared_contexts


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, jc=jc)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Compiles quickly during collection too, and excludes what imports create from garbage collection: it stays."""
    gc.disable()
    with shared_contexts(), quick_compilation():
        collected = yield
    gc.freeze()
    # Tracing makes many objects that live for a moment.
    gc.set_threshold(10_000)
    gc.enable()
    return collected


@pytest.fixture(autouse=True, scope="session")
def _shared_contexts():
    with shared_contexts():
        yield


@pytest.fixture(autouse=True, scope="module")
def _kept_objects():
    """Excludes what JAX keeps of a module's programs from garbage collection, which took 8 % of the time."""
    yield
    gc.collect()
    gc.freeze()


TESTS = Path(__file__).parent / "tests"
# Tests that depend on what the compiler makes of an op, or compare two programs closely.
OPTIMIZED = tuple(TESTS / name for name in ("data", "experiments", "ops", "inspect/test_units.py", "test_compiler.py"))
# Of these files, those in which only the slow tests do, or compute much.
LONG = tuple(
    TESTS / name
    for name in """data experiments ops/lowering/test_cuda.py ops/lowering/test_explain.py
    ops/lowering/test_partition.py ops/lowering/test_table.py ops/test_draws.py ops/test_dropin.py ops/test_dropout.py
    ops/test_errors.py ops/test_mesh.py ops/test_nonfinite.py""".split()
)
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

    def within(paths):
        return any(request.path.is_relative_to(path) for path in paths)

    quick = QUICK + LONG if "not slow" in request.config.option.markexpr else QUICK
    with quick_compilation() if within(quick) or not within(OPTIMIZED) else contextlib.nullcontext():
        yield
