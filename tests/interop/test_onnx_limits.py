"""Small files that ask for much: refused when their constants are computed, before anything of that size is there."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from jaxconv.interop.onnx import OnnxError, from_onnx  # noqa: E402
from tests.interop.onnx_files import model, node  # noqa: E402


@pytest.mark.parametrize(
    ("nodes", "tensors"),
    [
        ([node("ConstantOfShape", "n", "w", "big")], {"n": np.array([2**30])}),
        ([node("ConstantOfShape", "n", "w", "big")], {"n": np.array([2**20, 2**20, 2**20])}),
        ([node("ConstantOfShape", "n", "w", "big")], {"n": np.array([-1])}),
        ([node("Expand", "one n", "w", "big")], {"one": np.ones(1, np.float32), "n": np.array([2**40])}),
        ([node("Tile", "one n", "w", "big")], {"one": np.ones(1, np.float32), "n": np.array([2**33])}),
        ([node("Range", "a n b", "w", "big")], {"a": np.array(0), "n": np.array(2**40), "b": np.array(1)}),
        (
            [node("ConstantOfShape", "n", f"w{i}", f"big{i}") for i in range(9)] + [node("Identity", "w0", "w")],
            {"n": np.array([2**26])},
        ),
    ],
)
def test_constants_that_would_fill_the_memory(nodes, tensors):
    proto = model([*nodes, node("Add", "x w", "y")], {"x": [1]}, "y", tensors)
    with pytest.raises(OnnxError, match=r"node 'big.*less than 2 GB|less than 2 GB, got more at node 'big"):
        from_onnx(proto.SerializeToString())
