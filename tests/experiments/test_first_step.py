import json
import time

import pytest

from experiments.benchmarks import first_step


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
