"""Receptive fields along one axis: of a window, of layers in sequence, of branches. Integers in, integers out."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from jaxconv.geometry import window_extent


class _Interval(NamedTuple):
    size: int | Fraction
    stride: int | Fraction
    offset: int | Fraction


class Field(_Interval):
    """A receptive field along one axis: unit ``i`` sees ``size`` elements from ``offset + i * stride`` on.

    A tuple ``(size, stride, offset)``. Stride 0: every unit sees the same elements. A negative offset reaches into the
    padding. `InexactField` is one whose units do not all follow the formula.
    """

    __slots__ = ()
    exact = True


class InexactField(Field):
    """A receptive field that contains the elements that each unit sees, and for some units more.

    Its ends may be fractions. If a feature map is padded with its own elements, units at its border also see elements
    outside of their field.
    """

    __slots__ = ()
    exact = False


IDENTITY = Field(1, 1, 0)


def _whole(value: int | Fraction) -> int | Fraction:
    return int(value) if isinstance(value, Fraction) and value.denominator == 1 else value


def _field(exact: bool, *values: int | Fraction) -> Field:
    return (Field if exact else InexactField)(*(_whole(v) for v in values))


def window_field(window: int, stride: int = 1, low: int = 0, dilation: int = 1) -> Field:
    """Returns the field of one convolution or pool in its own input.

    >>> window_field(3, stride=2, low=1)
    Field(size=3, stride=2, offset=-1)
    """
    return Field(window_extent(window, dilation), stride, -low)


def transpose_field(window: int, stride: int = 1, low: int = 0, dilation: int = 1) -> Field:
    """Returns the field of one transposed convolution in its own input; exact at stride 1 only."""
    spans = {}
    for unit in range(stride):
        seen = [at // stride for t in range(window) if (at := unit + low - t * dilation) % stride == 0]
        if seen:
            spans[unit] = (min(seen), max(seen) + 1)
    return covering_field(spans, Fraction(1, stride), exact=stride == 1)


def bins_field(bins: Sequence[tuple[int, int]], size: int) -> Field:
    """Returns the field of an adaptive pool in its own input; exact where its bins tile it."""
    return covering_field(dict(enumerate(bins)), Fraction(size, len(bins)))


def covering_field(spans: Mapping[int, tuple[int, int]], stride: Fraction, *, exact: bool = True) -> Field:
    """Returns the smallest field that slides by ``stride`` and contains the elements from start to stop of each unit.

    The field is exact if it equals these elements for all units, and ``exact`` is true.

    >>> covering_field({0: (0, 2), 1: (1, 4), 2: (3, 5)}, Fraction(5, 3))
    InexactField(size=3, stride=Fraction(5, 3), offset=Fraction(-2, 3))
    """
    starts = {start - unit * stride for unit, (start, _) in spans.items()}
    stops = {stop - unit * stride for unit, (_, stop) in spans.items()}
    exact = exact and len(starts) == len(stops) == 1
    return _field(exact, max(stops) - min(starts), stride, min(starts))


def compose_field(inner: Field, outer: Field) -> Field:
    """Returns the field, in the first input, of ``outer`` run on the output of ``inner``.

    >>> compose_field(Field(3, 2, -1), Field(3, 1, -1))
    Field(size=7, stride=2, offset=-3)
    """
    return _field(
        inner.exact and outer.exact,
        inner.size + (outer.size - 1) * inner.stride,
        inner.stride * outer.stride,
        inner.offset + outer.offset * inner.stride,
    )


def cover_fields(fields: Sequence[Field], size: int) -> Field:
    """Returns the field that contains the fields of several branches that are joined in one feature map.

    If the strides of the branches differ, as in a gate by global statistics, the field is the whole input, of ``size``
    elements.
    """
    exact = all(f.exact for f in fields)
    strides = {f.stride for f in fields}
    offset = min(f.offset for f in fields)
    stop = max(f.offset + f.size for f in fields)
    if len(strides) == 1:
        return _field(exact, stop - offset, strides.pop(), offset)
    whole = any(f.stride == 0 and f.offset <= 0 and f.offset + f.size >= size for f in fields)
    return _field(exact and whole, size, 0, 0)


def clip_field(field: Field, size: int) -> Field:
    """Returns a field of stride 0 without the padding that it contains; other fields unchanged."""
    if field.stride:
        return field
    start, stop = max(field.offset, 0), min(field.offset + field.size, size)
    return _field(field.exact, stop - start, 0, start)
