"""Targets of the tests, and a mode of `jaxconv.lowering` applied to a problem on one of them."""

import functools

from jaxconv.ops.lowering.cpu import CPU
from jaxconv.ops.lowering.cuda import CUDA
from jaxconv.ops.lowering.table import Solver, named
from jaxconv.ops.lowering.target import Target

ON_CPU, WITH_ONEDNN, ON_CUDA = Target(CPU), Target(CPU, onednn=True), Target(CUDA)


def solved(mode, p, target=ON_CPU):
    """Returns the function of two arrays that computes the problem."""
    return functools.partial(Solver(target, mode), p)


def chosen(p, target=ON_CPU, mode="auto") -> str:
    """Returns the names of the algorithms, as `jaxconv.explain` shows them."""
    return named(Solver(target, mode).steps(p))
