"""The algorithms of convolutions, matrix products and pools, by name, each with its preconditions.

Arrays have one batch axis, channels last. All forms of a convolution multiply the same elements and sum them in the
same type; they differ in the order of the sum. Some multiply zeros by elements that the result does not depend on, and
zero times NaN or inf is NaN: ``spreads`` says which. docs/conformance.md has the table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxconv.ops.lowering import maxima, onednn, smaller, sums, window_sums
from jaxconv.ops.lowering.problem import ROLES, Pool, Problem, Product
from jaxconv.ops.lowering.target import Target
from jaxconv.ops.lowering.windows import unit
from jaxconv.ops.lowering.xla import as_large, xla, xla_extra_row, xla_prelayout


@dataclass(frozen=True)
class Form:
    """A way to compute problems of one type.

    Args:
      name: the name that `jaxconv.explain` shows and `jaxconv.lowering` accepts.
      function: the program, ``function(p, *arrays, solve=solve)``, where ``solve(problem, *arrays)`` computes the
        smaller problems that it leaves.
      roles: the roles that it has a program for.
      fits: whether it has a program for the problem, if the role is one of these.
      ensemble: "no", it has no program for an ensemble; "vmap", the program consists of matrix products and sums, and
        is batched; "own", it is for ensembles only; "any", it is for both.
      adds: the roles in which it adds results of several operations, which half precision is too narrow for.
      spreads: the operands of a problem of which a non-finite element may make NaN of results that do not depend on it.
      onednn: whether it calls oneDNN.
      problem: the type of its problems.
    """

    name: str
    function: Callable[..., Any]
    roles: Sequence[str]
    fits: Callable[[Any], bool]
    ensemble: str = "no"
    adds: Sequence[str] = ()
    spreads: Callable[[Any], Sequence[str]] = lambda p: ()
    onednn: bool = False
    problem: type[Any] = Problem

    def takes(self, p: Any, target: Target) -> bool:
        """Whether the form has a program for the problem on the target."""
        if not isinstance(p, self.problem) or (self.onednn and not target.onednn):
            return False
        allowed = self.ensemble != "no" if p.ensemble else self.ensemble != "own"
        return allowed and p.role in self.roles and self.fits(p)


@dataclass(frozen=True)
class Row:
    """A form, the problems that it is chosen for among those that it has a program for, and why.

    Args:
      form: the form.
      when: the condition, on the problem and the target.
      why: the reason that `jaxconv.explain` shows.
      then: the names of the forms for the problems that it leaves, the first that fits or XLA's; without them the table
        chooses.
    """

    form: Form
    when: Callable[[Any, Target], bool]
    why: str
    then: tuple[str, ...] = ()


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


# Winning taps are numbered in int8.
_MOST_TAPS = 127


def _contiguous(p: Pool) -> bool:
    """The pooled axes are those before the channels, without dilation."""
    before = list(range(-1 - len(p.axes), -1))
    return sorted(w.axis for w in p.axes) == before and all(w.dilation == 1 for w in p.axes)


def _short(p: Pool) -> bool:
    return all(w.taps <= _MOST_TAPS for w in p.axes)


def _pool_by_xla(p: Pool, x: Any, solve: Any) -> Any:
    return (maxima.max_by_xla if p.role == "maximum" else window_sums.sum_by_xla)(p, x, solve)


XLA = Form(
    "xla",
    lambda p, first, second, solve: xla(p, first, second, crop=solve.target.platform.crops),
    ROLES,
    lambda p: True,
    ensemble="any",
    spreads=_by_lax,
)
_ALL = (
    XLA,
    Form("onednn", onednn.convolution, ROLES, onednn.fits, onednn=True),
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
_PRODUCT_ROLES = ("channels", "features", "positions")
PRODUCTS = {
    form.name: form
    for form in (
        Form("xla", sums.product_by_xla, _PRODUCT_ROLES, lambda p: True, problem=Product),
        Form("onednn", onednn.product, _PRODUCT_ROLES, lambda p: True, onednn=True, problem=Product),
    )
}
_MAXIMA = ("maximum", "winners", "picked", "placed")
_SUMS = ("sum", "spread")
POOLS = {
    form.name: form
    for form in (
        Form("xla", _pool_by_xla, ("maximum", *_SUMS), lambda p: not p.indexed, problem=Pool),
        Form("joint_max", maxima.joint_max, _MAXIMA, lambda p: _contiguous(p) and p.taps <= _MOST_TAPS, problem=Pool),
        Form("separable_max", maxima.separable_max, _MAXIMA, _short, problem=Pool),
        Form("doubling_max", maxima.doubling_max, ("winners",), lambda p: len(p.axes) == 1, problem=Pool),
        Form("separable_sum", window_sums.separable_sum, _SUMS, lambda p: True, problem=Pool),
        Form("broadcast", window_sums.broadcast, ("spread",), lambda p: _contiguous(p) and p.tiled, problem=Pool),
    )
}
_FORMS: dict[type, dict[str, Form]] = {Problem: FORMS, Product: PRODUCTS, Pool: POOLS}
# All that `jaxconv.lowering` accepts.
NAMES = tuple(dict.fromkeys(name for forms in _FORMS.values() for name in forms))


def forms_of(problem: type) -> dict[str, Form]:
    """Returns the forms for problems of this type, by name."""
    return _FORMS[problem]
