"""`jaxconv.explain`: which program each convolution and pool of a function becomes, and why."""

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from jaxconv.ops.lowering import onednn, table
from jaxconv.ops.lowering.linear import copies_p, every_p, spread_p, sums_p, tiles_p
from jaxconv.ops.lowering.maxima import best_p, pick_p, place_p
from jaxconv.ops.lowering.primitive import conv_p, problem_of
from jaxconv.ops.lowering.problem import Geometry, Problem, Shape

# lax's own, which nobody chooses for.
_LAX = {"conv_general_dilated", "reduce_window_max", "reduce_window_sum", "reduce_window", "select_and_scatter_add"}


@dataclass(frozen=True)
class Explained:
    """One convolution or pool of a function.

    Args:
      op: what is computed, such as "conv", "conv: gradient of the kernel".
      shapes: those of its two arrays, or of its one.
      how: of a convolution what is not by default: "stride 2, padding 1, groups 96", and a type other than float32.
      inside: the transformations that it is inside of, outermost first, such as "scan".
      form: the program, with what it leaves to others: "polyphase > gemm_per_tap".
      why: the table's reason.
      macs: multiply-adds of one run.
    """

    op: str
    shapes: tuple[Shape, ...]
    how: str
    inside: tuple[str, ...]
    form: str
    why: str
    macs: int


class Explanation(tuple[Explained, ...]):
    """The rows; printed, a table, in a notebook too."""

    def __str__(self) -> str:
        rows = self._cells()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        def row(tag: str, cells: tuple[str, ...]) -> str:
            left = ' style="text-align:left"'
            return f"<tr>{''.join(f'<{tag}{left}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

        heads, *rows = self._cells()
        body = "".join(row("td", cells) for cells in rows)
        return f"<table><thead>{row('th', heads)}</thead><tbody>{body}</tbody></table>"

    def _cells(self) -> list[tuple[str, ...]]:
        cells: list[tuple[str, ...]] = [("op", "shapes", "how", "inside", "form", "why")]
        for row in self:
            shapes = ", ".join("x".join(map(str, shape)) for shape in row.shapes)
            cells.append((row.op, shapes, row.how, " > ".join(row.inside), row.form, row.why))
        return cells


_MAXIMA = {p.name for p in (best_p, pick_p, place_p)}
# Pools are jitted functions of these names, through derivatives too.
_POOLS = {"pool_maxima": "max_pool", "pool_sums": "avg_pool or lp_pool"}
_OPS = {
    "output": "conv",
    "input": "conv: gradient of the input, or conv_transpose",
    "kernel": "conv: gradient of the kernel",
}


def explain(function: Callable[..., Any], *args: Any, platform: str | None = None) -> Explanation:
    """Lists the convolutions and pools in a function, and what is chosen for each: nothing is compiled or run.

    Looks into `jit`, `scan`, `cond`, `remat`, `shard_map` and whatever else holds a function. The rows are for one
    device that computes whole arrays. Under a mesh each device computes its share, for whose shapes the choice may be
    another. Matrix products of a window of one tap call oneDNN too, where the form is "gemm".

    Args:
      function: takes ``args``. To see the gradients too, pass ``jax.grad`` of it.
      args: arrays, or anything with shape and dtype.
      platform: "cpu", "cuda" (or "gpu"), "rocm" or "tpu"; by default that of the default backend.

    Returns:
      A tuple of rows with op, shapes, how, inside, form, why, macs; its ``str`` is a table.

    Raises:
      ValueError: no such platform.

    >>> rows = explain(lambda x, k: jc.conv(x, k), jnp.ones((1, 8, 8, 3)), jnp.ones((1, 1, 3, 4)), platform="tpu")
    >>> rows[0].op, rows[0].form
    ('conv', 'xla')
    """
    platform = platform or jax.default_backend()
    platform = "cuda" if platform == "gpu" else platform
    if platform not in table.PLATFORMS:
        raise ValueError(f"platform must be one of {', '.join(table.PLATFORMS)}, got {platform!r}")
    closed = jax.make_jaxpr(function)(*args)
    return Explanation(_rows(closed.jaxpr, (), platform))


