"""The operators that can be imported, as one table: name to rows, each for a range of opsets."""

from jaxconv.interop.onnx.operators import elementwise, indexing, norms, quantized, reductions, resize, shapes, windows
from jaxconv.interop.onnx.operators.base import Placed, Row

_FAMILIES = (elementwise, indexing, norms, quantized, reductions, resize, shapes, windows)

TABLE: dict[str, Row] = {name: row for family in _FAMILIES for name, row in family.ROWS.items()}

__all__ = ["TABLE", "Placed", "Row"]
