"""An element that is not finite reaches what depends on it, and nothing else: by index arithmetic, form by form.

`reach` says for one element of one operand which elements of the result depend on it: those that must become NaN or
inf, and those that may, as they multiply it by a zero of the padding alone. Where `Form.spreads` names the
operand, more elements may.
"""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxconv.ops.lowering import onednn
from jaxconv.ops.lowering.forms import FORMS
from jaxconv.ops.lowering.guard import guarded
from jaxconv.ops.lowering.problem import ROLES, Geometry, Problem, others
from jaxconv.ops.lowering.table import PLATFORMS, Solver
from jaxconv.ops.lowering.target import Target
from tests.ops.draws import uniform
from tests.ops.lowering.targets import ON_CPU, WITH_ONEDNN, solved
from tests.ops.transforms import quick_jit

# Sizes, window, stride, padding, dilation, groups; channels, features.
GEOMETRIES = {
    "line": (((21,), (5,), (1,), ((2, 1),), (1,), 1), 2, 3),
    "stride, window": (((9, 8), (3, 2), (2, 3), ((1, 1), (0, 1)), (1, 1), 1), 2, 3),
    "window below stride": (((8, 9), (2, 2), (3, 3), ((0, 0), (0, 0)), (1, 1), 1), 2, 3),
    "multiple of stride": (((9, 8), (4, 2), (2, 2), ((1, 1), (0, 1)), (1, 1), 1), 2, 3),
    "dilation": (((9, 8), (3, 3), (1, 1), ((2, 1), (0, 2)), (2, 2), 1), 2, 3),
    "dilation, stride": (((9, 8), (3, 3), (2, 2), ((2, 1), (0, 2)), (1, 3), 1), 2, 3),
    "groups": (((7, 6), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3), 6, 6),
    "groups, stride": (((8, 7), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 2), 4), 8, 12),
    "18 groups": (((5, 4), (3, 2), (1, 1), ((1, 1), (1, 0)), (1, 1), 18), 36, 36),
    "depthwise": (((19, 5), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 4), 4, 4),
    "depthwise, stride": (((39, 6), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 4), 4, 4),
    "depthwise, multiplier": (((39, 6), (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1), 4), 4, 8),
    "one tap": (((5, 6), (1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1), 1), 2, 3),
    "three channels": (((6, 37), (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 1), 3, 4),
    "line, stride": (((17,), (7,), (2,), ((3, 3),), (1,), 1), 6, 2),
    "solid": (((4, 5, 4), (2, 2, 2), (1, 2, 1), ((0, 1), (1, 0), (0, 0)), (1, 1, 1), 1), 2, 3),
}
KINDS = (np.nan, np.inf)
# Those that leave all to others, to which a few geometries are enough.
FEW = {
    "per_example": ("stride, window", "dilation", "groups, stride"),
    "per_slice": ("stride, window", "dilation", "groups", "solid"),
    "xla": ("dilation", "dilation, stride", "groups, stride", "depthwise, multiplier", "solid"),
}


def problem(name: str, role: str, **facts) -> Problem:
    (size, window, stride, padding, dilation, groups), channels, features = GEOMETRIES[name]
    geometry = Geometry(size, window, stride, padding, dilation, groups)
    return Problem(role, geometry, 2, channels, features, jnp.dtype(jnp.float32), **facts)


def along(g: Geometry, axis: int, role: str, operand: str, index: int) -> tuple[set[int], set[int]]:
    """Along one axis, which indices of the result depend on this one of the operand: for sure, and perhaps."""
    n, f, s, d, m = (numbers[axis] for numbers in (g.size, g.window, g.stride, g.dilation, g.out))
    low = g.padding[axis][0]
    met = [{"input": o * s + t * d - low, "kernel": t, "output": o} for o in range(m) for t in range(f)]
    seen = [at for at in met if at[operand] == index]
    inside = {at[role] for at in seen if 0 <= at["input"] < n}
    if (role, operand) == ("input", "kernel"):  # an output's gradient is padded too
        return inside, {x for x in range(n) if (x + low - index * d) % s == 0}
    return inside, {at[role] for at in seen if role != "input" or 0 <= at["input"] < n}


