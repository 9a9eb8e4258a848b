"""How tests lower and compile in little time."""

import concurrent.futures

import pytest
from jax._src.interpreters import mlir

from tests.quick import shared_contexts


def test_programs_of_one_thread_share_a_context(monkeypatch):
    if hasattr(mlir, "_create_ir_context"):
        pytest.skip("this jax shares them")
    monkeypatch.setattr(mlir, "make_ir_context", object)
    with shared_contexts(programs=2):
        one, same, next_one = (mlir.make_ir_context() for _ in range(3))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            others = [pool.submit(mlir.make_ir_context).result() for _ in range(2)]
        assert mlir.make_ir_context() is next_one
    assert one is same
    assert len({one, next_one, *others}) == 4
    assert mlir.make_ir_context is object
