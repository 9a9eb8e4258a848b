"""The benchmarks' cases say what they compute, and their tables are read off the committed measurements."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import cases, digits, forms, layers, programs, reported, training
from jaxconv.ops.lowering.problem import ROLES
from tests.ops.compare import assert_close

SMALL = [
    "conv 2x8x8x4->6 k3",
    "conv 2x9x8x4->4 k5 s2 p2 g4",
    "conv 2x12x12x4->4 k3 pvalid d2",
    "conv 2x32x3->4 k9",
    "conv 1x4x5x6x2->3 k3",
    "conv_transpose 2x4x4x4->2 k4 s2",
    "conv_transpose 2x4x4x4->4 k5 s2 p2 o1 g4",
    "max_pool 2x8x8x4 k3 s2 p1",
    "avg_pool 2x8x8x4 k3 s2",
    "lp_pool 2x8x8x4 k2",
]


@pytest.mark.parametrize("name", SMALL)
def test_a_case_is_the_same_computation_in_jaxconv_and_in_lax(name):
    case = cases.parse(name)
    assert case.name == name
    (ours, arrays), (theirs, same) = case.jaxconv("float32"), case.lax("float32")
    for a, b in zip(arrays, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert_close(jax.jit(ours)(*arrays), jax.jit(theirs)(*arrays), what=name)


def test_there_are_enough_cases_and_none_twice():
    names = [case.name for case in cases.CASES]
    assert len(names) == len(set(names)) >= 40
    sources = " ".join(case.source for case in cases.CASES)
    for network in ("ResNet-50", "MobileNetV2", "EfficientNet-Lite0", "ConvNeXt-T", "U-Net"):
        assert network in sources


@pytest.mark.parametrize("role", [ROLES[0], *(pytest.param(role, marks=pytest.mark.slow) for role in ROLES[1:])])
def test_the_forms_of_a_case_are_different_programs_of_it(role):
    case = cases.parse("conv 2x8x8x4->4 k3 s2 p1 g4")
    problem = forms.problems(case)[role]
    found = forms.candidates(problem, True)
    assert {"xla", "auto"} <= set(found)
    times = forms.measure(problem, True, {}, 1, found)
    assert set(times) == set(found)
    assert min(times.values()) > 0


def test_the_tables_print_from_the_committed_measurements():
    for module in (layers, training, digits):
        table = module.table(json.loads(module.RESULTS.read_text()))
        assert table.count("\n|") > 5


@pytest.mark.torch
@pytest.mark.parametrize("case", ["conv 2x5x6x4->6 k3 s2 p1 g2", "conv_transpose 2x4x4x3->2 k3 s2", "conv 2x9x3->2 k3"])
def test_the_digits_of_three_libraries_are_of_the_same_sums(case):
    for p in forms.problems(cases.parse(case)).values():
        found = digits.measure(p)
        assert set(found) == set(digits.DRAWN)
        for errors in found.values():
            assert {"lax", "jaxconv"} <= set(errors)
            assert all(0 <= error < 10 for error in errors.values())


@pytest.mark.parametrize("what", ["forward", "kernel", "input"])
def test_a_report_is_the_same_computation_in_jaxconv_and_in_lax(what):
    found = reported.of_case("conv_transpose 1x4x4x3->2 k3 s2", what, "float32")
    ours, theirs = (jax.jit(function)(*arrays) for function, arrays in (found["jaxconv"], found["lax"]))
    assert_close(ours, theirs, what=what)


def test_a_report_of_a_function_is_measured():
    calls = reported.gradients_of_examples()
    ours, theirs = (jax.jit(function)(*arrays) for function, arrays in (calls["jaxconv"], calls["lax"]))
    assert_close(ours, theirs)
    found = reported.measure(calls, None, 0.01)
    assert all(row["median_ms"] > 0 and row["compile_s"] > 0 for row in found.values())
    entry = {
        "issue": "an issue",
        "case": "a case",
        "what": "forward",
        "dtype": "float32",
        "guessed": True,
        "found": found,
    }
    assert "an issue | a case, shape guessed, float32" in reported.table({"reports": [entry]})


def test_the_calls_of_libraries_are_read_off_a_program():
    line = (
        "  %cudnn-conv.1 = (f32[8,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%x.1, %k), window={size=3x3 pad=1_1x1_1}, "
        'dim_labels=b01f_o01i->b01f, feature_group_count=2, custom_call_target="__cudnn$convForward", metadata={}'
    )
    (call,) = programs.calls(f"ENTRY %main\n  %y = f32[2]{{0}} fusion(%x), kind=kLoop\n{line}\n")
    assert call == (
        "f32[8,4,4,16] window={size=3x3 pad=1_1x1_1} dim_labels=b01f_o01i->b01f feature_group_count=2 "
        'custom_call_target="__cudnn$convForward"'
    )
    entry = {"case": "a", "dtype": "float32", "what": "forward", "memory": 1.5}
    said = programs.summary([entry, entry | {"case": "b", "same": False}, entry | {"case": "c", "same": True}])
    assert "3 programs, 2 by lax's own convolutions, 1 of them the same calls" in said
    assert said.endswith("- b, float32, forward")
