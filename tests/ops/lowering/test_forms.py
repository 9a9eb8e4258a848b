"""Every form, forced one by one, against sums in NumPy float64: what a form computes may differ by rounding alone."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.forms import FORMS
from jaxconv.ops.lowering.problem import ROLES, Geometry, Problem, others
from tests.ops.draws import Draws, Searched, uniform
from tests.ops.lowering.targets import ON_CPU, WITH_ONEDNN, solved
from tests.ops.transforms import quick_jit, strict_flags

# A form's own problem, and what it leaves, by lax: so that one form is looked at at a time.
ALONE = {name: ((name,) if name != "xla" else "xla") for name in FORMS}
TARGET = {name: WITH_ONEDNN if name == "onednn" else ON_CPU for name in FORMS}
# What a form needs of a problem beside what every draw has.
NEEDS: dict[str, dict[str, int]] = {
    "xla": {},
    "xla_prelayout": {"groups": 1},
    "xla_extra_row": {"groups": 1, "padded": 1, "ranks": 2, "stride": 1},
    "gemm": {"taps": 1, "groups": 1},
    "gemm_per_tap": {"groups": 1},
    "split_im2col": {"groups": 1},
    "toeplitz_gemm": {"groups": 1},
    "shift_add": {"inner": 1},
    "tap_reduce": {"inner": 1},
    "flipped_conv": {"stride": 1},
    "polyphase": {"stride": 2},
    "space_to_depth": {"stride": 2, "groups": 1, "dilation": 1},
    "depthwise_space_to_depth": {"stride": 2, "dilation": 1, "inner": 1, "groups": 2, "outer": 1},
    "per_group": {"groups": 2},
    "block_diagonal": {"groups": 2},
    "per_slice": {"ranks": 2},
    "per_example": {"batch": 2},
}
# oneDNN in each role, each with what it needs there.
ONEDNN: dict[str, dict[str, int]] = {"output": {}, "input": {"stride": 1}, "kernel": {}}
CASES = [(name, role) for name in NEEDS for role in FORMS[name].roles]
CASES += [("onednn", role) for role in ONEDNN if onednn.carried()]


def ids(text: str) -> str:
    return text.replace(" ", "-")


def problem(draws: Draws, name: str, role: str) -> Problem:
    """Draws a problem that has what a form needs, at the edges of what it takes more often than not."""
    needs = NEEDS[name] if name in NEEDS else ONEDNN[role] | draws.choice([{"groups": 1}, {"dilation": 1}])
    rank = draws.integer(needs.get("ranks", 1), 3)
    most = (5, 3, 2)[rank - 1]
    window = (1,) * rank if needs.get("taps") == 1 else draws.integers(1, most, rank)
    fixed_stride = needs.get("stride") == 1
    stride = (1,) * rank if fixed_stride else draws.integers(1, 3, rank)
    if needs.get("stride") == 2 and max(stride) == 1:
        stride = (2,) * rank
    dilation = (1,) * rank if needs.get("dilation") == 1 else draws.integers(1, 3, rank)
    if needs.get("dilation") == 2 and max(dilation) == 1:
        dilation = (2,) * rank
    if name == "onednn" and role == "kernel" and rank == 3:
        dilation = (*dilation[:-1], 1)
    reach = [(f - 1) * d for f, d in zip(window, dilation, strict=True)]
    padding = tuple((draws.integer(0, r), draws.integer(0, r)) for r in reach)
    if "padded" in needs:
        low = padding[0][0]
        padding = ((low, reach[0] - low), *padding[1:])
    # From the smallest map that holds a window.
    size = tuple(
        max(1, r + 1 - low - high) + draws.integer(0, 4) for r, (low, high) in zip(reach, padding, strict=True)
    )
    groups = {None: draws.integer(1, 3), 1: 1, 2: draws.integer(2, 4)}[needs.get("groups")]
    if name == "onednn" and groups > 1:  # not past the map
        size = tuple(max(n, (2 * r if role == "input" else r) + 1) for n, r in zip(size, reach, strict=True))
    inner = {None: draws.integer(1, 3), 1: 1, 2: draws.integer(2, 3)}[needs.get("inner")]
    if name == "onednn" and role != "kernel":
        out = Geometry(size, window, stride, padding, dilation).out
        stride = (1,) * rank if groups * inner == 1 or out[-1] == 1 else stride
    if name == "onednn" and role == "kernel" and max(dilation) > 1:
        needs, inner = needs | {"batch": 2}, max(inner, 2)
    geometry = Geometry(size, window, stride, padding, dilation, groups)
    features = groups * needs.get("outer", draws.integer(1, 3))
    return Problem(
        role,
        geometry,
        draws.integer(needs.get("batch", 1), 3),
        groups * inner,
        features,
        jnp.dtype(jnp.float32),
    )


def summed(p: Problem, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The result in float64, tap by tap, and the sum of the magnitudes of what was added."""
    g = p.geometry
    arrays = dict(zip(others(p.role), (first, second), strict=True))
    result = np.zeros(p.shape(p.role))
    arrays[p.role] = result
    magnitude = np.zeros_like(result)
    pads = [(0, 0), *g.padding, (0, 0)]
    padded = np.pad(arrays["input"], pads)
    padded_magnitude = np.pad(magnitude if p.role == "input" else arrays["input"], pads)
    inner, outer = p.inner, p.outer
    for index in itertools.product(*(range(f) for f in g.window)):
        seen = tuple(
            slice(i * d, i * d + (m - 1) * s + 1, s)
            for i, m, s, d in zip(index, g.out, g.stride, g.dilation, strict=True)
        )
        for group in range(g.groups):
            ins = (slice(None), *seen, slice(group * inner, (group + 1) * inner))
            outs = (..., slice(group * outer, (group + 1) * outer))
            x, k, y = padded[ins], arrays["kernel"][index][outs], arrays["output"][outs]
            if p.role == "output":
                y += x @ k
                magnitude[outs] += np.abs(x) @ np.abs(k)
            elif p.role == "input":
                x += y @ k.T
                padded_magnitude[ins] += np.abs(y) @ np.abs(k).T
            else:
                axes = tuple(range(x.ndim - 1))
                k += np.tensordot(x, y, (axes, axes))
                magnitude[index][outs] += np.tensordot(np.abs(x), np.abs(y), (axes, axes))
    if p.role == "input":
        inside = tuple(slice(low, low + n) for n, (low, _) in zip(g.size, g.padding, strict=True))
        return padded[(slice(None), *inside)], padded_magnitude[(slice(None), *inside)]
    return result, magnitude