def _rows(jaxpr: Any, inside: tuple[str, ...], platform: str) -> Iterator[Explained]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is conv_p:
            p = eqn.params
            first, second = (v.aval for v in eqn.invars)
            shapes = (first.shape, second.shape)
            how = _how(p["geometry"], first.dtype)
            if 0 in (*first.shape, *second.shape):
                yield Explained(_OPS[p["role"]], shapes, how, inside, "none", "empty", 0)
                continue
            problem = problem_of(first, second, p, platform)
            taken = table.steps(problem, p["lowering"])
            names = dict.fromkeys(choice.form.name for _, choice in taken)
            lanes = f", {problem.ensemble} of them" if problem.ensemble else ""
            macs = problem.macs * (problem.ensemble or 1)
            why = taken[0][1].why + _without_onednn(problem, p["lowering"])
            yield Explained(_OPS[p["role"]] + lanes, shapes, how, inside, " > ".join(names), why, macs)
        elif eqn.primitive.name in _LAX:
            shapes = tuple(v.aval.shape for v in eqn.invars)
            yield Explained(f"lax.{eqn.primitive.name}", shapes, "", inside, "xla", "lax's own, not jaxconv's", 0)
        name = eqn.params.get("name", eqn.primitive.name)
        if name in _POOLS:
            yield _pool(eqn, inside, platform)
            continue
        for inner in jaxprs_in_params(eqn.params):
            yield from _rows(inner, (*inside, name if isinstance(name, str) else eqn.primitive.name), platform)


def _how(g: Geometry, dtype: Any) -> str:
    """What is not by default; numbers that are all the same as one."""

    def short(numbers: Sequence[Any]) -> str:
        one = len(set(numbers)) == 1 and not isinstance(numbers[0], tuple)
        return str(numbers[0]) if one else str(tuple(numbers))

    padding = {n for pair in g.padding for n in pair}
    numbers = {
        "stride": (short(g.stride), "1"),
        "padding": (short([*padding] if len(padding) == 1 else g.padding), "0"),
        "dilation": (short(g.dilation), "1"),
        "groups": (str(g.groups), "1"),
    }
    said = [f"{name} {value}" for name, (value, plain) in numbers.items() if value != plain]
    return ", ".join([*said, *([str(dtype)] if dtype != jnp.float32 else [])])


def _without_onednn(p: Problem, mode: Any) -> str:
    """Says why oneDNN is not called for a problem for which it would be, if this process called it."""
    able = mode in ("auto", "exact") and p.platform == "cpu" and onednn.computes(p.dtype, p.geometry.rank)
    why = onednn.left_out() if able else ""
    return f"; oneDNN is not called, since {why}" if why else ""


def _pool(eqn: Any, inside: tuple[str, ...], platform: str) -> Explained:
    eqns = eqn.params["jaxpr"].jaxpr.eqns
    names = {e.primitive.name for e in eqns}
    maxima = [e for e in eqns if e.primitive is best_p]
    if any(name.startswith(("reduce_window", "select_and_scatter")) for name in names):
        form, why = "xla", "lax's own windows: asked for"
    elif copies_p.name in names and platform == "cpu":
        form, why = "copies", "the windows lie side by side: layers.json"
    elif names & {tiles_p.name, copies_p.name}:
        form, why = "xla", "lax's own windows: they lie side by side"
    elif not names & {"slice", "pad", sums_p.name, every_p.name, spread_p.name, *_MAXIMA}:
        form, why = "sum", "the window is the whole map"
    elif platform == "cuda" and maxima and all(len(e.invars) == 1 and not e.params["tell"] for e in maxima):
        form, why = "xla", "lax's own windows, one pass over all axes: forms_cuda.json"
    elif platform == "cuda" and names & _MAXIMA:
        form, why = "slices", "of its taps, the gradient by those that won: layers_cuda.json"
    elif platform == "cpu":
        form, why = "slices", "of its taps, faster than lax's windows: layers.json"
    else:
        form, why = "slices", "of its taps, as on CPU; not measured on this platform"
    return Explained(_POOLS[eqn.params["name"]], (eqn.invars[0].aval.shape,), "", inside, form, why, 0)


__all__ = ["explain"]
