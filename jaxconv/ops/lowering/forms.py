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
from jaxconv.ops.lowering.xla import as_large, xla, xla_extra_row, xla_prelayout


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


def _by_split_im2col(p: Problem) -> Sequence[str]:
    """Shifts the output's gradient against the input, zeros where it ends."""
    return ("input",) if p.geometry.stride[-1] == 1 and p.geometry.window[-1] > 1 else ()


def _by_toeplitz_gemm(p: Problem) -> Sequence[str]:
    """A window's taps are zero at the positions of the others; the gradient of a kernel fills up the last tile."""
    even = p.geometry.out[-1] % sums.tile_size(p) == 0
    return () if p.role == "kernel" and even else ("input",)


def _by_space_to_depth(p: Problem) -> Sequence[str]:
    """The window is filled up with zeros to a multiple of the stride."""
    g = p.geometry
    even = all(f % s == 0 for f, s in zip(g.window, g.stride, strict=True))
    return () if p.role == "kernel" or even else ("input",) if p.role == "output" else ("output",)


def _by_block_diagonal(p: Problem) -> Sequence[str]:
    """The kernel is zero between different groups."""
    return {"output": ("input",), "input": ("output",), "kernel": ()}[p.role]


XLA = Form("xla", lambda p, first, second, solve: xla(p, first, second), ROLES, lambda p: True, spreads=_by_lax)
_ALL = (
    XLA,
    Form("onednn", onednn.convolution, ROLES, onednn.fits),
    Form("xla_prelayout", xla_prelayout, ("kernel",), _dense),
    Form("xla_extra_row", xla_extra_row, ("output",), lambda p: _dense(p) and p.geometry.rank > 1 and as_large(p)),
    Form("gemm", sums.gemm, ROLES, lambda p: _dense(p) and p.taps == 1, "vmap"),
    Form("gemm_per_tap", sums.gemm_per_tap, ("output", "kernel"), _dense, "vmap", ("output",)),
    Form("split_im2col", sums.split_im2col, ("kernel",), _dense, "vmap", ("kernel",), _by_split_im2col),
    Form("toeplitz_gemm", sums.toeplitz_gemm, ("output", "kernel"), _dense, "vmap", ("kernel",), _by_toeplitz_gemm),
    Form("shift_add", sums.shift_add, ("output", "kernel"), lambda p: p.inner == 1, "vmap", ("output", "kernel")),
    Form("tap_reduce", sums.tap_reduce, ("kernel",), lambda p: p.inner == 1, "vmap", ("kernel",)),
    Form("flipped_conv", smaller.flipped_conv, ("input",), _unit_stride),
    Form("polyphase", smaller.polyphase, ROLES, lambda p: not _unit_stride(p), adds=("output", "kernel")),
    Form("space_to_depth", smaller.space_to_depth, ROLES, _strided_dense, spreads=_by_space_to_depth),
    Form(
        "depthwise_space_to_depth", smaller.depthwise_space_to_depth, ("kernel",), _strided_depthwise, adds=("kernel",)
    ),
    Form("per_group", smaller.per_group, ROLES, lambda p: not _dense(p)),
    Form(
        "block_diagonal",
        smaller.block_diagonal,
        ROLES,
        lambda p: not _dense(p) and smaller.block_size(p) > 1,
        spreads=_by_block_diagonal,
    ),
    Form("per_slice", smaller.per_slice, ("output", "kernel"), lambda p: p.geometry.rank > 1, adds=("output",)),
    Form("per_example", smaller.per_example, ROLES, lambda p: p.batch > 1, adds=("kernel",)),
    Form("per_member", smaller.per_member, ROLES, lambda p: True, "own"),
)
FORMS = {form.name: form for form in _ALL}
