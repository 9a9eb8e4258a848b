"""ONNX's conformance cases: each passes, or stands in a table with the reason why not."""

import pytest

from tests.ops.onnx_cases import COUNTS, REFUSED, collected, run, table

pytest.importorskip("onnx")


@pytest.mark.parametrize("operator", COUNTS)
def test_every_case_passes_or_is_refused_for_a_reason(operator):
    cases = collected()[operator]
    assert len(cases) == COUNTS[operator]
    broken, stale = [], []
    for case in cases:
        try:
            run(case)
        except Exception as error:
            if case.name not in REFUSED:
                broken.append(f"{case.name}: {error}")
        else:
            if case.name in REFUSED:
                stale.append(case.name)
    assert not broken, "\n".join(broken)
    assert not stale, f"these pass now, so take them out of the table: {stale}"


def test_the_table_names_cases_that_exist():
    names = {case.name for cases in collected().values() for case in cases}
    assert set(REFUSED) <= names
    assert all(REFUSED.values())


def test_the_table_counts_every_case():
    assert f"| all | {sum(COUNTS.values())} | {sum(COUNTS.values()) - len(REFUSED)} | {len(REFUSED)} |" in table()
