"""ONNX's conformance cases: each passes, or is in a table with the reason why not."""

import pytest

pytest.importorskip("onnx")

from experiments.docs import onnx_nodes
from jaxconv.interop.onnx.operators import norms, resize, windows
from tests.interop.onnx_nodes import COUNT, OPERATORS, collected, reason, run, table

# What ConvNets are made of is tested always, the rest with the slow tests.
OFTEN = {*windows.ROWS, *norms.ROWS, *resize.ROWS, "Reshape", "Transpose", "Gemm"} - {
    "LayerNormalization",
    "RMSNormalization",
}


@pytest.mark.parametrize(
    "operator", [op if op in OFTEN else pytest.param(op, marks=pytest.mark.slow) for op in OPERATORS]
)
def test_every_case_passes_or_is_refused_for_a_reason(operator):
    broken = []
    for case in collected()[operator]:
        try:
            run(case)
        except Exception as error:
            if not reason(case):
                broken.append(f"{case.name}: {type(error).__name__} {error}")
        else:
            if reason(case):
                broken.append(f"{case.name} passes now: take it out of the table")
    assert not broken, "\n".join(broken)


def test_the_table_counts_every_case():
    cases = [case for cases in collected().values() for case in cases]
    assert len(cases) == COUNT
    refused = sum(bool(reason(case)) for case in cases)
    assert f"| all | {COUNT} | {COUNT - refused} | {refused} |" in table()


def test_the_page_has_the_table():
    page = onnx_nodes.PAGE.read_text()
    assert onnx_nodes.section() in page
    assert onnx_nodes.with_section(page) == page
    before, after = page.split(onnx_nodes.section())
    assert onnx_nodes.with_section(before + after).replace(onnx_nodes.section(), "").strip() == (before + after).strip()