def arrays_of(p: Problem, dtype=np.float32, lead=()) -> list[np.ndarray]:
    return [uniform(i, (*lead, *p.shape(name))).astype(dtype) for i, name in enumerate(others(p.role))]


def computed(p: Problem, mode, arrays, target=ON_CPU) -> np.ndarray:
    return np.asarray(quick_jit(solved(mode, p, target))(*arrays))


def check(draws: Draws, name: str, role: str) -> None:
    p = problem(draws, name, role)
    own = name == "onednn" or (onednn.carried() and draws.integer(0, 1) > 0)
    target, mode = (WITH_ONEDNN, (name, "onednn")) if own else (ON_CPU, ALONE[name])
    assert FORMS[name].takes(p, target), p
    first, second = arrays_of(p)
    want, magnitude = summed(p, first.astype(np.float64), second.astype(np.float64))
    got = computed(p, mode, (first, second), target)
    assert got.shape == want.shape
    # The bound of a sum in any order: no digits are lost but those of the type.
    assert np.all(np.abs(got - want) <= 8 * np.finfo(np.float32).eps * magnitude + 1e-30), (name, p)


@pytest.mark.parametrize(("name", "role"), CASES, ids=ids)
@given(st.data())
@settings(max_examples=6)
def test_forms_equal_the_sums(name, role, data):
    check(Searched(data), name, role)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "role"), CASES, ids=ids)
