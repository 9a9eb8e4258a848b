"""Receptive fields: by counting the elements that units see."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from jaxconv import geometry as geo
from jaxconv.fields import (
    IDENTITY,
    Field,
    InexactField,
    bins_field,
    clip_field,
    compose_field,
    cover_fields,
    transpose_field,
    window_field,
)

FRACTIONS = st.one_of(st.integers(1, 4), st.sampled_from([Fraction(1, 2), Fraction(1, 3), Fraction(5, 3)]))
FIELDS = st.builds(
    lambda exact, *values: (Field if exact else InexactField)(*values),
    st.booleans(),
    st.integers(1, 7),
    FRACTIONS,
    st.integers(-4, 4),
)
WINDOWS = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(-2, 3), st.integers(1, 3))


def seen(unit, window, stride, low, dilation):
    """The elements that one unit of a convolution sees, padding included."""
    return {unit * stride - low + tap * dilation for tap in range(window)}


def interval(field, unit):
    start = field.offset + unit * field.stride
    return start, start + field.size


@given(FIELDS, FIELDS, FIELDS)
def test_composing_is_associative(a, b, c):
    left = compose_field(compose_field(a, b), c)
    right = compose_field(a, compose_field(b, c))
    assert left == right
    assert left.exact == right.exact == (a.exact and b.exact and c.exact)


@given(FIELDS)
def test_the_identity_composes_to_nothing(field):
    for composed in (compose_field(IDENTITY, field), compose_field(field, IDENTITY)):
        assert composed == field
        assert composed.exact == field.exact


@given(st.lists(WINDOWS, min_size=1, max_size=4), st.integers(-3, 6))
def test_a_stack_of_windows_sees_what_its_windows_see(stack, unit):
    field, positions = IDENTITY, {unit}
    for window in stack:
        field = compose_field(field, window_field(*window))
    for window in reversed(stack):
        positions = set().union(*(seen(place, *window) for place in positions))
    assert field.exact
    assert interval(field, unit) == (min(positions), max(positions) + 1)


@given(st.lists(FIELDS, min_size=1, max_size=4), st.integers(0, 8), st.integers(4, 20))
def test_covering_branches_covers_each_and_no_more(fields, unit, size):
    fields = [f._replace(stride=fields[0].stride) for f in fields]
    cover = cover_fields(fields, size)
    starts, stops = zip(*(interval(f, unit) for f in fields), strict=True)
    assert interval(cover, unit) == (min(starts), max(stops))
    assert cover_fields([cover, *fields], size) == cover


def test_branches_at_different_strides_are_covered_by_the_whole_input():
    whole, local = Field(8, 0, 0), Field(3, 1, -1)
    cover = cover_fields([whole, local], 8)
    assert cover == (8, 0, 0)
    assert cover.exact
    # A branch that does not see all of it leaves it open which units do.
    assert not cover_fields([Field(7, 0, 0), local], 8).exact
    assert not cover_fields([Field(3, 2, 0), local], 8).exact


@given(
    window=st.integers(1, 5), stride=st.integers(1, 4), low=st.integers(-2, 4), dilation=st.integers(1, 3),
    n=st.integers(1, 5), unit=st.integers(0, 12),
)  # fmt: skip
def test_a_transposed_field_covers_what_reaches_the_unit(window, stride, low, dilation, n, unit):
    field = transpose_field(window, stride, low, dilation)
    start, stop = interval(field, unit)
    positions = {i for i in range(-40, 40) if unit in seen(i, window, stride, low, dilation)}
    assert all(start <= position and position + 1 <= stop for position in positions)
    assert field.exact == (stride == 1)
    if stride == 1:
        assert (start, stop) == (min(positions), max(positions) + 1)


@given(n=st.integers(1, 20), m=st.integers(1, 12))
def test_a_bins_field_covers_every_bin(n, m):
    bins = geo.adaptive_bins(n, m)
    field = bins_field(bins, n)
    for unit, (start, stop) in enumerate(bins):
        first, last = interval(field, unit)
        assert first <= start
        assert stop <= last
        if field.exact:
            assert (first, last) == (start, stop)
    assert field.exact == (n % m == 0)


def test_a_field_that_does_not_move_is_cut_to_the_input():
    assert clip_field(Field(12, 0, -2), 8) == (8, 0, 0)
    assert clip_field(Field(5, 0, 1), 8) == (5, 0, 1)
    assert clip_field(Field(12, 2, -2), 8) == (12, 2, -2)
    assert not clip_field(InexactField(12, 0, -2), 8).exact


def test_whole_fractions_are_ints():
    field = compose_field(transpose_field(2, 2), window_field(2, 2))
    assert type(field.stride) is int
    assert field.stride == 1
    assert repr(Field(3, 2, -1)) == "Field(size=3, stride=2, offset=-1)"
