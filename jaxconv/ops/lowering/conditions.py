"""Properties of a convolution that the conditions of several platforms' rows use."""

import math

from jaxconv.ops.lowering.problem import Problem


def always(p: object, t: object) -> bool:
    """For a row that is chosen for every problem that its form has a program for."""
    return True


def tiled(p: Problem) -> bool:
    """The windows do not overlap, and cover the input without padding."""
    g = p.geometry
    return g.window == g.stride and not any(map(any, g.padding)) and max(g.dilation) == 1


def filled(p: Problem) -> float:
    """The ratio of the sizes of a window with zeros up to a multiple of the stride, and without."""
    g = p.geometry
    return math.prod(-(-f // s) * s / f for f, s in zip(g.window, g.stride, strict=True))


def thin(p: Problem) -> bool:
    """A filter sees few channels, too few for a matrix product of one window's taps."""
    return p.inner <= 4


def pointwise(p: Problem) -> bool:
    """A matrix product of all positions, in the arrays' own layout."""
    return p.taps == 1 and p.geometry.groups == 1 and not strided(p)


def strided(p: Problem) -> bool:
    """The window moves by more than one element along some axis."""
    return max(p.geometry.stride) > 1