@given(st.data())
@settings(max_examples=20)
def test_forms_equal_the_sums_at_length(name, role, data):
    check(Searched(data), name, role)


@pytest.mark.parametrize(("name", "role"), [case for case in CASES if case[0] != "xla"], ids=ids)
def test_half_types_are_summed_in_float32(name, role):
    for own in {False, onednn.carried()}:
        for dtype in (jnp.bfloat16, jnp.float16):
            p = dataclasses.replace(problem_with(name, role), half=True)
            first, second = arrays_of(p, dtype)
            want, _ = summed(p, first.astype(np.float64), second.astype(np.float64))
            mode, target = ((name, "onednn"), WITH_ONEDNN) if own or name == "onednn" else (ALONE[name], ON_CPU)
            got = computed(p, mode, (first, second), target)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def problem_with(name: str, role: str) -> Problem:
    """A fixed problem that the form takes."""
    needs = ONEDNN[role] if name == "onednn" else NEEDS[name]
    rank = 2
    window = (1 if needs.get("taps") == 1 else 3,) * rank
    stride, dilation = (2 if needs.get("stride") == 2 else 1,) * rank, (2 if needs.get("dilation") == 2 else 1,) * rank
    groups = 1 if needs.get("groups") == 1 else 4
    inner = needs.get("inner", 2)
    padding = ((0, 0) if window[0] == 1 else (1, 1),) * rank
    geometry = Geometry((9, 8), window, stride, padding, dilation, groups)
    features = groups * needs.get("outer", 2)
    p = Problem(role, geometry, 2, groups * inner, features, jnp.dtype(jnp.float32))
    assert FORMS[name].takes(p, TARGET[name])
    return p


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.ensemble != "no"])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_an_ensemble_is_each_of_its_members(name, count):
    """A few are unrolled, many are a loop."""
    for role in FORMS[name].roles:
        p = problem_with(name if name in NEEDS else "xla", role)
        arrays = arrays_of(p, lead=(count,))
        mode = ALONE[name]
        together = computed(dataclasses.replace(p, ensemble=count), mode, arrays)
        alone = quick_jit(solved("xla", p))
        each = np.stack([alone(*(a[i] for a in arrays)) for i in range(count)])
        np.testing.assert_allclose(together, each, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["per_group", "block_diagonal"])
@pytest.mark.parametrize("role", ROLES)
def test_many_groups_are_a_loop(name, role):
    p = Problem(
        role,
        Geometry((4, 3), (3, 2), (1, 2), ((1, 1), (0, 1)), (1, 1), 34),
        2,
        68,
        102,
        jnp.dtype(jnp.float32),
    )
    arrays = arrays_of(p)
    mode = (name, "per_member")
    np.testing.assert_allclose(computed(p, mode, arrays), summed(p, *map(np.float64, arrays))[0], rtol=1e-5, atol=1e-5)
    program = jax.make_jaxpr(solved(mode, p))(*arrays)
    assert str(program).count("conv_general_dilated[") == 1


@pytest.mark.parametrize(("name", "role"), CASES, ids=ids)
def test_twice_gives_the_same_bits(name, role):
    p = problem_with(name, role)
    arrays = arrays_of(p)
    run = jax.jit(solved(ALONE[name], p, TARGET[name]))
    np.testing.assert_array_equal(run(*arrays), run(*arrays))


@pytest.mark.parametrize(("name", "role"), CASES, ids=ids)
def test_strict_flags_stop_no_form(name, role):
    p = problem_with(name, role)
    for half in (False, True):
        p = dataclasses.replace(p, half=half)
        with strict_flags():
            jax.eval_shape(solved(ALONE[name], p, TARGET[name]), *arrays_of(p, jnp.bfloat16 if half else np.float32))


def test_every_form_is_tested():
    assert {*NEEDS, "onednn", "per_member"} == set(FORMS)