def reach(p: Problem, operand: str, at: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Where the result must not be finite, and where it need not be, if this element of the operand is not."""
    spatial = at[:-2] if operand == "kernel" else at[1:-1]
    axes = [along(p.geometry, axis, p.role, operand, i) for axis, i in enumerate(spatial)]
    first, last = at[0], at[-1]
    group = last // p.outer if operand != "input" else last // p.inner
    channels, features = ([group * n + i for i in range(n)] for n in (p.inner, p.outer))
    ends = {
        ("output", "input"): ([[first]], [features]),
        ("output", "kernel"): ([range(p.batch)], [[last]]),
        ("input", "output"): ([[first]], [channels]),
        ("input", "kernel"): ([range(p.batch)], [[group * p.inner + at[-2]]]),
        ("kernel", "input"): ([], [[last % p.inner], features]),
        ("kernel", "output"): ([], [range(p.inner), [last]]),
    }
    before, behind = ends[p.role, operand]
    found = []
    for sure in (0, 1):
        mask = np.zeros(p.shape(p.role), bool)
        index = [*before, *(sorted(axis[sure]) for axis in axes), *behind]
        if all(map(len, index)):
            mask[np.ix_(*index)] = True
        found.append(mask)
    return found[0], found[1]


def positions(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Both corners, and some between."""
    drawn = uniform(3, (6, len(shape)), 0.0, 1.0) * np.array(shape)
    return [(0,) * len(shape), tuple(n - 1 for n in shape), *(tuple(map(int, at)) for at in drawn)]


def arrays_of(p: Problem) -> dict[str, np.ndarray]:
    """Numbers away from 0, since 0 times inf is NaN by right."""
    shapes = {name: p.shape(name) for name in others(p.role)}
    return {name: uniform(i, shape, 0.5, 1.5).astype(np.float32) for i, (name, shape) in enumerate(shapes.items())}


def spread(p: Problem, run) -> set[str]:
    """Of which operands an element reached too far; that each reaches what depends on it is asserted."""
    arrays, far = arrays_of(p), set()
    for operand, array in arrays.items():
        for at in positions(array.shape):
            for value in KINDS:
                changed = array.copy()
                changed[at] = value
                found = ~np.isfinite(np.asarray(run(*(arrays | {operand: changed}).values())))
                must, may = reach(p, operand, at)
                assert found[must].all(), f"{p}: {value} at {at} of the {operand} is lost"
                if (found & ~may).any():
                    far.add(operand)
    return far


def test_what_depends_on_an_element_is_what_its_derivative_says():
    """`reach` against lax's derivatives, which are not 0 where the result depends on the element."""
    for name in ("stride, window", "dilation, stride", "groups, stride"):
        for role in ROLES:
            p = problem(name, role)
            arrays = arrays_of(p)
            for operand, array in arrays.items():
                for at in positions(array.shape)[1:3]:
                    direction = np.zeros_like(array)
                    direction[at] = 1
                    moved = solved("xla", p)(*(arrays | {operand: direction}).values())
                    np.testing.assert_array_equal(np.asarray(moved) != 0, reach(p, operand, at)[0])


OWN = [True] if onednn.carried() else []
CASES = [
    (form, role) for form in FORMS for role in FORMS[form].roles if form != "per_member" and (form != "onednn" or OWN)
]


@pytest.mark.parametrize(("form", "role"), CASES, ids=lambda name: name.replace(" ", "-"))
def test_forms_spread_what_they_say_and_no_more(form, role):
    """What the form leaves to others is by the forms that spread nothing."""
    said, seen, taken = set(), set(), 0
    for name in FEW.get(form, GEOMETRIES):
        p, target = problem(name, role), WITH_ONEDNN if form == "onednn" else ON_CPU
        if not FORMS[form].takes(p, target):
            continue
        taken += 1
        choice = FORMS[form]

        def run(first, second, choice=choice, p=p, target=target):
            return choice.function(p, first, second, solve=Solver(target, "exact"))

        far = spread(p, quick_jit(run))
        assert far <= set(choice.spreads(p)), f"{form} spreads an element of the {far}: {p}"
        said, seen = said | set(choice.spreads(p)), seen | far
    assert taken
    assert said == seen, f"{form} is said to spread the {said}, and the {seen} was seen to"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", GEOMETRIES, ids=lambda name: name.replace(" ", "-"))
def test_by_default_nothing_spreads(name, role):
    """But a kernel that is not finite, where lax computes the input's gradient."""
    run = set()
    for mode in ("auto", "portable", "exact"):
        p, target = problem(name, role), WITH_ONEDNN if onednn.carried() and mode != "portable" else ON_CPU
        steps = Solver(target, mode).steps(p)
        forms = tuple(choice.form.name for step, choice in steps if isinstance(step, Problem))
        if (forms, target) in run:
            continue
        run.add((forms, target))
        spreads = {operand for step, choice in steps for operand in choice.form.spreads(step)}
        assert mode != "exact" or not spreads
        far = spread(p, quick_jit(solved(mode, p, target)))
        assert far <= ({"kernel"} if mode != "exact" and role == "input" and "xla" in forms else set())


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu", None])
def test_exact_takes_no_form_that_spreads(platform):
    for name in GEOMETRIES:
        for role in ROLES:
            for ensemble in (0, 2, 20):
                p = problem(name, role, ensemble=ensemble)
                for step, choice in Solver(Target(PLATFORMS[platform]), "exact").steps(p):
                    assert not choice.form.spreads(step), (choice.form.name, step)


def test_the_exact_program_runs_where_the_fast_one_would_spread():
    """The smaller of the operand and the result is looked at."""
    good, bad = jnp.ones((3, 4)), jnp.ones((3, 4)).at[1, 2].set(jnp.inf)
    ones, twos = jnp.ones((2, 5)), jnp.full((2, 5), 2.0)
    for operand, result, want in ((good, ones, 1), (bad, ones, 1), (bad, ones.at[0, 0].set(jnp.nan), 2)):
        got = guarded([operand], 10, lambda result=result: result, lambda: twos)  # 12 elements are more than 10
        np.testing.assert_array_equal(got, np.full((2, 5), want))
    for operands, want in (([good], 1), ([bad], 2), ([good, bad], 2)):
        got = guarded(operands, 24, lambda: ones, lambda: twos)
        np.testing.assert_array_equal(got, np.full((2, 5), want))


def test_the_page_says_which_forms_spread_what():
    said: dict[str, list[set[str]]] = {}
    for name, form in FORMS.items():
        if name != "per_member":
            said[name] = [set(), set(), set()]
            for column, role in enumerate(("output", "input", "kernel")):
                for geometry in GEOMETRIES:
                    p = problem(geometry, role)
                    said[name][column] |= set(form.spreads(p)) if form.takes(p, WITH_ONEDNN) else set()
    page = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text()
    rows = re.findall(r"^\| `(\w+)`[^|]* \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, re.MULTILINE)
    written = {name: [set(re.findall(r"^(\w+):", cell)) for cell in cells] for name, *cells in rows}
    assert written == {name: columns for name, columns in said.items() if any(columns)}
