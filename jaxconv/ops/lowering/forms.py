"""The programs that compute a convolution, by name, each with its preconditions.

A form takes a `Problem`, its two arrays, and ``solve(problem, first, second)`` for the smaller problems that it leaves.
It returns the third array. Arrays have one batch axis, channels last. All forms multiply the same numbers and sum them
in the same type; they differ in the order of the sum. Some multiply zeros by elements that the result does not depend
on, and zero times NaN or inf is NaN: ``spreads`` says which. docs/conformance.md has the table.
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
      spreads: the operands of this problem of which an element that is not finite may make NaN of results that do not
        depend on it.
    """

    name: str
    function: Callable[[Problem, Array, Array, Solve], Array]
    roles: Sequence[str]
    fits: Callable[[Problem], bool]
    ensemble: str = "no"
    adds: Sequence[str] = ()
    spreads: Callable[[Problem], Sequence[str]] = lambda p: ()

    def takes(self, p: Problem) -> bool:
        """Whether the form has a program for the problem."""
        allowed = self.ensemble != "no" if p.ensemble else self.ensemble != "own"
        return allowed and p.role in self.roles and self.fits(p)


def _dense(p: Problem) -> bool:
    return p.geometry.groups == 1


def _unit_stride(p: Problem) -> bool:
    return unit(p.geometry.stride)


def _strided_dense(p: Problem) -> bool:
    return _dense(p) and not _unit_stride(p) and unit(p.geometry.dilation)


def _strided_depthwise(p: Problem) -> bool:
    return p.depthwise and p.outer == 1 and not _unit_stride(p) and unit(p.geometry.dilation)


def _by_lax(p: Problem) -> Sequence[str]:
    """lax multiplies the kernel by the zeros that a stride leaves between the elements of an output's gradient, and
    takes the features of all groups, or members of an ensemble, together for the gradient of a kernel."""
    if p.role == "input" and not _unit_stride(p):
        return ("kernel",)
    return ("output",) if p.role == "kernel" and (p.geometry.groups > 1 or p.ensemble) else ()


def _by_crossed(p: Problem) -> Sequence[str]:
    """Shifts the output's gradient against the input, zeros where it ends."""
    return ("input",) if p.geometry.stride[-1] == 1 and p.geometry.window[-1] > 1 else ()


def _by_tiles(p: Problem) -> Sequence[str]:
    """A window's taps are zero at the positions of the others; the gradient of a kernel fills up the last tile."""
    even = p.geometry.out[-1] % sums.tile_size(p) == 0
    return () if p.role == "kernel" and even else ("input",)


def _by_shuffled(p: Problem) -> Sequence[str]:
    """The window is filled up with zeros to a multiple of the stride."""
    g = p.geometry
    even = all(f % s == 0 for f, s in zip(g.window, g.stride, strict=True))
    return () if p.role == "kernel" or even else ("input",) if p.role == "output" else ("output",)


def _by_blocks(p: Problem) -> Sequence[str]:
    """The kernel is zero between different groups."""
    return {"output": ("input",), "input": ("output",), "kernel": ()}[p.role]


XLA = Form("xla", lambda p, first, second, solve: xla(p, first, second), ROLES, lambda p: True, spreads=_by_lax)
_ALL = (
    XLA,
    Form("onednn", onednn.convolution, ROLES, onednn.fits),
    Form("laid out", laid_out, ("kernel",), _dense),
    Form("uneven", uneven, ("output",), lambda p: _dense(p) and p.geometry.rank > 1 and as_large(p)),
    Form("product", sums.product, ROLES, lambda p: _dense(p) and p.taps == 1, "vmap"),
    Form("products", sums.products, ("output", "kernel"), _dense, "vmap", ("output",)),
    Form("crossed", sums.crossed, ("kernel",), _dense, "vmap", ("kernel",), _by_crossed),
    Form("tiles", sums.tiles, ("output", "kernel"), _dense, "vmap", ("kernel",), _by_tiles),
    Form("shifts", sums.shifts, ("output", "kernel"), lambda p: p.inner == 1, "vmap", ("output", "kernel")),
    Form("sums", sums.sums, ("kernel",), lambda p: p.inner == 1, "vmap", ("kernel",)),
    Form("turned", smaller.turned, ("input",), _unit_stride),
    Form("phases", smaller.phases, ROLES, lambda p: not _unit_stride(p), adds=("output", "kernel")),
    Form("shuffled", smaller.shuffled, ROLES, _strided_dense, spreads=_by_shuffled),
    Form("split", smaller.split, ("kernel",), _strided_depthwise, adds=("kernel",)),
    Form("apart", smaller.apart, ROLES, lambda p: not _dense(p)),
    Form(
        "blocks",
        smaller.blocks,
        ROLES,
        lambda p: not _dense(p) and smaller.block_size(p) > 1,
        spreads=_by_blocks,
    ),
    Form("slabs", smaller.slabs, ("output", "kernel"), lambda p: p.geometry.rank > 1, adds=("output",)),
    Form("examples", smaller.examples, ROLES, lambda p: p.batch > 1, adds=("kernel",)),
    Form("members", smaller.members, ROLES, lambda p: True, "own"),
)
FORMS = {form.name: form for form in _ALL}
