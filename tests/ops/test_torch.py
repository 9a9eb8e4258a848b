"""Values and gradients against live torch, over cases that hypothesis searches: `make oracle`."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.compare import assert_close
from tests.ops.draws import Searched
from tests.ops.torch_cases import OPS, draw_case, run_ours, run_theirs

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("op", OPS)
@given(st.data())
@settings(max_examples=60)
def test_values_and_gradients_equal_torch(op, data):
    case = draw_case(op, Searched(data))
    for i, (ours, theirs) in enumerate(zip(run_ours(case), run_theirs(case), strict=True)):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9, what=f"result {i} of {case}")
