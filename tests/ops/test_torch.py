"""Values and gradients against live torch, over cases that hypothesis searches: `make oracle`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import jaxconv as jc
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


@pytest.mark.parametrize(("size", "out"), [(2, 41), (2, 82), (4, 47), (2, 97), (4, 94), (2, 55)])
@pytest.mark.parametrize("method", ["nearest", "nearest_exact"])
def test_nearest_rounds_in_float32_as_torch(method, size, out):
    """Sizes where exact arithmetic picks another element; torch's own answer for 1-D and float64 maps differs too."""
    x = np.arange(size * 2, dtype=np.float32).reshape(size, 2, 1)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(x).movedim(-1, 0)[None], size=(out, 2), mode=method.replace("_", "-")
    )
    assert_array_equal(jc.resize(x, (out, 2), method=method), theirs[0].movedim(0, -1).numpy())
