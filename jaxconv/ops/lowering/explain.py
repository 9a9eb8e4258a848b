"""`jaxconv.explain`: which algorithm computes each convolution and pool of a function, and why."""

import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from jaxconv.ops.lowering.define import POSED
from jaxconv.ops.lowering.problem import Pool, Shape
from jaxconv.ops.lowering.table import PLATFORMS, named, platform_of
from jaxconv.ops.lowering.target import ANY, Platform
from jaxconv.ops.lowering.traced import chosen_p

# JAX's own operations, for which no algorithm is chosen.
_LAX = {"conv_general_dilated", "reduce_window_max", "reduce_window_sum", "reduce_window", "select_and_scatter_add"}


@dataclass(frozen=True)
class Explained:
    """One convolution or pool of a function.

    Args:
      op: the name of the op or of its gradient, such as "conv", "conv: gradient of the kernel".
      shapes: the shapes of its arrays.
      how: the options of a convolution that are not the default, "stride 2, padding 1, groups 96", and a type other
        than float32.
      inside: the transformations around the op, outermost first, such as "scan".
      form: the algorithm, and after ">" the algorithms of the smaller problems that it leaves: "polyphase > shift_add",
        "gemm > onednn". `jaxconv.lowering` accepts these names.
      why: the reason.
      macs: the multiply-adds of one run of a convolution.
    """

    op: str
    shapes: tuple[Shape, ...]
    how: str
    inside: tuple[str, ...]
    form: str
    why: str
    macs: int


class Explanation(tuple[Explained, ...]):
    """The rows; they print as a table, in a notebook too."""

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


# Functions under jit that are only there to be traced once.
_HIDDEN = ("pool_maxima", "pool_sums")


def explain(function: Callable[..., Any], *args: Any, platform: str | None = None) -> Explanation:
    """Lists the convolutions and pools in a function with their algorithms. Nothing is compiled or run.

    Looks into `jit`, `scan`, `cond`, `remat`, `shard_map` and every other transformation that contains a function. The
    rows are for one device that computes whole arrays. Under a mesh each device computes a part of the arrays, and the
    algorithm for the shapes of this part may differ.

    Args:
      function: a function of ``args``. To see the gradients too, pass its ``jax.grad``.
      args: arrays, or anything with shape and dtype.
      platform: "cpu", "cuda" (or "gpu"), "rocm" or "tpu"; by default that of the default backend.

    Returns:
      A tuple of rows with op, shapes, how, inside, form, why, macs; its ``str`` is a table.

    Raises:
      ValueError: there is no such platform.

    >>> rows = explain(lambda x, k: jc.conv(x, k), jnp.ones((1, 8, 8, 3)), jnp.ones((1, 1, 3, 4)), platform="tpu")
    >>> rows[0].op, rows[0].form
    ('conv', 'xla')
    """
    wanted = platform or jax.default_backend()
    found = platform_of(wanted)
    if found is ANY:
        raise ValueError(f"platform must be one of {', '.join(filter(None, PLATFORMS))}, got {wanted!r}")
    closed = jax.make_jaxpr(function)(*args)
    return Explanation(_rows(closed.jaxpr, (), found))


def _rows(jaxpr: Any, inside: tuple[str, ...], platform: Platform) -> Iterator[Explained]:
    for eqn in jaxpr.eqns:
        name = eqn.params.get("name", eqn.primitive.name)
        shapes = tuple(v.aval.shape for v in eqn.invars)
        if eqn.primitive in POSED:
            yield _explained(eqn, inside, platform)
        elif records := [e for inner in jaxprs_in_params(eqn.params) for e in inner.eqns if e.primitive is chosen_p]:
            # Chosen while the function was traced; the operations of the form follow.
            yield from (_recorded(record, inside) for record in records)
        elif eqn.primitive.name in _LAX:
            why = "This is JAX's own operation."
            yield Explained(f"lax.{eqn.primitive.name}", shapes, "", inside, "xla", why, 0)
        else:
            within = inside if name in _HIDDEN else (*inside, name if isinstance(name, str) else eqn.primitive.name)
            for inner in jaxprs_in_params(eqn.params):
                yield from _rows(inner, within, platform)


def _recorded(eqn: Any, inside: tuple[str, ...]) -> Explained:
    """Reads the record of what was chosen for a problem that has no primitive."""
    op, derivative, p, choice = (eqn.params[name] for name in ("op", "derivative", "p", "choice"))
    (x,) = eqn.invars
    how = "" if x.aval.dtype == jnp.float32 else str(x.aval.dtype)
    op = ": ".join(filter(None, [op, derivative]))
    return Explained(op, (x.aval.shape,), how, inside, named([(p, choice)]), choice.why, 0)


def _explained(eqn: Any, inside: tuple[str, ...], platform: Platform) -> Explained:
    """Reads the record of what was chosen for a primitive and for the problems that its form leaves."""
    arrays = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    op, how, p, solve = POSED[eqn.primitive](platform, *arrays, **eqn.params)
    shapes = tuple(a.shape for a in (arrays[:1] if isinstance(p, Pool) else arrays))
    how = ", ".join(filter(None, [how, "" if arrays[0].dtype == jnp.float32 else str(arrays[0].dtype)]))
    if any(0 in a.shape for a in arrays):
        return Explained(op, shapes, how, inside, "none", "An array is empty.", 0)
    jax.eval_shape(lambda *arrays: solve(p, *arrays), *arrays)
    why, left_out = solve.record[0][1].why, solve.target.left_out
    if left_out:
        why += f" oneDNN is not called, since {left_out}."
    macs = 0 if isinstance(p, Pool) else p.macs * (p.ensemble or 1)
    return Explained(op, shapes, how, inside, named(solve.record), why, macs)


__all__ = ["explain"]
