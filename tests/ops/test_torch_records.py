"""Values and gradients against those that ``tests/record_torch.py`` has recorded from torch."""

import collections

import numpy as np
import pytest

from tests.ops.compare import assert_close
from tests.ops.torch_cases import OPS, Case, run_ours
from tests.record_torch import CASES_PER_OP, RECORDS


@pytest.fixture(scope="module")
def records():
    """The recorded cases with their numbers, by op."""
    by_op = collections.defaultdict(list)
    with np.load(RECORDS) as file:
        cases = [Case.from_json(line) for line in str(file["cases"]).splitlines()]
        numbers = np.split(file["numbers"], np.cumsum(file["counts"])[:-1])
    for case, recorded in zip(cases, numbers, strict=True):
        by_op[case.op].append((case, recorded))
    return by_op


@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients_equal_the_record(op, records):
    assert len(records[op]) >= CASES_PER_OP // 2
    for case, numbers in records[op]:
        ours = np.concatenate([r.ravel() for r in run_ours(case)])
        # Recorded in float32.
        assert_close(ours, numbers, rtol=1e-6, atol=1e-7, what=str(case))
