"""What devices exchange, against what their windows see."""

import itertools

import pytest

from jaxconv.ops.lowering.partition import Span, halo

SPANS = [
    Span(size, (size + low + high - reach - 1) // stride + 1, reach, stride, low)
    for size, reach, stride, low, high in itertools.product(
        (5, 8, 12, 33), (0, 1, 2, 4), (1, 2, 3, 5), (0, 1, 2), (0, 1)
    )
    if low <= reach and high <= reach
]


@pytest.mark.parametrize("ways", [2, 3, 4, 8])
def test_each_device_gets_what_its_windows_see(ways):
    """Window ``o`` sees from ``o * stride - low``; local window ``j`` sees from ``j * stride``."""
    divided = 0
    for span in SPANS:
        found = halo(span, ways, backward=False)
        if found is None:
            continue
        divided += 1
        own, out = -(-span.size // ways), -(-span.out // ways)
        assert (found.span.out, found.span.low) == (out, 0)
        assert found.length == (out - 1) * span.stride + span.reach + 1
        for device in range(ways):
            start = found.starts[device]
            assert -found.before <= start <= own + found.after - found.length
            if device * out < span.out:
                assert device * own + start == device * out * span.stride - span.low
    assert divided > 100


@pytest.mark.parametrize("ways", [2, 3, 4, 8])
def test_each_device_gets_all_windows_that_see_its_elements(ways):
    divided = 0
    for span in SPANS:
        found = halo(span, ways, backward=True)
        if found is None:
            continue
        divided += 1
        size, own = -(-span.size // ways), -(-span.out // ways)
        assert 0 <= found.span.low <= span.reach
        for device, t in itertools.product(range(ways), range(size)):
            element, local = device * size + t, found.own[0][device] + t
            if element >= span.size:
                continue
            first = device * own + found.starts[device]
            # How far it is from the first tap of the first window that the device has.
            assert local + found.span.low == element - (first * span.stride - span.low)
            seen_by = [o for o in range(span.out) if 0 <= element - (o * span.stride - span.low) <= span.reach]
            assert all(first <= o < first + found.length for o in seen_by)
            assert local < found.span.size
    assert divided > 100


def test_an_axis_is_not_divided_where_windows_reach_over_all_devices():
    assert halo(Span(8, 8, 7, 1, 3), 8, backward=False) is None
    assert halo(Span(8, 1, 7, 1), 4, backward=False) is None
