import json
import time

import pytest

from experiments.benchmarks import draws, first_step


@pytest.mark.parametrize(
    "framework", ["jaxconv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linen", "nnx"))]
)
def test_a_process_reports_each_stage(framework):
    seconds = first_step.child(framework, "lenet", time.time())
    assert list(seconds) == list(first_step.STAGES)
    assert min(seconds.values()) > 0


def test_the_table_prints_from_the_committed_measurements():
    found = json.loads(first_step.RESULTS.read_text())["seconds"]
    assert first_step.table(found).count("| jaxconv |") == len(first_step.CASES)


def test_kernels_are_drawn_with_the_same_bits_and_compiled_in_less_time(capsys):
    rows = draws.measure(["he_normal"], [(3, 3, 2, 2)])
    assert rows[0]["jaxconv_seconds"] > 0
    table = draws.table({"1": {"rows": rows}, "2": {"rows": rows}})
    assert "| he_normal | 3x3x2x2 |" in table


def test_the_committed_draws_compile_faster_than_jaxs():
    for found in json.loads(draws.RESULTS.read_text()).values():
        for row in found["rows"]:
            assert row["jaxconv_seconds"] < 1.2 * row["jax_seconds"], row
