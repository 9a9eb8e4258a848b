"""The programs that compute a convolution, by name, each with its preconditions.

A form takes a `Problem`, its two arrays, and ``solve(problem, first, second)`` for the smaller problems that it leaves.
It returns the third array. Arrays have one batch axis, channels last. All forms multiply the same numbers and sum them
in the same type; they differ in the order of the sum. Some fill up with zeros, so that a number that is not finite may
make NaN of results whose own windows do not see it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxconv.ops.lowering import onednn, smaller, sums
from jaxconv.ops.lowering.problem import ROLES, Array, Problem, Solve
from jaxconv.ops.lowering.windows import unit
from jaxconv.ops.lowering.xla import as_large, laid_out, uneven, xla


@dataclass(frozen=True)
class Form:
    """A way to compute a convolution.

    Args:
      name: what `jaxconv.explain` shows and `jaxconv.lowering` takes.
      function: computes it.
      roles: those that it has a program for.
      fits: whether it computes this problem.
      ensemble: what it does with one: "no" program for it; "vmap": as it is made of matrix products and sums alone,
        it is batched; "own": it is for ensembles only.
      adds: the roles in which it adds up results of several operations, which half types are then too narrow for.
    """

    name: str
    function: Callable[[Problem, Array, Array, Solve], Array]
    roles: Sequence[str]
    fits: Callable[[Problem], bool]
    ensemble: str = "no"
    adds: Sequence[str] = ()

    def takes(self, p: Problem) -> bool:
        """Whether the form has a program for the problem."""
        allowed = self.ensemble != "no" if p.ensemble else self.ensemble != "own"
        return allowed and p.role in self.roles and self.fits(p)


def _dense(p: Problem) -> bool:
    return p.geometry.groups == 1


def _unit_stride(p: Problem) -> bool:
    return unit(p.geometry.stride)


def _strided_depthwise(p: Problem) -> bool:
    return p.depthwise and p.outer == 1 and not _unit_stride(p) and unit(p.geometry.dilation)


XLA = Form("xla", lambda p, first, second, solve: xla(p, first, second), ROLES, lambda p: True)
_ALL = (
    XLA,
    Form("onednn", onednn.convolution, ROLES, onednn.fits),
    Form("laid out", laid_out, ("kernel",), _dense),
    Form("uneven", uneven, ("output",), lambda p: _dense(p) and p.geometry.rank > 1 and as_large(p)),
    Form("product", sums.product, ROLES, lambda p: _dense(p) and p.taps == 1, "vmap"),
    Form("products", sums.products, ("output", "kernel"), _dense, "vmap", ("output",)),
    Form("crossed", sums.crossed, ("kernel",), _dense, "vmap", ("kernel",)),
    Form("tiles", sums.tiles, ("output", "kernel"), _dense, "vmap", ("kernel",)),
    Form("shifts", sums.shifts, ("output", "kernel"), lambda p: p.inner == 1, "vmap", ("output", "kernel")),
    Form("sums", sums.sums, ("kernel",), lambda p: p.inner == 1, "vmap", ("kernel",)),
    Form("turned", smaller.turned, ("input",), _unit_stride),
    Form("phases", smaller.phases, ROLES, lambda p: not _unit_stride(p), adds=("output", "kernel")),
    Form(
        "shuffled", smaller.shuffled, ROLES, lambda p: _dense(p) and not _unit_stride(p) and unit(p.geometry.dilation)
    ),
    Form("split", smaller.split, ("kernel",), _strided_depthwise, adds=("kernel",)),
    Form("apart", smaller.apart, ROLES, lambda p: not _dense(p)),
    Form("blocks", smaller.blocks, ROLES, lambda p: not _dense(p) and smaller.block_size(p) > 1),
    Form("slabs", smaller.slabs, ("output", "kernel"), lambda p: p.geometry.rank > 1, adds=("output",)),
    Form("examples", smaller.examples, ROLES, lambda p: p.batch > 1, adds=("kernel",)),
    Form("members", smaller.members, ROLES, lambda p: True, "own"),
)
FORMS = {form.name: form for form in _ALL}
